"""The config file: valid ones load, and each error names file, line and key."""

import base64
import os
import re
from pathlib import Path

import pytest
import yaml

from gateway.config.environment import inherited_descriptors, tracing_variable
from gateway.config.errors import InvalidConfig
from gateway.config.listen import AdminApiSettings
from gateway.config.settings import Settings, load_settings
from gateway.config.store import RedisServer
from gateway.config.values import parse_host_port
from gateway.domain.admin_permissions import ADMIN_PERMISSIONS
from gateway.process.supervisor import _addresses
from tests.support.audit import SigningKey
from tests.support.mutations import every_change
from tests.support.tls import Authority

EXAMPLE = (Path(__file__).parents[2] / "config" / "gateway.yaml").read_text()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "iam-password").write_text("canary-iam\n")
    (tmp_path / "secrets" / "redis-password").write_text("canary-redis\n")
    (tmp_path / "secrets" / "seal-key").write_text(base64.b64encode(b"k" * 32).decode())
    return tmp_path


def read(directory: Path, text: str, *, workers: int = 1) -> Settings:
    file = directory / "gateway.yaml"
    file.write_text(text)
    return load_settings(file, environ={"SET": "canary-env"}, workers=workers)


def error_lines(directory: Path, old: str, new: str) -> list[str]:
    assert old in EXAMPLE
    with pytest.raises(InvalidConfig) as found:
        read(directory, EXAMPLE.replace(old, new))
    lines = [str(error) for error in found.value.errors]
    assert "canary" not in "".join(lines)
    return [re.sub(r"^\S+gateway\.yaml:", "", line) for line in lines]


def line_of(text: str) -> int:
    return EXAMPLE[: EXAMPLE.index(text)].count("\n") + 1


def test_shipped_example_loads(secrets: Path) -> None:
    settings = read(secrets, EXAMPLE)
    assert settings.accounts[0].login.method == "password"
    assert settings.accounts[0].login.password.reveal() == "canary-iam"
    assert settings.policy_file == secrets / "policy.yaml"
    assert "canary" not in repr(settings)


def test_secret_is_read_from_environment(secrets: Path) -> None:
    text = EXAMPLE.replace("{file: secrets/iam-password}", "{env: SET}")
    login = read(secrets, text).accounts[0].login
    assert login.method == "password"
    assert login.password.reveal() == "canary-env"


ACCOUNT = "    endpoint: https://clouddc.cn-east-3.myhuaweicloud.com\n"
STORE = "store:\n"
LOGIN = EXAMPLE[EXAMPLE.index("\n      method: ") : EXAMPLE.index("\n    links: ")]
PARTNER = """\
  - name: partner
    issuer: https://partner.example
    audience: [console-gateway]
    keys: {discovery: https://partner.example}
"""
AUDIT = EXAMPLE[EXAMPLE.index("  directory: audit ") :].partition("\n")[0] + "\n"
ADD = "operations:\n  add:\n"
ROW = '    - {name: Again, method: GET, path: "/x/{server_id}", permission: "server:read"}\n'


def test_operations_are_disabled_added_and_replaced(secrets: Path) -> None:
    text = f"operations:\n  disable: [ShowServer]\n  add:\n{ROW.replace('Again', 'ShowServer')}"
    rows = {row.name: row for row in read(secrets, text + EXAMPLE).catalogue}
    assert rows["ShowServer"].path == "/x/{server_id}"
    assert rows.keys() == {row.name for row in read(secrets, EXAMPLE).catalogue}


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ("listen: {host", "lisen: {host", "lisen", "did you mean listen?"),
        ("port: 8080", "port: 80800", "listen.port", "must be 65535 or less"),
        ("secrets/iam-password", "secrets/none", "login.password", "cannot be read"),
        ("{file: secrets/iam-password}", "{env: UNSET}", "login.password", "UNSET is not set"),
        (
            "{file: secrets/iam-password}",
            "plain",
            "login.password",
            "must name the secret's source",
        ),
        ("method: password", "method: magic", "accounts[0].login.method", "known: aksk, "),
        ("user: console-gateway", "usr: x", "accounts[0].login", "`user` is missing"),
        (
            "[RS256, ES256]",
            "[RS256, HS256]",
            "issuers[0].algorithms[",
            "does not fit this kind",
        ),
        ("[RS256, ES256]", "[none]", "issuers[0].algorithms[", "does not fit this kind"),
        ("{discovery: ", "{discovry: ", "issuers[0].keys", "exactly one of these keys is required"),
        (
            "min_remaining_s: 30",
            "min_remaining_s: 300",
            "accounts[0].links.min_remaining_s",
            "must be less",
        ),
        ("reuse: caller", "reuse: always", "accounts[0].links.reuse", "'shared', 'caller'"),
        ("redis://valkey", "redis://u:canary@valkey", "redis.url", "must not contain credentials"),
        ("6379/0", "6379/0?password=canary", "redis.url", "must not contain credentials"),
        ("6379/0", "6379/0?db=1&passw%6frd=canary", "redis.url", "must not contain credentials"),
        ("redis://valkey", "http://valkey", "store.redis.url", "must be redis://"),
        (
            "https://clouddc",
            "https://u:canary@clouddc",
            "accounts[0].endpoint",
            "without user and password",
        ),
        ("discovery: https://", "jwks: https://u:canary@", "keys.jwks", "without user and"),
        ("east-3.myhuaweicloud.com\n    projects", "x:99999\n    projects", "endpoint", "http"),
        ("https://clouddc.cn-east-3.my", "https://[:::", "accounts[0].endpoint", "http"),
        ("[RS256, ES256]", "[HS256]", "issuers[0].algorithms[", "does not fit this kind"),
        ("audience: [console-gateway]", "audience: []", "issuers[0].audience", "must not be empty"),
        ("lifetime_s: 300", "lifetime_s: .nan", "links.lifetime_s", "must be"),
        (
            "min_remaining_s: 30",
            "min_remaining_s: 301",
            "accounts[0].links.min_remaining_s",
            "must be less",
        ),
        ("{file: secrets/seal-key}", "canary-key", "store.seal_keys[0]", "the secret's source"),
        ("{file: secrets/iam-password}", "[canary]", "login.password", "the secret's source"),
        ("secrets/iam-password", "secrets", "login.password", "Is a directory"),
        ("https://iam.cn-east-3.my", "ftp://iam.my", "login.iam_endpoint", "http"),
        ("requests: 5", "requests: 1.0e-320", "budget.console.requests", "0.001 or more"),
        (
            ACCOUNT,
            ACCOUNT + "    inventory: {poll_s: 60, age_max_s: 60}\n",
            "inventory",
            "more than",
        ),
        (
            ACCOUNT,
            ACCOUNT + "    inventory: {directory: gateway.yaml}\n",
            "inventory.directory",
            "is not a directory",
        ),
        ("overrides.json", "secrets", "overrides.file", "secrets is a directory"),
        ("overrides.json", "gateway.yaml/x", "overrides.file", "gateway.yaml is not a directory"),
        (LOGIN, " {method: token_file, token_file: secrets}", "login.token_file", "is a directory"),
        (
            STORE,
            "operations: {disable: [Fly]}\n" + STORE,
            "operations.disable[0]",
            "unknown operation 'Fly'",
        ),
        (STORE, ADD + ROW.replace("server:read", "server:fly") + STORE, "add[0]", "one of"),
        (STORE, ADD + ROW.replace("GET", "POST") + STORE, "operations.add[0]", "writes: true"),
        (STORE, ADD + ROW.replace("{name", "{nme: x, name") + STORE, "add[0].nme", "unknown key"),
        (STORE, ADD + ROW.replace("Again", "ShowServer") + STORE, "", "duplicate: ShowServer"),
        (AUDIT, "  stdout: false\n", "audit", "requires a destination"),
        ("audit: ", "log: ", "audit", "requires a destination"),
        (
            AUDIT,
            "  directory: gateway.yaml\n",
            "audit.directory",
            "gateway.yaml is not a directory",
        ),
        (AUDIT, "  directory: gateway.yaml/x\n", "audit.directory", "gateway.yaml is not a direct"),
        (AUDIT, AUDIT + "  segment_bytes_max: 1\n", "audit.segment_bytes_max", "65536"),
        (AUDIT, AUDIT + "  keep_days: -1\n", "audit.keep_days", "must be 0 or more"),
        (AUDIT, AUDIT + "  signing_key: canary\n", "signing_key", "the secret's source"),
        (
            AUDIT,
            AUDIT + "  signing_key: {file: secrets/seal-key}\n",
            "audit.signing_key",
            "must be an Ed25519 private key in PEM",
        ),
        (
            "{audience: console-gateway-admin",
            "{audience: ''",
            "admin.api.audience",
            "must not be empty",
        ),
        (
            "{audience: console-gateway-admin",
            "{audience: console-gateway",
            "admin.api.audience",
            "must differ",
        ),
        (
            "host: 127.0.0.1",
            "host: 0.0.0.0",
            "admin",
            "host: must be loopback with `api`; or set `tls`",
        ),
        ("host: 127.0.0.1", "host: gateway.example", "admin", "host: must be loopback"),
        ("{audience: c", "{issuers: [], audience: c", "admin.api.issuers", "must not be empty"),
        ("{audience: c", "{issuers: [other], audience: c", "admin", "must name the issuers"),
        (
            "issuers:\n",
            "issuers:\n" + PARTNER,
            "admin",
            "issuers of administrators' tokens: corp, p",
        ),
        ("helpdesk: [read]", "helpdesk: [red]", "groups.helpdesk[0]", "'read', 'revoke', 'lock'"),
        ("helpdesk: [read]", "helpdesk: []", "groups.helpdesk", "must not be empty"),
        ("helpdesk: [read]", "helpdesk: read", "groups.helpdesk", "`all` or a list of permissions"),
        ("helpdesk: [read]", "'help*': [read]", "groups.help*", "must not contain `*`"),
        ("groups: {console-admins: all, helpdesk: [read]}", "groups: ['x*']", "x*", "contain `*`"),
        ("groups: {console-admins: all, helpdesk: [read]}", "groups: []", "groups", "not be empty"),
        (
            "helpdesk: [read]}}",
            "h: [read]}, certificates: {a: all}}",
            "certificates",
            "requires `t",
        ),
        ("port: 8080", "port: 8080, trusted_proxies: [x]", "trusted_proxies[0]", "network"),
        (
            "  file: overrides.json",
            "  enabled: false",
            "overrides.enabled",
            "must be `true` with `admin.api`",
        ),
    ],
)
def test_error_names_line_and_key(
    secrets: Path, old: str, new: str, key: str, message: str
) -> None:
    (error,) = [line for line in error_lines(secrets, old, new) if message in line]
    assert key in error
    assert error.partition(":")[0].isdigit()
    if "." in key or key == "lisen":
        assert abs(int(error.partition(":")[0]) - line_of(old)) <= 6


TWIN = """\
  - name: twin
    endpoint: https://twin.example
    projects: [aa, 0a1b2c3d4e5f60718293a4b5c6d7e8f9]
    login: {method: aksk, access_key: {env: SET}, secret_key: {env: SET}}
"""


@pytest.mark.parametrize(
    ("old", "new", "below", "message"),
    [
        ("policy_file:", "polciy_file:", 0, "polciy_file: unknown key; did you mean policy_file?"),
        ("      user: c", "      usr: c", 0, "login.usr: unknown key; did you mean user?"),
        ("{requests: 5", "{request: 5", 0, "console.request: unknown key; did you mean requests?"),
        ("[0a1b2c3d4e5f60718293a4b5c6d7e8f9]", "0a1b", 0, "accounts[0].projects: must be a list"),
        ('["*.huaweicloud.com"]', '"*"', 0, "links.console_hosts: must be a list"),
        ("listen: {host: 0.0.0.0, port: 8080}", "listen:", 0, "listen: must be a mapping"),
        ("port: 8080", "port: true", 0, "listen.port: must be a number"),
        ("lifetime_s: 300", "lifetime_s: true", 0, "links.lifetime_s: must be a number"),
        ("port: 8080", "port: 80.5", 0, "listen.port: must be a whole number"),
        ("port: 8080", "port: x", 0, "listen.port: must be a whole number"),
        ("policy_file: policy.yaml", "policy_file: 5", 0, "policy_file: must be text"),
        (
            "method: password",
            "method: pasword",
            0,
            "method: unknown method; did you mean password?",
        ),
        ("      method: password\n", "", -1, "accounts[0].login: `method` is missing"),
        ("[RS256, ES256]", "[RS256, HS256]", 0, "issuers[0].algorithms[1]: does not fit"),
        ("reuse: caller", "reuse: [x]", 0, "reuse: must be 'shared', 'caller' or 'never'"),
        (
            "host: 0.0.0.0",
            "host: not a host",
            0,
            "listen.host: must be a host name or an IP address",
        ),
        ("host: 0.0.0.0", "host: '*'", 0, "listen.host: must be a host name or an IP address"),
        (STORE, TWIN + STORE, 2, "accounts[1].projects[1]: duplicate: 0a1b"),
    ],
)
def test_error_names_exact_line(
    secrets: Path, old: str, new: str, below: int, message: str
) -> None:
    (error,) = [line for line in error_lines(secrets, old, new) if message in line]
    assert error.startswith(f"{line_of(old) + below}: ")


@pytest.mark.parametrize("value", [None, True, -1, 1e300, "?", "", [], [[]], {}, {"?": 1}])
def test_errors_contain_no_library_wording(secrets: Path, value: object) -> None:
    whole = yaml.safe_load(EXAMPLE) | {
        "metrics": {"teams": {"operators": "ops"}},
        "log": {"level": "info", "modules": {"gateway.policy": "debug"}},
        "fairness": {"group_weights": {"operators": 2.0}},
        "operations": {"disable": ["ShowServer"]},
    }
    for data in every_change(whole, value):
        try:
            read(secrets, yaml.safe_dump(data))
        except InvalidConfig as found:
            text = str(found)
            assert not re.search(r"Input|should|valid |instance|Value error", text), text


def with_addresses(public: str, admin: str) -> str:
    text = EXAMPLE
    for old, new in (("0.0.0.0, port: 8080", public), ("127.0.0.1\n  port: 9090", admin)):
        host, _, port = new.rpartition(":")
        sep = ", " if "," in old else "\n  "
        text = text.replace(f"host: {old}", f"host: '{host}'{sep}port: {port}")
    return text


@pytest.mark.parametrize(
    ("public", "admin", "workers", "by"),
    [
        ("127.0.0.1:18080", "127.0.0.1:18080", 1, 0),
        ("0.0.0.0:18080", "127.0.0.1:18080", 1, 0),
        (":::18080", "127.0.0.1:18080", 1, 0),
        ("127.0.0.1:18080", "127.0.0.1:18079", 2, 1),
        ("127.0.0.1:18080", "127.0.0.1:18077", 4, 3),
    ],
)
def test_admin_port_never_equals_public_port(
    secrets: Path, public: str, admin: str, workers: int, by: int
) -> None:
    text = with_addresses(public, admin)
    with pytest.raises(
        InvalidConfig,
        match=f":{line_of('listen: ')}: listen.port: is the admin port of worker {by};",
    ):
        read(secrets, text, workers=workers)


@pytest.mark.parametrize(
    ("public", "admin", "workers"),
    [
        ("127.0.0.1:18080", "127.0.0.1:18079", 1),
        ("127.0.0.1:18080", "127.0.0.1:18081", 9),
        ("127.0.0.2:18080", "127.0.0.1:18080", 1),
        ("127.0.0.1:0", "127.0.0.1:0", 3),
    ],
)
def test_listeners_of_workers_have_distinct_addresses(
    secrets: Path, public: str, admin: str, workers: int
) -> None:
    settings = read(secrets, with_addresses(public, admin), workers=workers)
    of_workers = [_addresses(settings, i) for i in range(workers)]
    assert len({one["public"] for one in of_workers}) == 1
    assert len({address for one in of_workers for address in one.values()}) == workers + 1


def test_each_worker_needs_an_admin_port(secrets: Path) -> None:
    text = with_addresses("127.0.0.1:18080", "127.0.0.1:65535")
    assert read(secrets, text).admin.port == 65_535
    with pytest.raises(InvalidConfig, match=r"admin\.port: leaves no port for each of 2 workers"):
        read(secrets, text, workers=2)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "'::1'", "localhost"])
def test_admin_api_on_loopback_needs_no_tls(secrets: Path, host: str) -> None:
    assert read(secrets, EXAMPLE.replace("host: 127.0.0.1", f"host: {host}")).admin.api is not None


def test_admin_api_plaintext_needs_explicit_permission(secrets: Path) -> None:
    text = EXAMPLE.replace("host: 127.0.0.1", "host: 0.0.0.0")
    said = text.replace("{audience: c", "{allow_plaintext: true, audience: c")
    assert read(secrets, said).admin.host == "0.0.0.0"
    silent = text.replace("  api: {audience", "  # api: {audience")
    assert read(secrets, silent).admin.api is None


def test_admin_permissions_are_mapped_from_groups(secrets: Path) -> None:
    groups = "groups: {console-admins: all, helpdesk: [read]}"
    api = read(secrets, EXAMPLE).admin.api
    assert api is not None
    assert api.groups == {
        "console-admins": frozenset(ADMIN_PERMISSIONS),
        "helpdesk": frozenset({"read"}),
    }
    listed = read(secrets, EXAMPLE.replace(groups, "groups: [ops, console-admins]")).admin.api
    assert listed is not None
    assert listed.groups == dict.fromkeys(("ops", "console-admins"), frozenset(ADMIN_PERMISSIONS))


def test_admin_permissions_of_certificates_are_mapped_or_all() -> None:
    for value, expected in (
        ({"a": ["lock"], "b": "all"}, {"a": {"lock"}, "b": set(ADMIN_PERMISSIONS)}),
        (["a"], {"a": set(ADMIN_PERMISSIONS)}),
    ):
        api = {"audience": "x", "groups": ["g"], "certificates": value}
        assert AdminApiSettings.model_validate(api).certificates == expected


@pytest.mark.parametrize("named", [{"partner"}, {"corp", "partner"}])
def test_named_issuers_have_administrators(secrets: Path, named: set[str]) -> None:
    text = EXAMPLE.replace("issuers:\n", "issuers:\n" + PARTNER)
    text = text.replace("{audience: c", f"{{issuers: [{', '.join(named)}], audience: c")
    assert {one.name for one in read(secrets, text).admin_issuers} == named


def test_single_issuer_has_administrators_by_default(secrets: Path) -> None:
    assert [one.name for one in read(secrets, EXAMPLE).admin_issuers] == ["corp"]
    silent = EXAMPLE.replace("  api: {audience", "  # api: {audience")
    assert read(secrets, silent).admin_issuers == ()


@pytest.mark.parametrize("key", ["c2hvcnQ=", "canary no base64", "canary-ä", "a" * 43])
def test_seal_key_of_wrong_size_is_rejected(secrets: Path, key: str) -> None:
    (secrets / "secrets" / "seal-key").write_text(key)
    lines = error_lines(secrets, "method: password", "method: password ")
    assert "store.seal_keys[0]: must be 32 bytes in base64" in lines[0]


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n", "is empty"), (b"canary\xff", "is not UTF-8")]
)
def test_secret_file_without_text_is_rejected(secrets: Path, content: bytes, message: str) -> None:
    (secrets / "secrets" / "iam-password").write_bytes(content)
    (error,) = error_lines(secrets, "port: 8080", "port: 8081")
    assert message in error


@pytest.mark.parametrize(
    "url", ["rediss://valkey:6379/0?db=1", "unix:///run/valkey.sock?db=1", "redis://[::1]:6379"]
)
def test_redis_url_without_credentials_is_accepted(secrets: Path, url: str) -> None:
    redis = read(secrets, EXAMPLE.replace("redis://valkey:6379/0", url)).store.redis
    assert isinstance(redis, RedisServer)
    assert redis.url == url


@pytest.mark.parametrize(
    ("redis", "message"),
    [
        ("{sentinels: [valkey], service: main}", "sentinels[0]: must be host:port"),
        ("{sentinels: ['a:1', 'b:x'], service: main}", "sentinels[1]: must be host:port"),
        ("{cluster: [abc]}", "cluster[0]: must be host:port"),
        ("{cluster: ['::1:6379']}", "cluster[0]: must be host:port"),
        ("{cluster: ['u:canary@a:1']}", "cluster[0]: must be host:port"),
        ("{cluster: ['a:70000']}", "cluster[0]: must be host:port"),
        ("{cluster: ['not a host:1']}", "cluster[0]: must be host:port"),
        ("{url: 'redis://valkey:abc/0'}", "url: must be redis://HOST:PORT/DB"),
        ("{url: 'redis://valkey/abc'}", "url: must be redis://HOST:PORT/DB"),
        ("{url: 'redis://:6379'}", "url: must be redis://HOST:PORT/DB"),
        ("{url: 'redis://a b'}", "url: must be redis://HOST:PORT/DB"),
        ("{url: 'unix://run/valkey.sock'}", "url: must be redis://HOST:PORT/DB"),
        ("{url: 'redis://a:1/0?foo=1'}", "url: must not contain an option other than `db`"),
        (
            "{url: 'rediss://a:1?ssl_cert_reqs=none'}",
            "url: must not contain an option other than `db`",
        ),
        ("{url: 'rediss://a:1', tls_ca_file: nope}", "tls_ca_file: /"),
        ("{url: 'redis://a:1', tls_ca_file: ca.pem}", "tls_ca_file: requires a URL with rediss://"),
        ("{cluster: ['a:1'], tls_ca_file: ca.pem}", "tls_ca_file: requires `tls: true`"),
        (
            "{url: 'rediss://a:1', tls_certificate_file: ca.pem}",
            "tls_certificate_file: requires `tls_key_file`",
        ),
        (
            "{url: 'rediss://a:1', tls_key_file: ca.pem}",
            "tls_key_file: requires `tls_certificate_file`",
        ),
        ("{url: 'rediss://a:1', tls_ca_file: secrets/seal-key}", "tls_ca_file: /"),
        ("{cluster: ['a:1'], tls: true, tls_ca_file: secrets/seal-key}", "tls_ca_file: /"),
    ],
)
def test_unusable_redis_settings_are_rejected(secrets: Path, redis: str, message: str) -> None:
    (secrets / "ca.pem").write_bytes(Authority().certificate)
    redis_of_the_example = EXAMPLE[EXAMPLE.index("{url: ") : EXAMPLE.index("\n  seal_keys")]
    (error,) = error_lines(secrets, redis_of_the_example, redis)
    assert error.startswith(f"{line_of('  redis:')}: store.redis.{message}")


@pytest.mark.parametrize(
    ("address", "taken"),
    [("valkey:6379", ("valkey", 6379)), ("[::1]:1", ("::1", 1)), ("10.0.0.1:2", ("10.0.0.1", 2))],
)
def test_node_address_is_split_into_host_and_port(address: str, taken: tuple[str, int]) -> None:
    assert parse_host_port(address) == taken


KEYS = "{discovery: https://idp.example.com/realms/corp}"


@pytest.mark.parametrize("algorithms", ["[RS256]", "[HS256, ES256]"])
def test_shared_secret_requires_hs256(secrets: Path, algorithms: str) -> None:
    (secrets / "secrets" / "shared").write_text("canary" * 8)
    text = EXAMPLE.replace(KEYS, "{secret: {file: secrets/shared}}")
    good = read(secrets, text.replace("[RS256, ES256]", "[HS256]"))
    assert good.issuers[0].algorithms == ("HS256",)
    with pytest.raises(InvalidConfig, match="does not fit this kind of `keys`") as found:
        read(secrets, text.replace("[RS256, ES256]", algorithms))
    assert "canary" not in str(found.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("nope.pem", "keys.public_key_file: /"),
        ("secrets", "keys.public_key_file: /"),
        ("gateway.yaml", "keys.public_key_file: /"),
    ],
)
def test_key_file_must_contain_public_keys(secrets: Path, file: str, message: str) -> None:
    (error,) = error_lines(secrets, KEYS, f"{{public_key_file: {file}}}")
    assert error.startswith(f"{line_of(KEYS)}: issuers[0].{message}")


def test_short_shared_secret_is_rejected(secrets: Path) -> None:
    (secrets / "secrets" / "shared").write_text("canary")
    lines = error_lines(secrets, KEYS, "{secret: {file: secrets/shared}}")
    assert "issuers[0].keys.secret: must have at least 32 bytes" in lines[0]


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as found:
        read(tmp_path, EXAMPLE.replace("port: 8080", "port: x"))
    assert len(found.value.errors) == 4  # the port and three secret files


PROJECTS = "projects: [0a1b2c3d4e5f60718293a4b5c6d7e8f9]"
REGION = re.compile(r" +region: .*\n")


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("projects: [a]", ["a"]),
        ("projects: [a]\n    region: cn-east-3", ["cn-east-3"]),
        ("projects: [a, b]\n    region: cn-east-3", ["a", "b"]),
        ("projects: [a, b]\n    project_names: {b: cn-east-3}", ["a", "cn-east-3"]),
        ("projects: [a]\n    region: x\n    project_names: {a: cn-east-3}", ["cn-east-3"]),
    ],
)
def test_project_name_comes_from_config_or_region(
    secrets: Path, lines: str, names: list[str]
) -> None:
    text = REGION.sub("", EXAMPLE).replace(PROJECTS, lines)
    (account,) = read(secrets, text).accounts
    assert [account.project_name(project) for project in account.projects] == names


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("projects: [a]\n    project_names: {b: x}", "project_names.b: is not in the account"),
        ("projects: [a, b]\n    project_names: {a: x, b: x}", "project_names.b: duplicate: x"),
        ("projects: [a]\n    project_names: {a: ''}", "project_names.a: must not be empty"),
    ],
)
def test_project_names_must_be_known_and_unique(secrets: Path, lines: str, message: str) -> None:
    assert any(message in line for line in error_lines(secrets, PROJECTS, lines))


def test_audit_directory_need_not_exist(secrets: Path) -> None:
    text = EXAMPLE.replace(AUDIT, "  directory: new/deeper\n  signing_key: {file: secrets/key}\n")
    (secrets / "secrets" / "key").write_bytes(SigningKey().private)
    audit = read(secrets, text).audit
    assert audit.directory == secrets / "new" / "deeper"
    assert not (secrets / "new").exists()
    assert audit.signing_key is not None


def test_loading_creates_no_directories(secrets: Path) -> None:
    text = EXAMPLE.replace("overrides.json", "missing/overrides.json")
    text = text.replace("requests.json", "missing/requests.json")
    text = text.replace(ACCOUNT, ACCOUNT + "    inventory: {directory: missing}\n")
    text = text.replace(AUDIT, "  directory: /proc/x\n")
    text = text.replace(LOGIN, " {method: token_file, token_file: missing/token}")
    named = read(secrets, text).writable_directories
    assert list(named) == [
        (("audit", "directory"), Path("/proc/x"), True),
        (("overrides", "file"), secrets / "missing", True),
        (("requests", "file"), secrets / "missing", False),
        (("accounts", 0, "inventory", "directory"), secrets / "missing", False),
    ]
    assert not (secrets / "missing").exists()
    text = text.replace("  directory: /proc/x\n", "  directory: /proc/x\n  on_unavailable: allow\n")
    assert not next(read(secrets, text).writable_directories).is_required


def test_log_levels_and_sampling_are_read(secrets: Path) -> None:
    log = "log: {level: warning, modules: {gateway.policy: debug}, hit_sample_ratio: 0.1}\n"
    found = read(secrets, EXAMPLE + log).log
    assert (found.level, found.modules, found.hit_sample_ratio) == (
        "warning",
        {"gateway.policy": "debug"},
        0.1,
    )
    assert read(secrets, EXAMPLE).log.hit_sample_ratio == 1.0


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "{modules: {gateway.polcy: debug}}",
            "log.modules.gateway.polcy: unknown key; did you mean gateway.policy?",
        ),
        (
            "{modules: {aiohttp: debug}}",
            "log.modules.aiohttp: unknown key; known: gateway, gateway.admin",
        ),
        (
            "{modules: {gateway.policy: loud}}",
            "log.modules.gateway.policy: must be 'debug', 'info'",
        ),
        ("{hit_sample_ratio: 1.5}", "log.hit_sample_ratio: must be 1 or less"),
        ("{hit_sample_ratio: -1}", "log.hit_sample_ratio: must be 0 or more"),
    ],
)
def test_log_error_names_line_and_key(secrets: Path, log: str, message: str) -> None:
    (error,) = error_lines(secrets, STORE, f"log: {log}\n{STORE}")
    assert error.startswith(f"{line_of(STORE)}: {message}")


OTLP = {"OTEL_TRACES_EXPORTER": "otlp"}


@pytest.mark.parametrize(
    ("environ", "by"),
    [
        ({}, ""),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"}, ""),
        (OTLP, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ),
        ({**OTLP, "OTEL_SDK_DISABLED": "TRUE"}, ""),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, ""),
        ({"OTEL_TRACES_EXPORTER": "", "OTEL_EXPORTER_OTLP_ENDPOINT": " "}, ""),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ""),
    ],
)
def test_standard_variables_enable_tracing(environ: dict[str, str], by: str) -> None:
    assert tracing_variable(environ) == by


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_TRACES_EXPORTER": "otlp,console"},
        {**OTLP, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {**OTLP, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
    ],
)
def test_unsupported_trace_exporter_is_rejected(environ: dict[str, str]) -> None:
    with pytest.raises(InvalidConfig, match=r"^environment: OTEL_\w+: must be "):
        tracing_variable(environ)


@pytest.mark.parametrize(
    ("another", "count", "descriptors"),
    [(0, "2", [3, 4]), (0, "", []), (1, "1", [])],  # the last are addressed to the parent process
)
def test_sockets_are_inherited_by_addressed_process_only(
    another: int, count: str, descriptors: list[int]
) -> None:
    environ = {"LISTEN_PID": str(os.getpid() + another), "LISTEN_FDS": count}
    assert list(inherited_descriptors(environ)) == descriptors
    assert not inherited_descriptors({})
