"""The simulated cloud's consoles: a scripted RFB client over real WebSockets, and each fault."""

import asyncio
import json
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from gateway.demo.cloud.fleet import REGION
from gateway.demo.cloud.screen.screen_faults import HOSTILE_TEXT, HUGE, SCREEN_FAULTS
from gateway.demo.cloud.screen.server_screen import ServerScreen
from gateway.demo.cloud.simulated_cloud import SimulatedCloud
from tests.support.rfb_client import (
    ALL_ENCODINGS,
    ALT,
    BACKSPACE,
    CONTROL,
    COPY_RECT,
    CURSOR,
    DELETE,
    HEXTILE,
    QEMU_KEYS,
    RAW,
    XVP,
    RfbClient,
    RfbClosed,
    connect_rfb,
)
from tests.support.simulated_cloud import UNLIMITED, fetch_async
from tests.support.stack import console_path

SHAPES = ("root", "directory")


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    async with SimulatedCloud(UNLIMITED) as running:
        running.upstream.live_projects = [running.project]
        yield running


def trust(cloud: SimulatedCloud) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=cloud.consoles.authority_pem)


async def fetch_link(cloud: SimulatedCloud, server: int = 0) -> str:
    token, _ = cloud.iam.issue(cloud.project)
    path = console_path(cloud.project, cloud.servers[server])
    response = await fetch_async(cloud.upstream.url, path, headers={"X-Auth-Token": token})
    return str(response.json["url"])


def socket_url(link: str, shape: str) -> str:
    """Return the address of the WebSocket that the page of a console link opens."""
    parts = urlsplit(link)
    directory = "" if shape == "root" else parts.path.rpartition("/")[0]
    return f"https://{parts.netloc}{directory}/websockify?token={token_of(link)}"


def token_of(link: str) -> str:
    return parse_qs(urlsplit(link).query)["token"][0]


def screen_of(cloud: SimulatedCloud, server: int = 0) -> ServerScreen:
    return cloud.consoles.screen(cloud.servers[server])


async def open_console(
    cloud: SimulatedCloud, shape: str = "root", **options: Any
) -> AbstractAsyncContextManager[RfbClient]:
    url = socket_url(await fetch_link(cloud), shape)
    return connect_rfb(url, tls=trust(cloud), **options)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the simulated cloud has no event for it
            await asyncio.sleep(0.005)


async def until_sent(client: RfbClient, condition: Callable[[], bool]) -> None:
    """Request updates until the client has what the condition wants."""
    async with asyncio.timeout(20):
        while not condition():
            await client.update(incremental=False)


@pytest.mark.parametrize("protocols", [(), ("binary",)], ids=["no subprotocol", "binary"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_console_shows_and_takes_what_is_typed(
    cloud: SimulatedCloud, shape: str, protocols: tuple[str, ...]
) -> None:
    async with await open_console(cloud, shape, protocols=protocols) as client:
        assert client.socket.protocol == (protocols[0] if protocols else None)
        await client.handshake()
        assert client.name.endswith(b" console")
        assert (client.picture.width, client.picture.height) == (640, 480)
        await client.set_encodings(*ALL_ENCODINGS)
        await client.update(incremental=False)
        before = bytes(client.picture.pixels)
        await client.type("olga\n\necho typed-77 > note\n")
        shell = screen_of(cloud).shell
        await until(lambda: "note" in shell.files)
        assert shell.files["note"] == "typed-77\n"
        await client.update()
        assert bytes(client.picture.pixels) != before
    control = cloud.consoles.control_url
    found = (await fetch_async(control, f"/_box/screens/{cloud.servers[0]}")).json
    assert found["files"]["note"] == "typed-77\n"
    assert found["typed"] == "olga\n\necho typed-77 > note\n"
    assert found["messages"]["KeyEvent"] == 2 * len(found["typed"])


async def test_hextile_and_raw_show_the_same_after_scrolling(cloud: SimulatedCloud) -> None:
    pictures = []
    for encodings in (ALL_ENCODINGS, (RAW,), (RAW, COPY_RECT)):
        async with await open_console(cloud) as client:
            await client.handshake()
            await client.set_encodings(*encodings)
            await client.update(incremental=False)
            for keysym in (CONTROL, ALT, DELETE):
                await client.key(keysym)
            for keysym in (DELETE, ALT, CONTROL):
                await client.key(keysym, is_down=False)
            await client.type("olga\n\n")
            for count in (7, 40, 3):  # 40 rows are more than the screen has
                await client.type(f"seq {count}\n")
                await client.update()
            await client.type("echo end")
            await client.key(BACKSPACE)
            await client.type("x\n")
            typed = screen_of(cloud).shell.lines
            await until(lambda typed=typed: typed[-1] == "echo enx")
            await client.update(incremental=False)
            whole = bytes(client.picture.pixels)
            pictures.append(whole)
            if COPY_RECT in encodings:
                assert client.kinds[COPY_RECT] > 0
            assert client.kinds[HEXTILE if HEXTILE in encodings else RAW] > 0
            screen_of(cloud).shell.lines.clear()
    assert pictures[0] == pictures[1] == pictures[2]


async def test_incremental_updates_lead_to_the_full_picture(cloud: SimulatedCloud) -> None:
    async with await open_console(cloud) as client:
        await client.handshake()
        await client.set_encodings(*ALL_ENCODINGS)
        await client.update(incremental=False)
        await client.type("olga\n\nseq 50\necho last\n")
        shell = screen_of(cloud).shell
        await until(lambda: list(shell.lines) == ["seq 50", "echo last"])
        screen_of(cloud).change({"write": "!"})
        await client.update()
        shown = bytes(client.picture.pixels)
        await client.update(incremental=False)
        assert bytes(client.picture.pixels) == shown


async def test_update_is_held_until_something_changes(cloud: SimulatedCloud) -> None:
    async with await open_console(cloud) as client:
        await client.handshake()
        await client.set_encodings(RAW)
        await client.update(incremental=False)
        await client.request()
        waiting = asyncio.ensure_future(client.read_message())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        screen_of(cloud).change({"write": "x"})
        assert await waiting == 0


async def test_resize_name_bell_and_clipboard_reach_the_viewer(cloud: SimulatedCloud) -> None:
    control, server = cloud.consoles.control_url, cloud.servers[0]
    async with await open_console(cloud) as client:
        await client.handshake()
        await client.set_encodings(*ALL_ENCODINGS)
        await client.update(incremental=False)
        assert client.kinds[CURSOR] == 1
        body = '{"resize": [60, 20], "name": "renamed", "bell": true, "clipboard": "copied"}'
        response = await fetch_async(control, f"/_box/screens/{server}", method="POST", body=body)
        assert response.json["size"] == [60, 20]
        await until_sent(client, lambda: client.clipboards == [b"copied"] and client.bells == 1)
        await until_sent(client, lambda: client.name == b"renamed")
        assert (client.picture.width, client.picture.height) == (480, 320)
        await client.copy(b"pasted")
        await until(lambda: screen_of(cloud).clipboards == ["pasted"])


@pytest.mark.parametrize("version", ["3.3", "3.7", "3.8"])
@pytest.mark.parametrize("password", [None, "sesame"])
async def test_versions_and_authentication(
    cloud: SimulatedCloud, version: str, password: str | None
) -> None:
    cloud.consoles.change(rfb_version=version, password=password)
    async with await open_console(cloud) as client:
        await client.handshake(version, password=password)
        await client.set_encodings(RAW)
        await client.update(incremental=False)


async def test_older_version_of_the_viewer_is_used(cloud: SimulatedCloud) -> None:
    async with await open_console(cloud) as client:
        await client.handshake("3.3")
        assert screen_of(cloud).describe()["viewers"][0]["version"] == "3.3"


async def test_wrong_password_is_rejected_with_a_reason(cloud: SimulatedCloud) -> None:
    cloud.consoles.change(password="sesame")
    async with await open_console(cloud) as client:
        with pytest.raises(PermissionError, match="Authentication failed"):
            await client.handshake(password="wrong")
        with pytest.raises(RfbClosed):
            await client.read(1)


async def test_xvp_reboots_only_where_it_is_offered(cloud: SimulatedCloud) -> None:
    screen = screen_of(cloud)
    cloud.consoles.change(xvp=True)
    async with await open_console(cloud) as client:
        await client.handshake()
        await client.set_encodings(RAW, XVP)
        assert await client.read_message() == 250
        assert client.xvp == [1]
        for code in (2, 4):
            await client.send(bytes((250, 0, 1, code)))
        await until(lambda: screen.power_actions == ["shutdown", "reset"])
        assert screen.reboots == 1
    cloud.consoles.change(xvp=False)
    async with await open_console(cloud) as client:
        await client.handshake()
        await client.send(bytes((250, 0, 1, 3)))
        assert await client.read_message() == 250
        assert client.xvp == [0]
        assert screen.reboots == 1


async def test_qemu_keys_are_typed_where_offered(cloud: SimulatedCloud) -> None:
    cloud.consoles.change(qemu_keys=True)
    async with await open_console(cloud) as client:
        await client.handshake()
        await client.set_encodings(RAW, QEMU_KEYS)
        await client.update(incremental=False)
        assert client.kinds[QEMU_KEYS] == 1
        await client.send(struct.pack(">BBHII", 255, 0, 1, ord("q"), 16))
        await until(lambda: list(screen_of(cloud).shell.typed) == ["q"])


async def test_viewers_share_the_screen_unless_one_refuses(cloud: SimulatedCloud) -> None:
    async with await open_console(cloud) as first, await open_console(cloud) as second:
        await first.handshake()
        await second.handshake()
        await second.type("shared")
        await until(lambda: "shared" in "".join(screen_of(cloud).shell.typed))
        async with await open_console(cloud) as alone:
            await alone.handshake(shared=False)
            await second.set_encodings(RAW)
            with pytest.raises(RfbClosed):
                await second.read(1)


async def test_cursor_blinks_where_set(cloud: SimulatedCloud) -> None:
    cloud.consoles.change(blink_s=0.05)
    async with await open_console(cloud) as client:
        await client.handshake()
        await client.set_encodings(HEXTILE)
        for _ in range(3):
            await client.update()


async def test_messages_can_arrive_in_any_pieces(cloud: SimulatedCloud) -> None:
    cloud.consoles.change(frame_bytes=7)
    async with await open_console(cloud) as client:
        await client.handshake()
        keys = b"".join(struct.pack(">BBxxI", 4, 1, ord(one)) for one in "pieces")
        for byte in keys:
            await client.send(bytes((byte,)))
        await client.send(keys)
        await client.set_encodings(HEXTILE)
        await client.update(incremental=False)
        await until(lambda: "".join(screen_of(cloud).shell.typed) == "pieces" * 2)


# Tokens and shapes


async def is_refused(cloud: SimulatedCloud, url: str, **options: Any) -> bool:
    """Return whether the connection is closed before any response."""
    try:
        async with connect_rfb(url, tls=trust(cloud), **options):
            return False
    except aiohttp.ServerDisconnectedError:
        return True


async def test_token_opens_its_own_server_only(cloud: SimulatedCloud) -> None:
    first, second = await fetch_link(cloud), await fetch_link(cloud, 1)
    mixed = socket_url(first, "directory").replace(token_of(first), token_of(second))
    assert await is_refused(cloud, mixed)
    assert not await is_refused(cloud, socket_url(second, "directory"))
    assert await is_refused(cloud, socket_url(first, "root") + "x")
    assert await is_refused(cloud, cloud.consoles.url + "/websockify")


async def test_token_expires_but_open_consoles_stay(cloud: SimulatedCloud) -> None:
    url = socket_url(await fetch_link(cloud), "root")
    async with connect_rfb(url, tls=trust(cloud)) as client:
        await client.handshake()
        response = await fetch_async(
            cloud.consoles.control_url, "/_box/tokens/expire", method="POST"
        )
        assert response.status == 200
        assert await is_refused(cloud, url)
        await client.set_encodings(RAW)
        await client.update(incremental=False)
    cloud.consoles.change(token_life_s=0)
    assert await is_refused(cloud, socket_url(await fetch_link(cloud), "root"))


async def test_token_is_good_once_or_more_often(cloud: SimulatedCloud) -> None:
    url = socket_url(await fetch_link(cloud), "root")
    assert [await is_refused(cloud, url) for _ in range(2)] == [False, False]
    cloud.consoles.change(token_single_use=True)
    url = socket_url(await fetch_link(cloud), "directory")
    assert [await is_refused(cloud, url) for _ in range(2)] == [False, True]
    listed = (await fetch_async(cloud.consoles.control_url, "/_box/tokens")).json["tokens"]
    assert [one["uses"] for one in listed] == [2, 1]
    assert url.endswith(listed[1]["token"])


async def test_root_takes_the_token_from_a_cookie(cloud: SimulatedCloud) -> None:
    """As noVNC 0.5 and 0.6 did: their page sets the cookie `token`."""
    link = await fetch_link(cloud)
    token = token_of(link)
    page = await fetch_async(
        cloud.consoles.control_url, "/vnc/" + link.split("/vnc/")[1], headers={}
    )
    assert f'document.cookie = "token=" + "{token}"'.encode() in page.body
    url = cloud.consoles.url + "/websockify"
    assert not await is_refused(cloud, url, Cookie=f"token={token}")
    directory = socket_url(link, "directory").partition("?")[0]
    assert await is_refused(cloud, directory, Cookie=f"token={token}")


@pytest.mark.parametrize("shape", SHAPES)
async def test_only_the_shape_of_the_setting_is_served(cloud: SimulatedCloud, shape: str) -> None:
    cloud.consoles.change(shapes=shape)
    link = await fetch_link(cloud)
    refused = {one: await is_refused(cloud, socket_url(link, one)) for one in SHAPES}
    assert refused == {one: one != shape for one in SHAPES}


async def test_subprotocol_can_be_required_or_unknown(cloud: SimulatedCloud) -> None:
    url = socket_url(await fetch_link(cloud), "root")
    cloud.consoles.change(subprotocol="required")
    assert await is_refused(cloud, url)
    assert not await is_refused(cloud, url, protocols=("binary",))
    cloud.consoles.change(subprotocol="none")
    async with connect_rfb(url, tls=trust(cloud), protocols=("binary",)) as client:
        assert client.socket.protocol is None


def test_unknown_settings_are_rejected() -> None:
    consoles = SimulatedCloud(UNLIMITED).consoles
    for settings in ({"shapes": "round"}, {"certificate": "none"}, {"rfb_version": "4"}):
        with pytest.raises(ValueError, match="known: "):
            consoles.change(**settings)


async def test_real_console_gets_its_tokens(cloud: SimulatedCloud, tmp_path: Any) -> None:
    server, file = cloud.servers[0], tmp_path / "tokens"
    real = {"base": "https://127.0.0.1:7", "token_file": str(file), "target": "127.0.0.1:5901"}
    body = json.dumps({"server": server, **real})
    response = await fetch_async(cloud.upstream.url, "/_box/real_console", method="POST", body=body)
    assert response.status == 200, response.body
    link = await fetch_link(cloud)
    assert link.startswith("https://127.0.0.1:7/vnc/bms-")
    assert f".{REGION}/vnc_auto.html?token=" in link
    token = token_of(link)
    assert file.read_text() == f"{token}: 127.0.0.1:5901\n"
    assert (await fetch_link(cloud, 1)).startswith(cloud.consoles.url)


# Faults


async def fail(cloud: SimulatedCloud, kind: str, **details: Any) -> None:
    body = json.dumps({"kind": kind, **details})
    response = await fetch_async(
        cloud.consoles.control_url, "/_box/faults", method="POST", body=body
    )
    assert response.status == 200, response.body


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["reset", "wrong_token"])
async def test_connection_can_end_before_any_response(
    cloud: SimulatedCloud, kind: str, shape: str
) -> None:
    url = socket_url(await fetch_link(cloud), shape)
    await fail(cloud, kind)
    with pytest.raises(aiohttp.ClientConnectionError):
        async with connect_rfb(url, tls=trust(cloud)):
            pass
    cloud.consoles.heal()
    assert not await is_refused(cloud, url)


@pytest.mark.parametrize(
    ("kind", "details", "status"),
    [("answer", {"status": 403}, 403), ("redirect", {"body": "https://127.0.0.1:1/"}, None)],
)
async def test_upgrade_can_be_refused(
    cloud: SimulatedCloud, kind: str, details: dict[str, Any], status: int | None
) -> None:
    url = socket_url(await fetch_link(cloud), "root")
    await fail(cloud, kind, **details)
    with pytest.raises((aiohttp.WSServerHandshakeError, aiohttp.ClientConnectorError)) as refused:
        async with connect_rfb(url, tls=trust(cloud)):
            pass
    assert status in {None, getattr(refused.value, "status", None)}


async def test_upgrade_can_be_slow_or_never_come(cloud: SimulatedCloud) -> None:
    url = socket_url(await fetch_link(cloud), "root")
    loop = asyncio.get_running_loop()
    await fail(cloud, "slow", delay_s=0.2, times=1)
    began = loop.time()
    assert not await is_refused(cloud, url)
    assert loop.time() - began >= 0.19
    await fail(cloud, "hang", times=1)
    waiting = asyncio.ensure_future(is_refused(cloud, url))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    cloud.consoles.heal()
    assert not await waiting


@pytest.mark.parametrize("certificate", ["foreign_authority", "other_name", "expired"])
async def test_wrong_certificate_is_presented(cloud: SimulatedCloud, certificate: str) -> None:
    url = socket_url(await fetch_link(cloud), "root")
    cloud.consoles.change(certificate=certificate)
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        async with connect_rfb(url, tls=trust(cloud)):
            pass
    cloud.consoles.change(certificate="valid")
    assert not await is_refused(cloud, url)


async def test_fault_applies_to_one_server(cloud: SimulatedCloud) -> None:
    await fail(cloud, "answer", status=403, path=cloud.servers[1])
    assert not await is_refused(cloud, socket_url(await fetch_link(cloud), "root"))
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await is_refused(cloud, socket_url(await fetch_link(cloud, 1), "root"))


async def silence(client: RfbClient) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.read(1)


async def see_silent(client: RfbClient) -> None:
    await silence(client)


async def see_not_rfb(client: RfbClient) -> None:
    assert (await client.read(8)) == b"HTTP/1.1"


async def see_text_frames(client: RfbClient) -> None:
    message = await client.socket.receive()
    assert (message.type, message.data) == (aiohttp.WSMsgType.TEXT, "RFB 003.008\n")


async def see_future_version(client: RfbClient) -> None:
    assert await client.read(12) == b"RFB 009.009\n"


async def greet(client: RfbClient) -> None:
    assert await client.read(12) == b"RFB 003.008\n"
    await client.send(b"RFB 003.008\n")


async def see_vencrypt_only(client: RfbClient) -> None:
    await greet(client)
    assert await client.read(2) == bytes((1, 19))


async def see_no_security(client: RfbClient) -> None:
    await greet(client)
    assert await client.read(1) == b"\0"
    assert (await client._read_text()).decode() == HOSTILE_TEXT


async def see_huge_security_reason(client: RfbClient) -> None:
    await greet(client)
    assert await client.read(1) == b"\0"
    assert struct.unpack(">I", await client.read(4)) == (HUGE,)


async def see_huge_size(client: RfbClient) -> None:
    with pytest.raises(MemoryError):
        raise MemoryError if await init_of(client) == (65_535, 65_535) else AssertionError


async def init_of(client: RfbClient) -> tuple[int, int]:
    await greet(client)
    assert await client.read(2) == b"\x01\x01"
    await client.send(b"\x01")
    assert await client.read(4) == bytes(4)
    await client.send(b"\x01")
    width, height = struct.unpack(">HH", await client.read(4))
    await client.read(16)
    return width, height


async def see_hostile_name(client: RfbClient) -> None:
    await client.handshake()
    assert client.name.decode() == HOSTILE_TEXT


async def see_huge_name(client: RfbClient) -> None:
    await init_of(client)
    assert struct.unpack(">I", await client.read(4)) == (HUGE,)


async def see_huge_resize(client: RfbClient) -> None:
    await client.handshake()
    head = await client.read(16)
    assert struct.unpack(">BxHHHHHi", head) == (0, 1, 0, 0, 65_535, 65_535, -223)


async def see_hostile_clipboard(client: RfbClient) -> None:
    await client.handshake()
    assert await client.read_message() == 3
    assert client.clipboards[0].startswith(b"\x1b[31m")


async def see_large_clipboard(client: RfbClient) -> None:
    await client.handshake()
    assert await client.read_message() == 3
    assert len(client.clipboards[0]) == 262_144


async def see_huge_clipboard(client: RfbClient) -> None:
    await client.handshake()
    assert struct.unpack(">BxxxI", await client.read(8)) == (3, HUGE)


async def see_unknown_message(client: RfbClient) -> None:
    await client.handshake()
    assert await client.read(1) == b"\xc8"


async def see_huge_frame(client: RfbClient) -> None:
    await client.handshake()
    message = await client.socket.receive()
    assert len(message.data) == 16 << 20


async def see_flood(client: RfbClient) -> None:
    await client.handshake()
    for _ in range(50):
        assert await client.read_message() == 0


async def see_stall(client: RfbClient) -> None:
    await client.handshake()
    await client.set_encodings(RAW)
    await client.update(incremental=False)
    await asyncio.sleep(0.5)
    await client.request(incremental=False)
    await silence(client)


async def see_cut(client: RfbClient) -> None:
    await client.handshake()
    with pytest.raises(RfbClosed) as closed:
        await client.read(1)
    assert closed.value.args[0] == 1006


async def see_close(client: RfbClient) -> None:
    await client.handshake()
    with pytest.raises(RfbClosed) as closed:
        await client.read(1)
    assert closed.value.args[0] == 1000


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SCREEN_FAULTS)
async def test_screen_fault_does_what_it_says(cloud: SimulatedCloud, kind: str, shape: str) -> None:
    await fail(cloud, kind, times=1)
    async with await open_console(cloud, shape) as client:
        await globals()[f"see_{kind}"](client)
    async with await open_console(cloud, shape) as client:
        await client.handshake()  # the fault is used up


async def test_console_can_be_cut_from_outside(cloud: SimulatedCloud) -> None:
    for how, code in (("close", 1000), ("reset", 1006)):
        async with await open_console(cloud) as client:
            await client.handshake()
            screen_of(cloud).change({"cut": how})
            with pytest.raises(RfbClosed) as closed:
                await client.read(1)
            assert closed.value.args[0] == code


async def test_unknown_message_of_a_viewer_ends_its_connection(cloud: SimulatedCloud) -> None:
    async with await open_console(cloud) as client:
        await client.handshake()
        await client.send(b"\xf8")
        with pytest.raises(RfbClosed):
            await client.read(1)
    assert screen_of(cloud).messages["unknown 248"] == 1


async def test_stopped_cloud_closes_its_consoles() -> None:
    async with SimulatedCloud(UNLIMITED) as cloud:
        cloud.upstream.live_projects = [cloud.project]
        console = await open_console(cloud)
        client = await console.__aenter__()
        await client.handshake()
    with pytest.raises(RfbClosed):
        await client.read(1)
    await console.__aexit__(None, None, None)
