"""Routes to servers with a private authority that require a client certificate."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gateway.config.accounts import Timeouts
from gateway.config.egress import EgressCertificate, EgressProxy, EgressSettings
from gateway.domain.errors import UpstreamUnreachable
from gateway.domain.model import UpstreamRequest
from gateway.drivers.cloud.upstream import AioUpstream, open_session
from gateway.drivers.network.egress import EgressRoute, is_direct
from tests.support.tls import Authority

REQUEST = UpstreamRequest("GET", "/v1/p/physicalservers")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Write an authority, a server's pair and a client's pair."""
    authority = Authority()
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    for name in ("server", "client"):
        authority.issue(name).write(tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
    return tmp_path


@pytest.fixture
async def url(files: Path) -> AsyncIterator[str]:
    async def serve(_: web.Request) -> web.Response:
        return web.json_response({})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files / "ca.crt")
    context.load_cert_chain(files / "server.crt", files / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def route(files: Path, *, ca: bool, certificate: bool) -> EgressRoute:
    pair = EgressCertificate.model_construct(
        certificate_file=files / "client.crt", key_file=files / "client.key"
    )
    return EgressRoute(
        EgressSettings(),
        proxy=None,
        ca_file=files / "ca.crt" if ca else None,
        certificate=pair if certificate else None,
    )


async def status(url: str, path: EgressRoute) -> int:
    async with open_session(Timeouts()) as session:
        upstream = AioUpstream(session, url, response_bytes_max=1_024, route=path)
        return (await upstream.send(REQUEST, credential=(), timeout_s=5.0)).status


async def test_private_authority_and_client_certificate_are_used(files: Path, url: str) -> None:
    assert await status(url, route(files, ca=True, certificate=True)) == 200


async def test_unknown_authority_is_named(files: Path, url: str) -> None:
    with pytest.raises(UpstreamUnreachable, match="certificate is not trusted"):
        await status(url, route(files, ca=False, certificate=True))


async def test_missing_client_certificate_is_no_connection(files: Path, url: str) -> None:
    with pytest.raises(UpstreamUnreachable):
        await status(url, route(files, ca=True, certificate=False))


@pytest.mark.parametrize(
    ("url", "entry", "direct"),
    [
        ("https://iam.corp.example", "*.corp.example", True),
        ("https://iam.corp.example", ".corp.example", True),
        ("https://corp.example", "*.corp.example", False),
        ("https://corp.example:8443/x", "corp.example", True),
        ("https://evilcorp.example", "corp.example", False),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://[fd00::1]:443", "fd00::/8", True),
        ("https://192.0.2.1", "10.0.0.0/8", False),
        ("https://anything.example", "*", True),
        ("https://IAM.Example.", "iam.example", True),
    ],
)
def test_no_proxy_names_hosts_and_networks(url: str, entry: str, *, direct: bool) -> None:
    assert is_direct(url, [entry]) is direct


def test_own_proxy_of_an_account_replaces_the_common_one() -> None:
    settings = EgressSettings.model_validate(
        {"proxy": "http://common.example:3128", "no_proxy": ["cloud.example"]}
    )

    def proxy(own: EgressProxy | None) -> object:
        chosen = EgressRoute(settings, proxy=own, ca_file=None, certificate=None)
        return chosen.options("https://cloud.example").get("proxy")

    assert proxy(None) is None
    assert proxy(EgressProxy(url="http://own.example:8080")) == "http://own.example:8080"
    assert proxy(EgressProxy(url="direct")) is None


@pytest.mark.parametrize(
    "url", ["http://user:canary@proxy:3128", "proxy:3128", "socks5://proxy:1080", "http://p:0"]
)
def test_wrong_proxy_is_rejected_without_its_value(url: str) -> None:
    with pytest.raises(ValueError, match="must be http://HOST:PORT") as caught:
        EgressSettings.model_validate({"proxy": url})
    assert "must" in str(caught.value)
