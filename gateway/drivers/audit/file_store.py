"""An audit chain in a directory: append-only segments, each line on the disk before it counts.

One process holds one `chain-K` directory at a time, by a lock that its death frees, and goes on
with the chain where it stands.
"""

import errno
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from gateway.domain.audit.chain import (
    OVERDUE_PERIODS,
    PROMISED_PERIODS,
    Head,
    Neighbour,
    Signer,
    checkpoint,
    empty_head,
    link,
    neighbour_fields,
    segment_opened_body,
)
from gateway.drivers.audit.paths import is_file_at, lock_chain, make_directory, segment_file
from gateway.drivers.audit.reader import (
    ChainEnd,
    ChainUnreadable,
    log_unreadable,
    read_chain_end,
    read_neighbours,
)
from gateway.drivers.audit.record_format import Committed, opening_body, unavailable
from gateway.drivers.audit.retention import Retention
from gateway.drivers.files.durable import sync_directory
from gateway.drivers.host.worker_thread import WorkerThread
from gateway.flow.clock import Clock

log = logging.getLogger("gateway.audit")

_CHAINS_MAX = 1_000
_SEGMENT_AGE_MAX_S = 86_400.0
"""So that old ones go when they are due, also where little is recorded."""
_BYTES_WITHOUT_CHECKPOINT_MAX = 4_000_000
"""A start reads back to the last checkpoint."""

_CHECK_EVERY_S = 1.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DSYNC = getattr(os, "RWF_DSYNC", 0)
sync = getattr(os, "fdatasync", os.fsync)  # not every platform has the cheaper one


_Linked = tuple[Head, list[bytes], Head]
"""A head, lines that follow it, and where the chain stands with them."""


class FileStore:
    """Chain files behind a thread (audit_trail.AuditStore): a disk may take its time."""

    def __init__(self, files: "ChainFiles") -> None:
        self._files = files
        self._thread = WorkerThread("audit")

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        # Linked here, where the bodies were made: in the thread it costs three times as much.
        after = self._files.head
        linked = (after, *link(after, bodies))
        return await self._do(
            partial(
                self._files.commit,
                bodies,
                linked=linked,
                with_checkpoint=with_checkpoint,
                confirm=confirm,
            )
        )

    async def apply_retention(self) -> Committed:
        return await self._do(self._files.remove_expired)

    async def close(self) -> None:
        await self._do(self._files.close)
        self._thread.end()

    async def _do(self, work: Callable[[], Committed]) -> Committed:
        try:
            return await self._thread.do(work)
        except OSError as error:
            raise unavailable(error.strerror or type(error).__name__) from error


class ChainFiles:
    """Its methods block; each raises OSError, and then nothing of it stays in the chain."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        signer: Signer | None = None,
        checkpoint_s: float = 60.0,
        segment_bytes_max: int,
        keep_s: float,
    ) -> None:
        """Each `checkpoint_s` somebody asks for a checkpoint; what is late is made up for here.

        Segments older than `keep_s` are removed; 0 keeps them for ever.
        """
        self._directory = directory
        self._clock = clock
        self._signer = signer
        self._checkpoint_s = checkpoint_s
        self._segment_bytes_max = segment_bytes_max
        self._keep_s = keep_s
        self._retention = Retention(
            directory, clock=clock, keep_s=keep_s, tell=partial(self._append, with_checkpoint=True)
        )
        self._chain_directory = directory
        self._lock_fd = self._fd = -1
        self._end = ChainEnd(empty_head(""), 0, 0.0)
        self._size = 0
        """Of the segment, as far as it counts."""
        self._has_uncommitted_tail = False
        """The segment may hold bytes beyond that, of a batch that failed."""
        self._sync_failed = False
        """A sync of the segment failed: what its later ones say is not to be believed."""
        self._check_at = 0.0
        self.disk_free = 1.0
        """Which part of the disk was free, as far as known."""
        self._lost = empty_head("")
        """Where our chain stood when its last segment was taken away."""
        self._checkpoint_at = 0.0
        """When the last checkpoint was made."""
        self._bytes_since_checkpoint = 0
        """After it."""
        self._told = Committed([], [])
        """What is durable since somebody was told."""

    @property
    def chain_directory(self) -> Path:
        """The chain's own directory."""
        return self._chain_directory

    @property
    def head(self) -> Head:
        return self._end.head

    def commit(
        self,
        bodies: Sequence[bytes],
        *,
        linked: _Linked | None = None,
        with_checkpoint: bool = False,
        confirm: Callable[[], bool] = lambda: True,
    ) -> Committed:
        """Append and return when it is on the disk.

        `linked` is what they are after a head, of use if the chain still stands there. `claim` is
        asked at the end: False means that nobody waits for it any more, and takes it back.
        """
        self._prepare()
        self._append(bodies, linked=linked, with_checkpoint=with_checkpoint, confirm=confirm)
        return self._tell()

    def remove_expired(self) -> Committed:
        """Remove what is too old, and say so first."""
        self._prepare()
        self._retention.remove_expired(self._chain_directory)
        return self._tell()

    def close(self) -> Committed:
        self._release()
        return self._tell()

    def _release(self) -> None:
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def _tell(self) -> Committed:
        told, self._told = self._told, Committed([], [])
        return told

    def _prepare(self) -> None:
        if self._fd >= 0:
            self._check_segment()
        if self._fd < 0:
            self._open()
            return
        if self._has_uncommitted_tail:
            self._truncate_to_committed()
        if self._sync_failed:
            self._begin_segment()
        elif self._is_full():
            self._roll_segment()

    def _is_full(self) -> bool:
        age_s = self._clock.now() - self._end.opened_at
        return self._size >= self._segment_bytes_max or age_s >= _SEGMENT_AGE_MAX_S

    def _roll_segment(self) -> None:
        self._append([], with_checkpoint=True)
        self._begin_segment()

    def _append(
        self,
        bodies: Sequence[bytes],
        *,
        linked: _Linked | None = None,
        with_checkpoint: bool = False,
        confirm: Callable[[], bool] = lambda: True,
    ) -> None:
        now = self._clock.now()
        lines, sealed, head = self._compose(bodies, linked, now, with_checkpoint=with_checkpoint)
        if not lines:
            return
        data = b"".join(lines)
        try:
            self._has_uncommitted_tail = True
            self._write(data)
            if not confirm():
                raise TimeoutError(0, "it took too long")
        except OSError:
            with suppress(OSError):  # the next commit tries again
                self._truncate_to_committed()
            raise
        self._has_uncommitted_tail = False
        self._end = ChainEnd(head, self._end.number, self._end.opened_at)
        self._size += len(data)
        self._note(lines, sealed, now, len(data))

    def _compose(
        self, bodies: Sequence[bytes], linked: _Linked | None, now: float, *, with_checkpoint: bool
    ) -> tuple[list[bytes], list[Head], Head]:
        """Return the lines, which of them are checkpoints, and where the chain stands then."""
        head = self._end.head
        sealed: list[Head] = []
        if bodies and self._is_checkpoint_late(now):
            # Before them: of a batch that is torn, lines may stay without the one that follows.
            bodies, linked = [self._checkpoint(head, now), *bodies], None
            sealed += link(head, bodies[:1])[1:]
        if linked is not None and linked[0] == head:
            _, lines, head = linked
        else:
            lines, head = link(head, bodies)
        if with_checkpoint and self._bytes_since_checkpoint + len(lines) > 0:
            last, head = link(head, [self._checkpoint(head, now)])
            lines += last
            sealed.append(head)
        return lines, sealed, head

    def _note(self, lines: list[bytes], sealed: list[Head], now: float, size: int) -> None:
        """Keep in mind what is durable."""
        if sealed:
            self._checkpoint_at, self._bytes_since_checkpoint = now, 0
        if self._end.head not in sealed:
            self._bytes_since_checkpoint += size
        self._told.lines.extend(lines)
        self._told.checkpoints.extend(sealed)

    def _checkpoint(self, head: Head, now: float) -> bytes:
        promise = PROMISED_PERIODS * self._checkpoint_s
        return checkpoint(head, now, self._signer, next_within_s=promise)

    def _is_checkpoint_late(self, now: float) -> bool:
        is_overdue = now - self._checkpoint_at > OVERDUE_PERIODS * self._checkpoint_s
        return is_overdue or self._bytes_since_checkpoint > _BYTES_WITHOUT_CHECKPOINT_MAX

    def _write(self, data: bytes) -> None:
        try:
            write_durably(self._fd, data)
        except OSError as error:
            # After a failed sync the system forgets what it could not write.
            self._sync_failed |= error.errno not in _FULL
            raise

    def _truncate_to_committed(self) -> None:
        os.ftruncate(self._fd, self._size)
        sync(self._fd)
        self._has_uncommitted_tail = False

    def _check_segment(self) -> None:
        """See what others did to the segment; what it means is for `verify` to tell."""
        now = self._clock.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + _CHECK_EVERY_S
        disk = os.fstatvfs(self._fd)
        self.disk_free = disk.f_bavail / disk.f_blocks if disk.f_blocks else 1.0
        found = os.fstat(self._fd)
        if not is_file_at(segment_file(self._chain_directory, self._end.number), found):
            log.error("audit_segment_missing", extra={"directory": str(self._chain_directory)})
            self._lost = self._end.head
            self._release()
        elif found.st_size != self._size and not self._has_uncommitted_tail:
            log.error("audit_segment_modified", extra={"directory": str(self._chain_directory)})
            self._size = found.st_size

    def _begin_segment(self, bodies: Sequence[bytes] = ()) -> None:
        """Go on in a new file; when that fails, all stays as it was."""
        now, number = self._clock.now(), self._end.number + 1
        told = neighbour_fields(self._read_neighbours(), self._keep_s)
        opening = segment_opened_body(number, now, beside=told)
        lines, head = link(self._end.head, [opening, *bodies])
        # It vouches for the segment before, too, which has none at its end after a failed sync.
        last, head = link(head, [self._checkpoint(head, now)])
        lines += last
        data = b"".join(lines)
        file = segment_file(self._chain_directory, number)
        made = file.with_suffix(".new")  # so that it is there with its first lines or not at all
        fd = os.open(made, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            write_durably(fd, data)
            made.rename(file)
            sync_directory(self._chain_directory)
        except OSError:
            os.close(fd)
            for begun in (file, made):
                begun.unlink(missing_ok=True)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = fd, len(data)
        self._end = ChainEnd(head, number, now)
        self._has_uncommitted_tail = self._sync_failed = False
        self._note(lines, [head], now, len(data))

    def _open(self) -> None:
        make_directory(self._directory)
        for number in range(1, _CHAINS_MAX):
            chain_directory = self._directory / f"chain-{number}"
            make_directory(chain_directory)
            lock = lock_chain(chain_directory)
            if lock is None:
                continue
            try:
                self._resume(chain_directory)
            except ChainUnreadable as unreadable:
                os.close(lock)
                log_unreadable(chain_directory, unreadable)
                continue
            except OSError:
                os.close(lock)
                raise
            self._lock_fd = lock
            return
        raise OSError(0, "every chain directory is taken")

    def _resume(self, chain_directory: Path) -> None:
        """Cut off what was never acknowledged, and say that we go on from there."""
        stand = read_chain_end(chain_directory, self._signer)
        if stand is not None and self._ends_before_lost_head(stand.head):
            raise ChainUnreadable(f"line {self._lost.seq}, which we wrote, is gone")
        self._chain_directory, self._fd = chain_directory, -1
        self._has_uncommitted_tail = self._sync_failed = False
        now, beside = self._clock.now(), self._read_neighbours()
        known = [*(one.at for one in beside), *([] if stand is None else [stand.at])]
        self._retention.set_reference_time(max(known, default=now))
        self._checkpoint_at, self._bytes_since_checkpoint = now, 0
        try:
            if stand is None:
                self._end = ChainEnd(empty_head(secrets.token_hex(8)), 0, 0.0)
                self._begin_segment([opening_body(now)])
            else:
                self._end = stand
                self._reopen(stand)
                told = neighbour_fields(beside, self._keep_s)
                opening = opening_body(now, partial=stand.partial, beside=told)
                # First of all: a removal that a checkpoint follows directly must be our own.
                self._append([opening], with_checkpoint=True)
        except OSError:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            raise
        self._lost = empty_head("")
        log.info(
            "audit_chain_opened",
            extra={"directory": str(chain_directory), "head": str(self._end.head)},
        )

    def _read_neighbours(self) -> list[Neighbour]:
        beside = read_neighbours(self._chain_directory)
        if self._lost.seq:
            beside.append(Neighbour(self._lost, self._clock.now()))
        return beside

    def _ends_before_lost_head(self, head: Head) -> bool:
        return head.chain == self._lost.chain and head.seq < self._lost.seq

    def _reopen(self, stand: ChainEnd) -> None:
        file = segment_file(self._chain_directory, stand.number)
        self._fd = os.open(file, os.O_WRONLY | os.O_APPEND)
        self._size = os.fstat(self._fd).st_size - len(stand.partial)
        if stand.partial:
            self._truncate_to_committed()
        else:
            sync(self._fd)  # who was killed may have left lines that are not on the disk yet


def write_durably(fd: int, data: bytes) -> None:
    """Append; one call where the system can write and sync in one: each gives the GIL away."""
    if _DSYNC:
        try:
            data = data[os.pwritev(fd, [data], -1, _DSYNC) :]
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
    if data:
        while data:
            data = data[os.write(fd, data) :]
        sync(fd)
