"""The bounded search of the audit directory for the admin API."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from gateway.domain.audit.chain import (
    Head,
    empty_head,
    encode_body,
    link_lines,
    segment_opened_body,
)
from gateway.domain.audit.search import RecordFilter
from gateway.domain.errors import AuditLogUnavailable
from gateway.drivers.audit.record_search import RecordSearch

PEOPLE = ("olga", "victor")


class Chain:
    """A chain whose record number N is of the time N, alternately of olga and victor."""

    def __init__(self, directory: Path, name: str = "a") -> None:
        self.directory = directory / f"chain-{name}"
        self.directory.mkdir(parents=True)
        self._head: Head = empty_head(name)
        self._segment = 0

    def add(self, times: Iterable[int]) -> Path:
        """Write a segment with records of these times; return its file."""
        self._segment += 1
        found = [*times]
        bodies = [segment_opened_body(self._segment, float(found[0]))] + [
            encode_body(
                {"event": "refused", "at": float(at), "subject": PEOPLE[at % 2], "issuer": "corp"}
            )
            for at in found
        ]
        lines, self._head = link_lines(self._head, bodies)
        file = self.directory / f"segment-{self._segment:08}.jsonl"
        file.write_bytes(b"".join(lines))
        return file


def times(found: list[dict[str, float]]) -> list[float]:
    return [one["at"] for one in found]


async def test_search_returns_the_newest_first(tmp_path: Path) -> None:
    first, second = Chain(tmp_path, "a"), Chain(tmp_path, "b")
    for chain, starts in ((first, (10, 30)), (second, (20, 40))):
        for start in starts:
            chain.add(range(start, start + 10))
    wanted = RecordFilter(subject="olga", since=15.0, until=45.0)
    found = await RecordSearch(tmp_path).search(wanted, records_max=100)
    assert times(found.records) == [float(at) for at in range(44, 15, -2)]
    assert found.is_complete
    assert found.is_intact
    few = await RecordSearch(tmp_path).search(wanted, records_max=3)
    assert times(few.records) == [44.0, 42.0, 40.0]
    assert not few.is_complete


async def test_search_reads_a_bounded_number_of_bytes(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    size = chain.add(range(100)).stat().st_size
    chain.add(range(100, 200))
    everything = RecordFilter(since=0.0)
    found = await RecordSearch(tmp_path, bytes_max=size // 2).search(everything, records_max=500)
    assert not found.is_complete
    assert found.is_intact
    assert 0 < len(found.records) < 60
    assert times(found.records)[0] == 199.0


async def test_search_skips_segments_outside_the_time(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    old = chain.add(range(10))
    chain.add(range(10, 20))
    new = chain.add(range(20, 30))
    old.write_bytes(old.read_bytes().partition(b"\n")[0] + b"\nnot a record\n")
    new.write_bytes(new.read_bytes().partition(b"\n")[0] + b"\nnot a record\n")
    wanted = RecordFilter(since=12.0, until=15.0)
    found = await RecordSearch(tmp_path).search(wanted, records_max=100)
    assert times(found.records) == [14.0, 13.0, 12.0]
    assert found.is_intact


@pytest.mark.parametrize("segment", [0, 1])
async def test_search_notices_a_changed_line(tmp_path: Path, segment: int) -> None:
    chain = Chain(tmp_path)
    files = [chain.add(range(10)), chain.add(range(10, 20))]
    changed = files[segment].read_bytes().replace(b'"victor"', b'"mallet"')
    files[segment].write_bytes(changed)
    found = await RecordSearch(tmp_path).search(RecordFilter(since=0.0), records_max=100)
    assert not found.is_intact


async def test_partial_last_line_is_no_damage(tmp_path: Path) -> None:
    file = Chain(tmp_path).add(range(10))
    file.write_bytes(file.read_bytes() + b'{"chain":"a","seq":12')
    found = await RecordSearch(tmp_path).search(RecordFilter(since=0.0), records_max=100)
    assert (len(found.records), found.is_intact) == (10, True)


async def test_empty_and_unreadable_directories(tmp_path: Path) -> None:
    found = await RecordSearch(tmp_path).search(RecordFilter(), records_max=10)
    assert (found.records, found.is_complete, found.is_intact) == ([], True, True)
    (tmp_path / "chain-a").mkdir()
    (tmp_path / "chain-a" / "segment-00000001.jsonl").mkdir()
    with pytest.raises(AuditLogUnavailable):
        await RecordSearch(tmp_path).search(RecordFilter(), records_max=10)
