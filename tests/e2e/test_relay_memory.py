"""Memory of the relay in a process of its own, with the event loop of the gateway."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector

from gateway.flow.consoles.frame_channel import CLOUD_FRAME_MAX
from tests.support.relay_peer import Peer
from tests.support.relay_server import open_rfb
from tests.support.tls import Authority

SESSIONS = 200
SESSION_MAX_KIB = 100
STALLED = 8
STALLED_MAX_KIB = 2 * 1024


@asynccontextmanager
async def browsers(url: str, count: int) -> AsyncIterator[list[ClientWebSocketResponse]]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(ClientSession(connector=TCPConnector(limit=0)))
        opened = []
        for _ in range(count):
            browser = await stack.enter_async_context(session.ws_connect(url, max_msg_size=0))
            await open_rfb(browser)
            opened.append(browser)
        yield opened


def settled_kib(peer: Peer) -> int:
    """Return the memory once it grows no more; a flood fills buffers in less than a second."""
    before, now = 0, peer.private_kib()
    while now > before:
        time.sleep(1)
        before, now = now, peer.private_kib()
    return now


async def test_idle_session_with_tls_needs_below_100_kib(tmp_path: Path):
    """Asyncio's own TLS needs 300 KiB, which uvloop avoids."""
    authority = Authority()
    ca, certificate, key = (tmp_path / name for name in ("ca.pem", "tls.crt", "tls.key"))
    ca.write_bytes(authority.certificate)
    authority.issue("console").write(certificate, key)
    with (
        Peer("cloud", tls=(certificate, key)) as cloud,
        Peer("relay", target=cloud.url, ca=ca) as relay,
    ):
        async with browsers(relay.url, 20):
            before = relay.private_kib()
            async with browsers(relay.url, SESSIONS) as opened:
                assert not any(browser.closed for browser in opened)
                each = (relay.private_kib() - before) / SESSIONS
    assert each < SESSION_MAX_KIB


async def test_browser_that_does_not_read_costs_below_2_mib():
    """The frames have the largest size that the relay accepts."""
    with Peer("cloud") as cloud, Peer("relay", target=cloud.url) as relay:
        async with browsers(relay.url, STALLED):
            before, connections = relay.private_kib(), relay.connections()
            async with browsers(f"{relay.url}?flood&size={CLOUD_FRAME_MAX - 1}", STALLED):
                each = (await asyncio.to_thread(settled_kib, relay) - before) / STALLED
                assert relay.connections() == connections + 2 * STALLED
    assert each < STALLED_MAX_KIB
