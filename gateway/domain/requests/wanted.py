"""What a person requests, its checks, and the rule that allows it. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from unicodedata import category

from gateway.domain.errors import AccessRequestForbidden, BadRequest
from gateway.domain.model import ProjectId, ServerId
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.requests.model import REASON_CHARS_MAX, SERVERS_MAX, TICKET_CHARS_MAX

_DURATION_MIN_S: Final = 60.0
_TICKET: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._/#:-]{{0,{TICKET_CHARS_MAX - 1}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a person requests."""

    role: str
    rule: str | None
    """Name of the rule; None: the only one that allows it."""
    project: ProjectId
    servers: tuple[ServerId, ...]
    duration_s: float
    reason: str
    ticket: str = ""
    break_glass: bool = False


def choose_rule(rules: Sequence[RequestRule], wanted: Wanted) -> RequestRule:
    """Return the one of a person's rules that a new request is made by.

    Raises AccessRequestForbidden and BadRequest, which depend on the rules and the request only.
    """
    candidates = [
        one
        for one in rules
        if one.role == wanted.role
        and wanted.rule in (None, one.name)
        and (one.break_glass is not None or not wanted.break_glass)
    ]
    if not candidates:
        how = " by break-glass" if wanted.break_glass else ""
        raise AccessRequestForbidden(
            f"No rule of the policy lets you request this role{how}. `gateway requests rules`"
            " lists what you may request."
        )
    candidates = [one for one in candidates if one.covers(wanted.project, wanted.servers)]
    if not candidates:
        raise AccessRequestForbidden(
            "No rule of the policy lets you request this role on these servers."
            " `gateway requests rules` lists what you may request."
        )
    candidates = _with_time_and_ticket(candidates, wanted)
    if len(candidates) > 1:
        names = ", ".join(one.name for one in candidates)
        raise BadRequest(f"Several rules allow this request. Name one as `rule`: {names}.")
    (rule,) = candidates
    if wanted.break_glass and rule.break_glass is not None:
        least = rule.break_glass.reason_min
        if len(wanted.reason.strip()) < least:
            raise BadRequest(f"`reason` must have at least {least} characters.")
    return rule


def check_reason(text: str, *, may_be_empty: bool = False) -> None:
    """Raise BadRequest for a reason that is no plain text of the allowed length."""
    if len(text) > REASON_CHARS_MAX:
        raise BadRequest(f"`reason` must have at most {REASON_CHARS_MAX} characters.")
    if not text.strip() and not may_be_empty:
        raise BadRequest("`reason` is required: say why you need the access.")
    if any(category(char) in ("Cc", "Cs") and char not in "\n\t" for char in text):
        raise BadRequest("`reason` must be plain text without control characters.")


def _with_time_and_ticket(rules: Sequence[RequestRule], wanted: Wanted) -> list[RequestRule]:
    """Return the rules that allow the duration and the ticket; raise BadRequest if none does."""
    longest_s = max(one.for_max_s for one in rules)
    if wanted.duration_s > longest_s:
        raise BadRequest(
            f"The rule allows at most {longest_s / 3600:g} h: `duration_s` must be at most"
            f" {longest_s:g}."
        )
    found = [one for one in rules if wanted.duration_s <= one.for_max_s]
    if not wanted.ticket:
        found = [one for one in found if not one.ticket_required]
        if not found:
            raise BadRequest("`ticket` is required: the number of a ticket.")
    return found


def check_wanted(wanted: Wanted) -> None:
    check_reason(wanted.reason)
    if wanted.ticket and not _TICKET.fullmatch(wanted.ticket):
        raise BadRequest(
            f"`ticket` must have at most {TICKET_CHARS_MAX} letters, digits and . _ / # : -"
        )
    if not 1 <= len(wanted.servers) <= SERVERS_MAX:
        raise BadRequest(f"`servers` must name 1 to {SERVERS_MAX} servers.")
    if wanted.duration_s < _DURATION_MIN_S:
        raise BadRequest(f"`duration_s` must be at least {_DURATION_MIN_S:g}.")
