"""Access requests and their rules as JSON, for the API."""

from collections.abc import Sequence
from typing import Any

from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.requests.model import AccessRequest, RequestPerson
from gateway.domain.timestamps import rfc3339


def request_fields(
    request: AccessRequest,
    rule: RequestRule | None,
    now: float,
    *,
    may: Sequence[str],
    is_own: bool,
    in_force: bool,
) -> dict[str, Any]:
    """Return a request; `may`: the steps that the caller may take, `in_force`: it is a grant.

    `is_own`: the caller made it.
    """
    closing = request.closing
    return {
        "id": request.id,
        "state": request.state(now),
        "in_force": in_force,
        "hash": request.content_hash,
        "requester": _person(request.requester),
        "own": is_own,
        "rule": request.rule,
        "role": request.role,
        "project_id": request.project,
        "server_ids": list(request.servers),
        "duration_s": request.duration_s,
        "reason": request.reason,
        "ticket": request.ticket,
        "break_glass": request.broken_glass,
        "created_at": rfc3339(request.created_at),
        "pending_until": rfc3339(request.pending_until),
        "started_at": None if request.started_at is None else rfc3339(request.started_at),
        "ends_at": None if request.ends_at is None else rfc3339(request.ends_at),
        "approvals": [
            {"by": _person(one.by), "at": rfc3339(one.at)} for one in request.counted_approvals()
        ],
        "approvals_required": None if rule is None else rule.approvals,
        "approvers": None if rule is None else _approvers(rule),
        "closed": None
        if closing is None
        else {
            "by": _person(closing.by),
            "at": rfc3339(closing.at),
            "reason": closing.reason,
        },
        "may": list(may),
    }


def rule_fields(rule: RequestRule) -> dict[str, Any]:
    """Return a rule for a person who may make requests by it."""
    scope = rule.scope
    glass = rule.break_glass
    return {
        "rule": rule.name,
        "role": rule.role,
        "permissions": sorted(scope.permissions),
        "project_ids": sorted(scope.projects),
        "server_ids": sorted(scope.servers),
        "selects_by_attributes": scope.selector is not None,
        "duration_max_s": rule.for_max_s,
        "approvals_required": rule.approvals,
        "approvers": _approvers(rule),
        "ticket_required": rule.ticket_required,
        "break_glass": None
        if glass is None
        else {"per_day": glass.per_day, "reason_min": glass.reason_min},
    }


def _approvers(rule: RequestRule) -> dict[str, Any]:
    approvers = rule.approvers
    return {
        "issuer": approvers.issuer,
        "users": sorted(approvers.users),
        "groups": sorted(approvers.groups),
    }


def _person(person: RequestPerson) -> dict[str, str]:
    return {"issuer": person.issuer, "subject": person.subject}
