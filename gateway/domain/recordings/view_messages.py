"""Text frames between the gateway and the player (subprotocol `console-recording.v1`). Pure.

The player sends `open` with a one-time ticket, then `read` for each chunk that it needs, and `keys`
for each chunk of keystrokes. The gateway answers `opened`; then each request with one binary frame
of records, or with `unreadable`. `ended` precedes the close frame.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.domain.consoles import ends
from gateway.domain.consoles.ends import SessionEnd
from gateway.domain.consoles.page_messages import ErrorText, person_fields
from gateway.domain.model import Secret
from gateway.domain.recordings.model import PartState, PartTimes, RecordingInfo
from gateway.domain.recordings.records import RecordKind
from gateway.domain.timestamps import rfc3339

SUBPROTOCOL: Final = "console-recording.v1"
_MESSAGE_CHARS_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class ViewEnd:
    """Why a view of a recording ended."""

    name: str
    code: int
    """Close code of the WebSocket."""


RIGHT_ENDED: Final = ViewEnd("right_ended", 4002)
TOKEN_ENDED: Final = ViewEnd("token", 4003)
TICKET_REJECTED: Final = ViewEnd("ticket", 4009)
UNAVAILABLE: Final = ViewEnd("unavailable", 4010)
PROTOCOL_ERROR: Final = ViewEnd("protocol_error", 4012)


def view_end(end: SessionEnd) -> ViewEnd:
    """Return the end of a view for the end that a right or a token causes."""
    return TOKEN_ENDED if end is ends.TOKEN else RIGHT_ENDED


class ViewMessageError(ValueError):
    """The player sent no message of the protocol."""


@dataclass(frozen=True, slots=True)
class OpenMessage:
    ticket: Secret


@dataclass(frozen=True, slots=True)
class ReadMessage:
    part: int
    chunk: int


@dataclass(frozen=True, slots=True)
class KeysMessage:
    part: int
    chunk: int


ViewMessage = OpenMessage | ReadMessage | KeysMessage


def parse_view_message(text: str) -> ViewMessage:
    """Return a message of the player; raise ViewMessageError."""
    if len(text) > _MESSAGE_CHARS_MAX:
        raise ViewMessageError("too long")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise ViewMessageError("not JSON") from None
    match message:
        case {"type": "open", "ticket": str(ticket)}:
            return OpenMessage(Secret(ticket))
        case {"type": "read", "part": int(part), "chunk": int(chunk)} if part > 0 and chunk >= 0:
            return ReadMessage(part, chunk)
        case {"type": "keys", "part": int(part), "chunk": int(chunk)} if part > 0 and chunk >= 0:
            return KeysMessage(part, chunk)
        case _:
            raise ViewMessageError("unknown message")


def recording_fields(info: RecordingInfo) -> dict[str, Any]:
    """Return a recording as the API and the player describe it."""
    details = info.details
    return {
        "id": details.id,
        "server": {
            "project_id": details.target.project,
            "id": details.target.server,
            "name": None,
        },
        "person": person_fields(details.person),
        "mode": details.mode.value,
        "client_address": details.client_address,
        "started_at": rfc3339(details.started_at),
        "ended_at": None if info.ended_at is None else rfc3339(info.ended_at),
        "end": info.end,
        "state": info.state,
        "keystrokes": details.has_keystrokes,
        "held": info.on_hold,
        "bytes": info.size,
        "hosts": info.hosts,
        "here": info.is_here,
        "problems": list(info.warnings),
    }


_MARKED: Final = frozenset({RecordKind.INPUT, RecordKind.WATCHERS, RecordKind.MODE})


def opened_fields(info: RecordingInfo, parts: tuple[PartTimes, ...]) -> dict[str, Any]:
    """Return what the player needs before the first chunk."""
    return {"recording": recording_fields(info), "parts": [_part(one) for one in parts]}


def opened(info: RecordingInfo, parts: tuple[PartTimes, ...], next_ticket: Secret) -> str:
    fields = opened_fields(info, parts)
    return orjson.dumps({"type": "opened", "ticket": next_ticket.reveal(), **fields}).decode()


def unreadable(reason: str) -> str:
    return json.dumps({"type": "unreadable", "reason": reason})


def ended(end: ViewEnd, *, error: ErrorText | None, request_id: str) -> str:
    fields = {
        "type": "ended",
        "code": end.code,
        "reason": end.name,
        "error_code": None if error is None else error.code,
        "error_msg": None if error is None else error.message,
        "request_id": request_id or None,
    }
    return json.dumps(fields)


def _part(part: PartTimes) -> dict[str, Any]:
    return {
        "number": part.info.number,
        "started_at": rfc3339(part.info.started_at),
        "duration_ms": part.duration_ms,
        "cut": part.info.state is PartState.CUT,
        "end": part.info.end,
        "keystroke_chunks": part.keystroke_chunks,
        "omitted_marks": part.omitted_marks,
        "chunks": [{"first_ms": one.first_ms, "last_ms": one.last_ms} for one in part.chunks],
        "marks": [
            (one.at_ms, int(one.kind), one.payload.decode())
            for one in part.marks
            if one.kind in _MARKED
        ],
    }
