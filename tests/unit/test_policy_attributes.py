"""Rules by attributes: decisions, caching, and agreement with a naive reading."""

import gc
import weakref

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import NotPermitted
from gateway.domain.model import (
    Operation,
    Principal,
    ProjectId,
    ResolvedCall,
    RuleKind,
    RuleRef,
    ServerId,
)
from gateway.domain.policy.inventory import (
    NO_INVENTORY,
    Attributes,
    Inventory,
    InventorySnapshot,
    parse_snapshot,
)
from gateway.domain.policy.policy import PERMITS_MAX, Policy
from gateway.domain.policy.rules import Rule
from gateway.domain.policy.selectors import Selector

P1, P2 = ProjectId("p1"), ProjectId("p2")
SERVERS = [ServerId(f"s{i}") for i in range(6)]
ANN = Principal("corp", "ann", frozenset({"ops"}), 0.0, 9e9, None)
READ = "server:read"
NOW = 1_000.0


def tags(**pairs: str) -> Attributes:
    return Attributes(frozenset(pairs.items()))


def selecting(**pairs: str) -> Selector:
    return Selector(tags=tuple((key, frozenset({value})) for key, value in pairs.items()))


def rule(kind: RuleKind = RuleKind.GRANT, line: int = 1, **changed: object) -> Rule:
    made = Rule(
        RuleRef(kind, "policy.yaml", line, f"rule {line}"),
        permissions=frozenset({READ}),
        issuer=None,
        users=frozenset({"ann"}),
        groups=frozenset(),
        projects=frozenset(),
        servers=frozenset(),
    )
    return msgspec.structs.replace(made, **changed)


def inventory(**known: Attributes) -> Inventory:
    servers = {ServerId(name): one for name, one in known.items()}
    return Inventory(servers, taken_at=NOW, good_until=NOW + 600)


def allows(policy: Policy, server: str | None, known: Inventory, now: float = NOW) -> bool:
    server_id = None if server is None else ServerId(server)
    return policy.decide(ANN, READ, P1, server_id, now, known).allowed


PROD_NOT_DB = [
    rule(selector=selecting(env="prod")),
    rule(RuleKind.DENIAL, 2, selector=selecting(tier="db")),
]
KNOWN = inventory(s0=tags(env="prod", tier="web"), s1=tags(env="prod", tier="db"), s2=tags())


def test_grant_and_denial_by_tags() -> None:
    policy = Policy(PROD_NOT_DB, version="v")
    assert [allows(policy, server, KNOWN) for server in ("s0", "s1", "s2", "s3")] == [
        True, False, False, False,
    ]  # fmt: skip


def test_expired_inventory_grants_nothing_and_denies() -> None:
    everywhere = rule(line=3)
    policy = Policy([everywhere, PROD_NOT_DB[1]], version="v")
    assert allows(policy, "s0", KNOWN, NOW + 599)
    assert not allows(policy, "s0", KNOWN, NOW + 600)
    assert not allows(policy, "s0", NO_INVENTORY)
    assert not allows(policy, "s5", KNOWN), "an unknown server may be the denied one"
    granting = Policy([PROD_NOT_DB[0]], version="v")
    assert allows(granting, "s0", KNOWN, NOW + 599)
    assert not allows(granting, "s0", KNOWN, NOW + 600)


def test_attribute_grant_is_not_a_grant_on_everything() -> None:
    assert not allows(Policy([PROD_NOT_DB[0]], version="v"), None, KNOWN)
    assert not allows(Policy([rule(), PROD_NOT_DB[1]], version="v"), None, KNOWN)


def test_permit_is_decided_again_for_new_inventory() -> None:
    policy = Policy([PROD_NOT_DB[0]], version="v")
    call = ResolvedCall(Operation("Show", "GET", "/x", READ), P1, (ServerId("s0"),))
    assert policy.permit(ANN, call, NOW, KNOWN) is policy.permit(ANN, call, NOW + 1, KNOWN)
    with pytest.raises(NotPermitted):
        policy.permit(ANN, call, NOW, inventory(s0=tags(env="test")))
    policy.permit(ANN, call, NOW, KNOWN)
    with pytest.raises(NotPermitted):
        policy.permit(ANN, call, NOW + 600, KNOWN)


def test_unknown_attribute_denies_and_grants_nothing() -> None:
    on_b1 = Selector(models=frozenset({"B1"}))
    but_b1 = Selector(tags=(("env", frozenset({"prod"})),), excluded=on_b1)
    known = inventory(
        s0=msgspec.structs.replace(tags(env="prod"), model="B2"),
        s1=tags(env="prod"),
        s2=Attributes(model="B2"),
    )
    denied = Policy([rule(), rule(RuleKind.DENIAL, 2, selector=on_b1)], version="v")
    assert [allows(denied, one, known) for one in ("s0", "s1", "s2")] == [True, False, True]
    granted = Policy([rule(selector=but_b1)], version="v")
    assert [allows(granted, one, known) for one in ("s0", "s1", "s2")] == [True, False, False]


def test_permit_without_attribute_rules_survives_a_poll() -> None:
    bob = Principal("corp", "bob", frozenset(), 0.0, 9e9, None)
    of_bob = rule(line=3, users=frozenset({"bob"}))
    policy = Policy([PROD_NOT_DB[0], of_bob], version="v")
    call = ResolvedCall(Operation("Show", "GET", "/x", READ), P1, (ServerId("s0"),))
    anns, bobs = policy.permit(ANN, call, NOW, KNOWN), policy.permit(bob, call, NOW, KNOWN)
    polled = inventory(s0=tags(env="prod"))
    assert policy.permit(bob, call, NOW, polled) is bobs
    assert policy.permit(bob, call, NOW + 601, polled) is bobs
    assert policy.permit(ANN, call, NOW, polled) is not anns


def test_evicted_permits_release_their_principals() -> None:
    policy = Policy([rule()], version="v")
    call = ResolvedCall(Operation("Show", "GET", "/x", READ), P1, (ServerId("s0"),))

    class Someone(Principal):
        """A principal that allows weak references."""

    def come() -> Principal:
        someone = Someone("corp", "ann", frozenset(), 0.0, 9e9, None)
        policy.permit(someone, call, NOW)
        return someone

    first, second = weakref.ref(come()), come()
    stored = policy.permit(second, call, NOW)
    for _ in range(PERMITS_MAX - 2):
        come()
    assert first() is not None
    come()
    assert first() is None
    assert policy.permit(second, call, NOW) is stored


def test_cached_permit_does_not_retain_inventory() -> None:
    policy = Policy([PROD_NOT_DB[0]], version="v")
    call = ResolvedCall(Operation("Show", "GET", "/x", READ), P1, (ServerId("s0"),))

    class Servers(dict[ServerId, Attributes]):
        """A mapping that allows weak references."""

    servers = Servers({ServerId("s0"): tags(env="prod")})
    policy.permit(ANN, call, NOW, Inventory(servers, taken_at=NOW, good_until=NOW + 600))
    seen = weakref.ref(servers)
    del servers
    gc.collect()
    assert seen() is None


_attributes = st.builds(
    tags, env=st.sampled_from(["prod", "test"]), tier=st.sampled_from(["web", "db"])
) | st.just(Attributes())
_selectors = st.one_of(
    st.builds(selecting, env=st.sampled_from(["prod", "test"])),
    st.builds(selecting, tier=st.sampled_from(["web", "db"])),
    st.builds(
        lambda chosen, omitted: Selector(tags=chosen.tags, excluded=omitted),
        st.builds(selecting, env=st.just("prod")),
        st.builds(selecting, tier=st.sampled_from(["web", "db"])),
    ),
)


@st.composite
def rules(draw: st.DrawFn) -> list[Rule]:
    def one(line: int) -> Rule:
        return rule(
            draw(st.sampled_from(RuleKind)),
            line,
            projects=frozenset(draw(st.sets(st.sampled_from([P1, P2]), max_size=1))),
            servers=frozenset(draw(st.sets(st.sampled_from(SERVERS), max_size=2))),
            selector=draw(st.none() | _selectors),
            excluded_projects=frozenset(draw(st.sets(st.sampled_from([P1, P2]), max_size=1))),
            excluded_servers=frozenset(draw(st.sets(st.sampled_from(SERVERS), max_size=2))),
            valid_until=draw(st.sampled_from([NOW, NOW + 9e9])),
        )

    return [one(line) for line in range(draw(st.integers(0, 5)))]


def allowed_by_naive_reading(
    all_rules: list[Rule], server: ServerId | None, known: Attributes | None
) -> bool:
    """Evaluate the rules one by one as documented, denials first."""

    def is_on(one: Rule) -> bool:
        if one.projects and P1 not in one.projects:
            return False
        if P1 in one.excluded_projects or server in one.excluded_servers:
            return False
        if server is None:
            is_part = one.projects or one.servers or one.excluded_projects or one.excluded_servers
            return one.ref.kind is RuleKind.DENIAL or not is_part
        return not one.servers or server in one.servers

    def fits(one: Rule) -> bool:
        if one.selector is None:
            return True
        if known is None:
            return one.ref.kind is RuleKind.DENIAL
        return one.selector.matches(known, if_unknown=one.ref.kind is RuleKind.DENIAL)

    holding = [one for one in all_rules if one.valid_until > NOW and is_on(one) and fits(one)]
    kinds = {one.ref.kind for one in holding}
    return RuleKind.DENIAL not in kinds and RuleKind.GRANT in kinds


@given(rules(), st.dictionaries(st.sampled_from(SERVERS), _attributes), st.booleans())
def test_decisions_and_scope_agree_with_naive_reading(
    some: list[Rule],
    known: dict[ServerId, Attributes],
    is_old: bool,  # noqa: FBT001
) -> None:
    policy = Policy(some, version="v")
    stored = parse_snapshot(InventorySnapshot(known, taken_at=0.0, took_s=0.0).to_json()).servers
    cached_value = Inventory(stored, taken_at=0.0, good_until=NOW if is_old else NOW + 1)
    scope = policy.scope(ANN, READ, P1, NOW, cached_value)
    candidates = scope.candidates
    for server in SERVERS:
        expected = allowed_by_naive_reading(some, server, cached_value.attributes(server, NOW))
        assert policy.decide(ANN, READ, P1, server, NOW, cached_value).allowed == expected
        assert scope.allows(server) == scope.predicate(server) == expected
        if expected:
            assert scope.rule is not None
            assert candidates is None or server in candidates
        if scope.total:
            assert expected
    assert policy.decide(
        ANN, READ, P1, None, NOW, cached_value
    ).allowed == allowed_by_naive_reading(some, None, None)
    if scope.total:
        assert scope.allows(ServerId("never heard of"))
