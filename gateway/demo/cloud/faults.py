"""Faults that a listener of the simulated cloud can inject instead of its service's response."""

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
    """One injected fault; it applies to matching requests until it is used up or cleared."""

    kind: str
    path: str = ""
    """Applies to requests whose path contains this text."""
    times: int | None = None
    """Number of requests that it applies to; None: all, until cleared."""
    status: int = 200
    """Status of the kinds `answer`, `empty` and `text`."""
    headers: dict[str, str] = field(default_factory=dict)
    """Additional response headers, e.g. Retry-After."""
    body: str = ""
    """Body of the kind `answer`, in which the token that was sent replaces `{x-auth-token}`;
    target of the kind `redirect`."""
    delay_s: float = 0.0
    """Delay before the fault; the kind `slow` is only this delay."""
    shape: str = "apigw"
    """Shape of the kind `throttled`: a key of throttle.SHAPES."""


ConnectionFault = Callable[[web.Request, Fault], Awaitable[web.StreamResponse]]
"""Does to the connection of a request what a broken server would."""
ResponseFactory = Callable[[Fault], web.Response]
"""Builds the response that replaces the service's own."""


async def _reset(request: web.Request, fault: Fault) -> web.StreamResponse:
    del fault
    _abort(request)
    raise ConnectionResetError


async def _reset_midway(request: web.Request, fault: Fault) -> web.StreamResponse:
    await _begin(request, fault)
    await asyncio.sleep(0.02)  # the first half must be sent before the reset
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
    """Reset the connection (RST) instead of closing it."""
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


CONNECTION_FAULTS: Mapping[str, ConnectionFault] = {
    "reset": _reset,
    "reset_midway": _reset_midway,
    "truncated": _truncated,
}
"""Connection faults by kind."""

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
"""Response faults by kind, for every listener; each listener adds its own."""

DELAY_FAULTS: Final = ("hang", "slow")
"""Kinds that only delay; the request is then served normally."""
