"""Which headers travel, to the cloud and back: two allow-lists. Pure.

Everything else stays here: credentials, cookies, addresses, and what belongs to one hop.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from gateway.domain.model import Answer, Headers

VIA = "1.1 console-gateway"
"""RFC 9110, 7.6.3: the protocol as it was received, and a name instead of our address."""
_PLAIN = (("Accept", "accept"), ("Content-Type", "content-type"))
_CONDITIONS = tuple(
    (name, name.lower())
    for name in ("Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since")
)
"""Of a body that passes unchanged, so that the cloud's own validators are the caller's."""
_READ = frozenset({"accept-encoding", "connection"} | {lower for _, lower in _PLAIN + _CONDITIONS})
_RETURNING = tuple((name, name.lower()) for name in ("Content-Type", "Content-Encoding"))
_RETURNING_STREAMED = (
    *_RETURNING,
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


def travelling(headers: Iterable[tuple[str, str]], request_id: str, answer: Answer) -> Headers:
    """Return the headers that go to the cloud. `request_id` is ours, already judged by the edge.

    The trace is not among them: each call is a span of its own (rules/trace_context.py).
    Codings are for the cloud to heed where its answer passes unread, and conditions and ranges
    where it is not even kept.
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _READ:
            found.setdefault(lower, []).append(value)
    # RFC 9110, 7.6.1: what Connection names is meant for this hop alone.
    for line in found.pop("connection", ()):
        for named in line.lower().split(","):
            found.pop(named.strip(), None)
    passed = [("X-Request-Id", request_id), ("Via", VIA)]
    streamed = answer is Answer.STREAMED
    for name, lower in _PLAIN + _CONDITIONS if streamed else _PLAIN:
        values = found.get(lower, ())
        if len(values) == 1 and _is_plain(values[0]):
            passed.append((name, values[0]))
    coded = passes_coded(answer) and _accepts_gzip(found.get("accept-encoding", ()))
    passed.append(("Accept-Encoding", "gzip" if coded else "identity"))
    return tuple(passed)


def passes_coded(answer: Answer) -> bool:
    """Tell whether the cloud's answer passes unread, so in whatever coding it has."""
    return answer in (Answer.WHOLE, Answer.STREAMED)


def returning(headers: Mapping[str, str], answer: Answer) -> Headers:
    """Return those of the cloud's headers (names in lower case) that go to the caller."""
    names = _RETURNING_STREAMED if answer is Answer.STREAMED else _RETURNING
    return tuple(
        [
            (name, value)
            for name, lower in names
            if (value := headers.get(lower)) is not None and _is_plain(value)
        ]
    )


def _accepts_gzip(values: Sequence[str]) -> bool:
    # RFC 9110, 12.5.3: a weight of 0 is a refusal.
    for one in ",".join(values).lower().split(","):
        coding, _, weight = one.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            return re.fullmatch(r"\s*q=0(?:\.0*)?\s*", weight) is None
    return False


def _is_plain(value: str) -> bool:
    return len(value) <= _VALUE_CHARS_MAX and _VALUE.fullmatch(value) is not None
