"""Addresses in the config: plain HTTP, API versions, discovery URLs, console hosts, variables."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.errors import InvalidConfig
from gateway.config.issuers import DiscoveryKeys
from gateway.config.settings import Settings, load_settings
from gateway.config.values import discovery_document

EXAMPLE = (Path(__file__).parents[2] / "config" / "gateway.yaml").read_text()
ISSUER = ("issuers", 0, "keys")
ACCOUNT = ("accounts", 0)
LOGIN = (*ACCOUNT, "login")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    for name in ("iam-password", "redis-password"):
        (tmp_path / "secrets" / name).write_text("secret\n")
    (tmp_path / "secrets" / "seal-key").write_text(base64.b64encode(b"k" * 32).decode())
    return tmp_path


def read(directory: Path, path: tuple[str | int, ...], value: object) -> Settings:
    data = yaml.safe_load(EXAMPLE)
    at: Any = data
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    (directory / "gateway.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return load_settings(directory / "gateway.yaml", {})


def problem(directory: Path, path: tuple[str | int, ...], value: object) -> tuple[str, str]:
    with pytest.raises(InvalidConfig) as found:
        read(directory, path, value)
    (error,) = found.value.errors
    assert error.line > 0
    return error.key, error.message


KEYS = [
    (ISSUER, "discovery", {}),
    (ISSUER, "jwks", {}),
    (LOGIN, "iam_endpoint", yaml.safe_load(EXAMPLE)["accounts"][0]["login"]),
    (ACCOUNT, "endpoint", yaml.safe_load(EXAMPLE)["accounts"][0]),
]


@pytest.mark.parametrize(("section", "key", "others"), KEYS)
@pytest.mark.parametrize("host", ["idp.example.com", "10.1.2.3:8080", "[2001:db8::1]:80"])
def test_plain_http_beyond_loopback_is_rejected(
    directory: Path, section: tuple[str | int, ...], key: str, others: dict[str, Any], host: str
) -> None:
    exposed = {**others, key: f"http://{host}"}
    where, message = problem(directory, section, exposed)
    assert where.endswith(key)
    assert "must be https" in message
    assert "insecure_http: true" in message
    read(directory, section, {**exposed, "insecure_http": True})
    for safe in (f"https://{host}", "http://127.0.0.1:1", "http://localhost", "http://[::1]:80"):
        read(directory, section, {**others, key: safe})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*ACCOUNT, "endpoint"), "https://clouddc.example/v1"),
        ((*ACCOUNT, "endpoint"), "https://clouddc.example/v1/"),
        ((*ACCOUNT, "endpoint"), "https://h/v1/0a1b2c3d4e5f60718293a4b5c6d7e8f9/physicalservers"),
        ((*LOGIN, "iam_endpoint"), "https://iam.example/v3"),
        ((*LOGIN, "iam_endpoint"), "https://iam.example/identity/v3.0"),
        ((*LOGIN, "iam_endpoint"), "https://iam.example/v3/auth/tokens"),
    ],
)
def test_version_in_an_api_address_is_rejected(
    directory: Path, path: tuple[str | int, ...], value: str
) -> None:
    key, message = problem(directory, path, value)
    assert key.endswith(str(path[-1]))
    assert "must end before the version of the API" in message


def test_prefix_of_an_api_address_is_accepted(directory: Path) -> None:
    settings = read(directory, (*LOGIN, "iam_endpoint"), "https://iam.example/identity/")
    login = settings.accounts[0].login
    assert login.method == "password"
    assert login.iam_endpoint == "https://iam.example/identity"


@pytest.mark.parametrize("end", ["", "/", "/.well-known/openid-configuration"])
def test_discovery_accepts_base_and_document(directory: Path, end: str) -> None:
    settings = read(directory, (*ISSUER, "discovery"), f"https://idp.example/realms/corp{end}")
    keys = settings.issuers[0].keys
    assert isinstance(keys, DiscoveryKeys)
    assert keys.discovery == "https://idp.example/realms/corp"


@pytest.mark.parametrize(
    ("given", "base", "document"),
    [
        (
            "https://idp.example/realms/My%20Realm",
            "https://idp.example/realms/My%20Realm",
            "https://idp.example/realms/My%20Realm/.well-known/openid-configuration",
        ),
        (
            "https://login.example/t/v2.0?appid=a%2Fb",
            "https://login.example/t/v2.0?appid=a%2Fb",
            "https://login.example/t/v2.0/.well-known/openid-configuration?appid=a%2Fb",
        ),
        (
            "https://login.example/t/.well-known/openid-configuration?appid=a",
            "https://login.example/t?appid=a",
            "https://login.example/t/.well-known/openid-configuration?appid=a",
        ),
        (
            "https://my_idp:8443/a(b)'c;d=e,f@g!$&*+",
            "https://my_idp:8443/a(b)'c;d=e,f@g!$&*+",
            "https://my_idp:8443/a(b)'c;d=e,f@g!$&*+/.well-known/openid-configuration",
        ),
    ],
)
def test_issuer_address_may_be_any_url_of_a_service(
    directory: Path, given: str, base: str, document: str
) -> None:
    keys = read(directory, (*ISSUER, "discovery"), given).issuers[0].keys
    assert isinstance(keys, DiscoveryKeys)
    assert keys.discovery == base
    assert discovery_document(base) == document
    read(directory, ISSUER, {"jwks": given})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("https://user:canary@idp.example", "without user and password"),
        ("https://canary@idp.example/x", "without user and password"),
        ("https://idp.example/x#canary", "fragment"),
        ("https://idp.example:99999/canary", "a valid port"),
        ("https://idp.example:0", "a valid port"),
        ("https:///canary", "with a host"),
        ("https://idp.example/My Realm", "write them as %XX"),
        ("https://idp.example/%zz", "write them as %XX"),
        ('https://idp.example/x?a="b', "write them as %XX"),
        ("https://idp.example/\n", "write them as %XX"),
        ("https://idp.ex\u00e4mple", "write them as %XX"),
        ("ftp://idp.example/canary", "http or https"),
        ("idp.example", "http or https"),
    ],
)
@pytest.mark.parametrize("key", ["discovery", "jwks"])
def test_wrong_issuer_address_is_rejected_with_the_wrong_part(
    directory: Path, key: str, value: str, message: str
) -> None:
    where, shown = problem(directory, ISSUER, {key: value})
    assert where.endswith(key)
    assert message in shown
    assert "canary" not in shown


def test_query_in_an_api_address_is_rejected(directory: Path) -> None:
    for path in ((*ACCOUNT, "endpoint"), (*LOGIN, "iam_endpoint")):
        _, message = problem(directory, path, "https://clouddc.example/?x=canary")
        assert "must not have a query" in message
        assert "canary" not in message


@pytest.mark.parametrize(
    "host",
    ["https://*.huaweicloud.com", "console.example/vnc", "con*.example", "*", "a.example.", "a_b",
     "[::1]", "console.example:0", "console.example:99999", "console.example:", "con sole", ""],
)  # fmt: skip
def test_console_host_that_matches_nothing_is_rejected(directory: Path, host: str) -> None:
    hosts = {"console_hosts": ["ok.example", host]}
    key, message = problem(directory, (*ACCOUNT, "links"), hosts)
    assert key == "accounts[0].links.console_hosts[1]"
    assert "must be a host name or `*.domain`, with or without a port" in message


def test_console_host_may_have_a_port(directory: Path) -> None:
    hosts = ["Region-1-Console.example.com:443", "*.huaweicloud.com"]
    settings = read(directory, (*ACCOUNT, "links"), {"console_hosts": hosts})
    assert settings.accounts[0].links.console_hosts == (hosts[0].lower(), hosts[1])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*LOGIN, "user"), "${IAM_USER}"),
        ((*LOGIN, "domain"), "prefix-${DOMAIN:-x}"),
        ((*LOGIN, "user"), "$(IAM_USER)"),
        ((*LOGIN, "user"), "{{ iam_user }}"),
        ((*ACCOUNT, "projects"), ["${PROJECT}"]),
        (("metrics",), {"teams": {"ops": "${TEAM}"}}),
    ],
)
def test_variable_is_rejected(directory: Path, path: tuple[str | int, ...], value: object) -> None:
    key, message = problem(directory, path, value)
    assert key.startswith(str(path[0]))
    assert "which is not expanded" in message


def test_dollar_and_brace_are_no_variable(directory: Path) -> None:
    settings = read(directory, (*LOGIN, "user"), "a$b{c}$")
    login = settings.accounts[0].login
    assert login.method == "password"
    assert login.user == "a$b{c}$"


def test_byte_order_mark_is_no_part_of_a_secret(directory: Path) -> None:
    (directory / "secrets" / "iam-password").write_bytes(b"\xef\xbb\xbfcanary\n")
    login = read(directory, (*LOGIN, "user"), "x").accounts[0].login
    assert login.method == "password"
    assert login.password.reveal() == "canary"


def test_byte_order_mark_alone_is_no_secret(directory: Path) -> None:
    (directory / "secrets" / "iam-password").write_bytes(b"\xef\xbb\xbf\n")
    key, message = problem(directory, (*LOGIN, "user"), "x")
    assert key == "accounts[0].login.password"
    assert "is empty" in message


def test_byte_order_mark_before_the_config_is_ignored(directory: Path) -> None:
    (directory / "gateway.yaml").write_bytes(b"\xef\xbb\xbf" + EXAMPLE.encode())
    assert load_settings(directory / "gateway.yaml", {}).accounts[0].name == "prod"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metrics",), {"teams": {"ext-*": "x"}}),
        (("fairness",), {"group_weights": {"ops ": 2}}),
        (("admin", "api", "groups"), ["console-*"]),
    ],
)
def test_group_that_no_token_can_contain_is_rejected(
    directory: Path, path: tuple[str | int, ...], value: object
) -> None:
    key, message = problem(directory, path, value)
    assert key.startswith(str(path[0]))
    assert "must not" in message


@pytest.mark.parametrize("name", ["any", "certificate"])
def test_issuer_name_must_not_be_reserved(directory: Path, name: str) -> None:
    key, message = problem(directory, ("issuers", 0, "name"), name)
    assert (key, "reserved" in message) == ("issuers[0].name", True)
