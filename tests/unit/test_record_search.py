"""The bounded search of the audit directory for the admin API."""

from collections.abc import Iterable
from pathlib import Path

import orjson
import pytest

from gateway.domain.audit.chain import (
    CHAIN_OPENED,
    Head,
    Signer,
    checkpoint_body,
    empty_head,
    encode_body,
    link_lines,
    segment_opened_body,
)
from gateway.domain.audit.search import FoundRecord, RecordFilter
from gateway.domain.errors import AuditLogUnavailable
from gateway.drivers.audit.record_search import RecordSearch

PEOPLE = ("olga", "victor")
SIGNER = Signer("key-1", lambda payload: b"signed " + payload)
OTHER = Signer("key-2", lambda payload: b"other " + payload)
KEYS = {"key-1": lambda signature, payload: signature == SIGNER.sign(payload)}
ALL = RecordFilter(since=0.0)


class Chain:
    """A chain whose record number N is of the time N, alternately of olga and victor."""

    def __init__(self, directory: Path, name: str = "a") -> None:
        self.directory = directory / f"chain-{name}"
        self.directory.mkdir(parents=True)
        self._head: Head = empty_head(name)
        self._segment = 0

    def add(
        self, times: Iterable[int], *, signer: Signer | None = None, signs_end: bool = True
    ) -> Path:
        """Write a segment with records of these times; return its file.

        With a signer it has checkpoints, as the gateway writes them: at its beginning and end.
        """
        self._segment += 1
        found = [*times]
        bodies = [segment_opened_body(self._segment, float(found[0]))]
        if signer is not None:
            self._write(bodies)
            bodies = [checkpoint_body(self._head, float(found[0]), signer, next_within_s=100.0)]
        bodies += [
            encode_body(
                {"event": "refused", "at": float(at), "subject": PEOPLE[at % 2], "issuer": "corp"}
            )
            for at in found
        ]
        self._write(bodies)
        if signer is not None and signs_end:
            self._write([checkpoint_body(self._head, float(found[-1]), signer)])
        return self._file

    @property
    def _file(self) -> Path:
        return self.directory / f"segment-{self._segment:08}.jsonl"

    def _write(self, bodies: Iterable[bytes]) -> None:
        lines, self._head = link_lines(self._head, bodies)
        with self._file.open("ab") as opened:
            opened.writelines(lines)


def times(found: list[FoundRecord]) -> list[float]:
    return [one.at for one in found]


async def proofs(directory: Path, wanted: RecordFilter = ALL) -> tuple[dict[int, str], bool]:
    """Return the proof of each record by its time, and whether the log is intact."""
    found = await RecordSearch(directory, KEYS).search(wanted, records_max=500)
    return {int(one.at): one.proof.value for one in found.records}, found.is_intact


async def test_search_returns_the_newest_first(tmp_path: Path) -> None:
    first, second = Chain(tmp_path, "a"), Chain(tmp_path, "b")
    for chain, starts in ((first, (10, 30)), (second, (20, 40))):
        for start in starts:
            chain.add(range(start, start + 10))
    wanted = RecordFilter(subject="olga", since=15.0, until=45.0)
    found = await RecordSearch(tmp_path, {}).search(wanted, records_max=100)
    assert times(found.records) == [float(at) for at in range(44, 15, -2)]
    assert found.is_complete
    assert found.is_intact
    few = await RecordSearch(tmp_path, {}).search(wanted, records_max=3)
    assert times(few.records) == [44.0, 42.0, 40.0]
    assert not few.is_complete


async def test_search_reads_a_bounded_number_of_bytes(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    size = chain.add(range(100)).stat().st_size
    chain.add(range(100, 200))
    everything = RecordFilter(since=0.0)
    found = await RecordSearch(tmp_path, {}, bytes_max=size // 2).search(
        everything, records_max=500
    )
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
    found = await RecordSearch(tmp_path, {}).search(wanted, records_max=100)
    assert times(found.records) == [14.0, 13.0, 12.0]
    assert found.is_intact


@pytest.mark.parametrize("segment", [0, 1])
async def test_search_notices_a_changed_line(tmp_path: Path, segment: int) -> None:
    chain = Chain(tmp_path)
    files = [chain.add(range(10)), chain.add(range(10, 20))]
    changed = files[segment].read_bytes().replace(b'"victor"', b'"mallet"')
    files[segment].write_bytes(changed)
    found = await RecordSearch(tmp_path, {}).search(RecordFilter(since=0.0), records_max=100)
    assert not found.is_intact


async def test_partial_last_line_is_no_damage(tmp_path: Path) -> None:
    file = Chain(tmp_path).add(range(10))
    file.write_bytes(file.read_bytes() + b'{"chain":"a","seq":12')
    found = await RecordSearch(tmp_path, {}).search(RecordFilter(since=0.0), records_max=100)
    assert (len(found.records), found.is_intact) == (10, True)


async def test_empty_and_unreadable_directories(tmp_path: Path) -> None:
    found = await RecordSearch(tmp_path, {}).search(RecordFilter(), records_max=10)
    assert (found.records, found.is_complete, found.is_intact) == ([], True, True)
    (tmp_path / "chain-a").mkdir()
    (tmp_path / "chain-a" / "segment-00000001.jsonl").mkdir()
    with pytest.raises(AuditLogUnavailable):
        await RecordSearch(tmp_path, {}).search(RecordFilter(), records_max=10)


async def test_records_before_a_checkpoint_are_signed(tmp_path: Path) -> None:
    """Those after the last one are not signed yet."""
    chain = Chain(tmp_path)
    chain.add(range(10), signer=SIGNER)
    assert await proofs(tmp_path) == (dict.fromkeys(range(10), "signed"), True)
    chain.add(range(10, 20), signer=SIGNER, signs_end=False)
    new = dict.fromkeys(range(10), "signed") | dict.fromkeys(range(10, 20), "not_signed_yet")
    assert await proofs(tmp_path) == (new, True)


async def test_next_segment_signs_the_end_of_one(tmp_path: Path) -> None:
    """Also where its records are later than the search."""
    chain = Chain(tmp_path)
    chain.add(range(10), signer=SIGNER, signs_end=False)
    chain.add(range(10, 20), signer=SIGNER, signs_end=False)
    chain.add(range(20, 30), signer=SIGNER, signs_end=False)
    assert set((await proofs(tmp_path))[0].values()) == {"signed", "not_signed_yet"}
    wanted = RecordFilter(since=0.0, until=5.0)
    assert await proofs(tmp_path, wanted) == (dict.fromkeys(range(5), "signed"), True)


@pytest.mark.parametrize(
    ("signer", "proof"), [(OTHER, "unknown_key"), (None, "not_signed_yet")], ids=["other", "none"]
)
async def test_records_of_another_key_are_named(
    tmp_path: Path, signer: Signer | None, proof: str
) -> None:
    Chain(tmp_path).add(range(4), signer=signer)
    assert await proofs(tmp_path) == (dict.fromkeys(range(4), proof), True)


async def test_checkpoint_without_a_signature_proves_nothing(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.add(range(4))
    chain._write([checkpoint_body(chain._head, 5.0, None)])
    assert await proofs(tmp_path) == (dict.fromkeys(range(4), "unsigned"), True)


async def test_changed_record_is_shown_as_broken(tmp_path: Path) -> None:
    """Records after it are proven by the next checkpoint, those of other segments as well."""
    chain = Chain(tmp_path)
    chain.add(range(10), signer=SIGNER)
    file = chain.add(range(10, 20), signer=SIGNER)
    chain.add(range(20, 25), signer=SIGNER)
    line = next(one for one in file.read_bytes().splitlines() if orjson.loads(one)["at"] == 14.0)
    assert b'"olga"' in line
    file.write_bytes(file.read_bytes().replace(line, line.replace(b'"olga"', b'"mike"')))
    found, is_intact = await proofs(tmp_path)
    assert not is_intact
    assert {at for at, proof in found.items() if proof == "broken"} == set(range(10, 15))
    assert {proof for at, proof in found.items() if at not in range(10, 15)} == {"signed"}
    mike = RecordFilter(subject="mike", since=0.0)
    assert await proofs(tmp_path, mike) == ({14: "broken"}, False)


async def test_forged_records_are_not_proven(tmp_path: Path) -> None:
    """Neither with a made-up signature, nor without one after the time of the next checkpoint."""
    chain = Chain(tmp_path, "a")
    chain.add(range(5), signer=Signer("key-1", lambda _: b"made up"))
    assert await proofs(tmp_path) == (dict.fromkeys(range(5), "broken"), False)
    late = Chain(tmp_path / "other", "b")
    late.add([0, 99, 100, 101, 500], signer=SIGNER, signs_end=False)
    found, is_intact = await proofs(tmp_path / "other")
    expected = {0: "not_signed_yet", 99: "not_signed_yet", 100: "not_signed_yet"}
    assert found == {**expected, 101: "broken", 500: "broken"}
    assert not is_intact


async def test_line_that_is_no_record_leaves_the_others(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    file = chain.add(range(6), signer=SIGNER)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[4] = b'{"at":"olga","servers":7,"event":["refused"]}\n'  # was 2
    file.write_bytes(b"".join(lines))
    found, is_intact = await proofs(tmp_path)
    assert found == {0: "broken", 1: "broken", 3: "signed", 4: "signed", 5: "signed"}
    assert not is_intact


async def test_segment_without_a_readable_beginning_hides_no_older_ones(tmp_path: Path) -> None:
    """The search ends there, and says that there are more records."""
    chain = Chain(tmp_path)
    chain.add(range(10))
    file = chain.add(range(10, 20))
    file.write_bytes(b"x" + file.read_bytes())
    found = await RecordSearch(tmp_path, KEYS).search(ALL, records_max=100)
    assert (found.is_intact, found.is_complete) == (False, False)


async def test_missing_segment_is_a_broken_place(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.add(range(10), signer=SIGNER, signs_end=False)
    chain.add(range(10, 20), signer=SIGNER).unlink()
    chain.add(range(20, 30), signer=SIGNER)
    found, is_intact = await proofs(tmp_path)
    assert (found[9], found[29], is_intact) == ("broken", "signed", False)


async def test_search_names_the_hosts_that_share_the_directory(tmp_path: Path) -> None:
    for name in ("web-1.example", "web-2.example"):
        chain = Chain(tmp_path, name)
        chain.add(range(5))
        detail = f"process 12 on {name}; removed 3 bytes of an unacknowledged line"
        chain._write([encode_body({"event": CHAIN_OPENED, "at": 6.0, "detail": detail})])
    found = await RecordSearch(tmp_path, KEYS).search(ALL, records_max=10)
    assert found.hosts == {"web-1.example", "web-2.example"}
