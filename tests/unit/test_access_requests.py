"""Access requests: what each step allows, and which requests are grants. Pure."""

from typing import Any

import pytest

from gateway.domain.errors import AccessRequestConflict, AccessRequestForbidden
from gateway.domain.model import (
    CONSOLE_OPEN,
    SERVER_POWER,
    Operation,
    Principal,
    ResolvedCall,
    RuleKind,
    RuleRef,
)
from gateway.domain.policy.inventory import Attributes, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.request_rules import Approvers, RequestRule
from gateway.domain.policy.selectors import Selector
from gateway.domain.policy.target_locks import TargetLocks
from gateway.domain.requests import steps
from gateway.domain.requests.grants import grants_of, request_of
from gateway.domain.requests.model import AccessRequest, decode_request, encode_request
from tests.support.access_requests import (
    ANN,
    BREAK_GLASS,
    HOUR_S,
    LEA,
    LEO,
    NOW,
    OTHER_SERVER,
    PROJECT,
    SERVER,
    a_request_policy,
    a_request_rule,
    a_scope,
    an_access_request,
    changed,
    person,
)

RULE = a_request_rule()


def approve(
    request: AccessRequest,
    by: Principal = LEA,
    *,
    rule: RequestRule | None = RULE,
    now: float = NOW,
    content_hash: str | None = None,
) -> AccessRequest:
    shown = request.content_hash if content_hash is None else content_hash
    return steps.approve(request, rule, by, content_hash=shown, now=now)


ACTIVE = approve(an_access_request())


def is_allowed(
    policy: Policy,
    *requests: AccessRequest,
    who: Principal = ANN,
    now: float = NOW,
    ended: frozenset[str] = frozenset(),
    server: Any = SERVER,
    inventory: Inventory | None = None,
    permission: str = CONSOLE_OPEN,
) -> bool:
    granted = policy.with_requested(grants_of(requests, policy.request_rules, ended))
    more = () if inventory is None else (inventory,)
    return granted.decide(who, permission, PROJECT, server, now, *more).allowed


def test_time_starts_at_approval() -> None:
    request = an_access_request()
    assert request.state(NOW) == "pending"
    active = approve(request, now=NOW + 5 * HOUR_S)
    assert active.state(NOW + 5 * HOUR_S) == "active"
    policy = a_request_policy(RULE)
    for now, allowed in ((0, False), (5, True), (5.99, True), (6, False)):
        assert is_allowed(policy, active, now=NOW + now * HOUR_S) is allowed
    assert active.state(NOW + 6 * HOUR_S) == "ended"


def test_grant_is_for_that_person_server_and_role_only() -> None:
    policy = a_request_policy(RULE)
    assert is_allowed(policy, ACTIVE)
    assert not is_allowed(policy, ACTIVE, server=OTHER_SERVER)
    assert not is_allowed(policy, ACTIVE, server=None)
    assert not is_allowed(policy, ACTIVE, permission=SERVER_POWER)
    assert not is_allowed(policy, ACTIVE, who=person("bob", "staff"))
    assert not is_allowed(policy, ACTIVE, who=person("ann", "staff", issuer="other"))


def test_requester_must_still_be_in_the_group() -> None:
    assert not is_allowed(a_request_policy(RULE), ACTIVE, who=person("ann"))


def test_explanation_and_permit_name_the_request() -> None:
    policy = a_request_policy(RULE)
    policy = policy.with_requested(grants_of([ACTIVE], policy.request_rules, ()))
    operation = Operation("ShowRemoteConsole", "GET", "/x", CONSOLE_OPEN)
    permit = policy.permit(ANN, ResolvedCall(operation, PROJECT, (SERVER,)), NOW)
    assert permit.rule.location == f"request:{ACTIVE.id}"
    assert request_of(permit.rule) == ACTIVE.id
    assert request_of(RuleRef(RuleKind.GRANT, "/etc/request:7", 3, "a rule")) is None
    assert permit.rule.label == f"access request {ACTIVE.id} approved by corp:lea"
    (matching,) = policy.explain(ANN, CONSOLE_OPEN, PROJECT, SERVER, NOW).matching
    assert matching.ref == permit.rule
    assert [rule.ref for rule in policy.rules_on(CONSOLE_OPEN, PROJECT, SERVER, NOW)] == [
        permit.rule
    ]
    assert policy.scope(ANN, CONSOLE_OPEN, PROJECT, NOW).granted == {SERVER}


def test_policy_knows_when_a_grant_begins_and_ends() -> None:
    policy = a_request_policy(RULE)
    policy = policy.with_requested(grants_of([ACTIVE], policy.request_rules, ()))
    assert policy.unchanged_between(NOW + 1) == (NOW, NOW + HOUR_S)
    locked = policy.with_locks(TargetLocks(servers={OTHER_SERVER: "l"}))
    assert locked.unchanged_between(NOW + 1) == (NOW, NOW + HOUR_S)
    assert locked.decide(ANN, CONSOLE_OPEN, PROJECT, SERVER, NOW).allowed


def test_denial_and_lock_win() -> None:
    denial = a_scope(
        ref=RuleRef(RuleKind.DENIAL, "policy.yaml", 20, "denial"), groups=frozenset({"staff"})
    )
    glass = an_access_request(broken_glass=True, started_at=NOW)
    rule = a_request_rule(break_glass=BREAK_GLASS)
    for request in (ACTIVE, glass):
        assert is_allowed(a_request_policy(rule), request)
        assert not is_allowed(a_request_policy(rule, rules=(denial,)), request)
        policy = a_request_policy(rule)
        policy = policy.with_requested(grants_of([request], policy.request_rules, ()))
        policy = policy.with_locks(TargetLocks(servers={SERVER: "l"}))
        assert not policy.decide(ANN, CONSOLE_OPEN, PROJECT, SERVER, NOW).allowed


@pytest.mark.parametrize(
    "rules",
    [
        (),
        (a_request_rule(name="renamed"),),
        (a_request_rule(role="other"),),
        (a_request_rule(for_max_s=HOUR_S - 1),),
        (a_request_rule(approvals=2),),
        (a_request_rule(ticket_required=True),),
        (a_request_rule(approvers=Approvers(None, frozenset(), frozenset({"bosses"}))),),
        (a_request_rule(scope=a_scope(projects=frozenset({"other"}))),),
        (a_request_rule(scope=a_scope(servers=frozenset({OTHER_SERVER}))),),
        (a_request_rule(scope=a_scope(excluded_servers=frozenset({SERVER}))),),
        (a_request_rule(scope=a_scope(groups=frozenset({"ops"}))),),
        (a_request_rule(scope=a_scope(valid_until=NOW)),),
    ],
)
def test_rule_in_force_must_still_allow_all_of_it(rules: tuple[RequestRule, ...]) -> None:
    assert is_allowed(a_request_policy(RULE), ACTIVE)
    assert not is_allowed(a_request_policy(*rules), ACTIVE)


def test_break_glass_ends_when_the_rule_has_none() -> None:
    glass = an_access_request(broken_glass=True, started_at=NOW)
    assert is_allowed(a_request_policy(a_request_rule(break_glass=BREAK_GLASS)), glass)
    assert not is_allowed(a_request_policy(RULE), glass)


def test_selector_decides_at_the_time_of_access() -> None:
    rule = a_request_rule(scope=a_scope(selector=Selector(tags=(("env", frozenset({"test"})),))))
    policy = a_request_policy(rule)

    def inventory(env: str) -> Inventory:
        known = {SERVER: Attributes(frozenset({("env", env)}))}
        return Inventory(known, taken_at=NOW, good_until=9e9)

    assert is_allowed(policy, ACTIVE, inventory=inventory("test"))
    assert not is_allowed(policy, ACTIVE, inventory=inventory("prod"))
    assert not is_allowed(policy, ACTIVE)


def test_ended_id_gives_nothing_whatever_a_copy_says() -> None:
    assert not is_allowed(a_request_policy(RULE), ACTIVE, ended=frozenset({ACTIVE.id}))


def test_second_approval_by_the_same_person_is_refused() -> None:
    rule = a_request_rule(approvals=2)
    once = approve(an_access_request(), rule=rule)
    assert once.state(NOW) == "pending"
    with pytest.raises(AccessRequestConflict, match="another person"):
        approve(once, rule=rule)
    twice = approve(once, LEO, rule=rule)
    assert twice.state(NOW) == "active"
    assert twice.version == 3
    with pytest.raises(AccessRequestConflict, match="is active"):
        approve(twice, person("lou", "leads"), rule=rule)


def test_requester_cannot_approve_or_deny() -> None:
    boss = person("ann", "staff", "leads")
    with pytest.raises(AccessRequestForbidden, match="own request"):
        approve(an_access_request(), boss)
    with pytest.raises(AccessRequestForbidden, match="own request"):
        steps.deny(an_access_request(), RULE, boss, NOW, "")


def test_same_person_of_a_second_issuer_cannot_approve() -> None:
    rule = a_request_rule(approvers=Approvers("other", frozenset(), frozenset({"leads"})))
    made = an_access_request()
    for by, claim in (("", ""), ("ann@example.com", ""), ("", "ann@example.com")):
        requester = changed(made.requester, claim=by)
        approver = person("a.smith", "leads", issuer="other", claim=claim)
        with pytest.raises(AccessRequestForbidden, match="person_claim"):
            approve(changed(made, requester=requester), approver, rule=rule)
    requester = changed(made.requester, claim="ann@example.com")
    made = changed(made, requester=requester)
    same = person("a.smith", "leads", issuer="other", claim="Ann@Example.com")
    with pytest.raises(AccessRequestForbidden, match="person_claim"):
        approve(made, same, rule=rule)
    other = person("lea", "leads", issuer="other", claim="lea@example.com")
    active = approve(made, other, rule=rule)
    assert is_allowed(a_request_policy(rule), active)


def test_account_of_the_approver_in_another_issuer_is_not_a_second_person() -> None:
    rule = a_request_rule(approvals=2)
    once = approve(an_access_request(), person("lea", "leads", claim="lea"), rule=rule)
    with pytest.raises(AccessRequestConflict, match="another person"):
        approve(once, person("lea2", "leads", claim="lea"), rule=rule)


def test_approver_of_the_wrong_issuer_or_without_the_group_is_refused() -> None:
    rule = a_request_rule(approvers=Approvers("corp", frozenset(), frozenset({"leads"})))
    for by in (person("lea"), person("lea", "leads", issuer="other", claim="l")):
        with pytest.raises(AccessRequestForbidden, match="not an approver"):
            approve(an_access_request(), by, rule=rule)


def test_approval_after_expiry_is_refused() -> None:
    request = an_access_request()
    with pytest.raises(AccessRequestConflict, match="is expired"):
        approve(request, now=request.pending_until)


def test_approval_of_something_else_is_refused() -> None:
    request = an_access_request()
    longer = changed(request, duration_s=2 * HOUR_S)
    with pytest.raises(AccessRequestConflict, match="hash"):
        approve(longer, content_hash=request.content_hash)


@pytest.mark.parametrize(
    "change",
    [
        {"duration_s": 2 * HOUR_S},
        {"servers": (OTHER_SERVER,)},
        {"reason": "other"},
        {"role": "root"},
        {"ticket": "T-1"},
        {"id": "1" * 32},
        {"requester": changed(an_access_request().requester, subject="eve")},
    ],
)
def test_change_between_two_approvals_voids_the_first(change: dict[str, Any]) -> None:
    rule = a_request_rule(approvals=2, role=change.get("role", "op"))
    once = approve(an_access_request(), rule=a_request_rule(approvals=2))
    twice = approve(changed(once, **change), LEO, rule=rule)
    assert twice.started_at is None
    forged = changed(twice, started_at=NOW)
    assert not is_allowed(
        a_request_policy(rule), forged, server=forged.servers[0], who=person("eve", "staff")
    )
    assert not is_allowed(a_request_policy(rule), forged, server=forged.servers[0])


def test_approval_after_the_rule_has_gone_is_refused() -> None:
    with pytest.raises(AccessRequestForbidden):
        approve(an_access_request(), rule=None)
    with pytest.raises(AccessRequestConflict, match="no longer allows"):
        approve(an_access_request(), rule=a_request_rule(for_max_s=60.0))


@pytest.mark.parametrize("step", ["deny", "withdraw", "end"])
def test_closed_request_takes_no_further_step(step: str) -> None:
    request = an_access_request()
    closed = {
        "deny": lambda: steps.deny(request, RULE, LEA, NOW, "no"),
        "withdraw": lambda: steps.withdraw(request, ANN, NOW, ""),
        "end": lambda: steps.end(ACTIVE, RULE, ANN, NOW + 60, "done"),
    }[step]()
    assert not closed.is_open(NOW)
    assert not is_allowed(a_request_policy(RULE), closed, now=NOW + 61)
    with pytest.raises(AccessRequestConflict):
        approve(closed, LEO)
    with pytest.raises(AccessRequestConflict):
        steps.withdraw(closed, ANN, NOW, "")
    with pytest.raises(AccessRequestConflict):
        steps.end(closed, RULE, LEA, NOW, "")


def test_access_is_ended_by_requester_and_approvers_only() -> None:
    assert steps.end(ACTIVE, RULE, LEO, NOW, "").state(NOW) == "revoked"
    with pytest.raises(AccessRequestForbidden):
        steps.end(ACTIVE, RULE, person("eve", "staff"), NOW, "")
    with pytest.raises(AccessRequestForbidden):
        steps.withdraw(an_access_request(), LEA, NOW, "")


def test_encoding_round_trips_and_rejects_other_text() -> None:
    assert decode_request(encode_request(ACTIVE)) == ACTIVE
    for text in (b"", b"{}", b"\xff", encode_request(ACTIVE)[:-2]):
        with pytest.raises(ValueError, match="is not an access request"):
            decode_request(text)


def test_later_version_counts_and_of_equal_ones_the_closed_one() -> None:
    denied = steps.deny(an_access_request(), RULE, LEO, NOW, "")
    assert ACTIVE.version == denied.version
    assert denied.is_newer_than(ACTIVE)
    assert not ACTIVE.is_newer_than(denied)
    assert ACTIVE.is_newer_than(an_access_request())
