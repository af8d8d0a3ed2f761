"""The steps of an access request: each returns its next version, or raises. Pure."""

from typing import Final

import msgspec

from gateway.domain.errors import AccessRequestConflict, AccessRequestForbidden
from gateway.domain.model import Principal
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.requests.grants import count_approvals, is_requestable
from gateway.domain.requests.model import (
    AccessRequest,
    Approval,
    ClosedState,
    Closing,
    RequestPerson,
    State,
)

_RULE_GONE: Final = "The policy no longer allows this request. Make a new one."


def approve(
    request: AccessRequest,
    rule: RequestRule | None,
    approver: Principal,
    *,
    content_hash: str,
    now: float,
) -> AccessRequest:
    """Add an approval; with the last one the access begins.

    `rule` is the one in force with the request's rule name.
    """
    require_decider(request, rule, approver)
    assert rule is not None
    if not rule.scope.is_valid_at(now) or not is_requestable(request, rule):
        raise AccessRequestConflict(_RULE_GONE)
    _require_state(request, now, "pending", step="approved")
    if content_hash != request.content_hash:
        raise AccessRequestConflict(
            "The hash is not that of this request: it differs from what you were shown. Read the"
            " request again, then approve with its `hash`."
        )
    by = RequestPerson.of(approver)
    if any(one.by.may_be(by) for one in request.approvals):
        raise AccessRequestConflict("You have approved this request; another person must, too.")
    groups = tuple(sorted(approver.groups & rule.approvers.groups))
    approval = Approval(by, groups, now, content_hash)
    approved = msgspec.structs.replace(
        request, version=request.version + 1, approvals=(*request.approvals, approval)
    )
    if count_approvals(approved, rule) >= rule.approvals:
        approved = msgspec.structs.replace(approved, started_at=now)
    return approved


def deny(
    request: AccessRequest, rule: RequestRule | None, approver: Principal, now: float, reason: str
) -> AccessRequest:
    require_decider(request, rule, approver)
    _require_state(request, now, "pending", step="denied")
    return close(request, "denied", RequestPerson.of(approver), now, reason)


def withdraw(request: AccessRequest, person: Principal, now: float, reason: str) -> AccessRequest:
    if not is_requester(request, person):
        raise AccessRequestForbidden("Only the person who made a request can withdraw it.")
    _require_state(request, now, "pending", step="withdrawn")
    return close(request, "withdrawn", RequestPerson.of(person), now, reason)


def end(
    request: AccessRequest, rule: RequestRule | None, person: Principal, now: float, reason: str
) -> AccessRequest:
    """End access early: the requester, or a person who may decide on the request."""
    if not is_requester(request, person):
        require_decider(request, rule, person)
    _require_state(request, now, "active", step="ended")
    return close(request, "revoked", RequestPerson.of(person), now, reason)


def close(
    request: AccessRequest, state: ClosedState, by: RequestPerson, now: float, reason: str
) -> AccessRequest:
    closing = Closing(state, by, now, reason)
    return msgspec.structs.replace(request, version=request.version + 1, closing=closing)


def is_requester(request: AccessRequest, person: Principal) -> bool:
    requester = request.requester
    return (requester.issuer, requester.subject) == (person.issuer, person.subject)


def may_decide(request: AccessRequest, rule: RequestRule | None, person: Principal) -> bool:
    """Return whether a person may decide on a request, by the rule in force and as they are now."""
    by = RequestPerson.of(person)
    return rule is not None and rule.may_decide(person) and not by.may_be(request.requester)


def require_decider(request: AccessRequest, rule: RequestRule | None, person: Principal) -> None:
    if is_requester(request, person):
        raise AccessRequestForbidden("You cannot decide on your own request.")
    if rule is None or not rule.may_decide(person):
        raise AccessRequestForbidden("You are not an approver of this request.")
    if RequestPerson.of(person).may_be(request.requester):
        raise AccessRequestForbidden(
            "An account of another issuer decides on a request only if `requests.person_claim`"
            " shows that both are different people."
        )


def _require_state(request: AccessRequest, now: float, wanted: State, *, step: str) -> None:
    state = request.state(now)
    if state != wanted:
        raise AccessRequestConflict(f"The request is {state}, so it cannot be {step}.")
