"""The config file: what is good loads, and every mistake is told with file, line and key."""

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.errors import InvalidConfig
from gateway.config.settings import (
    RedisServer,
    Settings,
    inherited_descriptors,
    load_settings,
    parse_host_port,
    tracing_variable,
)
from gateway.process.supervisor import _addresses
from tests.support.audit import SigningKey

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


def errors(directory: Path, old: str, new: str) -> list[str]:
    assert old in EXAMPLE
    with pytest.raises(InvalidConfig) as found:
        read(directory, EXAMPLE.replace(old, new))
    told = [str(error) for error in found.value.errors]
    assert "canary" not in "".join(told)
    return [re.sub(r"^\S+gateway\.yaml:", "", one) for one in told]


def line_of(text: str) -> int:
    return EXAMPLE[: EXAMPLE.index(text)].count("\n") + 1


def test_the_shipped_example_is_good_when_its_secrets_are_there(secrets: Path) -> None:
    settings = read(secrets, EXAMPLE)
    assert settings.accounts[0].login.method == "password"
    assert settings.accounts[0].login.password.reveal() == "canary-iam"
    assert settings.policy_file == secrets / "policy.yaml"
    assert "canary" not in repr(settings)


def test_a_secret_may_come_from_the_environment(secrets: Path) -> None:
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


def test_operations_are_switched_off_added_and_replaced(secrets: Path) -> None:
    text = f"operations:\n  disable: [ShowServer]\n  add:\n{ROW.replace('Again', 'ShowServer')}"
    rows = {row.name: row for row in read(secrets, text + EXAMPLE).catalogue}
    assert rows["ShowServer"].path == "/x/{server_id}"
    assert len(rows) == 33


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ("listen: {host", "lisen: {host", "lisen", "did you mean listen?"),
        ("port: 8080", "port: 80800", "listen.port", "must be 65535 or less"),
        ("secrets/iam-password", "secrets/none", "login.password", "cannot be read"),
        ("{file: secrets/iam-password}", "{env: UNSET}", "login.password", "UNSET is not set"),
        ("{file: secrets/iam-password}", "plain", "login.password", "name the secret's source"),
        ("method: password", "method: magic", "accounts[0].login.method", "known: aksk, p"),
        ("user: console-gateway", "usr: x", "accounts[0].login", "`user` is missing"),
        (
            "[RS256, ES256]",
            "[RS256, HS256]",
            "issuers[0].algorithms[",
            "does not go with this kind",
        ),
        ("[RS256, ES256]", "[none]", "issuers[0].algorithms[", "does not go with this kind"),
        ("{discovery: ", "{discovry: ", "issuers[0].keys", "one of these keys must tell"),
        (
            "min_remaining_s: 30",
            "min_remaining_s: 300",
            "accounts[0].links.min_remaining_s",
            "must be less",
        ),
        ("reuse: caller", "reuse: always", "accounts[0].links.reuse", "'shared', 'caller'"),
        ("redis://valkey", "redis://u:canary@valkey", "redis.url", "bears credentials"),
        ("6379/0", "6379/0?password=canary", "redis.url", "bears credentials"),
        ("6379/0", "6379/0?db=1&passw%6frd=canary", "redis.url", "bears credentials"),
        ("redis://valkey", "http://valkey", "store.redis.url", "must be redis://"),
        ("https://clouddc", "https://u:canary@clouddc", "accounts[0].endpoint", "without query"),
        ("discovery: https://", "jwks: https://u:canary@", "keys.jwks", "without query"),
        ("east-3.myhuaweicloud.com\n    projects", "x:99999\n    projects", "endpoint", "http"),
        ("https://clouddc.cn-east-3.my", "https://[:::", "accounts[0].endpoint", "http"),
        ("[RS256, ES256]", "[HS256]", "issuers[0].algorithms[", "does not go with this kind"),
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
            "is no directory",
        ),
        ("overrides.json", "secrets", "overrides.file", "secrets is a directory"),
        ("overrides.json", "gateway.yaml/x", "overrides.file", "gateway.yaml is no directory"),
        (LOGIN, " {method: token_file, token_file: secrets}", "login.token_file", "is a directory"),
        (
            STORE,
            "operations: {disable: [Fly]}\n" + STORE,
            "operations.disable",
            "no operation 'Fly'",
        ),
        (STORE, ADD + ROW.replace("server:read", "server:fly") + STORE, "add[0]", "one of"),
        (STORE, ADD + ROW.replace("GET", "POST") + STORE, "operations.add[0]", "writes: true"),
        (STORE, ADD + ROW.replace("{name", "{nme: x, name") + STORE, "add[0].nme", "unknown key"),
        (STORE, ADD + ROW.replace("Again", "ShowServer") + STORE, "", "stands twice: ShowServer"),
        (AUDIT, "  stdout: false\n", "audit", "say where the audit log goes"),
        ("audit: ", "log: ", "audit", "say where the audit log goes"),
        (AUDIT, "  directory: gateway.yaml\n", "audit.directory", "gateway.yaml is no directory"),
        (AUDIT, "  directory: gateway.yaml/x\n", "audit.directory", "gateway.yaml is no direct"),
        (AUDIT, AUDIT + "  segment_bytes_max: 1\n", "audit.segment_bytes_max", "65536"),
        (AUDIT, AUDIT + "  keep_days: -1\n", "audit.keep_days", "must be 0 or more"),
        (AUDIT, AUDIT + "  signing_key: canary\n", "signing_key", "the secret's source"),
        (
            AUDIT,
            AUDIT + "  signing_key: {file: secrets/seal-key}\n",
            "audit.signing_key",
            "is no Ed25519 private key in PEM",
        ),
        (
            "{audience: console-gateway-admin",
            "{audience: ''",
            "admin.api.audience",
            "must not be empty",
        ),
        ("{audience: console-gateway-admin", "{audience: console-gateway", "admin", "callers'"),
        ("host: 127.0.0.1", "host: 0.0.0.0", "admin", "host must be loopback, or tls given"),
        ("host: 127.0.0.1", "host: gateway.example", "admin", "host must be loopback"),
        ("{audience: c", "{issuers: [], audience: c", "admin.api.issuers", "must not be empty"),
        ("{audience: c", "{issuers: [other], audience: c", "admin", "whose administrators"),
        (
            "issuers:\n",
            "issuers:\n" + PARTNER,
            "admin",
            "whose administrators may act, of: corp, p",
        ),
        ("port: 8080", "port: 8080, trusted_proxies: [x]", "trusted_proxies[0]", "network"),
        (
            "  file: overrides.json",
            "  enabled: false",
            "overrides",
            "while admin.api is configured",
        ),
    ],
)
def test_a_mistake_is_told_with_line_and_key(
    secrets: Path, old: str, new: str, key: str, message: str
) -> None:
    told = errors(secrets, old, new)
    (one,) = [one for one in told if message in one]
    assert key in one
    assert one.partition(":")[0].isdigit()
    if "." in key or key == "lisen":
        assert abs(int(one.partition(":")[0]) - line_of(old)) <= 6


TWIN = """\
  - name: twin
    endpoint: https://twin.example
    projects: [aa, 0a1b2c3d4e5f60718293a4b5c6d7e8f9]
    login: {method: aksk, access_key: {env: SET}, secret_key: {env: SET}}
"""


@pytest.mark.parametrize(
    ("old", "new", "below", "told"),
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
        ("[RS256, ES256]", "[RS256, HS256]", 0, "issuers[0].algorithms[1]: does not go with"),
        ("reuse: caller", "reuse: [x]", 0, "reuse: must be 'shared', 'caller' or 'never'"),
        ("host: 0.0.0.0", "host: not a host", 0, "listen.host: is no host name and no IP address"),
        ("host: 0.0.0.0", "host: '*'", 0, "listen.host: is no host name and no IP address"),
        (STORE, TWIN + STORE, 2, "accounts[1].projects[1]: stands twice: 0a1b"),
    ],
)
def test_a_mistake_is_told_in_our_words_where_it_stands(
    secrets: Path, old: str, new: str, below: int, told: str
) -> None:
    (error,) = [one for one in errors(secrets, old, new) if told in one]
    assert error.startswith(f"{line_of(old) + below}: ")


def changed(data: Any, value: object) -> Iterator[Any]:
    """Yield the data with the value in place of each of its parts."""
    yield value
    for key in (
        data if isinstance(data, dict) else range(len(data) if isinstance(data, list) else 0)
    ):
        for part in changed(data[key], value):
            copy = data.copy()
            copy[key] = part
            yield copy


@pytest.mark.parametrize("value", [None, True, -1, 1e300, "?", "", [], [[]], {}, {"?": 1}])
def test_no_mistake_is_told_in_the_words_of_a_library(secrets: Path, value: object) -> None:
    whole = yaml.safe_load(EXAMPLE) | {
        "metrics": {"teams": {"operators": "ops"}},
        "log": {"level": "info", "modules": {"gateway.policy": "debug"}},
        "fairness": {"group_weights": {"operators": 2.0}},
        "operations": {"disable": ["ShowServer"]},
    }
    for data in changed(whole, value):
        try:
            read(secrets, yaml.safe_dump(data))
        except InvalidConfig as found:
            told = str(found)
            assert not re.search(r"Input|should|valid |instance|Value error", told), told


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
def test_no_worker_answers_operators_where_callers_ask(
    secrets: Path, public: str, admin: str, workers: int, by: int
) -> None:
    text = with_addresses(public, admin)
    with pytest.raises(InvalidConfig, match=f":2: listen.port: worker {by} would answer oper"):
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
def test_each_listener_of_each_worker_has_an_address_of_its_own(
    secrets: Path, public: str, admin: str, workers: int
) -> None:
    settings = read(secrets, with_addresses(public, admin), workers=workers)
    of_workers = [_addresses(settings, i) for i in range(workers)]
    assert len({one["public"] for one in of_workers}) == 1
    assert len({address for one in of_workers for address in one.values()}) == workers + 1


def test_there_is_an_admin_port_for_each_worker(secrets: Path) -> None:
    text = with_addresses("127.0.0.1:18080", "127.0.0.1:65535")
    assert read(secrets, text).admin.port == 65_535
    with pytest.raises(InvalidConfig, match=r"admin\.port: leaves no port for each of 2 workers"):
        read(secrets, text, workers=2)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "'::1'", "localhost"])
def test_the_admin_api_needs_no_tls_on_loopback(secrets: Path, host: str) -> None:
    assert read(secrets, EXAMPLE.replace("host: 127.0.0.1", f"host: {host}")).admin.api is not None


def test_the_admin_api_is_in_clear_text_where_operators_say_so(secrets: Path) -> None:
    text = EXAMPLE.replace("host: 127.0.0.1", "host: 0.0.0.0")
    said = text.replace("{audience: c", "{allow_plaintext: true, audience: c")
    assert read(secrets, said).admin.host == "0.0.0.0"
    silent = text.replace("  api: {audience", "  # api: {audience")
    assert read(secrets, silent).admin.api is None


@pytest.mark.parametrize("named", [{"partner"}, {"corp", "partner"}])
def test_of_several_issuers_those_that_are_named_have_administrators(
    secrets: Path, named: set[str]
) -> None:
    text = EXAMPLE.replace("issuers:\n", "issuers:\n" + PARTNER)
    text = text.replace("{audience: c", f"{{issuers: [{', '.join(named)}], audience: c")
    assert {one.name for one in read(secrets, text).admin_issuers} == named


def test_the_only_issuer_needs_no_naming_to_have_administrators(secrets: Path) -> None:
    assert [one.name for one in read(secrets, EXAMPLE).admin_issuers] == ["corp"]
    silent = EXAMPLE.replace("  api: {audience", "  # api: {audience")
    assert read(secrets, silent).admin_issuers == ()


@pytest.mark.parametrize("key", ["c2hvcnQ=", "canary no base64", "canary-ä", "a" * 43])
def test_a_seal_key_that_is_not_32_bytes_in_base64_is_refused(secrets: Path, key: str) -> None:
    (secrets / "secrets" / "seal-key").write_text(key)
    told = errors(secrets, "method: password", "method: password ")
    assert "store.seal_keys[0]: is not 32 bytes in base64" in told[0]


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n", "is empty"), (b"canary\xff", "is not UTF-8")]
)
def test_a_secret_file_without_text_is_refused(secrets: Path, content: bytes, message: str) -> None:
    (secrets / "secrets" / "iam-password").write_bytes(content)
    (told,) = errors(secrets, "port: 8080", "port: 8081")
    assert message in told


@pytest.mark.parametrize(
    "url", ["rediss://valkey:6379/0?db=1", "unix:///run/valkey.sock?db=1", "redis://[::1]:6379"]
)
def test_a_redis_address_without_credentials_is_good(secrets: Path, url: str) -> None:
    redis = read(secrets, EXAMPLE.replace("redis://valkey:6379/0", url)).store.redis
    assert isinstance(redis, RedisServer)
    assert redis.url == url


@pytest.mark.parametrize(
    ("redis", "told"),
    [
        ("{sentinels: [valkey], service: main}", "sentinels[0]: is no host:port"),
        ("{sentinels: ['a:1', 'b:x'], service: main}", "sentinels[1]: is no host:port"),
        ("{cluster: [abc]}", "cluster[0]: is no host:port"),
        ("{cluster: ['::1:6379']}", "cluster[0]: is no host:port"),
        ("{cluster: ['u:canary@a:1']}", "cluster[0]: is no host:port"),
        ("{cluster: ['a:70000']}", "cluster[0]: is no host:port"),
        ("{cluster: ['not a host:1']}", "cluster[0]: is no host:port"),
        ("{url: 'redis://valkey:abc/0'}", "url: must be redis://HOST:PORT/DB"),
        ("{url: 'redis://valkey/abc'}", "url: must be redis://HOST:PORT/DB"),
        ("{url: 'redis://:6379'}", "url: must be redis://HOST:PORT/DB"),
        ("{url: 'redis://a b'}", "url: must be redis://HOST:PORT/DB"),
        ("{url: 'unix://run/valkey.sock'}", "url: must be redis://HOST:PORT/DB"),
        ("{url: 'redis://a:1/0?foo=1'}", "url: takes no option but `db`"),
        ("{url: 'rediss://a:1?ssl_cert_reqs=none'}", "url: takes no option but `db`"),
        ("{url: 'rediss://a:1', tls_ca_file: nope}", "tls_ca_file: /"),
        ("{url: 'rediss://a:1', tls_ca_file: secrets/seal-key}", "tls_ca_file: /"),
        ("{cluster: ['a:1'], tls: true, tls_ca_file: secrets/seal-key}", "tls_ca_file: /"),
    ],
)
def test_a_redis_that_no_client_can_be_made_for_is_a_mistake(
    secrets: Path, redis: str, told: str
) -> None:
    redis_of_the_example = EXAMPLE[EXAMPLE.index("{url: ") : EXAMPLE.index("\n  seal_keys")]
    (error,) = errors(secrets, redis_of_the_example, redis)
    assert error.startswith(f"{line_of('  redis:')}: store.redis.{told}")


@pytest.mark.parametrize(
    ("address", "taken"),
    [("valkey:6379", ("valkey", 6379)), ("[::1]:1", ("::1", 1)), ("10.0.0.1:2", ("10.0.0.1", 2))],
)
def test_a_node_s_address_is_taken_apart(address: str, taken: tuple[str, int]) -> None:
    assert parse_host_port(address) == taken


KEYS = "{discovery: https://idp.example.com/realms/corp}"


@pytest.mark.parametrize("algorithms", ["[RS256]", "[HS256, ES256]"])
def test_a_shared_secret_goes_with_hs256_only(secrets: Path, algorithms: str) -> None:
    (secrets / "secrets" / "shared").write_text("canary" * 8)
    text = EXAMPLE.replace(KEYS, "{secret: {file: secrets/shared}}")
    good = read(secrets, text.replace("[RS256, ES256]", "[HS256]"))
    assert good.issuers[0].algorithms == ("HS256",)
    with pytest.raises(InvalidConfig, match="does not go with this kind of key") as found:
        read(secrets, text.replace("[RS256, ES256]", algorithms))
    assert "canary" not in str(found.value)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("nope.pem", "keys.public_key_file: /"),
        ("secrets", "keys.public_key_file: /"),
        ("gateway.yaml", "keys.public_key_file: the file is neither a key set nor a PEM public"),
    ],
)
def test_an_issuer_s_key_file_must_hold_public_keys(secrets: Path, file: str, told: str) -> None:
    (error,) = errors(secrets, KEYS, f"{{public_key_file: {file}}}")
    assert error.startswith(f"{line_of(KEYS)}: issuers[0].{told}")


def test_a_shared_secret_that_is_easy_to_guess_is_refused(secrets: Path) -> None:
    (secrets / "secrets" / "shared").write_text("canary")
    told = errors(secrets, KEYS, "{secret: {file: secrets/shared}}")
    assert "issuers[0].keys.secret: the secret is shorter than 32 bytes" in told[0]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
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
def test_a_project_is_called_as_config_says_or_as_its_region(
    secrets: Path, lines: str, names: list[str]
) -> None:
    text = REGION.sub("", EXAMPLE).replace(PROJECTS, lines)
    (account,) = read(secrets, text).accounts
    assert [account.project_name(project) for project in account.projects] == names


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("projects: [a]\n    project_names: {b: x}", "project_names.b: is not among the account"),
        ("projects: [a, b]\n    project_names: {a: x, b: x}", "project_names.b: stands twice: x"),
        ("projects: [a]\n    project_names: {a: ''}", "project_names.a: must not be empty"),
    ],
)
def test_names_that_would_find_nothing_or_two_are_mistakes(
    secrets: Path, lines: str, told: str
) -> None:
    assert any(told in one for one in errors(secrets, PROJECTS, lines))


def test_the_trail_may_go_to_a_directory_that_is_yet_to_be_made(secrets: Path) -> None:
    text = EXAMPLE.replace(AUDIT, "  directory: new/deeper\n  signing_key: {file: secrets/key}\n")
    (secrets / "secrets" / "key").write_bytes(SigningKey().private)
    audit = read(secrets, text).audit
    assert audit.directory == secrets / "new" / "deeper"
    assert not (secrets / "new").exists()
    assert audit.signing_key is not None


def test_what_only_the_machine_that_serves_knows_is_not_looked_for(secrets: Path) -> None:
    text = EXAMPLE.replace("overrides.json", "nowhere/overrides.json")
    text = text.replace(ACCOUNT, ACCOUNT + "    inventory: {directory: nowhere}\n")
    text = text.replace(AUDIT, "  directory: /proc/x\n")
    text = text.replace(LOGIN, " {method: token_file, token_file: nowhere/token}")
    named = read(secrets, text).writable_directories
    assert list(named) == [
        (("audit", "directory"), Path("/proc/x"), True),
        (("overrides", "file"), secrets / "nowhere", True),
        (("accounts", 0, "inventory", "directory"), secrets / "nowhere", False),
    ]
    assert not (secrets / "nowhere").exists()
    text = text.replace("  directory: /proc/x\n", "  directory: /proc/x\n  on_unavailable: allow\n")
    assert not next(read(secrets, text).writable_directories).is_required


def test_log_levels_by_module_and_the_share_of_hits_are_read(secrets: Path) -> None:
    log = "log: {level: warning, modules: {gateway.policy: debug}, hit_sample_ratio: 0.1}\n"
    found = read(secrets, EXAMPLE + log).log
    assert (found.level, found.modules, found.hit_sample_ratio) == (
        "warning",
        {"gateway.policy": "debug"},
        0.1,
    )
    assert read(secrets, EXAMPLE).log.hit_sample_ratio == 1.0


@pytest.mark.parametrize(
    ("log", "told"),
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
def test_a_mistake_about_the_log_is_told_with_line_and_key(
    secrets: Path, log: str, told: str
) -> None:
    (error,) = errors(secrets, STORE, f"log: {log}\n{STORE}")
    assert error.startswith(f"{line_of(STORE)}: {told}")


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
def test_the_standard_variables_switch_traces_on(environ: dict[str, str], by: str) -> None:
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
def test_traces_in_a_way_that_is_not_there_are_a_mistake(environ: dict[str, str]) -> None:
    with pytest.raises(InvalidConfig, match=r"^environment: OTEL_\w+: is to be "):
        tracing_variable(environ)


@pytest.mark.parametrize(
    ("another", "count", "descriptors"),
    [(0, "2", [3, 4]), (0, "", []), (1, "1", [])],  # the last were for whoever started us
)
def test_sockets_are_taken_by_the_process_that_they_were_passed_to(
    another: int, count: str, descriptors: list[int]
) -> None:
    environ = {"LISTEN_PID": str(os.getpid() + another), "LISTEN_FDS": count}
    assert list(inherited_descriptors(environ)) == descriptors
    assert not inherited_descriptors({})
