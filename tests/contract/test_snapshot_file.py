"""SnapshotFile: the same tests for the fake and for a file on disk."""

import asyncio
import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.drivers.files import snapshot_file
from gateway.drivers.files.snapshot_file import AtomicSnapshotFile
from gateway.flow.snapshot_file import SnapshotFile
from tests.support.snapshot_file import FakeSnapshotFile
from tests.support.waiting import until

log = logging.getLogger("gateway.test")


def on_disk(directory: Path, *, mode: int = 0o600) -> AtomicSnapshotFile:
    return AtomicSnapshotFile(directory / "snapshot.json", log, mode=mode)


def modes_in(directory: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in directory.iterdir()}


@pytest.fixture(params=["fake", "disk"])
def snapshot(request: pytest.FixtureRequest, tmp_path: Path) -> SnapshotFile:
    return FakeSnapshotFile() if request.param == "fake" else on_disk(tmp_path)


async def test_save_updates_the_previous_text(snapshot: SnapshotFile) -> None:
    assert snapshot.load() is None
    await snapshot.save(lambda old: b"first" if old is None else b"not the first")
    assert snapshot.load() == b"first"
    await snapshot.save(lambda old: (old or b"") + b" and second")
    assert snapshot.load() == b"first and second"


async def test_concurrent_saves_in_one_process_all_count(tmp_path: Path) -> None:
    await asyncio.gather(
        *(on_disk(tmp_path).save(lambda old, n=n: (old or b"") + b"%d;" % n) for n in range(50))  # type: ignore[misc]
    )
    saved = (on_disk(tmp_path).load() or b"").split(b";")
    assert sorted(int(one) for one in saved if one) == list(range(50))


_APPEND_FORTY = """
import asyncio, logging, pathlib, sys
from gateway.drivers.files import snapshot_file
from gateway.drivers.files.snapshot_file import AtomicSnapshotFile
log = logging.getLogger("gateway.test")
snapshot = AtomicSnapshotFile(pathlib.Path(sys.argv[1]), log, mode=0o600)
for _ in range(40):
    asyncio.run(snapshot.save(lambda old: (old or b"") + b"x"))
"""


def test_concurrent_saves_of_processes_all_count(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _APPEND_FORTY, str(tmp_path / "snapshot.json")]
    savers = [subprocess.Popen(command) for _ in range(3)]
    assert [saver.wait(60) for saver in savers] == [0, 0, 0]
    assert on_disk(tmp_path).load() == b"x" * 120


async def test_file_mode_is_private_without_leftovers(tmp_path: Path) -> None:
    await on_disk(tmp_path).save(lambda _: b"text")
    assert modes_in(tmp_path) == {"snapshot.json": 0o600, ".snapshot.json.lock": 0o600}


async def test_failed_write_is_logged_and_not_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gateway.test"):
        await on_disk(tmp_path / "missing").save(lambda _: b"text")
    assert [record.message for record in caplog.records] == ["snapshot_write_failed"]


async def test_hung_write_is_logged_and_blocks_no_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_file, "_SLOW_AFTER_S", 0.1)
    lock = os.open(tmp_path / ".snapshot.json.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    file = on_disk(tmp_path)
    with caplog.at_level(logging.WARNING, "gateway.test"):
        saving = [asyncio.create_task(file.save(lambda _: b"text")) for _ in range(50)]
        await until(lambda: caplog.records)
        assert not any(one.done() for one in saving)
        async with asyncio.timeout(60):
            assert await asyncio.to_thread(file.load) is None
    assert {record.message for record in caplog.records} == {"snapshot_write_failed"}
    os.close(lock)
    await asyncio.gather(*saving)
    assert file.load() == b"text"


async def test_failing_update_keeps_the_old_text(tmp_path: Path) -> None:
    def fail(_: bytes | None) -> bytes:
        raise ValueError("no new text")

    await on_disk(tmp_path).save(lambda _: b"text")
    with pytest.raises(ValueError, match="no new text"):
        await on_disk(tmp_path).save(fail)
    assert on_disk(tmp_path).load() == b"text"
    assert set(modes_in(tmp_path)) == {"snapshot.json", ".snapshot.json.lock"}
