"""An HTTP server of the simulated cloud: serves requests, injects faults, records calls.

Tests in the same process control it by its methods, other processes over HTTP with JSON:
POST, GET, DELETE /_box/faults; GET, DELETE /_box/calls; GET /_box/counters; POST /_box/settings.
"""

import asyncio
import ssl
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from aiohttp import web

from gateway.demo.cloud.clock import now
from gateway.demo.cloud.faults import (
    CONNECTION_FAULTS,
    DELAY_FAULTS,
    RESPONSE_FAULTS,
    ConnectionFault,
    Fault,
    ResponseFactory,
)
from gateway.demo.cloud.throttle import SHAPES

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_CALLS_MAX = 20_000
_LINE_BYTES_MAX = 65_536
_BODY_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class RecordedCall:
    at: float
    """Time of arrival, in seconds since the epoch."""
    method: str
    path: str
    """Path and query as on the request line."""
    headers: dict[str, str]
    """Names in lower case, values complete: tests search them for secrets."""
    status: int
    """0 if no response was sent."""
    body: str = ""
    """The first 64 KiB."""


class Listener:
    settable: ClassVar[tuple[str, ...]] = ()
    """The attributes that `change` and POST /_box/settings may set."""

    def __init__(
        self,
        name: str,
        *,
        port: int = 0,
        response_faults: Mapping[str, ResponseFactory] | None = None,
        connection_faults: Mapping[str, ConnectionFault] | None = None,
    ) -> None:
        """`port` 0: any free port, kept over restarts. The faults add to the built-in ones."""
        self.name = name
        self.host = "127.0.0.1"
        """Address to listen on, also used in `url`."""
        self.port = port
        self.faults: list[Fault] = []
        self.calls: deque[RecordedCall] = deque(maxlen=_CALLS_MAX)
        self.statuses: Counter[int] = Counter()
        self._response_faults = {**RESPONSE_FAULTS, **(response_faults or {})}
        self._connection_faults = {**CONNECTION_FAULTS, **(connection_faults or {})}
        self._released = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.app = web.Application(middlewares=[self._record], client_max_size=12_582_912)
        self.app.router.add_post("/_box/faults", self._add_fault)
        self.app.router.add_get("/_box/faults", self._list_faults)
        self.app.router.add_delete("/_box/faults", self._clear_faults)
        self.app.router.add_get("/_box/calls", self._list_calls)
        self.app.router.add_delete("/_box/calls", self._forget_calls)
        self.app.router.add_get("/_box/counters", self._show_counters)
        self.app.router.add_post("/_box/settings", self._change_settings)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen; after `stop`, listen again on the same port."""
        self._runner = web.AppRunner(
            self.app,
            access_log=None,
            max_field_size=_LINE_BYTES_MAX,
            max_line_size=_LINE_BYTES_MAX,
            shutdown_timeout=0.2,
            handler_cancellation=True,
        )
        await self._runner.setup()
        self.port = await self.listen(self.port, self.make_tls())

    async def listen(self, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Serve on this port, or on a free one for 0; return it. `start` listens on `port`."""
        assert self._runner is not None
        site = web.TCPSite(self._runner, self.host, port, backlog=1024, ssl_context=tls)
        await site.start()
        taken: int = self._runner.addresses[-1][1]
        return taken

    def make_tls(self) -> ssl.SSLContext | None:
        """Return the TLS context of `port`; None: plain HTTP."""
        return None

    def fault_subject(self, request: web.Request) -> str:
        """Return the text in which a fault's `path` is looked for."""
        return request.path

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def fail(self, kind: str, **details: Any) -> Fault:
        """Add a fault; the newest fault that matches a request wins.

        Raises ValueError for an unknown kind or shape, TypeError for an unknown detail.
        """
        if kind not in (known := (*DELAY_FAULTS, *self._connection_faults, *self._response_faults)):
            raise ValueError(f"unknown fault {kind!r}; known: {', '.join(known)}")
        fault = Fault(kind, **details)
        if fault.shape not in SHAPES:
            raise ValueError(f"unknown shape {fault.shape!r}; known: {', '.join(SHAPES)}")
        self.faults.insert(0, fault)
        return fault

    def heal(self) -> None:
        """Clear all faults and serve the requests that hang."""
        self.faults.clear()
        self._released.set()
        self._released = asyncio.Event()

    def change(self, **settings: Any) -> None:
        """Change settings. Raises ValueError for an unknown name and then changes none."""
        if unknown := sorted(settings.keys() - set(self.settable)):
            raise ValueError(f"unknown settings {unknown}; known: {', '.join(self.settable)}")
        for name, value in settings.items():
            setattr(self, name, value)

    def counters(self) -> dict[str, Any]:
        return {"statuses": {str(status): count for status, count in self.statuses.items()}}

    def forget_calls(self) -> None:
        self.calls.clear()
        self.statuses.clear()

    @web.middleware
    async def _record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/_box/"):
            return await _report_control_errors(request, handler)
        # Service tokens are large and repeat: store each value once.
        headers = {name.lower(): sys.intern(value) for name, value in request.headers.items()}
        at, status, body = now(), 0, ""
        try:
            if request.can_read_body:
                body = (await request.read())[:_BODY_BYTES_MAX].decode(errors="replace")
            fault = self._take_fault(request)
            response = await (
                handler(request) if fault is None else self._fail(request, fault, handler)
            )
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            self.statuses[status] += 1
            call = RecordedCall(at, request.method, request.raw_path, headers, status, body)
            self.calls.append(call)
        return response

    def _take_fault(self, request: web.Request) -> Fault | None:
        subject = self.fault_subject(request) if self.faults else ""
        fault = next((one for one in self.faults if one.path in subject), None)
        if fault is not None and fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.faults.remove(fault)
        return fault

    async def _fail(
        self, request: web.Request, fault: Fault, handler: Handler
    ) -> web.StreamResponse:
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.kind == "hang":
            await self._released.wait()
        if fault.kind in DELAY_FAULTS:
            return await handler(request)
        if fault.kind in self._connection_faults:
            return await self._connection_faults[fault.kind](request, fault)
        token = request.headers.get("X-Auth-Token", "")
        fault = replace(fault, body=fault.body.replace("{x-auth-token}", token))
        return self._response_faults[fault.kind](fault)

    async def _add_fault(self, request: web.Request) -> web.Response:
        details = await request.json()
        self.fail(details.pop("kind", ""), **details)
        return web.json_response({"faults": len(self.faults)})

    async def _list_faults(self, _: web.Request) -> web.Response:
        return web.json_response({"faults": [asdict(fault) for fault in self.faults]})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self.heal()
        return web.json_response({"faults": 0})

    async def _list_calls(self, _: web.Request) -> web.Response:
        calls = [asdict(call) for call in self.calls]
        return web.json_response({**self.counters(), "calls": calls})

    async def _forget_calls(self, _: web.Request) -> web.Response:
        self.forget_calls()
        return web.json_response({"calls": 0})

    async def _show_counters(self, _: web.Request) -> web.Response:
        return web.json_response(self.counters())

    async def _change_settings(self, request: web.Request) -> web.Response:
        self.change(**await request.json())
        return web.json_response({name: getattr(self, name) for name in self.settable})


async def _report_control_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer an invalid control request with 400 and the reason."""
    try:
        return await handler(request)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
