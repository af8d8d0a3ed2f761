"""Which headers travel, to the cloud and back: two allow-lists. Pure.

Everything else stays here: credentials, cookies, addresses, and what belongs to one hop.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from gateway.domain.model import Answer, Headers

VIA = "1.1 console-gateway"
"""RFC 9110, 7.6.3: the protocol as it was received, and a name instead of our address."""
_REQUEST_HEADERS = (("Accept", "accept"), ("Content-Type", "content-type"))
_CONDITIONAL_HEADERS = tuple(
    (name, name.lower())
    for name in ("Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since")
)
"""Of a body that passes unchanged, so that the cloud's own validators are the caller's."""
_INSPECTED = frozenset(
    {"accept-encoding", "connection"}
    | {lower for _, lower in _REQUEST_HEADERS + _CONDITIONAL_HEADERS}
)
_RESPONSE_HEADERS = tuple((name, name.lower()) for name in ("Content-Type", "Content-Encoding"))
_STREAMED_RESPONSE_HEADERS = (
    *_RESPONSE_HEADERS,
    *(
        (name, name.lower())
        for name in (
            *("Content-Disposition", "Content-Length", "Content-Range", "Accept-Ranges"),
            *("ETag", "Last-Modified"),
        )
    ),
)
_VALUE_CHARS_MAX = 512
_VALUE = re.compile(r"[ -~]*")


def request_headers(headers: Iterable[tuple[str, str]], request_id: str, answer: Answer) -> Headers:
    """Return the headers that go to the cloud. `request_id` is ours, already judged by the edge.

    The trace is not among them: each call is a span of its own (rules/trace_context.py).
    Codings are for the cloud to heed where its answer passes unread, and conditions and ranges
    where it is not even kept.
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _INSPECTED:
            found.setdefault(lower, []).append(value)
    # RFC 9110, 7.6.1: what Connection names is meant for this hop alone.
    for line in found.pop("connection", ()):
        for named in line.lower().split(","):
            found.pop(named.strip(), None)
    passed = [("X-Request-Id", request_id), ("Via", VIA)]
    streamed = answer is Answer.STREAMED
    for name, lower in _REQUEST_HEADERS + _CONDITIONAL_HEADERS if streamed else _REQUEST_HEADERS:
        values = found.get(lower, ())
        if len(values) == 1 and _is_valid_value(values[0]):
            passed.append((name, values[0]))
    coded = keeps_content_encoding(answer) and _accepts_gzip(found.get("accept-encoding", ()))
    passed.append(("Accept-Encoding", "gzip" if coded else "identity"))
    return tuple(passed)


def keeps_content_encoding(answer: Answer) -> bool:
    """Tell whether the cloud's answer passes unread, so in whatever coding it has."""
    return answer in (Answer.WHOLE, Answer.STREAMED)


def response_headers(headers: Mapping[str, str], answer: Answer) -> Headers:
    """Return those of the cloud's headers (names in lower case) that go to the caller."""
    names = _STREAMED_RESPONSE_HEADERS if answer is Answer.STREAMED else _RESPONSE_HEADERS
    return tuple(
        [
            (name, value)
            for name, lower in names
            if (value := headers.get(lower)) is not None and _is_valid_value(value)
        ]
    )


def _accepts_gzip(values: Sequence[str]) -> bool:
    # RFC 9110, 12.5.3: a weight of 0 is a refusal.
    for one in ",".join(values).lower().split(","):
        coding, _, weight = one.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            return re.fullmatch(r"\s*q=0(?:\.0*)?\s*", weight) is None
    return False


def _is_valid_value(value: str) -> bool:
    return len(value) <= _VALUE_CHARS_MAX and _VALUE.fullmatch(value) is not None
