"""Which headers of a caller's request travel on to the cloud: an allow-list. Pure.

Everything else stays here: credentials, cookies, addresses, and what belongs to one hop.
"""

import re
from collections.abc import Iterable, Sequence

_READ = frozenset({"accept", "content-type", "traceparent", "tracestate", "connection"})
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


def travelling(headers: Iterable[tuple[str, str]], request_id: str) -> tuple[tuple[str, str], ...]:
    """Return the headers that go to the cloud. `request_id` is ours, already judged by the edge."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _READ:
            found.setdefault(lower, []).append(value)
    # RFC 9110, 7.6.1: what Connection names is meant for this hop alone.
    for line in found.pop("connection", ()):
        for named in line.lower().split(","):
            found.pop(named.strip(), None)
    passed = [("X-Request-Id", request_id)]
    for name, lower in (("Accept", "accept"), ("Content-Type", "content-type")):
        values = found.get(lower, ())
        if len(values) == 1 and _is_plain(values[0]):
            passed.append((name, values[0]))
    passed.extend(_trace(found.get("traceparent", ()), found.get("tracestate", ())))
    return tuple(passed)


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
