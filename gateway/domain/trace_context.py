"""The W3C trace context of a request: read from its headers, and written for a call made for it.

Pure; the sections named are those of W3C Trace Context (Recommendation, 23 November 2021).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.domain.model import Headers

# 3.2.2: a later version may say more behind a dash; what is known of it reads as version 00 does.
_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_SAMPLED, _RANDOM = 0x01, 0x02
_KNOWN_FLAGS = _SAMPLED | _RANDOM
"""3.2.2.5: others are set to zero. The second is Level 2's: the trace id is random."""
_MEMBER = re.compile(
    r"(?P<key>[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_MEMBERS_MAX = 32
_STATE_CHARS_MAX = 512
"""3.3.1.5: at least this much of a tracestate is to be passed on."""
_LONG_MEMBER_CHARS = 128
_STATE_READ_CHARS_MAX = 16_384


@dataclass(frozen=True, slots=True)
class TraceContext:
    trace_id: str
    """32 hex digits; all spans of a trace share it."""
    span_id: str
    """16 hex digits: whose children the spans are that are made under this."""
    flags: int
    state: str = ""
    """What tracing systems along the way have noted down, as `tracestate` has it."""

    @property
    def is_sampled(self) -> bool:
        """Tell whether whoever made it may have recorded it."""
        return bool(self.flags & _SAMPLED)

    def child(self, span_id: str) -> "TraceContext":
        return replace(self, span_id=span_id)

    @property
    def headers(self) -> Headers:
        parent = ("traceparent", f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}")
        return (parent, ("tracestate", self.state)) if self.state else (parent,)


def trace_context(parents: Sequence[str], states: Sequence[str]) -> TraceContext | None:
    """Read every value of `traceparent` and of `tracestate`; None: a new trace is to begin.

    An invalid tracestate is dropped alone, an invalid traceparent takes its tracestate with it.
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
    # 3.3.1.1: blanks around a member, and empty ones, are allowed.
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
