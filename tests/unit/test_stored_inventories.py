"""Stored inventories: the index by attributes leaves out no server; readings share memory."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.model import ServerId
from gateway.domain.policy.inventory import (
    Attributes,
    Inventory,
    InventorySnapshot,
    parse_snapshot,
)
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.selectors import Location, Selector
from tests.support.server_world import ANN, PROJECT, a_grant

VALUES = st.sampled_from(["", "a", "b"])
GIVEN = st.sampled_from(["a", "b"])
_attributes = st.builds(
    Attributes,
    tags=st.none() | st.frozensets(st.tuples(GIVEN, GIVEN)),
    dc=VALUES,
    rack=VALUES,
    unit=VALUES,
    model=VALUES,
)
_locations = st.builds(Location, dc=VALUES, rack=VALUES, unit=VALUES)
_selectors = st.builds(
    Selector,
    tags=st.lists(st.tuples(GIVEN, st.frozensets(GIVEN, min_size=1)), max_size=2).map(tuple),
    locations=st.lists(_locations, max_size=2).map(tuple),
    models=st.frozensets(GIVEN),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_attributes, max_size=12), st.lists(_selectors, min_size=1, max_size=2))
def test_candidates_contain_every_allowed_server(
    known: Sequence[Attributes], selectors: Sequence[Selector]
) -> None:
    servers = {ServerId(f"s-{number}"): one for number, one in enumerate(known)}
    stored = parse_snapshot(InventorySnapshot(servers, 0.0, 0.0).to_json()).servers
    inventory = Inventory(stored, taken_at=0.0, good_until=9e9)
    policy = Policy([a_grant("server:read", selector=one) for one in selectors], version="v")
    scope = policy.scope(ANN, "server:read", PROJECT, 1.0, inventory)
    allowed = {one for one in servers if scope.allows(one)}
    assert allowed == {
        one
        for one in servers
        if policy.decide(ANN, "server:read", PROJECT, one, 1.0, inventory).allowed
    }
    candidates = scope.candidates
    assert candidates is None or allowed <= candidates


def test_rack_and_model_are_looked_up() -> None:
    servers = {
        ServerId(f"s-{number}"): Attributes(dc="d", rack=f"r-{number}", model=f"m-{number % 2}")
        for number in range(10)
    }
    stored = parse_snapshot(InventorySnapshot(servers, 0.0, 0.0).to_json()).servers
    inventory = Inventory(stored, taken_at=0.0, good_until=9e9)
    for selector, expected in (
        (Selector(locations=(Location("d", "r-3"), Location(rack="r-4"))), {"s-3", "s-4"}),
        (Selector(locations=(Location("d", "r-3"),), models=frozenset({"m-0"})), {"s-3"}),
        (Selector(models=frozenset({"m-1"})), {"s-1", "s-3", "s-5", "s-7", "s-9"}),
        (Selector(locations=(Location(unit="u"), Location("d"))), None),
    ):
        policy = Policy([a_grant("server:read", selector=selector)], version="v")
        scope = policy.scope(ANN, "server:read", PROJECT, 1.0, inventory)
        assert scope.candidates == expected


def test_readings_share_what_they_have_in_common() -> None:
    servers = {ServerId(f"s-{number}"): Attributes(name=f"web-{number}") for number in range(3)}
    first = parse_snapshot(InventorySnapshot(servers, 1.0, 0.0).to_json())
    before = Inventory(first.servers, taken_at=1.0, good_until=9e9).stored
    same = parse_snapshot(InventorySnapshot(servers, 2.0, 0.5).to_json(), before)
    assert (same.servers, same.taken_at, same.took_s) == (before, 2.0, 0.5)
    changed = {**servers, ServerId("s-1"): Attributes(name="db"), ServerId("s-3"): Attributes()}
    other = parse_snapshot(InventorySnapshot(changed, 3.0, 0.0).to_json(), before)
    assert dict(other.servers) == changed
    after = Inventory(other.servers, taken_at=3.0, good_until=9e9).stored
    assert after.encoded[ServerId("s-0")] is before.encoded[ServerId("s-0")]
    assert after.digest != before.digest
    del changed[ServerId("s-0")]
    fewer = parse_snapshot(InventorySnapshot(changed, 4.0, 0.0).to_json(), after)
    assert dict(fewer.servers) == changed
