"""Notices about steps of access requests: what a webhook sends, and when it tries again. Pure."""

import base64
import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple
from unicodedata import category

import msgspec

from gateway.domain.model import Headers, Secret
from gateway.domain.requests.model import AccessRequest, State
from gateway.domain.timestamps import rfc3339

NoticeFormat = Literal["json", "slack", "teams"]
RETRY_DELAYS_S: Final = (
    5.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 28_800.0, 28_800.0,
)  # fmt: skip
"""A day in all."""
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the form of secrets
_SOON_S: Final = 600.0
"""How long before the end of access its requester is warned; half of the time of short access."""
_TEXTS: Final[dict[str, str]] = {
    "requested": "requests",
    "approved": "has an approval for",
    "denied": "was denied",
    "withdrawn": "has withdrawn the request for",
    "ended": "no longer has",
    "expired": "got no decision on the request for",
    "expires_soon": "soon loses",
    "break_glass": "HAS BROKEN THE GLASS for",
}


class Notice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One delivery to one webhook."""

    id: str
    """The same over all attempts, so that a receiver can recognize a repetition."""
    webhook: str
    event: str
    request: AccessRequest
    at: float
    """When the step was taken, or when a scheduled notice is due: seconds since the epoch."""
    attempts: int = 0
    error: str = ""
    """Why the last attempt failed. It never has the address of the webhook."""

    @property
    def lane(self) -> str:
        """Notices of one lane are delivered in order: those of one request to one webhook."""
        return sha256(f"{self.webhook}\0{self.request.id}".encode()).hexdigest()[:16]


class DeadNotice(NamedTuple):
    """A notice that is not tried again, unless an administrator replays it."""

    notice: Notice
    given_up_at: float


def notice_id(webhook: str, event: str, request: AccessRequest) -> str:
    """Return the ID of a delivery: the same for the same step and webhook."""
    text = f"{webhook}\0{event}\0{request.id}\0{request.version}"
    return "msg_" + sha256(text.encode()).hexdigest()[:32]


def scheduled_events(event: str, request: AccessRequest) -> list[tuple[str, float]]:
    """Return the events that time alone brings after a step, each with its time.

    They are stored with the step, so exactly one replica delivers them, and a restart loses none.
    """
    if request.closing is not None:
        return []
    if event == "requested":
        return [("expired", request.pending_until)]
    if request.ends_at is None or event not in ("approved", "break_glass"):
        return []
    soon_s = min(_SOON_S, request.duration_s / 2)
    return [("expires_soon", request.ends_at - soon_s), ("ended", request.ends_at)]


def is_outdated(notice: Notice, known: AccessRequest | None, now: float) -> bool:
    """Return whether a scheduled notice is not true any more; `known`: the request as it is now.

    `known` is None if the request was ended. The notice of a step is never outdated.
    """
    if notice.request.closing is not None:
        return False
    state = None if known is None else known.state(now)
    match notice.event:
        case "expires_soon":
            return state != "active"
        case "expired":
            return state != "expired"
        case "ended":
            return state != "ended"
        case _:
            return False


def retry_delay_s(attempts: int, retry_after_s: float) -> float | None:
    """Return how long to wait after so many failed attempts; None: give up."""
    if attempts > len(RETRY_DELAYS_S):
        return None
    return max(RETRY_DELAYS_S[attempts - 1], min(retry_after_s, 86_400.0))


def sign(secrets: Sequence[Secret], notice: str, timestamp: int, body: bytes) -> Headers:
    """Return the headers of the Standard Webhooks specification, a signature for each secret."""
    signed = f"{notice}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.digest(secret_bytes(one), signed, "sha256")).decode()
        for one in secrets
    ]
    return (
        ("webhook-id", notice),
        ("webhook-timestamp", str(timestamp)),
        ("webhook-signature", " ".join(signatures)),
    )


def secret_bytes(secret: Secret) -> bytes:
    """Return the key of `whsec_` and base64; raise ValueError for another form."""
    text = secret.reveal()
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not text.startswith(SECRET_PREFIX) or not 24 <= len(key) <= 64:
        raise ValueError("must be `whsec_` and 24 to 64 bytes in base64")
    return key


def notice_body(notice: Notice, form: NoticeFormat) -> bytes:
    """Return the body of a delivery."""
    if form == "slack":
        text = _escape_slack(_text(notice))
        return msgspec.json.encode({"text": text, "mrkdwn": False, "unfurl_links": False})
    if form == "teams":
        return msgspec.json.encode(_teams_card(_text(notice)))
    content = {
        "type": f"access_request.{notice.event}",
        "timestamp": rfc3339(notice.at),
        "data": _fields(notice),
    }
    return msgspec.json.encode(content)


def _fields(notice: Notice) -> dict[str, Any]:
    request = notice.request
    state: State = request.state(notice.at)
    return {
        "id": request.id,
        "version": request.version,
        "state": state,
        "requester": {"issuer": request.requester.issuer, "subject": request.requester.subject},
        "rule": request.rule,
        "role": request.role,
        "project_id": request.project,
        "server_ids": list(request.servers),
        "duration_s": request.duration_s,
        "reason": request.reason,
        "ticket": request.ticket,
        "break_glass": request.broken_glass,
        "ends_at": None if request.ends_at is None else rfc3339(request.ends_at),
        "approved_by": [one.by.name for one in request.counted_approvals()],
        "closed_by": None if request.closing is None else request.closing.by.name,
    }


def _text(notice: Notice) -> str:
    """Return the notice for people, on several lines. It opens nothing by itself."""
    request = notice.request
    servers = ", ".join(request.servers)
    what = f"{_TEXTS.get(notice.event, notice.event)} {request.role} on {servers}"
    lines = [
        f"{one_line(request.requester.subject)} {what} for {request.duration_s / 3600:g} h",
        f"Reason: {one_line(request.reason)}",
    ]
    if request.ticket:
        lines.append(f"Ticket: {request.ticket}")
    if request.counted_approvals():
        names = ", ".join(one.by.name for one in request.counted_approvals())
        lines.append(f"Approved by {one_line(names)}")
    if request.closing is not None:
        closing = request.closing
        lines.append(one_line(f"By {closing.by.name} {closing.reason}"))
    elif request.ends_at is not None:
        lines.append(f"Until {rfc3339(request.ends_at)}")
    lines.append(f"gateway requests show {request.id}")
    return "\n".join(lines)


def one_line(text: str) -> str:
    """Return the text without line breaks, control and direction characters.

    A reason must not look like another line of the notice, such as "Approved by".
    """
    return " ".join("".join(" " if category(one)[0] in "CZ" else one for one in text).split())


def _escape_slack(text: str) -> str:
    """Escape the three characters that begin links and mentions in Slack's text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _teams_card(text: str) -> dict[str, Any]:
    """Return an Adaptive Card. Text runs are not read as Markdown, so nothing is a link."""
    blocks = [
        {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": line}]}
        for line in text.split("\n")
    ]
    return {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "content": {"type": "AdaptiveCard", "version": "1.4", "body": blocks},
            }
        ],
    }


_NOTICES: Final = msgspec.json.Decoder(Notice)


def encode_notice(notice: Notice) -> bytes:
    return msgspec.json.encode(notice)


def decode_notice(text: bytes) -> Notice:
    """Decode the result of `encode_notice`; raise ValueError for other input."""
    try:
        return _NOTICES.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError("is not a notice") from error
