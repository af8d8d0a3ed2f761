"""The audit log in files: an append-only chain of segments, each line durable before it counts.

A process holds one `chain-K` directory at a time, by a lock that its death releases, and continues
the chain where it ends.
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
    checkpoint_body,
    empty_head,
    link_lines,
    neighbour_fields,
    segment_opened_body,
)
from gateway.drivers.audit.directory import (
    ChainEnd,
    ChainUnreadable,
    is_file_at,
    lock_chain,
    log_unreadable,
    make_directory,
    read_chain_end,
    read_neighbours,
    segment_file,
)
from gateway.drivers.audit.retention import Retention
from gateway.drivers.audit.store import Committed, chain_opened_body, unavailable
from gateway.drivers.files.durable import sync_directory
from gateway.drivers.host.worker_thread import WorkerThread
from gateway.flow.clock import Clock

log = logging.getLogger("gateway.audit")

_CHAINS_MAX = 1_000
_SEGMENT_AGE_MAX_S = 86_400.0
"""Retention removes whole segments, so a segment must not grow old where little is recorded."""
_BYTES_WITHOUT_CHECKPOINT_MAX = 4_000_000
"""A process that opens the chain reads back to the last checkpoint."""
_CHECK_EVERY_S = 1.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DSYNC = getattr(os, "RWF_DSYNC", 0)
sync = getattr(os, "fdatasync", os.fsync)  # some platforms lack the cheaper one

_Linked = tuple[Head, list[bytes], Head]
"""A head, lines linked to it, and the head after them."""


class FileStore:
    """Implements AuditStore: calls ChainFiles in a thread, because a disk may block."""

    def __init__(self, files: "ChainFiles") -> None:
        self._files = files
        self._thread = WorkerThread("audit")

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        # Linked here, where the bodies were made: in the thread it costs three times as much.
        after = self._files.head
        linked = (after, *link_lines(after, bodies))
        return await self._run(
            partial(
                self._files.commit,
                bodies,
                linked=linked,
                with_checkpoint=with_checkpoint,
                confirm=confirm,
            )
        )

    def commit_at_once(self, bodies: Sequence[bytes]) -> None:
        del bodies  # a disk may block

    async def apply_retention(self) -> Committed:
        return await self._run(self._files.remove_expired)

    async def close(self) -> None:
        await self._run(self._files.close)
        self._thread.end()

    async def _run(self, work: Callable[[], Committed]) -> Committed:
        try:
            return await self._thread.do(work)
        except OSError as error:
            raise unavailable(error.strerror or type(error).__name__) from error


class ChainFiles:
    """One process's chain. Its methods block; one that raises OSError adds no line."""

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
        """Add a checkpoint where the caller has not requested one for twice `checkpoint_s`.

        Segments older than `keep_s` are removed; 0 keeps them forever.
        """
        self._directory = directory
        self._clock = clock
        self._signer = signer
        self._checkpoint_s = checkpoint_s
        self._segment_bytes_max = segment_bytes_max
        self._keep_s = keep_s
        append = partial(self._append, with_checkpoint=True)
        self._retention = Retention(directory, clock=clock, keep_s=keep_s, append=append)
        self._chain_directory = directory
        self._lock_fd = self._fd = -1
        self._end = ChainEnd(empty_head(""), 0, 0.0)
        self._size = 0
        """Committed bytes of the segment."""
        self._has_uncommitted_tail = False
        """The segment may contain more bytes, of a batch that failed."""
        self._sync_failed = False
        """A sync of the segment failed, so a later success does not cover earlier bytes."""
        self._check_at = 0.0
        self.disk_free = 1.0
        """Free part of the disk at the last check, from 0 to 1."""
        self._lost = empty_head("")
        """Head of this process's chain when its last segment disappeared."""
        self._checkpoint_at = 0.0
        self._bytes_since_checkpoint = 0
        self._committed = Committed([], [])
        """Durable since the last call."""

    @property
    def chain_directory(self) -> Path:
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
        """Append and return when durable.

        `linked` saves work if the chain still ends at its head. If `confirm`, called at the end,
        returns False, no caller waits for the records any more and they are removed.
        """
        self._prepare()
        self._append(bodies, linked=linked, with_checkpoint=with_checkpoint, confirm=confirm)
        return self._take_committed()

    def remove_expired(self) -> Committed:
        """Record the removal of expired segments, then remove them."""
        self._prepare()
        self._retention.remove_expired(self._chain_directory)
        return self._take_committed()

    def close(self) -> Committed:
        self._release()
        return self._take_committed()

    def _release(self) -> None:
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def _take_committed(self) -> Committed:
        committed, self._committed = self._committed, Committed([], [])
        return committed

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
        elif self._is_segment_full():
            self._append([], with_checkpoint=True)
            self._begin_segment()

    def _is_segment_full(self) -> bool:
        age_s = self._clock.now() - self._end.opened_at
        return self._size >= self._segment_bytes_max or age_s >= _SEGMENT_AGE_MAX_S

    def _append(
        self,
        bodies: Sequence[bytes],
        *,
        linked: _Linked | None = None,
        with_checkpoint: bool = False,
        confirm: Callable[[], bool] = lambda: True,
    ) -> None:
        now = self._clock.now()
        lines, checkpoints, head = self._compose(bodies, linked, now, with_checkpoint)
        if not lines:
            return
        data = b"".join(lines)
        try:
            self._has_uncommitted_tail = True
            self._write(data)
            if not confirm():
                raise TimeoutError(0, "the disk took too long")
        except OSError:
            with suppress(OSError):  # the next commit tries again
                self._truncate_to_committed()
            raise
        self._has_uncommitted_tail = False
        self._end = ChainEnd(head, self._end.segment, self._end.opened_at)
        self._size += len(data)
        self._account(lines, checkpoints, now, len(data))

    def _compose(
        self,
        bodies: Sequence[bytes],
        linked: _Linked | None,
        now: float,
        with_checkpoint: bool,  # noqa: FBT001 - private
    ) -> tuple[list[bytes], list[Head], Head]:
        """Return the lines, the checkpoints among them, and the new head."""
        head = self._end.head
        checkpoints: list[Head] = []
        if bodies and self._is_checkpoint_overdue(now):
            # First: an interrupted write may leave lines without the checkpoint that ends them.
            bodies, linked = [self._checkpoint_after(head, now), *bodies], None
            checkpoints += link_lines(head, bodies[:1])[1:]
        if linked is not None and linked[0] == head:
            _, lines, head = linked
        else:
            lines, head = link_lines(head, bodies)
        if with_checkpoint and self._bytes_since_checkpoint + len(lines) > 0:
            last, head = link_lines(head, [self._checkpoint_after(head, now)])
            lines += last
            checkpoints.append(head)
        return lines, checkpoints, head

    def _account(self, lines: list[bytes], checkpoints: list[Head], now: float, size: int) -> None:
        if checkpoints:
            self._checkpoint_at, self._bytes_since_checkpoint = now, 0
        if self._end.head not in checkpoints:
            self._bytes_since_checkpoint += size
        self._committed.lines.extend(lines)
        self._committed.checkpoints.extend(checkpoints)

    def _checkpoint_after(self, head: Head, now: float) -> bytes:
        promise = PROMISED_PERIODS * self._checkpoint_s
        return checkpoint_body(head, now, self._signer, next_within_s=promise)

    def _is_checkpoint_overdue(self, now: float) -> bool:
        is_overdue = now - self._checkpoint_at > OVERDUE_PERIODS * self._checkpoint_s
        return is_overdue or self._bytes_since_checkpoint > _BYTES_WITHOUT_CHECKPOINT_MAX

    def _write(self, data: bytes) -> None:
        try:
            write_durably(self._fd, data)
        except OSError as error:
            # After a failed sync the kernel drops the pages that it could not write.
            self._sync_failed |= error.errno not in _FULL
            raise

    def _truncate_to_committed(self) -> None:
        os.ftruncate(self._fd, self._size)
        sync(self._fd)
        self._has_uncommitted_tail = False

    def _check_segment(self) -> None:
        """Detect a segment that another process removed or changed; `verify` reports details."""
        now = self._clock.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + _CHECK_EVERY_S
        disk = os.fstatvfs(self._fd)
        self.disk_free = disk.f_bavail / disk.f_blocks if disk.f_blocks else 1.0
        found = os.fstat(self._fd)
        if not is_file_at(segment_file(self._chain_directory, self._end.segment), found):
            log.error("audit_segment_missing", extra={"directory": str(self._chain_directory)})
            self._lost = self._end.head
            self._release()
        elif found.st_size != self._size and not self._has_uncommitted_tail:
            log.error("audit_segment_modified", extra={"directory": str(self._chain_directory)})
            self._size = found.st_size

    def _begin_segment(self, bodies: Sequence[bytes] = ()) -> None:
        """Continue in a new file; a failure leaves everything as it was."""
        now, number = self._clock.now(), self._end.segment + 1
        neighbours = neighbour_fields(self._neighbours(), self._keep_s)
        opening = segment_opened_body(number, now, neighbours=neighbours)
        lines, head = link_lines(self._end.head, [opening, *bodies])
        # It also signs the end of the previous segment, which has none after a failed sync.
        last, head = link_lines(head, [self._checkpoint_after(head, now)])
        lines += last
        data = b"".join(lines)
        file = segment_file(self._chain_directory, number)
        new = file.with_suffix(".new")  # renamed: a segment exists with its first lines or not
        fd = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            write_durably(fd, data)
            new.rename(file)
            sync_directory(self._chain_directory)
        except OSError:
            os.close(fd)
            for begun in (file, new):
                begun.unlink(missing_ok=True)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = fd, len(data)
        self._end = ChainEnd(head, number, now)
        self._has_uncommitted_tail = self._sync_failed = False
        self._account(lines, [head], now, len(data))

    def _open(self) -> None:
        make_directory(self._directory)
        for number in range(1, _CHAINS_MAX):
            chain_directory = self._directory / f"chain-{number}"
            make_directory(chain_directory)
            lock = lock_chain(chain_directory)
            if lock is None:
                continue
            try:
                self._continue(chain_directory)
            except ChainUnreadable as unreadable:
                os.close(lock)
                log_unreadable(chain_directory, unreadable)
                continue
            except OSError:
                os.close(lock)
                raise
            self._lock_fd = lock
            return
        raise OSError(0, "every chain directory is in use")

    def _continue(self, chain_directory: Path) -> None:
        """Begin the chain, or remove a partial line at its end and record the continuation."""
        end = read_chain_end(chain_directory, self._signer)
        if end is not None and self._ends_before_lost_head(end.head):
            raise ChainUnreadable(f"line {self._lost.seq}, written by this process, is missing")
        self._chain_directory, self._fd = chain_directory, -1
        self._has_uncommitted_tail = self._sync_failed = False
        now, neighbours = self._clock.now(), self._neighbours()
        known = [*(one.at for one in neighbours), *([] if end is None else [end.at])]
        self._retention.set_reference_time(max(known, default=now))
        self._checkpoint_at, self._bytes_since_checkpoint = now, 0
        try:
            if end is None:
                self._end = ChainEnd(empty_head(secrets.token_hex(8)), 0, 0.0)
                self._begin_segment([chain_opened_body(now)])
            else:
                self._end = end
                self._reopen(end)
                fields = neighbour_fields(neighbours, self._keep_s)
                opening = chain_opened_body(now, partial_line=end.partial_line, neighbours=fields)
                # Appended first: a checkpoint directly after a forged removal would confirm it.
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

    def _neighbours(self) -> list[Neighbour]:
        neighbours = read_neighbours(self._chain_directory)
        if self._lost.seq:
            neighbours.append(Neighbour(self._lost, self._clock.now()))
        return neighbours

    def _ends_before_lost_head(self, head: Head) -> bool:
        return head.chain == self._lost.chain and head.seq < self._lost.seq

    def _reopen(self, end: ChainEnd) -> None:
        file = segment_file(self._chain_directory, end.segment)
        self._fd = os.open(file, os.O_WRONLY | os.O_APPEND)
        self._size = os.fstat(self._fd).st_size - len(end.partial_line)
        if end.partial_line:
            self._truncate_to_committed()
        else:
            sync(self._fd)  # a killed process may have left lines that are not durable yet


def write_durably(fd: int, data: bytes) -> None:
    """Append and sync, in one call where the system can: each call releases the GIL."""
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
