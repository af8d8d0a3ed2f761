"""Who a client is by its certificate, on the event loops that we serve on."""

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
    """Return what the handler learns of who it is that asks; None asks without a certificate."""
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

    async def tell(request: web.BaseRequest) -> web.Response:
        shown = client_certificate(request)
        if shown is None:
            return web.Response(text="nobody")
        assert served.is_in_force(shown.context)
        assert shown.expires_at == ends_at[shown.subject]
        return web.Response(text=shown.subject)

    runner = web.ServerRunner(web.Server(tell, access_log=None))
    await runner.setup()
    served = ServedCertificate("admin", tls, SystemClock())
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=served.context)
    await site.start()
    told = []
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
            session.get(f"https://127.0.0.1:{runner.addresses[0][1]}/") as answer,
        ):
            told.append(await answer.text())
    await runner.cleanup()
    return told


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_certificate_subject_is_its_common_or_alternative_name(
    tmp_path: Path, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        told = runner.run(subjects(tmp_path, "olga", "", None))
    assert told == ["olga", "console.example.com", "nobody"]
