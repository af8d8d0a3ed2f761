"""The relay between real peers: noVNC in Chromium and TigerVNC's viewer; Xvnc with an xterm."""

import asyncio
import os
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import Page, async_playwright

from gateway.domain.consoles.model import Clipboard, SessionMode
from gateway.domain.rfb.handshake import Side
from gateway.domain.rfb.rules import RelayRules
from gateway.drivers.network.websocket_channel import WebSocketChannel, browser_websocket
from gateway.flow.consoles.frame_channel import ChannelClosed, FrameChannel
from gateway.flow.consoles.relay import Relay, RelayEnd
from tests.support import rfb
from tests.support.browser import CHROMIUM, LIVE_TIMEOUT_MS, needs_chromium
from tests.support.real_console import RealConsoleHost, needs_real_console
from tests.support.relay_server import serving, until

NOVNC = Path(__file__).parents[2] / "gateway/edge/consoles/page/node_modules/@novnc/novnc"
VIEWER = shutil.which("xtigervncviewer")

needs_novnc = pytest.mark.skipif(not NOVNC.is_dir(), reason="not built: noVNC (make page)")
needs_viewer = pytest.mark.skipif(
    VIEWER is None, reason="not installed: xtigervncviewer (.ci/system-packages)"
)
pytestmark = needs_real_console

VIEW_PAGE = """<!doctype html><title>console</title>
<div id="screen" style="width: 800px; height: 600px"></div>
<script type="module" src="/console.js"></script>"""
SCRIPT = """import RFB from '/novnc/core/rfb.js';
window.clipboard = [];
const socket = new WebSocket(`ws://${location.host}/socket`);
window.rfb = new RFB(document.getElementById('screen'), socket, { shared: false });
rfb.resizeSession = true;
rfb.addEventListener('connect', () => { document.title = 'connected'; rfb.focus(); });
rfb.addEventListener('clipboard', (event) => window.clipboard.push(event.detail.text));"""
COLOURS = """() => {
  const canvas = document.querySelector('canvas');
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(new Uint32Array(pixels.buffer)).size;
}"""

PICTURE = "() => document.querySelector('canvas').toDataURL()"


class TcpChannel:
    """A TCP connection with RFB as a channel (port `FrameChannel`)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.received = 0

    async def receive(self) -> bytes | str | ChannelClosed:
        try:
            data = await self._reader.read(65_536)
        except ConnectionError:
            data = b""
        self.received += len(data)
        return data or ChannelClosed(1006)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    async def send_text(self, text: str) -> None:
        raise NotImplementedError

    async def close(self, code: int, reason: str) -> None:
        self._writer.close()


class Gate:
    """Relays browsers and viewers to the real console."""

    def __init__(self, console: RealConsoleHost, rules: RelayRules) -> None:
        self._address = console.target.split(":")
        self._rules = rules
        self.ends: list[RelayEnd] = []
        self.inputs = 0
        self.relay: Relay
        self.cloud: TcpChannel | None = None

    def received(self) -> int:
        return self.cloud.received if self.cloud else 0

    async def run(self, browser: FrameChannel) -> None:
        self.cloud = TcpChannel(*await asyncio.open_connection(*self._address))
        self.relay = Relay(
            browser,
            self.cloud,
            rules=self._rules,
            on_input=self._input,
            on_text=self._text,
            on_power=rfb.pass_allowed_power,
        )
        self.ends.append(await self.relay.run())

    def _input(self) -> None:
        self.inputs += 1

    async def _text(self, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture(scope="module")
def console() -> Iterator[RealConsoleHost]:
    running = RealConsoleHost()
    yield running
    running.close()


@pytest.fixture(scope="module")
def viewers_console() -> Iterator[RealConsoleHost]:
    """Return a console of its own: a viewer takes the keyboard and the clipboard of its display."""
    running = RealConsoleHost()
    yield running
    running.close()


@asynccontextmanager
async def novnc(console: RealConsoleHost, rules: RelayRules) -> AsyncIterator[tuple[Page, Gate]]:
    gate = Gate(console, rules)

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=VIEW_PAGE, content_type="text/html")

    async def script(_: web.Request) -> web.Response:
        return web.Response(text=SCRIPT, content_type="text/javascript")

    async def socket(request: web.Request) -> web.WebSocketResponse:
        websocket = browser_websocket()
        await websocket.prepare(request)
        await gate.run(WebSocketChannel(websocket))
        return websocket

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/console.js", script)
    app.router.add_get("/socket", socket)
    app.router.add_static("/novnc", NOVNC)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(app, None))
        driver = await stack.enter_async_context(async_playwright())
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        stack.push_async_callback(browser.close)
        opened = await browser.new_page()
        opened.set_default_timeout(LIVE_TIMEOUT_MS)
        await opened.goto(f"http://127.0.0.1:{port}/")
        await opened.wait_for_function("() => document.title === 'connected'")
        await opened.wait_for_function(f"() => ({COLOURS})() > 1")
        yield opened, gate


async def typed(console: RealConsoleHost, name: str) -> str:
    async with asyncio.timeout(60):
        await until(lambda: bool(console.typed(name)))
    return console.typed(name)


@needs_novnc
@needs_chromium
@pytest.mark.parametrize("clipboard", list(Clipboard))
async def test_novnc_types_copies_and_pastes(console, clipboard):
    """With `to_server` and `none`, the server's messages are parsed as well."""
    rules = RelayRules(SessionMode.CONTROL, clipboard=clipboard)
    async with novnc(console, rules) as (page, gate):
        name = f"file-{clipboard.value}"
        await page.set_viewport_size({"width": 1000, "height": 700})
        await page.keyboard.type("ls -R /usr/lib | head -500\n")
        word = f"copied{clipboard.value.replace('_', '')}"
        await page.keyboard.type(f"clear; echo {word}; echo typed > {name}\n")
        assert await typed(console, name) == "typed\n"
        from_server = clipboard in {Clipboard.BOTH, Clipboard.FROM_SERVER}
        assert await selected(page, word, wait=from_server) is from_server
        await page.evaluate("() => window.rfb.clipboardPasteFrom('pasted')")
        to_server = clipboard in {Clipboard.BOTH, Clipboard.TO_SERVER}
        await page.keyboard.type(f"clear; cat > {name}-pasted\n")
        assert await pasted(page, console, f"{name}-pasted", wait=to_server) is to_server
        await page.keyboard.press("Control+d")
        assert gate.ends == []


async def selected(page: Page, word: str, *, wait: bool) -> bool:
    """Select the first word of the screen; return whether its text reached the browser."""
    for _ in range(60 if wait else 5):
        await page.mouse.dblclick(20, 12)
        await asyncio.sleep(0.3)
        if any(word in text for text in await page.evaluate("() => window.clipboard")):
            return True
    return False


async def pasted(page: Page, console: RealConsoleHost, name: str, *, wait: bool) -> bool:
    """Paste until the file has the text: xterm requests it and reads further keys meanwhile."""
    for _ in range(60 if wait else 5):
        await page.keyboard.press("Shift+Insert")
        await page.keyboard.press("Enter")
        await asyncio.sleep(0.3)
        if "pasted" in console.typed(name):
            return True
    return False


@needs_novnc
@needs_chromium
async def test_novnc_types_nothing_and_sees_updates_after_a_change_to_view(console):
    """TigerVNC waits for no fence of the browser: it no longer gets any."""
    async with novnc(console, rfb.CONTROL) as (page, gate):
        noise = "until [ -e quiet ]; do sleep 0.1; head -c 1500 /dev/urandom | base64; done"
        await page.keyboard.type(f"({noise}) & echo typed > before-view\n")
        assert await typed(console, "before-view") == "typed\n"
        before = gate.inputs
        await gate.relay.become_view_only()
        await page.keyboard.type("echo typed > view\n")
        async with asyncio.timeout(60):
            await until(lambda: gate.inputs >= before + 20)
        for _ in range(10):
            shown = await page.evaluate(PICTURE)
            await page.wait_for_function(f"(shown) => ({PICTURE})() !== shown", arg=shown)
        (console.home / "quiet").touch()
        assert console.typed("view") == ""
        assert gate.ends == []


@needs_viewer
@pytest.mark.parametrize("rules", [rfb.CONTROL, rfb.VIEW, rfb.WITHOUT_CLIPBOARD])
async def test_tigervncs_viewer_shows_the_console(viewers_console, rules):
    """Its screen shows the viewer itself, so that updates never end."""
    gate, ended = Gate(viewers_console, rules), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.run(TcpChannel(reader, writer))
        ended.set()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        command = [VIEWER, f"127.0.0.1::{listening.sockets[0].getsockname()[1]}"]
        environment = {**os.environ, "DISPLAY": viewers_console.display}
        viewer = await asyncio.create_subprocess_exec(*command, env=environment, stderr=DEVNULL)
        try:
            async with asyncio.timeout(60):
                await until(lambda: gate.received() > 100_000)
            assert gate.ends == []
            assert viewer.returncode is None
        finally:
            viewer.terminate()
            await viewer.wait()
        async with asyncio.timeout(60):
            await ended.wait()
    assert gate.ends[0].side is Side.BROWSER
