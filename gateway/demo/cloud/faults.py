"""The ways in which a listener of the box can fail, below and beside what its service says."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

HUGE_BODY_BYTES: Final = 20_000_000
HUGE_HEADER_BYTES: Final = 100_000


@dataclass(slots=True)
class Fault:
    """One way to fail, for the requests that it fits, until it is spent or cleared."""

    kind: str
    path: str = ""
    """Only requests whose path has this in it."""
    times: int | None = None
    """How many requests it hits; None: all, until it is cleared."""
    status: int = 200
    """Of `answer`, `empty` and `text`."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent besides, e.g. Retry-After."""
    body: str = ""
    """Of `answer`; the address that `redirect` sends to."""
    delay_s: float = 0.0
    """Waited before anything else; `slow` does nothing but this."""
    shape: str = "apigw"
    """Of `throttled`: one of throttle.SHAPES."""


ResponseFactory = Callable[[Fault], web.Response]
"""A fault that is a whole answer; an override of what the service would say."""


async def _reset(request: web.Request, fault: Fault) -> web.StreamResponse:
    del fault
    _abort(request)
    raise ConnectionResetError


async def _reset_midway(request: web.Request, fault: Fault) -> web.StreamResponse:
    await _begin(request, fault)
    await asyncio.sleep(0.02)  # let the half go out before the end comes
    _abort(request)
    raise ConnectionResetError


async def _truncated(request: web.Request, fault: Fault) -> web.StreamResponse:
    response = await _begin(request, fault)
    if request.transport is not None:
        request.transport.close()
    return response


async def _begin(request: web.Request, fault: Fault) -> web.StreamResponse:
    headers = {"Content-Type": "application/json", "Content-Length": "5000", **fault.headers}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await response.write(b'{"url": "https://')
    return response


def _abort(request: web.Request) -> None:
    """End the connection with an RST rather than an orderly end."""
    if request.transport is None:
        return
    tcp: socket.socket | None = request.transport.get_extra_info("socket")
    if tcp is not None:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


def _redirect(fault: Fault) -> web.Response:
    location = fault.body or "https://elsewhere.example/"
    return web.Response(status=302, headers={"Location": location, **fault.headers})


def _custom_response(fault: Fault) -> web.Response:
    return web.Response(status=fault.status, headers=fault.headers, body=fault.body.encode())


CONNECTION_FAULTS: Mapping[str, Callable[[web.Request, Fault], Awaitable[web.StreamResponse]]] = {
    "reset": _reset,
    "reset_midway": _reset_midway,
    "truncated": _truncated,
}
"""Faults of the connection."""

RESPONSE_FAULTS: Mapping[str, ResponseFactory] = {
    "huge": lambda _: web.Response(body=b'{"url": "' + b"x" * HUGE_BODY_BYTES + b'"}'),
    "huge_headers": lambda _: web.Response(headers={"X-Large": "x" * HUGE_HEADER_BYTES}),
    "redirect": _redirect,
    "empty": lambda fault: web.Response(status=fault.status),
    "text": lambda fault: web.Response(text="It works.", status=fault.status),
    "malformed": lambda _: web.Response(body=b'{"url": ', content_type="application/json"),
    "list": lambda _: web.json_response([1, 2]),
    "answer": _custom_response,
}
"""Faults that are a whole answer, for any listener; each has more of its own."""

DELAY_FAULTS: Final = ("hang", "slow")
"""Faults that only take time; then the request is served as if nothing had been."""
