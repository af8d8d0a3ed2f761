"""What an answer of the cloud means for us. Pure; the table is the dossier's sections 1.3, 2, 4.4.

The cloud names one fault by several codes and several faults by one code, in JSON of five
shapes, in plain text and in HTML. Nothing in an answer makes `judge` raise.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from gateway.domain.model import UpstreamResponse


@dataclass(frozen=True, slots=True)
class Usable:
    answer: UpstreamResponse


@dataclass(frozen=True, slots=True)
class CredentialStale:
    """A 401 that a newer credential may heal."""

    code: str


@dataclass(frozen=True, slots=True)
class Throttled:
    pause_s: float | None = None
    """How long to send nothing; None: the cloud does not say."""
    limit: int | None = None
    window_s: float | None = None
    """So many calls (`limit`) in so many seconds, where the cloud tells its policy."""
    scope: str | None = None
    """What the cloud counts by: `user`, `ip`, `api`, …"""

    @property
    def rate(self) -> float | None:
        """Calls a second that the cloud says it takes."""
        return self.limit / self.window_s if self.limit and self.window_s else None


@dataclass(frozen=True, slots=True)
class Refused:
    """What was asked is refused by the service itself; for the caller."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """The cloud does not take us for whom we say we are, or lets us do too little."""

    status: int
    code: str
    reason: str
    """In our words; the cloud's text may quote a key."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The cloud has a fault of its own that may pass."""

    status: int
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class Broken:
    """Nothing that can be used, and asking again brings the same."""

    status: int
    code: str


Verdict = Usable | CredentialStale | Throttled | Refused | Misconfigured | Unavailable | Broken


REFUSALS = frozenset({400, 404, 405, 409, 415, 422})
"""With a code of the service these speak of what was asked, so they are the caller's to read."""
_OUR_DOING = frozenset({"0101", "0201", "0501", "0502"})
"""Path not registered, malformed HTTP, wrong method, our quota: the front says so of us."""


def judge(answer: UpstreamResponse, *, conditional: bool = False) -> Verdict:
    """Read an answer; `conditional`: it may be to a condition of the caller's own."""
    if 200 <= answer.status < 300 or (conditional and answer.status == 304):
        return Usable(answer)
    code, message = error_of(answer.body)
    number = _number(code)
    if answer.status == 429 or number == "0308":
        return _throttled(answer, message)
    match answer.status:
        case 401:
            return _unauthorized(code, number, message)
        case 403:
            return Misconfigured(403, code, "the service user may not do this")
        case status if status in REFUSALS and code and number not in _OUR_DOING:
            return Refused(answer.status, code, message)
        case 412 | 416 if conditional:
            return Refused(answer.status, code or str(answer.status), message)
        case 500 | 502 | 503 | 504:
            return Unavailable(answer.status, _retry_after_s(answer.headers))
        case _:
            return Broken(answer.status, code)


# Dossier 2.2. The front has one code for expired, foreign and wrong: only the text tells.
_HEALED_TEXTS = ("token expires", "decrypt token fail")
_HEALED_CODES = frozenset({"iMetal.0003", "IAM.0066", "IAM.0067"})
_REASONS = (
    ("x-auth-token not found", "no token reached the cloud"),
    ("verify aksk signature fail", "the signature is wrong"),
    ("get secretkey failed", "the access key is unknown"),
    ("ak access failed to reach the limit", "the access key is locked for 5 minutes"),
    ("server and client times", "the clocks differ by more than 15 minutes"),
)


def _unauthorized(code: str, number: str, message: str) -> Verdict:
    text = message.lower()
    if code in _HEALED_CODES or number == "0307":
        return CredentialStale(code)
    if number == "0301" and any(healed in text for healed in _HEALED_TEXTS):
        return CredentialStale(code)
    reason = next((ours for theirs, ours in _REASONS if theirs in text), "a 401 of another kind")
    return Misconfigured(401, code, reason)


# Dossier 2.3.
_POLICY = re.compile(
    r"policy (?P<scope>\w{1,16}) over ratelimit,\s{0,4}limit:\s{0,4}(?P<limit>\d{1,9}),"
    r"\s{0,4}time:\s{0,4}(?P<count>\d{1,6})\s{0,4}(?P<unit>second|minute|hour)"
)
_IAM_POLICY = re.compile(
    r"Threshold: (?P<limit>\d{1,9}) times per (?P<count>\d{1,6}) (?P<unit>second|minute|hour)s?"
)
_UNIT_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_WHOLE_WINDOW_S_MAX = 5.0
"""A window that short is best waited for whole; of a longer one most may be over already."""


def _throttled(answer: UpstreamResponse, message: str) -> Throttled:
    pause_s = _retry_after_s(answer.headers)
    text = message or answer.body[:_TEXT_BYTES_MAX].decode("utf-8", "replace")
    found = _POLICY.search(text) or _IAM_POLICY.search(text)
    if found is None:
        return Throttled(pause_s)
    parts = found.groupdict()
    window_s = int(parts["count"]) * _UNIT_S[parts["unit"]]
    if pause_s is None and 0 < window_s <= _WHOLE_WINDOW_S_MAX:
        pause_s = window_s
    return Throttled(pause_s, int(parts["limit"]), window_s, parts.get("scope"))


_RETRY_AFTER_S_MAX = 86_400.0


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After (RFC 9110, 10.2.3): seconds, or a date, which the cloud's own Date dates."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(float(value), _RETRY_AFTER_S_MAX)
    try:
        until = parsedate_to_datetime(value)
        since = parsedate_to_datetime(headers.get("date", ""))
        span_s = (until - since).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, span_s), _RETRY_AFTER_S_MAX)


_TEXT_BYTES_MAX = 4_096
_CODE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NAMES = (("error_code", "error_msg"), ("errorCode", "errorMsg"), ("code", "message"))


def error_of(body: bytes) -> tuple[str, str]:
    """Return the cloud's code and message, each "" where there is none; never raises."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    for level in _levels(document):
        for code_name, message_name in _NAMES:
            code, message = level.get(code_name), level.get(message_name)
            if isinstance(code, int) and not isinstance(code, bool) and abs(code) < 1_000_000:
                code = str(code)
            if isinstance(code, str) and isinstance(message, str) and _CODE.fullmatch(code):
                return code, _presentable(message)
    return "", ""


def _levels(document: object) -> Iterator[dict[str, object]]:
    # The vendor's SDK looks one level down also (dossier 4.4), e.g. into Keystone's `error`.
    if isinstance(document, dict):
        yield document
        yield from (value for value in document.values() if isinstance(value, dict))


def _presentable(message: str) -> str:
    """Make the cloud's text fit to be shown: bounded, one line, no token that it may quote."""
    line = "".join(char if char.isprintable() else " " for char in message[:_TEXT_BYTES_MAX])
    return re.sub(r"[A-Za-z0-9+/=_-]{100,}", "…", line).strip()[:1_024]


def _number(code: str) -> str:
    # Both prefixes occur for the same number (dossier 2).
    found = re.fullmatch(r"APIGW?\.(\d{4})", code)
    return found[1] if found else ""
