"""The W3C trace context: parsed from a request's headers, and written to a call's headers. Pure.

Section numbers are of W3C Trace Context (Recommendation, 23 November 2021).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.domain.model import Headers

# 3.2.2: a later version may append fields after a dash; its first fields equal version 00.
_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_SAMPLED, _RANDOM = 0x01, 0x02
_KNOWN_FLAGS = _SAMPLED | _RANDOM
"""3.2.2.5: unknown flags are set to zero. The second flag is of Level 2: random trace ID."""
_MEMBER = re.compile(
    r"(?P<key>[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_MEMBERS_MAX = 32
_STATE_CHARS_MAX = 512
"""3.3.1.5: at least this many characters of a tracestate are propagated."""
_LONG_MEMBER_CHARS = 128
_STATE_READ_CHARS_MAX = 16_384


@dataclass(frozen=True, slots=True)
class TraceContext:
    trace_id: str
    """32 hex digits, equal in all spans of a trace."""
    span_id: str
    """16 hex digits: the parent of the next spans."""
    flags: int
    state: str = ""
    """The value of `tracestate`: entries of other tracing systems."""

    @property
    def is_sampled(self) -> bool:
        """Return whether the caller may have recorded the trace."""
        return bool(self.flags & _SAMPLED)

    def child(self, span_id: str) -> "TraceContext":
        return replace(self, span_id=span_id)

    @property
    def headers(self) -> Headers:
        parent = ("traceparent", f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}")
        return (parent, ("tracestate", self.state)) if self.state else (parent,)


def trace_context(parents: Sequence[str], states: Sequence[str]) -> TraceContext | None:
    """Parse all values of `traceparent` and `tracestate`; None: begin a new trace.

    An invalid tracestate is dropped. With an invalid traceparent, both are dropped.
    """
    if len(parents) != 1:
        return None
    found = _TRACEPARENT.fullmatch(parents[0])
    if found is None or (found["version"] == "00" and found["more"]):
        return None
    flags = int(found["flags"], 16) & _KNOWN_FLAGS
    return TraceContext(found["trace"], found["span"], flags, _state(",".join(states)))


def _state(text: str) -> str:
    if len(text) > _STATE_READ_CHARS_MAX:
        return ""
    # 3.3.1.1: blanks around members and empty members are allowed.
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {found["key"] for member in members if (found := _MEMBER.fullmatch(member))}
    if not len(keys) == len(members) <= _MEMBERS_MAX:
        return ""
    if _size(members) > _STATE_CHARS_MAX:
        members = [member for member in members if len(member) <= _LONG_MEMBER_CHARS]
    while _size(members) > _STATE_CHARS_MAX:
        members.pop()
    return ",".join(members)


def _size(members: Sequence[str]) -> int:
    return sum(map(len, members)) + len(members) - 1
