"""A provider over HTTP that is down: before the first login, and after it."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.config.egress import EgressSettings
from gateway.config.issuers import Issuer
from gateway.domain.errors import LoginFailed
from gateway.domain.login import model
from gateway.domain.model import Secret
from gateway.drivers.issuers.openid_provider import HttpOpenIdProvider
from gateway.drivers.network.egress import EgressRoute
from gateway.flow.login.openid_provider import AuthorizationRequest
from tests.support.clock import FakeClock

REQUEST = AuthorizationRequest("state", "nonce", "v" * 43)


class Server:
    """The discovery document of a provider, which can be down."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.reads = 0
        self.more: dict[str, Any] = {}
        self.revocations: list[tuple[str, dict[str, str]]] = []
        """Authorization and form of each."""

    async def discovery(self, _: web.Request) -> web.Response:
        self.reads += 1
        document = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            **self.more,
        }
        return web.json_response(document, status=self.status)

    async def revoke(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.revocations.append((request.headers.get("Authorization", ""), form))
        return web.Response(status=self.status)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", server.discovery)
    app.router.add_post("/revoke", server.revoke)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def a_provider(
    url: str, http: aiohttp.ClientSession, clock: FakeClock, *, secret: str | None = None
) -> HttpOpenIdProvider:
    issuer = Issuer.model_validate(
        {
            "name": "corp",
            "issuer": url,
            "audience": ["gateway"],
            "keys": {"discovery": url},
            "login": {"client_id": "web"},
        }
    )
    assert issuer.login is not None
    if secret is not None:
        login = issuer.login.model_copy(update={"client_secret": Secret(secret)})
        issuer = issuer.model_copy(update={"login": login})
        assert issuer.login is not None
    return HttpOpenIdProvider(
        issuer,
        issuer.login,
        http=http,
        route=EgressRoute(EgressSettings(), proxy=None, ca_file=None, certificate=None),
        redirect_uri="https://gateway.example/login/callback/corp",
        logged_out_uri="https://gateway.example/logout",
        clock=clock,
    )


async def test_login_cannot_begin_while_the_provider_is_down(
    server: Server, http: aiohttp.ClientSession
) -> None:
    server.status = 503
    for url in (server.url, "http://127.0.0.1:1"):
        with pytest.raises(LoginFailed) as failed:
            await a_provider(url, http, FakeClock()).authorization_url(REQUEST)
        assert failed.value.problem is model.PROVIDER_UNAVAILABLE
        assert f"{url}/.well-known/openid-configuration" in str(failed.value)


async def test_provider_is_read_again_after_its_outage(
    server: Server, http: aiohttp.ClientSession
) -> None:
    provider = a_provider(server.url, http, FakeClock())
    server.status = 500
    with pytest.raises(LoginFailed):
        await provider.authorization_url(REQUEST)
    server.status = 200
    assert (await provider.authorization_url(REQUEST)).startswith(f"{server.url}/authorize?")


async def test_old_metadata_goes_on_during_an_outage(
    server: Server, http: aiohttp.ClientSession
) -> None:
    clock = FakeClock()
    provider = a_provider(server.url, http, clock)
    first = await provider.authorization_url(REQUEST)
    assert await provider.authorization_url(REQUEST) == first
    assert server.reads == 1
    server.status = 503
    await clock.advance(301.0)
    assert await provider.authorization_url(REQUEST) == first
    assert server.reads == 2


@pytest.mark.parametrize(
    ("secret", "methods", "authorization", "more"),
    [
        (None, None, "", {"client_id": "web"}),
        ("s/1", None, "Basic d2ViOnMlMkYx", {}),
        ("s-1", ["client_secret_post"], "", {"client_id": "web", "client_secret": "s-1"}),
    ],
)
async def test_refresh_token_is_revoked_as_the_client(
    server: Server,
    http: aiohttp.ClientSession,
    secret: str | None,
    methods: list[str] | None,
    authorization: str,
    more: dict[str, str],
) -> None:
    server.more = {"revocation_endpoint": f"{server.url}/revoke"}
    if methods is not None:
        server.more["revocation_endpoint_auth_methods_supported"] = methods
    await a_provider(server.url, http, FakeClock(), secret=secret).revoke("r-1")
    form = {"token": "r-1", "token_type_hint": "refresh_token", **more}
    assert server.revocations == [(authorization, form)]


async def test_provider_without_revocation_gets_no_token(
    server: Server, http: aiohttp.ClientSession
) -> None:
    """A refused or unusable one is an error of the logout only: logins go on."""
    provider = a_provider(server.url, http, FakeClock())
    await provider.revoke("r-1")
    for endpoint in ("http://elsewhere.example/revoke", "revoke", 7):
        server.more = {"revocation_endpoint": endpoint}
        provider = a_provider(server.url, http, FakeClock())
        with pytest.raises(LoginFailed, match="no usable revocation_endpoint"):
            await provider.revoke("r-1")
        assert await provider.authorization_url(REQUEST)
    assert server.revocations == []
    server.more = {"revocation_endpoint": f"{server.url}/revoke"}
    provider = a_provider(server.url, http, FakeClock())
    await provider.authorization_url(REQUEST)
    server.status = 503
    with pytest.raises(LoginFailed, match="revocation: HTTP status 503"):
        await provider.revoke("r-1")
