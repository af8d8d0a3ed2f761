"""List responses contain the visible entries and reveal no hidden ones."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.catalogue.listing import ListPage, ListPageReader, page_target, visible_entries
from gateway.domain.errors import BadRequest, UpstreamBroken
from gateway.domain.model import Listing, Operation, Paging, ProjectId, ResolvedCall, ServerId

SERVERS = Listing("servers", "id", Paging.MARKER)
ALARMS = Listing("alarms", "metric.dimensions.value", Paging.OFFSET, limit_min=1)


def uuid(i: int) -> str:
    return f"{i:08x}-2222-4333-8444-555555555555"


def call(listing: Listing = SERVERS, **query: str) -> ResolvedCall:
    operation = Operation("List", "GET", "/servers", "server:read", listing=listing)
    return ResolvedCall(operation, ProjectId("p"), (), "/v1/p/servers", tuple(query.items()))


def page(*entries: Any, **around: Any) -> ListPage:
    return ListPageReader(SERVERS)(json.dumps({"servers": entries, **around}).encode())


def servers(count: int) -> list[dict[str, Any]]:
    return [{"id": uuid(i), "name": f"bms-{i}", "future": {"field": i}} for i in range(count)]


def filtered(pages: list[ListPage], may_see: set[str], request: ResolvedCall) -> Any:
    return json.loads(visible_entries(pages, lambda server: server in may_see).encode_page(request))


def test_entries_keep_every_byte() -> None:
    entry = '{ "id" : "' + uuid(1) + '", "big":18446744073709551617,"f":1.0e0 , "x":"\\u00e9\\/" }'
    read = ListPageReader(SERVERS)(f'{{"servers":[{entry}],"count":1}}'.encode())
    assert entry.encode() in visible_entries([read], lambda _: True).encode_page(call())


def test_counts_and_markers_cover_visible_entries_only() -> None:
    pages = [page(*servers(40), count=40, page_info={"next_marker": None, "current_count": 40})]
    seen = {uuid(i) for i in range(0, 40, 3)}
    first = filtered(pages, seen, call())
    assert [one["id"] for one in first["servers"]] == [uuid(i) for i in range(0, 30, 3)]
    assert first["count"] == 14
    assert first["page_info"] == {
        "next_marker": uuid(27),
        "previous_marker": None,
        "current_count": 10,
    }
    second = filtered(pages, seen, call(marker=uuid(27)))
    assert [one["id"] for one in second["servers"]] == [uuid(i) for i in (30, 33, 36, 39)]
    assert second["page_info"]["next_marker"] is None


def test_unknown_envelope_member_is_dropped() -> None:
    read = page(*servers(3), count=3, total_hidden=2, next=uuid(2))
    assert set(filtered([read], {uuid(0)}, call())) == {"servers", "count"}


@pytest.mark.parametrize("marker", [uuid(1), uuid(99), "x", uuid(0)[:-1]])
def test_hidden_and_unknown_markers_are_indistinguishable(marker: str) -> None:
    with pytest.raises(BadRequest, match="marker"):
        filtered([page(*servers(5))], {uuid(0)}, call(marker=marker))


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 10), ("1", 10), ("10", 10), ("11", 11), ("5000", 1000)]
)
def test_limit_follows_the_cloud_api(limit: str | None, expected: int) -> None:
    query = {} if limit is None else {"limit": limit}
    found = filtered([page(*servers(1200))], {uuid(i) for i in range(1200)}, call(**query))
    assert len(found["servers"]) == expected


@pytest.mark.parametrize("limit", ["", "-1", "1.5", "ten", "1e3", "٣", "9" * 20])
def test_non_numeric_limit_is_rejected(limit: str) -> None:
    with pytest.raises(BadRequest, match="limit"):
        filtered([page(*servers(1))], set(), call(limit=limit))


def test_offset_counts_visible_entries() -> None:
    entries = [
        {"n": i, "metric": {"dimensions": [{"name": "server_id", "value": uuid(i % 4)}]}}
        for i in range(20)
    ]
    read = ListPageReader(ALARMS)(json.dumps({"alarms": entries, "count": 20}).encode())
    found = json.loads(
        visible_entries([read], lambda server: server == uuid(1)).encode_page(
            call(ALARMS, offset="2", limit="2")
        )
    )
    assert ([one["n"] for one in found["alarms"]], found["count"]) == ([9, 13], 5)


@pytest.mark.parametrize(
    "metric",
    [
        None,
        {},
        {"dimensions": []},
        {"dimensions": [{"name": "x", "value": "no id"}]},
        {"dimensions": [{"value": uuid(1)}, {"value": uuid(2)}]},
        {"dimensions": "x"},
        7,
    ],
)
def test_entry_of_hidden_or_no_server_is_hidden(metric: Any) -> None:
    read = ListPageReader(ALARMS)(json.dumps({"alarms": [{"metric": metric}]}).encode())
    found = json.loads(
        visible_entries([read], lambda server: server == uuid(1)).encode_page(call(ALARMS))
    )
    assert found == {"alarms": [], "count": 0}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"{}",
        b'{"servers": {}}',
        b'{"servers": [7]}',
        b'{"servers": [{"id": 7}]}',
        b'{"servers": ["x"]}',
        b'{"servers": [], "count": "x"}',
        b'{"servers": [], "page_info": []}',
        b'{"servers": [], "page_info": {"next_marker": 7}}',
        b'{"servers": [',
        b"<html>",
        b"\xff",
    ],
)
def test_malformed_list_raises_upstream_broken(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        ListPageReader(SERVERS)(body)


@pytest.mark.parametrize("entry", [{"id": None}, {}, {"id": ""}])
def test_entry_without_id_is_hidden(entry: dict[str, Any]) -> None:
    found = visible_entries([page(entry, *servers(2))], lambda _: True).encode_page(call())
    assert [one["id"] for one in json.loads(found)["servers"]] == [uuid(0), uuid(1)]


def test_next_page_url_is_read_as_marker() -> None:
    address = "https://cloud.example/v1/p/instances?limit=10&marker=abc-1#x"
    assert page(page_info={"next_marker": address}).next_marker == "abc-1"
    assert page(page_info={"next_marker": "abc-1"}).next_marker == "abc-1"
    assert page(page_info={"next_marker": None}).next_marker == ""


def test_page_target_uses_largest_page_and_filters() -> None:
    request = call(manage_state="in use", limit="10", marker="theirs")
    assert page_target(request) == "/v1/p/servers?manage_state=in%20use&limit=1000"
    assert page_target(request, marker="m").endswith("&limit=1000&marker=m")
    assert page_target(request, offset=7).endswith("&limit=1000&offset=7")


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(0, 60),
    st.integers(0, 10),
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
)
def test_paging_returns_each_visible_entry_once(
    hidden: list[bool], hidden_at_the_end: int, limit_min: int, cuts: list[int]
) -> None:
    entries = servers(len(hidden) + hidden_at_the_end)
    seen = [one["id"] for one, hide in zip(entries, hidden, strict=False) if not hide]
    pages, rest = [], list(entries)
    while rest:
        size = cuts[len(pages) % len(cuts)]
        pages.append(page(*rest[:size], page_info={"next_marker": "m"}, count=len(entries)))
        rest = rest[size:]
    listing = replace(SERVERS, limit=5, limit_min=limit_min)
    walked: list[str] = []
    marker = ""
    while pages:
        query = {"marker": marker} if marker else {}
        found = filtered(pages, set(seen), call(listing, **query))
        here = [one["id"] for one in found["servers"]]
        walked += here
        assert found["count"] == len(seen)
        assert found["page_info"]["current_count"] == len(here)
        marker = found["page_info"]["next_marker"]
        assert (marker is None) == (walked == seen)
        if marker is None:
            break
        assert here
        assert marker in seen
    assert walked == (seen if pages else [])


@given(st.lists(st.booleans(), max_size=30), st.data())
def test_output_is_independent_of_hidden_entries(hidden: list[bool], data: st.DataObject) -> None:
    entries = servers(len(hidden))
    seen = {one["id"] for one, hide in zip(entries, hidden, strict=True) if not hide}
    request = call(replace(SERVERS, limit=4, limit_min=1))
    if seen and data.draw(st.booleans()):
        request = call(request.operation.listing, marker=data.draw(st.sampled_from(sorted(seen))))  # type: ignore[arg-type]
    with_all = page(*entries, count=len(entries), page_info={"next_marker": uuid(999)})
    alone = [one for one in entries if one["id"] in seen]
    with_none = page(*alone, count=len(alone), page_info={"next_marker": None})
    assert filtered([with_all], seen, request) == filtered([with_none], seen, request)


@given(st.lists(st.integers(0, 30), max_size=20), st.sets(st.integers(0, 40)))
def test_candidates_select_the_entries_that_a_search_finds(ids: list[int], seen: set[int]) -> None:
    """Also where a page has several entries of one server."""
    pages = [page(*({"id": uuid(i)} for i in ids[at : at + 5])) for at in range(0, len(ids), 5)]
    may_see = {ServerId(uuid(i)) for i in seen}
    more = may_see | {ServerId(uuid(99))}
    found = visible_entries(pages, may_see.__contains__, more)
    assert found.ids == visible_entries(pages, may_see.__contains__).ids
