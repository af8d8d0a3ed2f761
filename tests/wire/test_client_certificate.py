"""The subject of a client certificate, on every supported event loop."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from aiohttp import ClientSession, TCPConnector, web

from gateway.config.listen import ListenerTls
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.network.listener_tls import ServedCertificate
from gateway.edge.client_certificate import client_certificate
from tests.support.tls import Authority


async def subjects(directory: Path, *names: str | None) -> list[str]:
    """Return the subject that the handler reads; None: request without a certificate."""
    authority = Authority()
    (directory / "ca.crt").write_bytes(authority.certificate)
    authority.issue("gateway").write(directory / "tls.crt", directory / "tls.key")
    tls = ListenerTls.model_validate(
        {
            "certificate_file": "tls.crt",
            "key_file": "tls.key",
            "client_ca_file": "ca.crt",
            "client_certificates": "optional",
        },
        context={"base": directory, "environ": {}},
    )

    ends_at: dict[str, float] = {}

    async def report(request: web.BaseRequest) -> web.Response:
        certificate = client_certificate(request)
        if certificate is None:
            return web.Response(text="nobody")
        assert served.is_in_force(certificate.context)
        assert certificate.expires_at == ends_at[certificate.subject]
        return web.Response(text=certificate.subject)

    runner = web.ServerRunner(web.Server(report, access_log=None))
    await runner.setup()
    served = ServedCertificate("admin", tls, SystemClock())
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=served.context)
    await site.start()
    reported = []
    for name in names:
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        if name is not None:
            files = directory / "client.crt", directory / "client.key"
            pair = authority.issue(name)
            pair.write(*files)
            ends_at[name or "console.example.com"] = pair.ends_at
            context.load_cert_chain(*files)
        async with (
            ClientSession(connector=TCPConnector(ssl=context)) as session,
            session.get(f"https://127.0.0.1:{runner.addresses[0][1]}/") as response,
        ):
            reported.append(await response.text())
    await runner.cleanup()
    return reported


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_certificate_subject_is_its_common_or_alternative_name(
    tmp_path: Path, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        reported = runner.run(subjects(tmp_path, "olga", "", None))
    assert reported == ["olga", "console.example.com", "nobody"]
