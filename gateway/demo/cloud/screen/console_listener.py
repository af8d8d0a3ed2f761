"""The simulated console host: the pages and WebSockets to which console links lead.

Two shapes of WebSocket, since no source says which one the cloud has:

    root        /websockify?token=T             noVNC 0.5 and 0.6: T may be in a cookie instead
    directory   /vnc/NAME.REGION/websockify?token=T

As with websockify, a connection without a valid token is closed before any HTTP response. The page
of a link names its server, and sets the cookie `token` as noVNC 0.6 did; it draws no screen.

Two ports serve the same: `url` with TLS by an authority of this process (`authority.pem`), and
`control_url` without. Control paths in addition to those of every listener: GET /_box/authority
(the authority's certificate), GET /_box/tokens, POST /_box/tokens/expire, GET /_box/screens (the
number of viewers by server), GET and POST /_box/screens/SERVER (what is on it and what was typed;
see `ServerScreen.change`). Settings, for new connections:

    shapes          root, directory or both
    subprotocol     optional, required or none: whether `binary` is negotiated
    password        VNC Authentication; null: none
    rfb_version     3.3, 3.7 or 3.8
    xvp, qemu_keys  whether they are offered
    blink_s         the cursor's interval; 0: it does not blink
    frame_bytes     the largest WebSocket frame
    token_life_s, token_single_use
    certificate     valid, foreign_authority, other_name or expired

Faults: those of every listener, those of `screen_faults`, and `wrong_token`. A fault's `path` also
matches the server's name and ID.
"""

import asyncio
import html
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, Final

from aiohttp import web

from gateway.demo.cloud.faults import ConnectionFault, Fault
from gateway.demo.cloud.fleet import REGION, CloudProject
from gateway.demo.cloud.listener import Listener
from gateway.demo.cloud.screen.console_certificates import (
    CERTIFICATES,
    ConsoleAuthority,
    make_contexts,
)
from gateway.demo.cloud.screen.console_tokens import ConsoleTokens, IssuedConsoleToken
from gateway.demo.cloud.screen.screen_channel import ScreenChannel, ViewerGone
from gateway.demo.cloud.screen.screen_faults import SCREEN_FAULTS, ScreenFault
from gateway.demo.cloud.screen.screen_session import VERSIONS, ScreenOptions, ScreenSession
from gateway.demo.cloud.screen.server_screen import ServerScreen

SUBPROTOCOL: Final = "binary"

_SHAPES: Final = ("both", "root", "directory")
_SUBPROTOCOLS: Final = ("optional", "required", "none")
_MESSAGE_BYTES_MAX: Final = 1_048_576
_CLOSE_S: Final = 0.5
"""How long a viewer may take to answer the close of its WebSocket."""
_PAGE: Final = """\
<!DOCTYPE html><html lang="en"><title>{name}</title><h1>{name}</h1>
<p>The simulated cloud draws no page here. Its WebSocket serves the screen.</p>
<script>document.cookie = "token=" + {token} + "; path=/; max-age=86400";</script>
"""


class ConsoleListener(Listener):
    settable: ClassVar[tuple[str, ...]] = (
        "blink_s",
        "certificate",
        "frame_bytes",
        "password",
        "qemu_keys",
        "rfb_version",
        "shapes",
        "subprotocol",
        "token_life_s",
        "token_single_use",
        "xvp",
    )
    _choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "certificate": CERTIFICATES,
        "rfb_version": VERSIONS,
        "shapes": _SHAPES,
        "subprotocol": _SUBPROTOCOLS,
    }

    def __init__(
        self, projects: Mapping[str, CloudProject], *, port: int = 0, control_port: int = 0
    ) -> None:
        own_faults: dict[str, ConnectionFault] = dict.fromkeys(SCREEN_FAULTS, self._serve_faulty)
        own_faults["wrong_token"] = _close
        super().__init__("consoles", port=port, connection_faults=own_faults)
        self.control_port = control_port
        self.tokens = ConsoleTokens()
        self.shapes = "both"
        self.subprotocol = "optional"
        self.password: str | None = None
        self.rfb_version = "3.8"
        self.xvp = self.qemu_keys = False
        self.blink_s = 0.0
        self.frame_bytes = 65_536
        self.certificate = "valid"
        self._projects = projects
        self._screens: dict[str, ServerScreen] = {}
        self._sockets: set[web.WebSocketResponse] = set()
        self._authority = ConsoleAuthority("simulated cloud")
        self._contexts: dict[str, ssl.SSLContext] = {}
        router = self.app.router
        router.add_get("/websockify", self._serve_root)
        router.add_get("/vnc/{directory}/websockify", self._serve_directory)
        router.add_get("/vnc/{directory}/vnc_auto.html", self._show_page)
        router.add_get("/_box/authority", self._show_authority)
        router.add_get("/_box/tokens", self._list_tokens)
        router.add_post("/_box/tokens/expire", self._expire_tokens)
        router.add_get("/_box/screens", self._list_screens)
        router.add_get("/_box/screens/{server}", self._show_screen)
        router.add_post("/_box/screens/{server}", self._change_screen)

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    @property
    def control_url(self) -> str:
        return f"http://{self.host}:{self.control_port}"

    @property
    def authority_pem(self) -> str:
        """The certificate of the authority that clients trust."""
        return self._authority.pem

    @property
    def token_life_s(self) -> float:
        return self.tokens.life_s

    @token_life_s.setter
    def token_life_s(self, life_s: float) -> None:
        self.tokens.life_s = life_s

    @property
    def token_single_use(self) -> bool:
        return self.tokens.single_use

    @token_single_use.setter
    def token_single_use(self, single_use: bool) -> None:
        self.tokens.single_use = single_use

    def change(self, **settings: Any) -> None:
        for name, known in self._choices.items():
            if (value := settings.get(name, known[0])) not in known:
                raise ValueError(f"{name}: {value!r}; known: {', '.join(known)}")
        super().change(**settings)

    def screen(self, server_id: str) -> ServerScreen:
        """Return a server's screen. Raises KeyError for an unknown server."""
        for project in self._projects.values():
            if server_id in project.servers:
                made = self._screens.get(server_id)
                if made is None:
                    made = self._screens[server_id] = ServerScreen(project.servers[server_id])
                return made
        raise KeyError(server_id)

    async def start(self) -> None:
        self._contexts = make_contexts(self._authority, self.host)
        await super().start()
        self.control_port = await self.listen(self.control_port)

    async def stop(self) -> None:
        await asyncio.gather(*(socket.close(code=1001) for socket in self._sockets))
        await super().stop()

    def make_tls(self) -> ssl.SSLContext:
        """Return a context that presents the certificate of the setting of each moment."""
        context = self._contexts["valid"]
        context.sni_callback = self._pick_certificate
        return context

    def _pick_certificate(
        self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext
    ) -> None:
        connection.context = self._contexts[self.certificate]

    def fault_subject(self, request: web.Request) -> str:
        token = self._find_token(request)
        if token is None:
            return request.path
        return f"{request.path} {token.server} {self.screen(token.server).server.name}"

    # WebSockets

    async def _serve_root(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, ScreenFault(""))

    _serve_directory = _serve_root

    async def _serve_faulty(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        return await self._serve(request, ScreenFault(fault.kind))

    async def _serve(self, request: web.Request, fault: ScreenFault) -> web.StreamResponse:
        screen = self._admit(request)
        if screen is None:
            return await _close(request, None)
        protocols = () if self.subprotocol == "none" else (SUBPROTOCOL,)
        socket = web.WebSocketResponse(
            timeout=_CLOSE_S,
            protocols=protocols,
            compress=False,
            max_msg_size=_MESSAGE_BYTES_MAX,
        )
        await socket.prepare(request)
        self._sockets.add(socket)
        channel = ScreenChannel(socket, request, self.frame_bytes)
        options = ScreenOptions(self.rfb_version, self.password, self.xvp, self.qemu_keys)
        try:
            async with _blinking(screen, self.blink_s):
                await ScreenSession(channel, screen, options, fault).run()
        except ViewerGone:
            await socket.close()
        finally:
            self._sockets.discard(socket)
        return socket

    def _admit(self, request: web.Request) -> ServerScreen | None:
        """Return the screen that the request's token opens at this path, and use the token."""
        directory = request.match_info.get("directory")
        token = self._find_token(request)
        if token is None or self.shapes == ("root" if directory is not None else "directory"):
            return None
        offered = request.headers.get("Sec-WebSocket-Protocol", "").replace(" ", "").split(",")
        if self.subprotocol == "required" and SUBPROTOCOL not in offered:
            return None
        screen = self.screen(token.server)
        if directory is not None and directory != f"{screen.server.name}.{REGION}":
            return None
        token.uses += 1
        return screen

    def _find_token(self, request: web.Request) -> IssuedConsoleToken | None:
        text = request.query.get("token", "")
        if not text and "directory" not in request.match_info:
            text = request.cookies.get("token", "")
        token = self.tokens.find(text)
        if token is None or token.server not in self._projects[token.project].servers:
            return None
        return token

    # Pages and control paths

    async def _show_page(self, request: web.Request) -> web.Response:
        name = html.escape(request.match_info["directory"])
        token = json.dumps(request.query.get("token", "")).replace("<", "\\u003c")
        page = _PAGE.format(name=name, token=token)
        return web.Response(text=page, content_type="text/html")

    async def _show_authority(self, _: web.Request) -> web.Response:
        return web.Response(text=self.authority_pem, content_type="application/x-pem-file")

    async def _list_tokens(self, _: web.Request) -> web.Response:
        return web.json_response({"tokens": self.tokens.describe()})

    async def _expire_tokens(self, _: web.Request) -> web.Response:
        self.tokens.expire()
        return web.json_response({})

    async def _list_screens(self, _: web.Request) -> web.Response:
        viewers = {server: len(screen.viewers) for server, screen in self._screens.items()}
        return web.json_response({"viewers": viewers})

    async def _show_screen(self, request: web.Request) -> web.Response:
        return web.json_response(self.screen(request.match_info["server"]).describe())

    async def _change_screen(self, request: web.Request) -> web.Response:
        screen = self.screen(request.match_info["server"])
        screen.change(await request.json())
        return web.json_response(screen.describe())


async def _close(request: web.Request, _: Fault | None) -> web.StreamResponse:
    """Close the connection without a response, as websockify does."""
    if request.transport is not None:
        request.transport.close()
    raise ConnectionResetError


@asynccontextmanager
async def _blinking(screen: ServerScreen, interval_s: float) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if interval_s:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(tasks.create_task(screen.blink(interval_s)).cancel)
        yield
