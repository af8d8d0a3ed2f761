"""Hosts that do not share a recording directory list each other's recordings."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.domain.errors import StoreUnavailable
from gateway.domain.model import Secret
from gateway.domain.recordings.model import PartState, RecordingInfo, RecordingQuery
from gateway.domain.recordings.records import RecordKind, json_record, screen_record
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.file_recordings import RecordingFiles, open_recording_part
from gateway.drivers.recordings.recording_directory import delete_removed, mark_removed
from gateway.drivers.recordings.stored_recordings import StoredRecordings
from gateway.drivers.valkey import recording_catalogue
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.recording_catalogue import ValkeyRecordingCatalogue
from gateway.flow.recordings.known_recordings import KnownRecordings
from gateway.flow.recordings.recording_publisher import PASS_EVERY_S, RecordingPublisher
from tests.contract.test_shared_store import a_valkey
from tests.support.clock import FakeClock
from tests.support.recordings import KEY, OTHER_KEY, STARTED_AT, RecordingScene, a_recording
from tests.support.valkey import RealValkey

END = json_record(9_000, RecordKind.END, {"end": "person", "detail": ""})
ONE, TWO = a_recording(1).id, a_recording(2).id
TTL_S = 60.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - another task changes it
            await asyncio.sleep(0.01)


@dataclass
class Host:
    """One host of the gateway."""

    name: str
    scene: RecordingScene
    catalogue: ValkeyRecordingCatalogue

    @property
    def store(self) -> StoredRecordings:
        return StoredRecordings(self.scene.directory, self.scene.keys)

    @property
    def known(self) -> KnownRecordings:
        return KnownRecordings(self.store, self.catalogue, host=self.name)

    def record(self, number: int = 1, **details: object) -> None:
        scene = self.scene
        files = RecordingFiles(scene.directory, scene.keys, scene.index, self.name)
        recording = a_recording(number, **details)
        part = open_recording_part(files, recording, scene.clock.now())
        part.append([screen_record(0, b"x"), END])
        part.close()
        scene.closer.recover(scene.directory.recordings())

    async def info(self, recording: str) -> RecordingInfo:
        found = await self.store.find(recording)
        assert found is not None
        return found

    async def publish(self, recording: str) -> None:
        await self.catalogue.report()
        await self.catalogue.publish(await self.info(recording))


def a_host(valkey: Valkey, root: Path, name: str, key: Secret = KEY, ttl_s: float = TTL_S) -> Host:
    catalogue = ValkeyRecordingCatalogue(valkey, Sealer([key]), host=name, ttl_s=ttl_s)
    return Host(name, RecordingScene(root, clock=SystemClock()), catalogue)


@pytest.fixture
def left(valkey: Valkey, tmp_path: Path) -> Host:
    return a_host(valkey, tmp_path / "left", "left")


@pytest.fixture
def right(valkey: Valkey, tmp_path: Path) -> Host:
    return a_host(valkey, tmp_path / "right", "right")


async def test_recording_of_another_host_is_listed_with_its_host(left: Host, right: Host) -> None:
    left.record(1)
    right.record(2, started_at=STARTED_AT + 60)
    await right.publish(TWO)
    listed = await left.known.list(RecordingQuery(), 10)
    assert listed.is_complete
    assert [(one.details.id, one.is_here) for one in listed.recordings] == [
        (TWO, False),
        (ONE, True),
    ]
    found = await left.known.find(TWO)
    assert found is not None
    assert replace(found, is_here=True, elsewhere=()) == await right.info(TWO)
    assert found.warnings == ("its files are on right, which this replica cannot read",)
    (checked,) = await left.known.check([found])
    assert checked == found
    # The right one has not been published to yet, and knows its own.
    assert [one.is_here for one in (await right.known.list(RecordingQuery(), 10)).recordings] == [
        True
    ]


async def test_query_selects_recordings_of_other_hosts(left: Host, right: Host) -> None:
    right.record(2)
    await right.publish(TWO)
    for query, count in (
        (RecordingQuery(server="s-1", since=STARTED_AT), 1),
        (RecordingQuery(subject="bob"), 0),
        (RecordingQuery(until=STARTED_AT), 0),
        (RecordingQuery(since=STARTED_AT + 1), 0),
        (RecordingQuery(until=STARTED_AT + 1), 1),
    ):
        assert len((await left.known.list(query, 10)).recordings) == count


async def test_pages_have_the_recordings_of_all_hosts_once(
    left: Host, right: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_catalogue, "_BATCH", 2)
    for number in range(1, 13):
        host = left if number % 3 == 0 else right
        host.record(number, started_at=STARTED_AT + 50_000.0 * number)
        await host.publish(a_recording(number).id)
    for host in (left, right):
        listed, query = list[int](), RecordingQuery()
        for _ in range(12):
            page = await host.known.list(query, 2)
            listed += [int(one.details.id, 16) for one in page.recordings]
            assert page.is_complete
            if page.until is None:
                break
            query = RecordingQuery(until=page.until)
        assert listed == [*range(12, 0, -1)]


async def test_shared_volume_has_nothing_elsewhere(
    valkey: Valkey, tmp_path: Path, left: Host
) -> None:
    other = a_host(valkey, tmp_path / "left", "other")
    left.record(1)
    other.record(1)
    await left.publish(ONE)
    await other.publish(ONE)
    for host in (left, other):
        found = await host.known.find(ONE)
        assert found is not None
        assert (found.is_here, found.elsewhere, found.hosts) == (True, (), ["left", "other"])


async def test_session_that_moved_has_parts_on_two_hosts(left: Host, right: Host) -> None:
    left.record(1)
    right.record(1)
    await left.publish(ONE)
    await right.publish(ONE)
    for host, other in ((left, "right"), (right, "left")):
        found = await host.known.find(ONE)
        assert found is not None
        assert (found.is_here, found.elsewhere) == (True, (other,))
        assert found.warnings == (f"more of it is on {other}, which this replica cannot read",)


async def test_entry_of_this_host_without_files_is_ignored(left: Host) -> None:
    left.record(1)
    await left.publish(ONE)
    path = left.scene.directory.find(ONE)
    assert path is not None
    delete_removed(mark_removed(path))
    assert await left.known.find(ONE) is None
    assert (await left.known.list(RecordingQuery(), 10)).recordings == []


async def test_catalogue_is_sealed_bounded_and_expires(
    valkey: Valkey, tmp_path: Path, left: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    left.record(1)
    info = await left.info(ONE)
    foreign = a_host(valkey, tmp_path / "x", "foreign", OTHER_KEY)
    await foreign.catalogue.publish(info)
    assert await left.catalogue.find(ONE) == []
    await left.publish(ONE)
    assert [one.host for one in await left.catalogue.find(ONE)] == ["left"]
    await left.catalogue.remove(ONE)
    assert await left.catalogue.find(ONE) == []
    monkeypatch.setattr(recording_catalogue, "RECORDINGS_MAX", 3)
    for number in range(2, 7):
        details = a_recording(number, started_at=STARTED_AT + number)
        await left.catalogue.publish(replace(info, details=details))
    listed, _ = await left.catalogue.list(RecordingQuery(), 10)
    assert [one.info.details.id for one in listed] == [a_recording(i).id for i in (6, 5, 4)]
    brief = a_host(valkey, tmp_path / "y", "brief", ttl_s=0.2)
    await brief.catalogue.publish(replace(info, details=a_recording(9)))
    await asyncio.sleep(0.3)
    assert await brief.catalogue.find(a_recording(9).id) == []


async def test_without_redis_the_own_recordings_are_listed(
    own_valkey: RealValkey, tmp_path: Path
) -> None:
    valkey = a_valkey(own_valkey)
    assert await valkey.probe()
    host = a_host(valkey, tmp_path, "left")
    host.record(1)
    own_valkey.close()
    listed = await host.known.list(RecordingQuery(), 10)
    assert (len(listed.recordings), listed.is_complete) == (1, False)
    assert await host.known.find(ONE) is not None
    assert await host.known.find(TWO) is None
    with pytest.raises(StoreUnavailable):
        await host.publish(ONE)
    await valkey.close()


async def test_publisher_follows_what_changes(left: Host, right: Host) -> None:
    clock = FakeClock()
    left.record(1)
    publisher = RecordingPublisher(left.store, left.catalogue, clock)
    task = asyncio.create_task(publisher.run())

    async def listed() -> set[str]:
        found = await right.known.list(RecordingQuery(), 10)
        return {one.details.id for one in found.recordings}

    async def until_listed(*names: str) -> None:
        async with asyncio.timeout(30):
            while await listed() != {*names}:  # noqa: ASYNC110 - Redis has it
                await asyncio.sleep(0.01)

    await until_listed(ONE)
    left.record(2)
    publisher.publish_soon(TWO)
    await until_listed(ONE, TWO)
    path = left.scene.directory.find(ONE)
    assert path is not None
    delete_removed(mark_removed(path))
    await clock.advance(PASS_EVERY_S)
    await until_listed(TWO)
    # Redis has lost everything.
    await left.catalogue.remove(TWO)
    publisher.publish_all_soon()
    await until_listed(TWO)
    task.cancel()
    await asyncio.wait({task})


async def test_removal_unpublishes_what_other_hosts_had_of_it(
    valkey: Valkey, tmp_path: Path, left: Host, right: Host
) -> None:
    """A pod before this one, and a replica that shares the directory, have published it, too."""
    pod = a_host(valkey, tmp_path / "left", "old-pod")
    pod.record(1)
    left.record(1)
    right.record(1)
    for host in (pod, left, right):
        await host.publish(ONE)
    publisher = RecordingPublisher(left.store, left.catalogue, FakeClock())
    task = asyncio.create_task(publisher.run())
    later = FakeClock(SystemClock().now() + 7_200.0)
    scene = RecordingScene(tmp_path / "left", clock=later, keep_s=1.0)
    scene.retention.apply()
    removed = scene.retention.take_removed()
    assert removed == {ONE: {("old-pod", 1), ("left", 2)}}
    publisher.unpublish_soon(ONE, removed[ONE])
    async with asyncio.timeout(30):
        while len(await left.catalogue.find(ONE)) > 1:  # noqa: ASYNC110 - Redis has it
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    found = await left.known.find(ONE)
    assert found is not None
    assert (found.is_here, found.elsewhere) == (False, ("right",))


async def test_host_that_reports_no_more_is_named_as_gone(
    left: Host, right: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last part never closes; it is not in progress."""
    right.record(1)
    info = await right.info(ONE)
    open_part = replace(info.parts[0], state=PartState.OPEN, ended_at=None, end="")
    await right.catalogue.publish(replace(info, parts=(open_part,)))
    await right.catalogue.report()
    found = await left.known.find(ONE)
    assert found is not None
    assert (found.gone, found.state) == ((), "in_progress")
    monkeypatch.setattr(recording_catalogue, "REPORTED_S", 0.05)
    await asyncio.sleep(0.1)
    for found in (
        await left.known.find(ONE),
        *(await left.known.list(RecordingQuery(), 10)).recordings,
    ):
        assert found is not None
        assert (found.elsewhere, found.gone, found.state) == (("right",), ("right",), "not_closed")
        (warning,) = found.warnings
        assert warning.endswith("; no gateway reports from right: is the host gone?")


async def test_gateway_reports_each_part_that_begins_and_ends(left: Host) -> None:
    changed: list[str] = []
    async with left.scene.running() as recordings:
        recordings.on_change(changed.append)
        part = await recordings.open_part(a_recording(), print)
        assert changed == [ONE]
        await part.append([screen_record(0, b"x")])
        part.close([END])
        await until(lambda: len(changed) == 2)
    assert changed == [ONE, ONE]
