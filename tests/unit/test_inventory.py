"""Server attributes: selectors, unknown attributes, expiry and the stored form."""

import dataclasses
import itertools
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.model import ServerId
from gateway.domain.policy.inventory import (
    NO_INVENTORY,
    Attributes,
    Inventory,
    InventorySnapshot,
    parse_inventory,
    parse_servers,
    parse_snapshot,
)
from gateway.domain.policy.selectors import Location, Selector

S1, S2, S3 = (ServerId(f"{i:08x}-2222-4333-8444-555555555555") for i in (1, 2, 3))
WEB = Attributes(frozenset({("env", "prod"), ("tier", "web")}), "dc-1", "r3", "u7", "B1")
PROD = ("env", frozenset({"prod", "live"}))


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (Selector(), True),
        (Selector(tags=(PROD,)), True),
        (Selector(tags=(PROD, ("tier", frozenset({"web"})))), True),
        (Selector(tags=(PROD, ("tier", frozenset({"db"})))), False),
        (Selector(tags=(("nothing", frozenset({"prod"})),)), False),
        (Selector(locations=(Location(dc="dc-1"),)), True),
        (Selector(locations=(Location(dc="dc-1", rack="r4"), Location(rack="r3"))), True),
        (Selector(locations=(Location(dc="dc-1", rack="r4"),)), False),
        (Selector(locations=(Location(unit="u8"),)), False),
        (Selector(models=frozenset({"B1", "B2"})), True),
        (Selector(models=frozenset({"B2"})), False),
        (Selector(tags=(PROD,), models=frozenset({"B2"})), False),
        (Selector(excluded=Selector(tags=(("tier", frozenset({"db"})),))), True),
        (Selector(excluded=Selector(tags=(("tier", frozenset({"web"})),))), False),
        (Selector(excluded=Selector(tags=(PROD,), models=frozenset({"B9"}))), False),
        (Selector(excluded=Selector(locations=(Location(rack="r3"),))), False),
    ],
)
def test_selector_requires_all_and_excludes_any(
    selector: Selector,
    selected: bool,  # noqa: FBT001
) -> None:
    for if_unknown in (True, False):  # WEB has no unknown attribute
        assert selector.matches(WEB, if_unknown=if_unknown) is selected


def completions(known: Attributes) -> list[Attributes]:
    """Return every complete set of attributes that agrees with the known ones."""
    tag_sets = [frozenset(), frozenset({("env", "prod")}), frozenset({("env", "test")})]
    return [
        Attributes(*parts)
        for parts in itertools.product(
            tag_sets if known.tags is None else [known.tags],
            [known.dc] if known.dc else ["d1", "d2"],
            [known.rack] if known.rack else ["r1", "r2"],
            ["u1"],
            [known.model] if known.model else ["B1", "B2"],
        )
    ]


_plain = st.builds(
    Selector,
    tags=st.sampled_from([(), (("env", frozenset({"prod"})),), (("env", frozenset({"test"})),)]),
    locations=st.sampled_from([(), (Location("d1"),), (Location("d1", "r1"), Location(rack="r2"))]),
    models=st.sampled_from([frozenset(), frozenset({"B1"}), frozenset({"B1", "B2"})]),
)
_selectors = st.builds(
    dataclasses.replace, _plain, excluded=st.none() | _plain.filter(lambda one: one != Selector())
)
_partly_known = st.builds(
    Attributes,
    st.none() | st.sets(st.just(("env", "prod")), max_size=1).map(frozenset),
    *(st.sampled_from(values) for values in (["", "d1"], ["", "r1"], ["u1"], ["", "B1"])),
)


@given(_selectors, _partly_known)
def test_unknown_attributes_never_widen_permissions(selector: Selector, known: Attributes) -> None:
    really = [selector.matches(one, if_unknown=False) for one in completions(known)]
    if selector.matches(known, if_unknown=False):
        assert all(really), "a grant must apply for every value of the unknown attributes"
    if not selector.matches(known, if_unknown=True):
        assert not any(really), (
            "a denial may be skipped only if it applies for no value of the unknown attributes"
        )


@pytest.mark.parametrize(
    "selector",
    [
        Selector(tags=(PROD,)),
        Selector(locations=(Location(dc="dc-1"),)),
        Selector(locations=(Location(rack="r4"), Location(unit="u7"))),
        Selector(models=frozenset({"B1"})),
        Selector(excluded=Selector(tags=(PROD,))),
        Selector(excluded=Selector(locations=(Location(rack="r4"),))),
        Selector(excluded=Selector(models=frozenset({"B2"}))),
    ],
)
def test_unknown_attributes_deny_and_grant_nothing(selector: Selector) -> None:
    assert not selector.matches(Attributes(), if_unknown=False)
    assert selector.matches(Attributes(), if_unknown=True)


def test_empty_tags_differ_from_unknown_tags() -> None:
    not_db = Selector(excluded=Selector(tags=(("tier", frozenset({"db"})),)))
    assert not_db.matches(Attributes(frozenset()), if_unknown=False)
    assert not not_db.matches(Attributes(None), if_unknown=False)


def test_expired_inventory_knows_no_server() -> None:
    inventory = Inventory({S1: WEB}, taken_at=100.0, good_until=700.0)
    assert inventory.attributes(S1, 699.9) is WEB
    assert inventory.attributes(S1, 700.0) is None
    assert inventory.attributes(S2, 100.0) is None
    assert inventory.attributes(None, 100.0) is None
    assert NO_INVENTORY.attributes(S1, 0.0) is None


BARE = Attributes(frozenset())


def test_snapshot_round_trips_with_its_age() -> None:
    web = msgspec.structs.replace(WEB, name="web-01", power="on", health="OK")
    listed = InventorySnapshot({S1: web, S2: BARE, S3: Attributes()}, taken_at=100.0, took_s=2.5)
    assert parse_snapshot(listed.to_json()) == listed
    stored = parse_inventory(listed.to_json(), now=150.0, age_max_s=600.0)
    assert (stored.taken_at, stored.good_until, len(stored)) == (100.0, 700.0, 3)
    assert [stored.attributes(one, 150.0) for one in (S1, S2, S3)] == [web, BARE, Attributes()]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b'{"taken_at": 1, "took_s": 0, "servers": {"x": []}}',
        b'{"taken_at": 1, "servers": {"x": [[], "d", "", "", ""]}}',  # older form
    ],
)
def test_invalid_snapshot_is_rejected(text: bytes) -> None:
    with pytest.raises(ValueError, match="not an inventory"):
        parse_snapshot(text)


def test_snapshot_from_the_future_is_rejected() -> None:
    text = InventorySnapshot({S1: WEB}, taken_at=100.0, took_s=0.0).to_json()
    with pytest.raises(ValueError, match="unknown age"):
        parse_inventory(text, now=99.0, age_max_s=600.0)


def test_attributes_are_parsed_from_list_entries() -> None:
    entry = {
        "id": S1.upper(),
        "tags": [{"key": "env", "value": "prod"}, {"key": "tier", "value": "web"}],
        "location": {"dc": "dc-1", "rack": "r3", "unit": "u7"},
        "hardware_attributes": {"sn": "x", "model": "B1"},
        "power_state": "on",
        "health_state": "OK",
        "future": {},
    }
    bare = {"id": S2, "tags": []}
    untold = {"id": S3, "tags": None, "location": {"dc": None}, "hardware_attributes": None}
    untold |= {"power_state": 7, "health_state": None}
    broken = {"id": "x", "tags": "prod"}
    found = parse_servers(json.dumps(one).encode() for one in (entry, bare, untold, broken))
    assert found == {
        S1: msgspec.structs.replace(WEB, power="on", health="OK"),
        S2: BARE,
        S3: Attributes(),
    }
