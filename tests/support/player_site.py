"""A scripted gateway for the player of recordings: it serves the real files, decides nothing."""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from gateway.domain.timestamps import rfc3339
from tests.support.page_server import PREFIX, PageServer

STARTED_AT = 1_796_026_364.0
"""2026-11-30 08:12:44 UTC."""
RECORDING_ID = "0123456789abcdef0123456789abcdef"
SCREEN, INPUT, WATCHERS, MODE = 1, 2, 3, 4
KEYS_PER_CHUNK = 2
_HEADER = struct.Struct(">IBI")


@dataclass(slots=True)
class MadePart:
    """One part of a recording for the player."""

    frames: Sequence[tuple[int, bytes]]
    """Time in ms since the part's start, and bytes that went to the browser."""
    after_s: float = 0.0
    """Seconds from the start of the recording to the part's."""
    duration_ms: int = 0
    """At least the time of the last frame."""
    marks: list[tuple[int, int, str]] = field(default_factory=list)
    is_cut: bool = False
    unreadable: frozenset[int] = frozenset()
    """Chunks that cannot be read."""
    chunk_ms: int = 10_000
    keys: Sequence[tuple[int, int]] = ()
    """Time in ms and keysym of each key."""
    omitted_marks: int = 0

    def chunks(self) -> list[bytes]:
        made: list[list[tuple[int, bytes]]] = []
        for at_ms, data in self.frames:
            if not made or at_ms - made[-1][0][0] >= self.chunk_ms:
                made.append([])
            made[-1].append((at_ms, data))
        return [
            b"".join(_HEADER.pack(at_ms, SCREEN, len(data)) + data for at_ms, data in one)
            for one in made
        ]

    def describe(self, number: int) -> dict[str, Any]:
        chunks = []
        for one in self.chunks():
            first, _, _ = _HEADER.unpack_from(one)
            chunks.append({"first_ms": first, "last_ms": first})
        last = self.frames[-1][0] if self.frames else 0
        return {
            "number": number,
            "started_at": rfc3339(STARTED_AT + self.after_s),
            "duration_ms": max(self.duration_ms, last),
            "cut": self.is_cut,
            "end": "",
            "keystroke_chunks": -(-len(self.keys) // KEYS_PER_CHUNK),
            "omitted_marks": self.omitted_marks,
            "chunks": chunks,
            "marks": [list(mark) for mark in self.marks],
        }


def describe_recording(parts: Sequence[MadePart], **changes: Any) -> dict[str, Any]:
    """Return a recording as the gateway describes it to the player."""
    recording = {
        "id": RECORDING_ID,
        "server": {
            "project_id": "0e3f5c7a9b1d4e6f8a0b2c4d6e8f0a1b",
            "id": "7c1d2e3f-4a5b-4c6d-8e9f-0a1b2c3d4e5f",
            "name": "db-primary-01",
        },
        "person": {"subject": "anna", "issuer": "corp"},
        "mode": "control",
        "client_address": "192.0.2.7",
        "started_at": rfc3339(STARTED_AT),
        "ended_at": rfc3339(STARTED_AT + 600),
        "end": "person",
        "keystrokes": False,
        "hosts": ["gateway-1"],
    }
    described = [one.describe(number) for number, one in enumerate(parts, 1)]
    return {"recording": recording | changes, "parts": described}


class PlayerSite(PageServer):
    """The server and its script."""

    def reset(self) -> None:
        self.parts: list[MadePart] = []
        self.changes: dict[str, Any] = {}
        self.refusal: dict[str, Any] | None = None
        """The `ended` message of a view that is not opened."""
        self.tickets: list[str] = []
        self.reads: list[tuple[int, int]] = []
        self.sockets: list[web.WebSocketResponse] = []

    @property
    def address(self) -> str:
        return f"{self.origin}{PREFIX}/console/player"

    def end(self, **message: Any) -> None:
        """End the newest view."""
        self._call(self._end(self.sockets[-1], message))

    def drop(self) -> None:
        """Cut the newest connection, as a lost network does."""
        request = self.sockets[-1]._req
        assert request is not None
        assert request.transport is not None
        self._loop.call_soon_threadsafe(request.transport.abort)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get(f"{PREFIX}/console/player/socket", self._socket)

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=("console-recording.v1",), compress=False)
        await ws.prepare(request)
        self.sockets.append(ws)
        first = await ws.receive_json()
        assert first["type"] == "open", first
        self.tickets.append(first["ticket"])
        if self.refusal is not None:
            await self._end(ws, self.refusal)
            return ws
        described = describe_recording(self.parts, **self.changes)
        ticket = f"next-{len(self.tickets)}"
        await ws.send_json({"type": "opened", "ticket": ticket, **described})
        async for message in ws:
            assert message.type is WSMsgType.TEXT
            await self._answer(ws, json.loads(message.data))
        return ws

    async def _answer(self, ws: web.WebSocketResponse, message: dict[str, Any]) -> None:
        made = self.parts[message["part"] - 1]
        if message["type"] == "keys":
            begin = KEYS_PER_CHUNK * message["chunk"]
            found = made.keys[begin : begin + KEYS_PER_CHUNK]
            keys = (struct.pack(">IBIBI", at_ms, 6, 5, 1, key) for at_ms, key in found)
            await ws.send_bytes(b"".join(keys))
            return
        chunk = message["chunk"]
        self.reads.append((message["part"], chunk))
        if chunk in made.unreadable:
            await ws.send_json({"type": "unreadable", "reason": "changed"})
        else:
            await ws.send_bytes(made.chunks()[chunk])

    @staticmethod
    async def _end(ws: web.WebSocketResponse, message: dict[str, Any]) -> None:
        await ws.send_json({"type": "ended", **message})
        await ws.close(code=message["code"])
