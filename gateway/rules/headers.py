"""Which headers travel, to the cloud and back: two allow-lists. Pure.

Everything else stays here: credentials, cookies, addresses, and what belongs to one hop.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from gateway.model import Answer

VIA = "1.1 console-gateway"
"""RFC 9110, 7.6.3: the protocol as it was received, and a name instead of our address."""
_PLAIN = (("Accept", "accept"), ("Content-Type", "content-type"))
_CONDITIONS = tuple(
    (name, name.lower())
    for name in ("Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since")
)
"""Of a body that passes unchanged, so that the cloud's own validators are the caller's."""
_READ = frozenset(
    {"accept-encoding", "traceparent", "tracestate", "connection"}
    | {lower for _, lower in _PLAIN + _CONDITIONS}
)
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
"""W3C Trace Context, 3.3.1.5: at least this much of a tracestate is to be passed on."""
_VALUE = re.compile(r"[ -~]*")
# W3C Trace Context, 3.2: of version 00, the only one there is; zeros alone are no id.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE_MEMBER = re.compile(
    r"(?P<key>[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_TRACESTATE_MEMBERS_MAX = 32


def travelling(
    headers: Iterable[tuple[str, str]], request_id: str, answer: Answer
) -> tuple[tuple[str, str], ...]:
    """Return the headers that go to the cloud. `request_id` is ours, already judged by the edge.

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
    passed.extend(_trace(found.get("traceparent", ()), found.get("tracestate", ())))
    return tuple(passed)


def passes_coded(answer: Answer) -> bool:
    """Tell whether the cloud's answer passes unread, so in whatever coding it has."""
    return answer in (Answer.WHOLE, Answer.STREAMED)


def returning(headers: Mapping[str, str], answer: Answer) -> tuple[tuple[str, str], ...]:
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


def _trace(parents: Sequence[str], states: Sequence[str]) -> Iterable[tuple[str, str]]:
    if len(parents) != 1 or not _TRACEPARENT.fullmatch(parents[0]):
        return
    yield "traceparent", parents[0]
    state = ",".join(states)
    if _is_tracestate(state):
        yield "tracestate", state


def _is_tracestate(state: str) -> bool:
    if len(state) > _VALUE_CHARS_MAX:
        return False
    members = [member for part in state.split(",") if (member := part.strip(" \t"))]
    keys = [found["key"] for m in members if (found := _TRACESTATE_MEMBER.fullmatch(m))]
    return 0 < len(keys) == len(members) == len(set(keys)) <= _TRACESTATE_MEMBERS_MAX
