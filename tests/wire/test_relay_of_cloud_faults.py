"""The connector and the relay against each fault of the simulated console host."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.demo.cloud.fleet import REGION
from gateway.demo.cloud.screen.screen_faults import SCREEN_FAULTS
from gateway.demo.cloud.simulated_cloud import SimulatedCloud
from gateway.domain.consoles.model import Clipboard, SessionMode
from gateway.domain.rfb.rules import RelayRules
from tests.support.relay_bridge import RelayBridge, open_bridge
from tests.support.rfb_client import ALL_ENCODINGS, RfbClient, RfbClosed, connect_rfb
from tests.support.simulated_cloud import UNLIMITED


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    async with SimulatedCloud(UNLIMITED) as running:
        yield running


def link_of(cloud: SimulatedCloud) -> Callable[[], Awaitable[str]]:
    """Return a function that issues a console link, as the API does."""
    server = cloud.upstream.projects[cloud.project].servers[cloud.servers[0]]

    async def issue() -> str:
        token = cloud.consoles.tokens.issue(cloud.project, server.id)
        return f"{cloud.consoles.url}/vnc/{server.name}.{REGION}/vnc_auto.html?token={token}"

    return issue


@pytest.fixture
async def bridge(cloud: SimulatedCloud, tmp_path: Path) -> AsyncIterator[RelayBridge]:
    authority = tmp_path / "authority.pem"
    authority.write_text(cloud.consoles.authority_pem)
    async with open_bridge(link_of(cloud), cloud.consoles.url, authority) as running:
        yield running


async def use(client: RfbClient) -> None:
    """Do what a viewer does, for as long as the console lets it."""
    with suppress(RfbClosed, PermissionError, ConnectionError):
        await client.handshake()
        await client.set_encodings(*ALL_ENCODINGS)
        await client.update(incremental=False)
        while True:
            await client.type("x")
            await client.update()


async def end_of(bridge: RelayBridge) -> tuple[str, str]:
    """Use a console until it ends; return the end's name and detail."""
    async with connect_rfb(bridge.url) as client:
        with suppress(TimeoutError, AssertionError):
            async with asyncio.timeout(20):
                await use(client)
    async with asyncio.timeout(10):
        while not bridge.ends:  # noqa: ASYNC110 - the bridge has no event for it
            await asyncio.sleep(0.01)
    return bridge.ends[-1]


@pytest.mark.parametrize("shape", ["root", "directory"])
@pytest.mark.parametrize("subprotocol", ["required", "none"])
async def test_auto_finds_each_shape(
    cloud: SimulatedCloud, bridge: RelayBridge, shape: str, subprotocol: str
) -> None:
    cloud.consoles.change(shapes=shape, subprotocol=subprotocol, token_single_use=True)
    for _ in range(2):
        async with connect_rfb(bridge.url) as client:
            await client.handshake()
            await client.type("found")
            await client.set_encodings(*ALL_ENCODINGS)
            await client.update(incremental=False)
    assert bridge.shapes.text.startswith(shape)
    tries = bridge.links
    async with connect_rfb(bridge.url) as client:
        await client.handshake()
    assert bridge.links == tries + 1  # what worked is tried first


UNAVAILABLE = "cloud_unavailable"
VIOLATION = "protocol_error"
CLOSED = "cloud_closed"
ENDS = {
    "silent": UNAVAILABLE,
    "not_rfb": UNAVAILABLE,
    "text_frames": UNAVAILABLE,
    "vencrypt_only": VIOLATION,
    "no_security": CLOSED,
    "huge_security_reason": VIOLATION,
    "huge_size": VIOLATION,
    "huge_name": VIOLATION,
    "huge_frame": VIOLATION,
    "cut": CLOSED,
    "close": CLOSED,
    "wrong_token": UNAVAILABLE,
    "reset": UNAVAILABLE,
    "redirect": UNAVAILABLE,
    "answer": UNAVAILABLE,
    "hang": UNAVAILABLE,
}
"""Names of the ends by fault. The other faults go to the browser, which has bounds of its own."""


@pytest.mark.parametrize(("kind", "name"), ENDS.items())
async def test_fault_ends_with_its_name_and_without_the_token(
    cloud: SimulatedCloud, bridge: RelayBridge, kind: str, name: str
) -> None:
    cloud.consoles.fail(kind, status=403)
    if kind in {"silent", "hang"}:
        bridge.timeout_s = 0.3  # each shape is tried for so long
    ended, detail = await end_of(bridge)
    assert ended == name
    assert detail
    tokens = [one["token"] for one in cloud.consoles.tokens.describe()]
    assert tokens
    assert not [token for token in tokens if token in detail]
    assert "\x1b" not in detail


@pytest.mark.parametrize("certificate", ["foreign_authority", "other_name", "expired"])
async def test_wrong_certificate_is_not_accepted(
    cloud: SimulatedCloud, bridge: RelayBridge, certificate: str
) -> None:
    cloud.consoles.change(certificate=certificate)
    ended, detail = await end_of(bridge)
    assert (ended, "certificate" in detail.lower()) == (UNAVAILABLE, True), detail
    assert sum(one["uses"] for one in cloud.consoles.tokens.describe()) == 0


PARSED = {
    "huge_resize": VIOLATION,
    "unknown_message": VIOLATION,
    "huge_size": VIOLATION,
    "huge_name": VIOLATION,
    "huge_clipboard": VIOLATION,
}


@pytest.mark.parametrize(("kind", "name"), PARSED.items())
async def test_fault_ends_where_the_server_is_parsed(
    cloud: SimulatedCloud, bridge: RelayBridge, kind: str, name: str
) -> None:
    bridge.rules = RelayRules(SessionMode.CONTROL, clipboard=Clipboard.TO_SERVER)
    cloud.consoles.fail(kind)
    ended, detail = await end_of(bridge)
    assert (ended, bool(detail)) == (name, True)


def test_every_fault_has_an_end_or_is_the_browsers() -> None:
    browsers = {
        "future_version", "hostile_name", "huge_resize", "hostile_clipboard", "large_clipboard",
        "huge_clipboard", "unknown_message", "flood", "stall",
    }  # fmt: skip
    assert set(SCREEN_FAULTS) - set(ENDS) == browsers


async def test_flood_reaches_a_slow_viewer_with_bounded_memory(
    cloud: SimulatedCloud, bridge: RelayBridge
) -> None:
    cloud.consoles.fail("flood")
    async with connect_rfb(bridge.url) as client:
        await client.handshake()
        await asyncio.sleep(0.5)  # read nothing
        for _ in range(100):
            assert await client.read_message() == 0


@pytest.mark.parametrize("clipboard", Clipboard)
async def test_clipboard_passes_only_where_allowed(
    cloud: SimulatedCloud, bridge: RelayBridge, clipboard: Clipboard
) -> None:
    bridge.rules = RelayRules(SessionMode.CONTROL, clipboard=clipboard)
    screen = cloud.consoles.screen(cloud.servers[0])
    async with connect_rfb(bridge.url) as client:
        await client.handshake()
        await client.set_encodings(*ALL_ENCODINGS)
        await client.update(incremental=False)
        screen.change({"clipboard": "from the server", "write": "x"})
        await client.copy(b"to the server")
        await client.type("end")
        await until_typed(client, cloud, "end")
    from_server = clipboard in {Clipboard.BOTH, Clipboard.FROM_SERVER}
    assert client.clipboards == ([b"from the server"] if from_server else [])
    to_server = clipboard in {Clipboard.BOTH, Clipboard.TO_SERVER}
    assert screen.clipboards == (["to the server"] if to_server else [])


async def until_typed(client: RfbClient, cloud: SimulatedCloud, text: str) -> None:
    typed = cloud.consoles.screen(cloud.servers[0]).shell.typed
    async with asyncio.timeout(10):
        while text not in "".join(typed):
            await client.update(incremental=False)


async def test_viewer_changes_nothing(cloud: SimulatedCloud, bridge: RelayBridge) -> None:
    bridge.rules = RelayRules(SessionMode.VIEW)
    cloud.consoles.change(xvp=True, qemu_keys=True)
    screen = cloud.consoles.screen(cloud.servers[0])
    async with connect_rfb(bridge.url) as client:
        await client.handshake(shared=False)
        await client.set_encodings(*ALL_ENCODINGS, -258)
        await client.update(incremental=False)
        await client.type("nothing")
        await client.copy(b"nothing")
        await client.send(bytes((255, 0, 0, 1)) + (113).to_bytes(4, "big") + bytes(4))
        await client.update(incremental=False)
        assert screen.describe()["viewers"][0]["shared"] is True
    assert list(screen.shell.keysyms) == []
    assert screen.clipboards == []
    assert screen.messages.keys() <= {"SetEncodings", "FramebufferUpdateRequest"}


@pytest.mark.parametrize("power", [True, False])
async def test_power_passes_only_with_the_right(
    cloud: SimulatedCloud,
    bridge: RelayBridge,
    power: bool,  # noqa: FBT001 - a parameter of pytest
) -> None:
    bridge.rules = RelayRules(SessionMode.CONTROL, power=power)
    cloud.consoles.change(xvp=True)
    screen = cloud.consoles.screen(cloud.servers[0])
    with suppress(RfbClosed):
        async with connect_rfb(bridge.url) as client:
            await client.handshake()
            await client.set_encodings(*ALL_ENCODINGS, -309)
            await client.update(incremental=False)
            await client.send(bytes((250, 0, 1, 3)))
            await client.update(incremental=False)
    assert screen.power_actions == (["reboot"] if power else [])


async def test_authentication_passes_through(cloud: SimulatedCloud, bridge: RelayBridge) -> None:
    for version in ("3.3", "3.7", "3.8"):
        cloud.consoles.change(rfb_version=version, password="sesame")
        async with connect_rfb(bridge.url) as client:
            await client.handshake(version, password="sesame")
            await client.set_encodings(*ALL_ENCODINGS)
            await client.update(incremental=False)
        async with connect_rfb(bridge.url) as client:
            with pytest.raises(PermissionError):
                await client.handshake(version, password="wrong")
