"""`gateway check --online` on the logins of an issuer, with a provider over HTTP."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from gateway.commands.login_check import LoginResult, check_login
from gateway.config.settings import load_settings
from gateway.drivers.host.clock import SystemClock
from gateway.process.wiring.login import public_clients

ROOT = Path(__file__).parents[2]
CALLBACK = "https://console.example.com/gw/login/callback/corp"


class Provider:
    """A provider that supports everything, until a test changes it."""

    def __init__(self) -> None:
        self.url = ""
        self.changes: dict[str, Any] = {}
        self.login_page: tuple[int, str] = (200, "")
        self.seen: list[dict[str, str]] = []

    async def discovery(self, _: web.Request) -> web.Response:
        document = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "end_session_endpoint": f"{self.url}/logout",
            "code_challenge_methods_supported": ["plain", "S256"],
            "response_types_supported": ["code", "id_token"],
            "scopes_supported": ["openid", "profile", "email"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "none"],
            "authorization_response_iss_parameter_supported": True,
            "backchannel_logout_supported": True,
            **self.changes,
        }
        return web.json_response({key: it for key, it in document.items() if it is not None})

    async def authorize(self, request: web.Request) -> web.Response:
        self.seen.append(dict(request.query))
        status, location = self.login_page
        return web.Response(status=status, headers={"Location": location} if location else {})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", provider.discovery)
    app.router.add_get("/authorize", provider.authorize)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield provider
    await runner.cleanup()


async def check(directory: Path, provider: Provider, **login: Any) -> LoginResult:
    (directory / "secrets").mkdir(exist_ok=True)
    for name in ("iam-password", "redis-password"):
        (directory / "secrets" / name).write_text("secret\n")
    (directory / "secrets" / "seal-key").write_text(base64.b64encode(b"k" * 32).decode())
    data = yaml.safe_load((ROOT / "config" / "gateway.yaml").read_text())
    data["listen"]["public_url"] = "https://console.example.com/gw"
    issuer = data["issuers"][0]
    issuer["issuer"] = provider.url
    issuer["keys"] = {"discovery": provider.url}
    issuer["login"] = {"client_id": "gateway", **login}
    (directory / "gateway.yaml").write_text(yaml.safe_dump(data))
    config = load_settings(directory / "gateway.yaml", {})
    return await check_login(config, public_clients(config)[0], SystemClock())


async def test_login_that_works_names_what_to_register(tmp_path: Path, provider: Provider) -> None:
    result = await check(tmp_path, provider)
    assert result == LoginResult(
        (), (f"redirect URI {CALLBACK}", "after a logout https://console.example.com/gw/logout")
    )
    (sent,) = provider.seen
    assert sent["redirect_uri"] == CALLBACK
    assert sent["code_challenge_method"] == "S256"


@pytest.mark.parametrize(
    ("changes", "login", "problem"),
    [
        ({"code_challenge_methods_supported": ["plain"]}, {}, "does not support PKCE with S256"),
        ({"response_types_supported": ["id_token"]}, {}, "authorization code flow"),
        ({}, {"groups_from": "userinfo"}, "has no `userinfo_endpoint`"),
        ({}, {"scopes": ["openid", "groups"]}, "does not support the scope 'groups'"),
        ({"acr_values_supported": ["1"]}, {"acr_values": ["mfa"]}, "none of `login.acr_values`"),
        (
            {"token_endpoint_auth_methods_supported": ["client_secret_post"]},
            {},
            "requires a secret from clients",
        ),
        ({"issuer": "https://other.example"}, {}, "names another issuer"),
        ({"token_endpoint": None}, {}, "no usable token_endpoint"),
        ({"authorization_endpoint": "ftp://x"}, {}, "no usable authorization_endpoint"),
    ],
)
async def test_unsuitable_provider_is_named(
    tmp_path: Path,
    provider: Provider,
    changes: dict[str, Any],
    login: dict[str, Any],
    problem: str,
) -> None:
    provider.changes = changes
    (found,) = (await check(tmp_path, provider, **login)).problems
    assert problem in found


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ((400, ""), "HTTP 400: is `login.client_id` right, and is the redirect URI registered"),
        ((302, f"{CALLBACK}?error=invalid_scope&state=x"), "refuses the login: 'invalid_scope'"),
    ],
)
async def test_refused_client_is_named(
    tmp_path: Path, provider: Provider, page: tuple[int, str], problem: str
) -> None:
    provider.login_page = page
    (found,) = (await check(tmp_path, provider)).problems
    assert problem in found


async def test_missing_announcements_are_notes(tmp_path: Path, provider: Provider) -> None:
    """Entra ID, for one, supports PKCE without announcing it."""
    provider.changes = dict.fromkeys(
        (
            "code_challenge_methods_supported",
            "authorization_response_iss_parameter_supported",
            "end_session_endpoint",
            "backchannel_logout_supported",
        )
    )
    result = await check(tmp_path, provider)
    assert result.problems == ()
    notes = " ".join(result.notes)
    for part in ("PKCE", "RFC 9207", "end_session_endpoint", "back-channel"):
        assert part in notes


async def test_unreachable_provider_is_named(tmp_path: Path, provider: Provider) -> None:
    provider.url = "http://127.0.0.1:1"
    (found,) = (await check(tmp_path, provider)).problems
    assert "http://127.0.0.1:1/.well-known/openid-configuration" in found
    assert "connection refused" in found
