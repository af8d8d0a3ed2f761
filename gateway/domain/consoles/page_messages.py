"""Text frames between the gateway and the page (subprotocol `console-gateway.v1`). Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.domain.consoles.ends import SessionEnd
from gateway.domain.consoles.model import Clipboard, ConsoleSession, PersonRef, SessionMode
from gateway.domain.model import Secret
from gateway.domain.timestamps import rfc3339

SUBPROTOCOL: Final = "console-gateway.v1"
MESSAGE_CHARS_MAX: Final = 16_384
_KEY_CHARS_MAX: Final = 128


class PageMessageError(ValueError):
    """The page sent no message of the protocol."""


@dataclass(frozen=True, slots=True)
class AttachMessage:
    resume_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyReceivedMessage:
    """The page has stored the resume key of `attached`."""


@dataclass(frozen=True, slots=True)
class EndMessage:
    pass


@dataclass(frozen=True, slots=True)
class TokenMessage:
    token: Secret


PageMessage = AttachMessage | KeyReceivedMessage | EndMessage | TokenMessage


def parse_page_message(text: str) -> PageMessage:
    """Return a message of the page; raise PageMessageError."""
    if len(text) > MESSAGE_CHARS_MAX:
        raise PageMessageError("too long")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise PageMessageError("not JSON") from None
    match message:
        case {"type": "attach", "resume_key": str(key)} if len(key) <= _KEY_CHARS_MAX:
            return AttachMessage(key)
        case {"type": "key_received"}:
            return KeyReceivedMessage()
        case {"type": "end"}:
            return EndMessage()
        case {"type": "token", "token": str(token)}:
            return TokenMessage(Secret(token))
        case _:
            raise PageMessageError("unknown message")


@dataclass(frozen=True, slots=True)
class ExpectedEnd:
    """When a session ends unless something changes, except for lack of input."""

    at: float
    """Seconds since the epoch."""
    end: SessionEnd

    @property
    def fields(self) -> dict[str, str]:
        return {"ends_at": rfc3339(self.at), "ends_by": self.end.name}


@dataclass(frozen=True, slots=True)
class MoreTime:
    """How a person may get more time."""

    may_request: bool
    """A rule of `requests` is for the person."""
    request_id: str | None
    """The access request that is the person's right now, if one is."""


@dataclass(frozen=True, slots=True)
class PageSettings:
    """What the page may do, besides what the session says."""

    clipboard: Clipboard
    power: bool
    idle_s: float | None
    expected_end: ExpectedEnd
    is_recorded: bool = False
    records_keys: bool = False
    """The recording has what the person types."""


@dataclass(frozen=True, slots=True)
class Watcher:
    person: PersonRef
    since: float


@dataclass(frozen=True, slots=True)
class ErrorText:
    """An error as the page shows it."""

    code: str
    message: str


def attached(session: ConsoleSession, resume_key: Secret, settings: PageSettings) -> str:
    return _encode(
        "attached",
        resume_key=resume_key.reveal(),
        server={"project_id": session.target.project, "id": session.target.server, "name": None},
        person=person_fields(PersonRef.of(session.person)),
        mode=session.mode.value,
        recorded=settings.is_recorded,
        keys_recorded=settings.records_keys,
        started_at=rfc3339(session.started_at),
        **settings.expected_end.fields,
        idle_s=settings.idle_s,
        clipboard=settings.clipboard.value,
        power=settings.power,
    )


def waiting(expected_wait_s: float) -> str:
    return _encode("state", state="waiting", expected_wait_s=round(expected_wait_s, 1))


def state(name: str) -> str:
    """Return the frame of the states `connecting` and `live`."""
    return _encode("state", state=name)


def expected_end(expected: ExpectedEnd) -> str:
    """Say that the session ends at another time than the page knows."""
    return _encode("expected_end", **expected.fields)


def warning(reason: str, ends_at: float, more: MoreTime | None = None) -> str:
    """Warn of an end; `more`: where an access request can postpone it."""
    fields = {} if more is None else {"may_request": more.may_request, "request": more.request_id}
    return _encode("warning", reason=reason, ends_at=rfc3339(ends_at), **fields)


def warning_over(reason: str) -> str:
    return _encode("warning_over", reason=reason)


def mode_changed(mode: SessionMode) -> str:
    return _encode("mode", mode=mode.value)


def power_ended() -> str:
    return _encode("power_ended")


def power_rejected(error: ErrorText) -> str:
    """Say why a power operation did not reach the server."""
    return _encode("power_rejected", error_code=error.code, error_msg=error.message)


def recording_ended() -> str:
    """Say that the session goes on without its recording."""
    return _encode("recording", recorded=False)


def watchers(them: Sequence[Watcher]) -> str:
    listed = [{**person_fields(one.person), "since": rfc3339(one.since)} for one in them]
    return _encode("watchers", watchers=listed)


def ended(
    end: SessionEnd, *, by: PersonRef | None, error: ErrorText | None, request_id: str
) -> str:
    return _encode(
        "ended",
        code=end.code,
        reason=end.name,
        error_code=None if error is None else error.code,
        error_msg=None if error is None else error.message,
        by=None if by is None else person_fields(by),
        request_id=request_id,
    )


def person_fields(person: PersonRef) -> dict[str, str]:
    return {"subject": person.subject, "issuer": person.issuer}


def _encode(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))
