"""The config of the operators' pages: each error names its line and key."""

import base64
import re
from pathlib import Path

import pytest

from gateway.config.errors import InvalidConfig
from gateway.config.settings import Settings, load_settings
from tests.support.tls import write_certificate

EXAMPLE = (Path(__file__).parents[2] / "config" / "gateway.yaml").read_text()
API = "  api: {audience: console-gateway-admin, groups: {console-admins: all, helpdesk: [read]}}\n"
LOGIN = """\
  public_url: https://admin.example.com
  login:
    issuer: corp
    client_id: operators
    client_secret: {env: SET}
"""
WITH_LOGIN = EXAMPLE.replace(API, API + LOGIN)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    for name in ("iam-password", "redis-password"):
        (tmp_path / "secrets" / name).write_text("canary\n")
    (tmp_path / "secrets" / "seal-key").write_text(base64.b64encode(b"k" * 32).decode())
    return tmp_path


def read(directory: Path, text: str) -> Settings:
    file = directory / "gateway.yaml"
    file.write_text(text)
    return load_settings(file, environ={"SET": "canary-env"})


def test_login_of_administrators_is_read(directory: Path) -> None:
    login = read(directory, WITH_LOGIN).admin.login
    assert login is not None
    assert (login.issuer, login.client_id) == ("corp", "operators")
    assert (login.idle_s, login.absolute_s) == (1_800, 28_800)
    assert read(directory, EXAMPLE).admin.login is None


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        (API, "", "admin.login", "requires `api`"),
        ("  public_url: https://admin.example.com\n", "", "admin.login", "requires `public_url`"),
        ("host: 127.0.0.1", "host: 0.0.0.0", "admin.host", "must be loopback with `login`"),
        (
            "groups: {console-admins: all, helpdesk: [read]}}",
            "groups: {console-admins: all}, allow_plaintext: true}\n  host: 10.1.2.3",
            "admin.host",
            "or set `tls`",
        ),
        ("public_url: https://", "public_url: http://", "admin.public_url", "must be https"),
        ("issuer: corp\n    client", "issuer: other\n    client", "admin.login.issuer", ": corp"),
        (
            "keys: {discovery: https://idp.example.com/realms/corp}",
            "keys: {jwks: https://idp.example.com/keys}",
            "admin.login.issuer",
            "must have `keys.discovery`",
        ),
        ("client_id: operators", "client_id: console-gateway", "admin.login.client_id", "differ"),
        (
            "client_id: operators",
            "client_id: console-gateway-admin",
            "admin.login.client_id",
            "must differ from every other",
        ),
        (
            "listen: {host: 0.0.0.0, port: 8080}",
            "listen: {port: 8080, public_url: https://admin.example.com/people}",
            "admin.public_url",
            "must have another host or port",
        ),
        ("client_id: operators", "client_id: ''", "admin.login.client_id", "must not be empty"),
        ("client_id: operators\n", "client_id: o\n    nonce: 1\n", "admin.login.nonce", "unknown"),
        ("    client_id: operators\n", "", "admin.login", "`client_id` is missing"),
    ],
)
def test_error_names_line_and_key_of_the_login(
    directory: Path, old: str, new: str, key: str, message: str
) -> None:
    assert old in WITH_LOGIN
    text = WITH_LOGIN.replace(old, new, 1)
    if "host: 10.1.2.3" in new:
        text = text.replace("  host: 127.0.0.1\n", "", 1)
    with pytest.raises(InvalidConfig) as found:
        read(directory, text)
    lines = [re.sub(r"^\S+gateway\.yaml:", "", str(one)) for one in found.value.errors]
    assert "canary" not in "".join(lines)
    assert any(key in one and message in one for one in lines), lines


def test_pages_beyond_loopback_take_tls(directory: Path) -> None:
    certificate, key = write_certificate(directory, "127.0.0.1")
    tls = f"  tls: {{certificate_file: {certificate}, key_file: {key}}}\n"
    text = WITH_LOGIN.replace("host: 127.0.0.1\n", "host: 0.0.0.0\n" + tls, 1)
    assert read(directory, text).admin.login is not None
    with pytest.raises(InvalidConfig, match="the listener has `tls`"):
        read(directory, text.replace("https://admin.example.com", "http://127.0.0.1:9090"))
