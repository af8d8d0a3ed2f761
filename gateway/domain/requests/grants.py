"""Which access requests are grants now: active, not ended, and allowed by a rule in force. Pure."""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from gateway.domain.model import RuleKind, RuleRef
from gateway.domain.policy.request_grants import RequestGrant, RequestGrants
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.requests.model import AccessRequest


def grants_of(
    requests: Iterable[AccessRequest], rules: Mapping[str, RequestRule], ended: Collection[str]
) -> RequestGrants:
    """Return the grants; `ended` are IDs of requests that were ended, whatever a copy says.

    A stored request proves nothing by itself. Its rule must exist, and allow all of it.
    """
    found = (
        grant_of(one, rule, describe_grant(one))
        for one in requests
        if one.id not in ended
        and (rule := rules.get(one.rule)) is not None
        and is_allowed(one, rule)
    )
    return RequestGrants(found)


def is_allowed(request: AccessRequest, rule: RequestRule) -> bool:
    """Return whether a rule in force allows an active request as it is."""
    if request.closing is not None or request.started_at is None:
        return False
    if not is_requestable(request, rule):
        return False
    if request.broken_glass:
        return rule.break_glass is not None
    return count_approvals(request, rule) >= rule.approvals


def is_requestable(request: AccessRequest, rule: RequestRule) -> bool:
    """Return whether a rule allows the content of a request."""
    return (
        rule.role == request.role
        and request.duration_s <= rule.for_max_s
        and rule.covers(request.project, request.servers)
        and (bool(request.ticket) or not rule.ticket_required)
    )


def count_approvals(request: AccessRequest, rule: RequestRule) -> int:
    """Return how many people approved exactly this request whom the rule accepts."""
    people = {
        (one.by.issuer, one.by.subject)
        for one in request.counted_approvals()
        if rule.approvers.contain(one.by.issuer, one.by.subject, one.groups)
        and not one.by.may_be(request.requester)
    }
    return len(people)


def describe_grant(request: AccessRequest) -> str:
    """Return the label of the grant, for `explain` and the audit log."""
    if request.broken_glass:
        how = "by break-glass"
    else:
        names = ", ".join(one.by.name for one in request.counted_approvals())
        how = f"approved by {names}"
    return f"access request {request.id} {how}"


def request_location(request_id: str) -> str:
    """Return the location of the grant in audit records, where a rule has its file."""
    return f"request:{request_id}"


def request_of(grant: RuleRef) -> str | None:
    """Return the ID of the access request that a grant is; None if it is a rule of the policy."""
    start, _, request_id = grant.file.rpartition(":")
    return request_id if start == "request" and not grant.line else None


def grant_of(request: AccessRequest, rule: RequestRule, label: str) -> RequestGrant:
    """Return the grant that an active request is; `label` says so to people."""
    assert request.started_at is not None
    scope = rule.scope
    ref = RuleRef(
        RuleKind.GRANT,
        request_location(request.id),
        0,
        label,
        by_break_glass=request.broken_glass,
    )
    grant = msgspec.structs.replace(
        scope,
        ref=ref,
        issuer=request.requester.issuer,
        users=frozenset({request.requester.subject}),
        groups=frozenset(),
        everyone=False,
        projects=frozenset({request.project}),
        servers=frozenset(request.servers),
        valid_from=max(scope.valid_from, request.started_at),
        valid_until=min(scope.valid_until, request.started_at + request.duration_s),
    )
    return RequestGrant(grant, rule)
