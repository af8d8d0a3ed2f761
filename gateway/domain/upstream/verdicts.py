"""What a response of the cloud means (upstream-api.md#1.3, #2 and #4.4). Pure.

The cloud has several codes for one error and one code for several errors, in JSON of five shapes,
in plain text and in HTML. `judge` never raises.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

from gateway.domain.model import Headers, UpstreamResponse
from gateway.domain.upstream.redaction import redact, redact_body, secrets_in, without_secrets


@dataclass(frozen=True, slots=True)
class Usable:
    response: UpstreamResponse


@dataclass(frozen=True, slots=True)
class CredentialStale:
    """A 401 that a newer credential may fix."""

    code: str
    is_certain: bool = True
    """The cloud says that the token has expired or is invalid; False: it gives no known cause."""


@dataclass(frozen=True, slots=True)
class Throttled:
    pause_s: float | None = None
    """How long to send nothing; None if the cloud does not name it."""
    limit: int | None = None
    window_s: float | None = None
    """`limit` calls in `window_s` seconds, if the cloud names its policy."""
    scope: str | None = None
    """The key that the cloud counts by: `user`, `ip`, `api`, …"""

    @property
    def rate(self) -> float | None:
        """The calls per second that the cloud names."""
        return self.limit / self.window_s if self.limit and self.window_s else None


@dataclass(frozen=True, slots=True)
class Refused:
    """The service rejected the request itself; the caller gets its code and message."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """The cloud rejects the service account or its permissions."""

    status: int
    code: str
    reason: str
    """A fixed text: the cloud's own may quote a key."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The cloud has a temporary error."""

    status: int
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class Broken:
    """An unusable response that a repetition would not change."""

    status: int
    code: str
    reason: str = ""
    """A fixed text, or the host that a redirect names."""

    @property
    def detail(self) -> str:
        return ", ".join(filter(None, (f"{self.status} {self.code}".rstrip(), self.reason)))


Verdict = Usable | CredentialStale | Throttled | Refused | Misconfigured | Unavailable | Broken


REFUSALS = frozenset({400, 404, 405, 409, 415, 422})
"""With a code of the service, these statuses concern the request; the caller gets them."""
_GATEWAY_FAULTS = frozenset({"0101", "0201", "0501", "0502"})
"""Path not registered, malformed HTTP, wrong method, quota: the API front rejects the gateway."""


def judge(
    response: UpstreamResponse, *, conditional: bool = False, credential: Headers = ()
) -> Verdict:
    """Classify a response; `conditional`: the request had a condition from the caller.

    `credential`: the headers that authenticated the request. No verdict contains a part of them.
    """
    secrets = secrets_in(credential)
    if 200 <= response.status < 300 or (conditional and response.status == 304):
        return Usable(_without_secrets(response, secrets))
    code, message = error_of(response.body, secrets)
    number = _number(code)
    if response.status == 429 or number == "0308":
        return _throttled(response, message)
    match response.status:
        case 401:
            return _unauthorized(code, number, message or _text(response.body))
        case 403:
            return Misconfigured(403, code, "the service user lacks the permission")
        case status if status in REFUSALS and code and number not in _GATEWAY_FAULTS:
            return Refused(response.status, code, message)
        case 412 | 416 if conditional:
            return Refused(response.status, code or str(response.status), message)
        case 500 | 502 | 503 | 504:
            return Unavailable(response.status, _retry_after_s(response.headers))
        case _:
            return Broken(response.status, code, redirect_of(response))


def _without_secrets(response: UpstreamResponse, secrets: Collection[str]) -> UpstreamResponse:
    body = redact_body(response.body, secrets)
    headers = without_secrets(response.headers, secrets)
    if body is response.body and headers is response.headers:
        return response
    return replace(response, headers=headers, body=body)


# upstream-api.md#2.2: one code means expired, foreign and wrong. Only the text differs.
_RENEWABLE_TEXTS = ("token expires", "decrypt token fail")
_RENEWABLE_CODES = frozenset({"iMetal.0003", "IAM.0066", "IAM.0067"})
_REASONS = (
    ("x-auth-token not found", "no token reached the cloud"),
    ("verify aksk signature fail", "the signature is wrong"),
    ("get secretkey failed", "the access key is unknown"),
    ("ak access failed to reach the limit", "the access key is locked for 5 minutes"),
    ("server and client times", "the clocks differ by more than 15 minutes"),
)
_WRONG_KIND_OF_CREDENTIAL = frozenset({"0303", "0305"})


def _unauthorized(code: str, number: str, message: str) -> Verdict:
    """Classify a 401: any cause that is not listed here may be a revoked credential."""
    text = message.lower()
    if code in _RENEWABLE_CODES or number == "0307":
        return CredentialStale(code)
    if any(known in text for known in _RENEWABLE_TEXTS):
        return CredentialStale(code)
    reason = next((reason for known, reason in _REASONS if known in text), "")
    if reason or number in _WRONG_KIND_OF_CREDENTIAL:
        return Misconfigured(401, code, reason or "the API expects another kind of credential")
    return CredentialStale(code, is_certain=False)


_ORIGIN = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,15}:)?//(?:[^/?#@]*@)?"
    r"(?P<host>(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?)(?=[/?#]|$)"
)


def redirect_of(response: UpstreamResponse) -> str:
    """Return where a redirect leads, without path and query, which may hold a token."""
    location = response.headers.get("location", "")
    if not 300 <= response.status < 400 or not location:
        return ""
    found = _ORIGIN.match(location)
    if found is None:
        is_path = re.match(r"/(?!/)", location)
        return f"redirects to {'another path' if is_path else 'an address that is not valid'}"
    return f"redirects to {found['scheme'] or ''}//{found['host']}"


# upstream-api.md#2.3
_POLICY = re.compile(
    r"policy (?P<scope>\w{1,16}) over ratelimit,\s{0,4}limit:\s{0,4}(?P<limit>\d{1,9}),"
    r"\s{0,4}time:\s{0,4}(?P<count>\d{1,6})\s{0,4}(?P<unit>second|minute|hour)"
)
_IAM_POLICY = re.compile(
    r"Threshold: (?P<limit>\d{1,9}) times per (?P<count>\d{1,6}) (?P<unit>second|minute|hour)s?"
)
_UNIT_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_WHOLE_WINDOW_S_MAX = 5.0
"""Wait for a whole window up to this length; most of a longer one may have passed."""


def _throttled(response: UpstreamResponse, message: str) -> Throttled:
    pause_s = _retry_after_s(response.headers)
    text = message or _text(response.body)
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
    """Parse Retry-After (RFC 9110, 10.2.3): seconds, or a date relative to the Date header."""
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


def error_of(body: bytes, secrets: Collection[str] = ()) -> tuple[str, str]:
    """Return the cloud's code and message, each "" if missing; never raises.

    Neither contains a part of `secrets`. A code that does is missing.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    for level in _levels(document):
        for code_name, message_name in _NAMES:
            code, message = level.get(code_name), level.get(message_name)
            if isinstance(code, int) and not isinstance(code, bool) and abs(code) < 1_000_000:
                code = str(code)
            if _is_code(code, secrets) and isinstance(message, str):
                return str(code), _presentable(message, secrets)
    return "", ""


def _is_code(value: object, secrets: Collection[str]) -> bool:
    if not isinstance(value, str) or _CODE.fullmatch(value) is None:
        return False
    return redact(value, secrets) == value


def _text(body: bytes) -> str:
    return body[:_TEXT_BYTES_MAX].decode("utf-8", "replace")


def _levels(document: object) -> Iterator[dict[str, object]]:
    # The vendor's SDK also looks one level down (upstream-api.md#4.4), e.g. Keystone's `error`.
    if isinstance(document, dict):
        yield document
        yield from (value for value in document.values() if isinstance(value, dict))


def _presentable(message: str, secrets: Collection[str]) -> str:
    """Return the cloud's text bounded, on one line, without the secrets that it may quote."""
    line = "".join(char if char.isprintable() else " " for char in message[:_TEXT_BYTES_MAX])
    return redact(line, secrets).strip()[:1_024]


def _number(code: str) -> str:
    # Both prefixes occur with the same number (upstream-api.md#2).
    found = re.fullmatch(r"APIGW?\.(\d{4})", code)
    return found[1] if found else ""
