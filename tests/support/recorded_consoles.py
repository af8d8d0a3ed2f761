"""Replicas that record live consoles in virtual time: a real directory, a disk with faults."""

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.consoles.model import Clipboard
from gateway.domain.consoles.rules import AccountSessions
from gateway.domain.recordings.model import RecordingDetails, RecordingPolicy
from gateway.domain.recordings.records import Record
from gateway.drivers.recordings import open_part
from gateway.drivers.recordings.file_recordings import RecordingFiles, open_recording_part
from gateway.drivers.recordings.open_part import OpenPart, PartFileMissing
from gateway.drivers.recordings.threaded_part import describe
from gateway.flow.recordings.recording_writer import RecordingFailed
from tests.support.console_world import RULES, ConsoleWorld
from tests.support.consoles import ACCOUNT
from tests.support.frame_channel import MemoryChannel
from tests.support.live_consoles import Replica
from tests.support.recordings import RecordingScene

_CHECK_EVERY_S = 0.5
"""As the driver's thread does."""


class Disk:
    """What the disk does from now on; writes go to the real one unless it fails."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.error = 0
        """Of each write, after half of its bytes; 0: it works."""

    def install(self, patch: pytest.MonkeyPatch) -> None:
        write = open_part._write

        def faulty(fd: int, data: bytes) -> None:
            if not self.error:
                write(fd, data)
                return
            if self.error != errno.EROFS:
                write(fd, data[: len(data) // 2])
            raise OSError(self.error, os.strerror(self.error))

        patch.setattr(open_part, "_write", faulty)


class RecordedPart:
    """A real open part (port `PartWriter`); its writes take the disk's time."""

    def __init__(
        self, part: OpenPart, owner: "RecordedReplica", on_failure: Callable[[str], None]
    ) -> None:
        self.open_part = part
        live: Any = on_failure
        self.channel: MemoryChannel = live.__self__._page.channel
        """Of the browser that it is about."""
        self.failed_at: float | None = None
        """Monotonic."""
        self._failure: RecordingFailed | None = None
        self._owner = owner
        self._on_failure = on_failure

    @property
    def is_open(self) -> bool:
        return self.open_part._fd >= 0

    async def append(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(self._owner.disk.delay_s)
        if self._failure is None:
            self._write(records)
        if self._failure is not None:
            raise self._failure

    def close(self, records: Sequence[Record]) -> None:
        if self._owner.is_dead:
            return
        if self._failure is None:
            self._write(records)
        self.open_part.close()

    def check(self) -> None:
        """Fail if the file was removed."""
        try:
            self.open_part.check()
        except PartFileMissing as missing:
            self._fail(f"removed: {describe(missing)}")

    def _write(self, records: Sequence[Record]) -> None:
        try:
            self.open_part.append(records)
        except OSError as error:
            self._fail(f"write: {describe(error)}")

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            self._failure = RecordingFailed(reason)
            self.failed_at = self._owner.world.clock.monotonic()
            self._on_failure(reason)


class RecordedReplica(Replica):
    """Its sessions are recorded below `root` (port `RecordingWriter`)."""

    def __init__(
        self, world: ConsoleWorld, name: str, *, processes: int, root: Path, disk: Disk
    ) -> None:
        super().__init__(world, name, processes=processes)
        clock: Any = world.clock
        self.scene = RecordingScene(root, clock=clock)
        self.disk = disk
        self.parts: list[RecordedPart] = []
        sessions: Any = self.sessions
        sessions._services = replace(sessions._services, recordings=self)

    async def open_part(
        self, details: RecordingDetails, on_failure: Callable[[str], None]
    ) -> RecordedPart:
        await asyncio.sleep(self.disk.delay_s)
        scene = self.scene
        files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
        try:
            part = open_recording_part(files, details, scene.clock.now())
        except OSError as error:
            raise RecordingFailed(f"start: {describe(error)}") from None
        self.parts.append(RecordedPart(part, self, on_failure))
        return self.parts[-1]

    async def watch_files(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            for part in self.parts:
                if part.is_open:
                    part.check()

    def start(self) -> "RecordedReplica":
        super().start()
        self.track(asyncio.create_task(self.watch_files()))
        return self

    async def kill(self) -> None:
        """Release what a process releases by its death: files, and their locks."""
        await super().kill()
        self.release()

    def release(self) -> None:
        for part in self.parts:
            part.open_part.close()
        self.scene.index.close()


def recorded_world() -> ConsoleWorld:
    account = AccountSessions(Clipboard.BOTH, 200, RecordingPolicy.REQUIRED, record_keys=False)
    return ConsoleWorld(replace(RULES, accounts={ACCOUNT: account}))
