"""ConstantMap: the items it was built of, whatever their bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import constant_map
from gateway.domain.constant_map import ConstantMap, build_map

ITEMS = st.dictionaries(st.binary(max_size=20), st.binary(max_size=20), max_size=50)


@given(ITEMS, st.binary(max_size=20))
def test_look_up_agrees_with_a_dict(items: dict[bytes, bytes], other: bytes) -> None:
    found = ConstantMap(memoryview(build_map(items)))
    assert len(found) == len(items)
    for key in (*items, other):
        value = found.get(key)
        assert (None if value is None else bytes(value)) == items.get(key)


def test_keys_of_one_hash_are_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constant_map, "_hash", len)
    items = {key: key * 2 for key in (b"a", b"b", b"c", b"dd")}
    found = ConstantMap(memoryview(build_map(items)))
    assert {key: bytes(found.get(key) or b"") for key in items} == items
    assert found.get(b"e") is None
