"""Logins at the simulated identity provider."""

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import jwt
import pytest

from gateway.demo.cloud.idp import IdentityProvider
from gateway.demo.cloud.idp_login import CLI_CLIENT, WEB_CLIENT, WEB_SECRET

REDIRECT = "http://127.0.0.1:9/callback"
VERIFIER = "v" * 43
CHALLENGE = (
    base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
)


@pytest.fixture
async def idp() -> AsyncIterator[IdentityProvider]:
    provider = IdentityProvider()
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def authorize(
    http: aiohttp.ClientSession, idp: IdentityProvider, **changes: str
) -> dict[str, str]:
    """Log olga in; return the parameters of the redirect back to the client."""
    query = {
        "response_type": "code",
        "client_id": WEB_CLIENT,
        "redirect_uri": REDIRECT,
        "scope": "openid groups",
        "state": "abc",
        "nonce": "n1",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "person": "olga",
        **changes,
    }
    url = f"{idp.url}/authorize"
    async with http.get(url, params=query, allow_redirects=False) as response:
        assert response.status == 302, await response.text()
        return dict(parse_qsl(urlsplit(response.headers["Location"]).query))


async def token(
    http: aiohttp.ClientSession, idp: IdentityProvider, **form: str
) -> tuple[int, dict[str, Any]]:
    form = {"client_id": WEB_CLIENT, "client_secret": WEB_SECRET, **form}
    async with http.post(f"{idp.url}/token", data=form) as response:
        return response.status, await response.json()


def code_form(code: str, **changes: str) -> dict[str, str]:
    return {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT,
        "code_verifier": VERIFIER,
        **changes,
    }


async def test_code_gives_tokens_once(idp: IdentityProvider, http: aiohttp.ClientSession) -> None:
    back = await authorize(http, idp)
    assert back["state"] == "abc"
    assert back["iss"] == idp.url
    status, tokens = await token(http, idp, **code_form(back["code"]))
    assert status == 200
    claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert claims["aud"] == WEB_CLIENT
    assert claims["nonce"] == "n1"
    assert claims["groups"] == ["operators"]
    assert await token(http, idp, **code_form(back["code"])) == (400, {"error": "invalid_grant"})


@pytest.mark.parametrize(
    "changes",
    [{"code_verifier": "w" * 43}, {"redirect_uri": REDIRECT + "2"}, {"client_id": CLI_CLIENT}],
)
async def test_code_needs_its_verifier_address_and_client(
    idp: IdentityProvider, http: aiohttp.ClientSession, changes: dict[str, str]
) -> None:
    back = await authorize(http, idp)
    status, answer = await token(http, idp, **code_form(back["code"], **changes))
    assert status in (400, 401)
    assert answer["error"] in ("invalid_grant", "invalid_client")


async def test_used_refresh_token_ends_the_login(
    idp: IdentityProvider, http: aiohttp.ClientSession
) -> None:
    back = await authorize(http, idp)
    _, first = await token(http, idp, **code_form(back["code"]))
    old = first["refresh_token"]
    status, second = await token(http, idp, grant_type="refresh_token", refresh_token=old)
    assert status == 200
    for used in (old, second["refresh_token"]):
        status, answer = await token(http, idp, grant_type="refresh_token", refresh_token=used)
        assert (status, answer) == (400, {"error": "invalid_grant"})


async def test_people_page_lists_everyone(
    idp: IdentityProvider, http: aiohttp.ClientSession
) -> None:
    query = {
        "response_type": "code",
        "client_id": WEB_CLIENT,
        "redirect_uri": REDIRECT,
        "scope": "openid",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    async with http.get(f"{idp.url}/authorize", params=query) as response:
        page = await response.text()
    assert all(f"person={name}" in page for name in idp.login.people)


async def device(http: aiohttp.ClientSession, idp: IdentityProvider) -> dict[str, Any]:
    form = {"client_id": CLI_CLIENT, "scope": "openid"}
    async with http.post(f"{idp.url}/device_authorization", data=form) as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


async def poll(http: aiohttp.ClientSession, idp: IdentityProvider, code: str) -> dict[str, Any]:
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": code,
        "client_id": CLI_CLIENT,
    }
    async with http.post(f"{idp.url}/token", data=form) as response:
        found: dict[str, Any] = await response.json()
        return found


async def test_device_code_is_for_the_person_who_entered_it(
    idp: IdentityProvider, http: aiohttp.ClientSession
) -> None:
    idp.login.device_interval_s = 0.0
    started = await device(http, idp)
    code = started["device_code"]
    assert (await poll(http, idp, code))["error"] == "authorization_pending"
    idp.login.device_interval_s = 60.0
    assert (await poll(http, idp, code))["error"] == "slow_down"
    idp.login.device_interval_s = 0.0
    async with http.get(started["verification_uri_complete"]) as page:
        assert started["user_code"] in await page.text()
    async with http.get(f"{started['verification_uri_complete']}&person=victor") as page:
        assert "Done: victor" in await page.text()
    tokens = await poll(http, idp, code)
    claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["aud"]) == ("victor", CLI_CLIENT)
    assert (await poll(http, idp, code))["error"] == "invalid_grant"


async def test_device_code_can_be_denied_and_expires(
    idp: IdentityProvider, http: aiohttp.ClientSession
) -> None:
    denied = await device(http, idp)
    async with http.get(f"{denied['verification_uri_complete']}&person=nobody"):
        pass
    assert (await poll(http, idp, denied["device_code"]))["error"] == "access_denied"
    idp.login.device_code_life_s = 0.0
    expired = await device(http, idp)
    assert (await poll(http, idp, expired["device_code"]))["error"] == "expired_token"
    assert (await poll(http, idp, "unknown"))["error"] == "invalid_grant"
    async with http.get(f"{idp.url}/device?user_code={expired['user_code']}") as page:
        assert "unknown or has expired" in await page.text()
