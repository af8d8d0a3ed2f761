"""What rules by attributes go by: what was told, how old it is, and who is selected."""

import json

import pytest

from gateway.model import ServerId
from gateway.rules.inventory import (
    NO_INVENTORY,
    Attributes,
    Inventory,
    Place,
    Selector,
    described,
    from_text,
)

S1, S2 = (ServerId(f"{i:08x}-2222-4333-8444-555555555555") for i in (1, 2))
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
        (Selector(places=(Place(dc="dc-1"),)), True),
        (Selector(places=(Place(dc="dc-1", rack="r4"), Place(rack="r3"))), True),
        (Selector(places=(Place(dc="dc-1", rack="r4"),)), False),
        (Selector(places=(Place(unit="u8"),)), False),
        (Selector(models=frozenset({"B1", "B2"})), True),
        (Selector(models=frozenset({"B2"})), False),
        (Selector(tags=(PROD,), models=frozenset({"B2"})), False),
        (Selector(excluded=Selector(tags=(("tier", frozenset({"db"})),))), True),
        (Selector(excluded=Selector(tags=(("tier", frozenset({"web"})),))), False),
        (Selector(excluded=Selector(tags=(PROD,), models=frozenset({"B9"}))), False),
        (Selector(excluded=Selector(places=(Place(rack="r3"),))), False),
    ],
)
def test_a_selector_means_all_of_what_it_names_and_none_of_what_it_excludes(
    selector: Selector,
    selected: bool,  # noqa: FBT001
) -> None:
    assert selector.matches(WEB) is selected


def test_too_old_is_as_good_as_unknown() -> None:
    inventory = Inventory({S1: WEB}, taken_at=100.0, good_until=700.0)
    assert inventory.attributes(S1, 699.9) is WEB
    assert inventory.attributes(S1, 700.0) is None
    assert inventory.attributes(S2, 100.0) is None
    assert inventory.attributes(None, 100.0) is None
    assert NO_INVENTORY.attributes(S1, 0.0) is None


def test_the_text_form_keeps_all_and_says_how_old_it_is() -> None:
    text = Inventory({S1: WEB, S2: Attributes()}, taken_at=100.0, good_until=0.0).as_text()
    read = from_text(text, age_max_s=600.0)
    assert (read.taken_at, read.good_until, len(read)) == (100.0, 700.0, 2)
    assert read.attributes(S1, 100.0) == WEB
    assert read.attributes(S2, 100.0) == Attributes()


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"taken_at": 1, "servers": {"x": []}}'])
def test_what_is_no_inventory_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="no inventory"):
        from_text(text, age_max_s=1.0)


def test_attributes_are_read_from_the_cloud_s_entries() -> None:
    entry = {
        "id": S1.upper(),
        "tags": [{"key": "env", "value": "prod"}, {"key": "tier", "value": "web"}],
        "location": {"dc": "dc-1", "rack": "r3", "unit": "u7"},
        "hardware_attributes": {"sn": "x", "model": "B1"},
        "future": {},
    }
    bare = {"id": S2, "tags": None, "location": None}
    broken = {"id": "x", "tags": "prod"}
    found = described(json.dumps(one).encode() for one in (entry, bare, broken))
    assert found == {S1: WEB, S2: Attributes()}
