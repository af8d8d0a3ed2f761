"""The audit log in a Redis stream: as its only store, or as a copy of the files."""

import asyncio
import logging
import math
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice, takewhile

from gateway.domain.audit.chain import (
    CHECKPOINT,
    OVERDUE_PERIODS,
    PROMISED_PERIODS,
    SEGMENT_OPENED,
    Head,
    Line,
    Signer,
    checkpoint_body,
    empty_head,
    is_checkpoint_by,
    link_lines,
    parse_line,
    segment_opened_body,
    segment_removed_body,
)
from gateway.domain.errors import StoreUnavailable
from gateway.drivers.audit.store import Committed, chain_opened_body, unavailable
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.clock import Clock

log = logging.getLogger("gateway.audit")

_APPEND = LuaScript("audit_append")
_READ = LuaScript("audit_read")
_TRIM = LuaScript("audit_trim")
_STATE_TTL_MS = 366 * 86_400_000
"""How long after its last line a chain's state is stored: a process may be idle for long."""
_SEGMENT_AGE_MAX_S = 86_400.0
_TRIM_GRACE_MS = 2 * 86_400_000
"""How long an expired line stays, for its removal to be recorded first: a segment covers a day,
and retention runs every hour."""
_READ_BATCH = 200
_EVENT = b'"event":"%b"'
_TRIM_EVERY_S = 10.0
_NEARLY_FULL = 0.9
_RETRY_S = 0.5
_SEND_BATCH = 500
_CLOSE_TIMEOUT_S = 2.0


class ChainBehind(Exception):
    """The stream lacks lines of a chain; no line was appended."""

    def __init__(self, last_seq: int) -> None:
        super().__init__(f"the stream has the chain's lines up to {last_seq} only")
        self.last_seq = last_seq


class AuditStream:
    """The stream that all processes append to and keep within its bounds."""

    def __init__(self, valkey: Valkey, *, keep_s: float, bytes_max: int) -> None:
        """Lines older than `keep_s` are trimmed (0: never), others when the stream is too large."""
        self._valkey = valkey
        self._keep_ms = round(keep_s * 1000)
        self._bytes_max = bytes_max
        self._sender = secrets.token_hex(8)
        self._attempts = 0
        self._is_full = False
        self.bytes = 0
        """Memory that the stream takes on the server, at the last trim."""

    @property
    def name(self) -> str:
        return self._valkey.key("lines", tag="audit")

    @property
    def keep_s(self) -> float:
        return self._keep_ms / 1000

    async def append(
        self, chain: str, after_seq: int, lines: Sequence[bytes], *, allow_gap: bool = False
    ) -> None:
        """Append lines after line `after_seq`, and delete later lines of the chain first.

        Raises ChainBehind if the stream lacks line `after_seq`, unless `allow_gap`. After
        StoreUnavailable it is unknown whether the lines were appended.
        """
        self._attempts += 1
        keys = [self.name, self._valkey.key("chain", chain, tag="audit")]
        arguments: list[str | bytes | int] = [
            self._sender,
            self._attempts,
            after_seq,
            self._keep_ms + _STATE_TTL_MS,
            int(allow_gap),
        ]
        last_seq = int(await self._valkey.run_script(_APPEND, keys, [*arguments, *lines]))
        if last_seq < 0:
            raise StoreUnavailable("audit_append: a later attempt arrived first")
        if last_seq < after_seq:
            raise ChainBehind(last_seq)

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield all lines, oldest first; raise StoreUnavailable."""
        async for line in self._read(0, [b""]):
            yield line

    async def expired_segments(
        self, before: float, signer: Signer | None
    ) -> list[tuple[int, Head]]:
        """Return the segments that ended before `before`, each with its last line.

        A segment ends where a checkpoint of this signer confirms the opening of the next one.
        Without that, anyone with write access to Redis could have a forged removal signed.
        """
        found, openings = [], dict[str, Line]()
        events = [_EVENT % SEGMENT_OPENED.encode(), _EVENT % CHECKPOINT.encode()]
        async for text in self._read(self._keep_ms, events if self._keep_ms else []):
            try:
                line = parse_line(text)
            except ValueError:
                continue
            opening = openings.pop(line.chain, None)
            if line.event == SEGMENT_OPENED:
                openings[line.chain] = line
            elif opening is not None and _confirms(line, opening, signer):
                number = opening.fields.get("segment", 0)
                if number > 1 and opening.at < before:
                    found.append((number - 1, Head(line.chain, opening.seq - 1, opening.prev)))
        return found

    async def _read(self, older_than_ms: int, containing: Sequence[bytes]) -> AsyncIterator[bytes]:
        after: bytes = b""
        while containing:
            after, *lines = await self._valkey.run_script(
                _READ,
                [self.name],
                [after, _READ_BATCH, older_than_ms, *containing],
                even_if_unavailable=True,
            )
            if not after:
                return
            for line in lines:
                yield line

    async def keep_trimmed(self, clock: Clock) -> None:
        """Trim the stream regularly, until cancelled.

        A server that the stream has filled counts as unavailable, and only trimming makes room:
        so this also tries a server that is unavailable.
        """
        while True:
            with suppress(StoreUnavailable):
                while await self.trim():
                    continue
            await clock.sleep(_TRIM_EVERY_S)

    async def trim(self) -> int:
        """Delete at most some thousand lines; return how many."""
        keep_ms = self._keep_ms + _TRIM_GRACE_MS if self._keep_ms else 0
        self.bytes, expired, crowded = await self._valkey.run_script(
            _TRIM, [self.name], [keep_ms, self._bytes_max], even_if_unavailable=True
        )
        if crowded and not self._is_full:
            self._is_full = True
            log.warning("audit_stream_full", extra={"bytes_max": self._bytes_max})
        elif self.bytes < _NEARLY_FULL * self._bytes_max:
            self._is_full = False
        return int(expired) + int(crowded)


def _confirms(line: Line, opening: Line, signer: Signer | None) -> bool:
    return line.prev == opening.hash and is_checkpoint_by(line, signer)


class StreamStore:
    """Implements AuditStore: a chain that is in the stream only. Each process begins its own."""

    def __init__(
        self,
        stream: AuditStream,
        *,
        clock: Clock,
        signer: Signer | None,
        checkpoint_s: float = 60.0,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._signer = signer
        self._checkpoint_s = checkpoint_s
        self._lost: Head | None = None
        """Head of the previous chain, of which the stream lost lines."""
        self._recorded_removals: set[tuple[int, Head]] = set()
        self._begin(empty_head(secrets.token_hex(8)))

    def _begin(self, head: Head) -> None:
        self._head = head
        self._checkpoint_seq, self._checkpoint_at = 0, -math.inf
        self._segment, self._opened_at = 0, -math.inf

    def commit_at_once(self, bodies: Sequence[bytes]) -> None:
        del bodies  # Redis takes time

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        now, before = self._clock.now(), self._head
        opens = now - self._opened_at >= _SEGMENT_AGE_MAX_S
        built = self._compose(bodies, now, opens=opens, with_checkpoint=with_checkpoint)
        if not built.lines:
            return Committed([], [])
        await self._append(before, built.lines)
        if not confirm():  # the next attempt deletes these lines
            raise unavailable("Redis took too long")
        self._head, self._checkpoint_seq = built.head, built.checkpoint_seq
        if built.checkpoints:
            self._checkpoint_at = now
        if opens:
            self._segment, self._opened_at = self._segment + 1, now
        return Committed(built.lines, built.checkpoints)

    def _compose(
        self, bodies: Sequence[bytes], now: float, *, opens: bool, with_checkpoint: bool
    ) -> "_LineBuilder":
        checkpoint = partial(self._checkpoint_after, now=now)
        built = _LineBuilder(self._head, self._checkpoint_seq, checkpoint)
        begins = self._head.seq == 0
        if opens:
            built.add_checkpoint()
            built.add([segment_opened_body(self._segment + 1, now)])
            built.add_checkpoint()
        elif bodies and now - self._checkpoint_at > OVERDUE_PERIODS * self._checkpoint_s:
            built.add_checkpoint(force=True)
        built.add([*([chain_opened_body(now, lost=self._lost)] if begins else []), *bodies])
        if with_checkpoint or begins:
            built.add_checkpoint()
        return built

    def _checkpoint_after(self, head: Head, *, now: float) -> bytes:
        promise = PROMISED_PERIODS * self._checkpoint_s
        return checkpoint_body(head, now, self._signer, next_within_s=promise)

    async def _append(self, before: Head, lines: Sequence[bytes]) -> None:
        try:
            await self._stream.append(before.chain, before.seq, lines)
        except ChainBehind as behind:
            _log_lost_lines(before.chain, behind.last_seq, before.seq)
            self._lost = before
            self._begin(empty_head(secrets.token_hex(8)))
            raise unavailable(str(behind)) from behind
        except StoreUnavailable as error:
            raise unavailable(str(error)) from error

    async def apply_retention(self) -> Committed:
        """Record which segments, of any process, the stream is about to trim."""
        now = self._clock.now()
        before = now - self._stream.keep_s
        try:
            expired = await self._stream.expired_segments(before, self._signer)
        except StoreUnavailable as error:
            raise unavailable(str(error)) from error
        new = [one for one in expired if one not in self._recorded_removals]
        removals = [
            segment_removed_body(
                now, segment=number, head=head, expired_before=before, reason="older than keep_days"
            )
            for number, head in new
        ]
        committed = await self.commit(
            removals, with_checkpoint=bool(removals), confirm=lambda: True
        )
        self._recorded_removals.update(new)
        return committed

    async def close(self) -> None:
        return


class _LineBuilder:
    """Links lines to a head, with checkpoints among them."""

    def __init__(
        self, head: Head, checkpoint_seq: int, checkpoint_after: Callable[[Head], bytes]
    ) -> None:
        self.head, self.checkpoint_seq = head, checkpoint_seq
        self.lines: list[bytes] = []
        self.checkpoints: list[Head] = []
        self._checkpoint_after = checkpoint_after

    def add(self, bodies: Sequence[bytes]) -> None:
        lines, self.head = link_lines(self.head, bodies)
        self.lines += lines

    def add_checkpoint(self, *, force: bool = False) -> None:
        """Add a checkpoint unless the last line is one; `force` adds it in any case."""
        if force or self.head.seq > self.checkpoint_seq:
            self.add([self._checkpoint_after(self.head)])
            self.checkpoint_seq = self.head.seq
            self.checkpoints.append(self.head)


LinesAfter = Callable[[str, int], Iterator[bytes]]
"""Read the lines of a chain after a number; it blocks and may raise OSError and ValueError."""


class StreamFollower:
    """Copies durable lines to the stream; lines that it could not send it reads from the files.

    Lines that a process left unsent follow as soon as its successor sends lines of the same chain.
    """

    def __init__(
        self,
        stream: AuditStream,
        clock: Clock,
        lines_after: LinesAfter,
        *,
        backlog_max: int = 50_000,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._lines_after = lines_after
        self._backlog_max = backlog_max
        self._backlog: deque[bytes] = deque()
        self._in_flight: list[bytes] = []
        self._filled = asyncio.Event()
        self._is_lagging = False

    def follow(self, lines: Sequence[bytes]) -> None:
        self._backlog.extend(lines)
        if len(self._backlog) > self._backlog_max:
            if not self._is_lagging:
                self._is_lagging = True
                log.error("audit_stream_lagging", extra={"backlog": self._backlog_max})
            while len(self._backlog) > self._backlog_max:
                self._backlog.popleft()
        self._filled.set()

    async def run(self) -> None:
        """Send lines in order, until cancelled."""
        while True:
            await self._filled.wait()
            try:
                await self._send()
            except StoreUnavailable:
                await self._clock.sleep(_RETRY_S)

    async def close(self) -> None:
        """Send the remaining lines if Redis accepts them at once."""
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                while self._in_flight or self._backlog:
                    await self._send()
        if unsent := len(self._in_flight) + len(self._backlog):
            log.error("audit_stream_incomplete", extra={"unsent": unsent})

    async def _send(self) -> None:
        lines = self._in_flight = self._in_flight or self._next_lines()
        if lines:
            first = parse_line(lines[0])
            after = first.seq - 1
            try:
                await self._stream.append(first.chain, after, lines)
            except ChainBehind as behind:
                await self._replay(first.chain, behind.last_seq, after)
                await self._stream.append(first.chain, after, lines, allow_gap=True)
            self._in_flight = []
        if not self._backlog:
            self._is_lagging = False
            self._filled.clear()

    def _next_lines(self) -> list[bytes]:
        """Take lines of one chain from the backlog."""
        if not self._backlog:
            return []
        chain = self._backlog[0].partition(b",")[0]
        same = takewhile(lambda line: line.startswith(chain), self._backlog)
        lines = [*islice(same, _SEND_BATCH)]
        for _ in lines:
            self._backlog.popleft()
        return lines

    async def _replay(self, chain: str, last_seq: int, until: int) -> None:
        """Append the lines after `last_seq` up to `until` from the files; log those missing."""
        replayed = {"chain": chain, "after": last_seq, "through": until}
        log.warning("audit_stream_catchup_started", extra=replayed)
        stored = self._lines_after(chain, last_seq)
        began_after, missing, reason = last_seq, until - last_seq, ""
        try:
            while last_seq < until and (
                lines := await asyncio.to_thread(_take, stored, min(_SEND_BATCH, until - last_seq))
            ):
                after = parse_line(lines[0]).seq - 1
                if after >= until:
                    break
                lines = lines[: until - after]
                await self._stream.append(chain, after, lines, allow_gap=after > last_seq)
                await self._stream.trim()  # the replayed lines may exceed the stream's bounds
                missing -= len(lines)
                last_seq = after + len(lines)
        except (OSError, ValueError) as error:
            reason = type(error).__name__
        if missing:
            _log_lost_lines(chain, began_after, until, missing, reason)


def _log_lost_lines(
    chain: str, after: int, through: int, missing: int | None = None, reason: str = ""
) -> None:
    """Log that `missing` of the lines after `after` up to `through` are lost; None: all."""
    count = through - after if missing is None else missing
    log.error(
        "audit_stream_lines_lost",
        extra={
            "chain": chain,
            "after": after,
            "through": through,
            "missing": count,
            "reason": reason,
        },
    )


def _take(lines: Iterator[bytes], count: int) -> list[bytes]:
    return [*islice(lines, count)]
