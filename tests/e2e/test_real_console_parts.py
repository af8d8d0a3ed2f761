"""Real parts without the gateway: TigerVNC and xterm behind websockify, with a cloud's tokens."""

import ssl
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.real_console import RealConsoleHost, fetch_link, needs_real_console
from tests.support.rfb_client import COPY_RECT, HEXTILE, RAW, connect_rfb
from tests.support.stack import CloudProcess, eventually

pytestmark = needs_real_console


@pytest.fixture(scope="module")
def console() -> Iterator[RealConsoleHost]:
    running = RealConsoleHost()
    yield running
    running.close()


@pytest.fixture(scope="module")
def cloud(console: RealConsoleHost) -> Iterator[CloudProcess]:
    running = CloudProcess(servers=3)
    running.add_real_console(running.servers[0], **console.details())
    yield running
    running.close()


@pytest.mark.parametrize("shape", ["root", "directory"])
async def test_console_without_the_gateway_takes_keys(
    cloud: CloudProcess, console: RealConsoleHost, shape: str
) -> None:
    """A failure here is not the gateway's fault."""
    link = fetch_link(cloud, cloud.servers[0])
    assert link.startswith(console.base)
    parts = urlsplit(link)
    directory = parts.path.rpartition("/")[0] if shape == "directory" else ""
    url = f"{console.base}{directory}/websockify?token={parse_qs(parts.query)['token'][0]}"
    trusted = ssl.create_default_context(cadata=console.authority_pem)
    async with connect_rfb(url, tls=trusted) as client:
        await client.handshake()
        await client.set_encodings(COPY_RECT, HEXTILE, RAW)
        await client.update(incremental=False)
        assert len(set(client.picture.pixels)) > 1
        await client.type(f"echo typed-{shape} > direct-{shape}\n")
        eventually(lambda: console.typed(f"direct-{shape}") == f"typed-{shape}\n")
    assert console.paths()[-1] == f"{directory}/websockify"
