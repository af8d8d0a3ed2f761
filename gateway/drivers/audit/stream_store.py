"""The audit log's lines in a Redis stream: alone it decides, beside files it follows behind."""

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
    checkpoint,
    empty_head,
    is_checkpoint_by,
    link,
    parse_line,
    segment_opened_body,
    segment_removed_body,
)
from gateway.domain.errors import StoreUnavailable
from gateway.drivers.audit.record_format import Committed, opening_body, unavailable
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.clock import Clock

log = logging.getLogger("gateway.audit")

_APPEND = LuaScript("audit_append")
_READ = LuaScript("audit_read")
_TRIM = LuaScript("audit_trim")
_STATE_TTL_MS = 366 * 86_400_000
"""How long after its last line it is known where a chain stands: a process may be idle."""
_SEGMENT_AGE_MAX_S = 86_400.0
_TRIM_GRACE_MS = 2 * 86_400_000
"""For so long after its time a line stays, so that chains tell before what is forgotten: as a whole
segment, of a day, and somebody looks each hour."""
_READ_BATCH = 200
_EVENT = b'"event":"%b"'
_TRIM_EVERY_S = 10.0
_NEARLY_FULL = 0.9
_RETRY_S = 0.5
_SEND_BATCH = 500
_CLOSE_TIMEOUT_S = 2.0


class ChainBehind(Exception):
    """The stream has lost lines of a chain, or never got them; nothing was appended."""

    def __init__(self, stands: int) -> None:
        super().__init__(f"the stream has the chain's lines up to {stands} only")
        self.stands = stands


class AuditStream:
    """The stream that all processes append to, and keep within its bounds."""

    def __init__(self, valkey: Valkey, *, keep_s: float, bytes_max: int) -> None:
        """Lines older than `keep_s` are forgotten soon (0: never), others where they must be."""
        self._valkey = valkey
        self._keep_ms = round(keep_s * 1000)
        self._bytes_max = bytes_max
        self._sender = secrets.token_hex(8)
        self._attempts = 0
        self._is_full = False
        self.bytes = 0
        """What it takes of the server's memory, as far as known."""

    @property
    def name(self) -> str:
        return self._valkey.key("lines", tag="audit")

    @property
    def keep_s(self) -> float:
        return self._keep_ms / 1000

    async def append(
        self, chain: str, after_seq: int, lines: Sequence[bytes], *, allow_gap: bool = False
    ) -> None:
        """Append lines after line `after_seq`; what the stream has beyond that is taken back.

        Raises ChainBehind where line `after_seq` is not in it, unless `leaves_gap`. When it
        raises StoreUnavailable nobody knows whether it did.
        """
        self._attempts += 1
        keys = [self.name, self._valkey.key("chain", chain, tag="audit")]
        who: list[str | bytes | int] = [
            self._sender,
            self._attempts,
            after_seq,
            self._keep_ms + _STATE_TTL_MS,
            int(allow_gap),
        ]
        stands = int(await self._valkey.run_script(_APPEND, keys, [*who, *lines]))
        if stands < 0:
            raise StoreUnavailable("audit_append: a later attempt came before")
        if stands < after_seq:
            raise ChainBehind(stands)

    async def lines(self) -> AsyncIterator[bytes]:
        """Read all that it has, oldest first; raise StoreUnavailable."""
        async for line in self._read(0, [b""]):
            yield line

    async def expired_segments(
        self, before: float, signer: Signer | None
    ) -> list[tuple[int, Head]]:
        """Return the segments that ended before that, with their last lines.

        Only those count whose next one's opening a checkpoint of ours vouches for: whoever can
        write to the server can make others, to have their removal told.
        """
        found, openings = [], dict[str, Line]()
        kinds = [_EVENT % SEGMENT_OPENED.encode(), _EVENT % CHECKPOINT.encode()]
        async for text in self._read(self._keep_ms, kinds if self._keep_ms else []):
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

    async def _read(self, older_than_ms: int, holding: Sequence[bytes]) -> AsyncIterator[bytes]:
        after: bytes = b""
        while holding:
            after, *lines = await self._valkey.run_script(
                _READ,
                [self.name],
                [after, _READ_BATCH, older_than_ms, *holding],
                even_if_unavailable=True,
            )
            if not after:
                return
            for line in lines:
                yield line

    async def keep_trimmed(self, clock: Clock) -> None:
        """Keep the stream within its bounds, for ever, whatever else goes on or fails.

        A server is full or away for all purposes when the stream has filled it: it is asked all
        the same, since nothing else would make room.
        """
        while True:
            with suppress(StoreUnavailable):
                while await self.trim():
                    continue
            await clock.sleep(_TRIM_EVERY_S)

    async def trim(self) -> int:
        """Forget some thousand lines at most; return how many."""
        forgotten_ms = self._keep_ms + _TRIM_GRACE_MS if self._keep_ms else 0
        self.bytes, old, crowded = await self._valkey.run_script(
            _TRIM, [self.name], [forgotten_ms, self._bytes_max], even_if_unavailable=True
        )
        if crowded and not self._is_full:
            self._is_full = True
            log.warning("audit_stream_full", extra={"bytes_max": self._bytes_max})
        elif self.bytes < _NEARLY_FULL * self._bytes_max:
            self._is_full = False
        return int(old) + int(crowded)


def _confirms(line: Line, opening: Line, signer: Signer | None) -> bool:
    return line.prev == opening.hash and is_checkpoint_by(line, signer)


class StreamStore:
    """A chain that lives in the stream alone (audit_trail.AuditStore); each process makes one."""

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
        """Where the chain before stood, of which lines are gone."""
        self._told: set[tuple[int, Head]] = set()
        """Segments whose end we have told."""
        self._begin(empty_head(secrets.token_hex(8)))

    def _begin(self, head: Head) -> None:
        self._head = head
        self._sealed, self._checkpoint_at = 0, -math.inf
        """The last checkpoint's number and time."""
        self._segment, self._opened_at = 0, -math.inf

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        now, before = self._clock.now(), self._head
        opens = now - self._opened_at >= _SEGMENT_AGE_MAX_S
        made = self._compose(bodies, now, opens=opens, with_checkpoint=with_checkpoint)
        if not made.lines:
            return Committed([], [])
        await self._append(before, made.lines)
        if not confirm():  # the next attempt takes it back
            raise unavailable("the stream took too long")
        self._head, self._sealed = made.head, made.sealed
        if made.checkpoints:
            self._checkpoint_at = now
        if opens:
            self._segment, self._opened_at = self._segment + 1, now
        return Committed(made.lines, made.checkpoints)

    def _compose(
        self, bodies: Sequence[bytes], now: float, *, opens: bool, with_checkpoint: bool
    ) -> "_LineBuilder":
        made = _LineBuilder(self._head, self._sealed, partial(self._checkpoint, now=now))
        begins = self._head.seq == 0
        if opens:
            made.seal()
            made.add([segment_opened_body(self._segment + 1, now)])
            made.seal()
        elif bodies and now - self._checkpoint_at > OVERDUE_PERIODS * self._checkpoint_s:
            made.seal(anew=True)
        made.add([*([opening_body(now, lost=self._lost)] if begins else []), *bodies])
        if with_checkpoint or begins:
            made.seal()
        return made

    def _checkpoint(self, head: Head, *, now: float) -> bytes:
        promise = PROMISED_PERIODS * self._checkpoint_s
        return checkpoint(head, now, self._signer, next_within_s=promise)

    async def _append(self, before: Head, lines: Sequence[bytes]) -> None:
        try:
            await self._stream.append(before.chain, before.seq, lines)
        except ChainBehind as behind:
            log.error(  # noqa: TRY400 - the text says it all
                "audit_stream_lines_lost", extra={"head": str(before), "stands": behind.stands}
            )
            self._lost = before
            self._begin(empty_head(secrets.token_hex(8)))
            raise unavailable(str(behind)) from behind
        except StoreUnavailable as error:
            raise unavailable(str(error)) from error

    async def apply_retention(self) -> Committed:
        """Tell which segments the stream is about to forget, whoever wrote them."""
        now = self._clock.now()
        before = now - self._stream.keep_s
        try:
            old = await self._stream.expired_segments(before, self._signer)
        except StoreUnavailable as error:
            raise unavailable(str(error)) from error
        new = [one for one in old if one not in self._told]
        told = [
            segment_removed_body(
                now, segment=number, head=head, expired_before=before, why="older than keep_days"
            )
            for number, head in new
        ]
        committed = await self.commit(told, with_checkpoint=bool(told), confirm=lambda: True)
        self._told.update(new)
        return committed

    async def close(self) -> None:
        return


class _LineBuilder:
    """Lines that follow a head, with checkpoints among them."""

    def __init__(self, head: Head, sealed: int, checkpoint_of: Callable[[Head], bytes]) -> None:
        self.head, self.sealed = head, sealed
        self.lines: list[bytes] = []
        self.checkpoints: list[Head] = []
        self._checkpoint_of = checkpoint_of

    def add(self, bodies: Sequence[bytes]) -> None:
        lines, self.head = link(self.head, bodies)
        self.lines += lines

    def seal(self, *, anew: bool = False) -> None:
        """Put a checkpoint after the last line, if it is none, or `anew`."""
        if anew or self.head.seq > self.sealed:
            self.add([self._checkpoint_of(self.head)])
            self.sealed = self.head.seq
            self.checkpoints.append(self.head)


LinesAfter = Callable[[str, int], Iterator[bytes]]
"""Reads the lines of a chain that follow a number; it may block, and raise OSError, ValueError."""


class StreamFollower:
    """Copies lines that are durable elsewhere; those that it could not send it reads from there.

    So what a process left unsent comes as soon as the next one goes on with its chain.
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
        self._is_behind = False

    def follow(self, lines: Sequence[bytes]) -> None:
        self._backlog.extend(lines)
        if len(self._backlog) > self._backlog_max:
            if not self._is_behind:
                self._is_behind = True
                log.error("audit_stream_lagging", extra={"backlog": self._backlog_max})
            while len(self._backlog) > self._backlog_max:
                self._backlog.popleft()
        self._filled.set()

    async def run(self) -> None:
        """Send what comes, in order, for ever."""
        while True:
            await self._filled.wait()
            try:
                await self._send()
            except StoreUnavailable:
                await self._clock.sleep(_RETRY_S)

    async def close(self) -> None:
        """Send what is left, if that is possible at once."""
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                while self._in_flight or self._backlog:
                    await self._send()
        if left := len(self._in_flight) + len(self._backlog):
            log.error("audit_stream_incomplete", extra={"unsent": left})

    async def _send(self) -> None:
        lines = self._in_flight = self._in_flight or self._next_lines()
        if lines:
            begins = parse_line(lines[0])
            after = begins.seq - 1
            try:
                await self._stream.append(begins.chain, after, lines)
            except ChainBehind as behind:
                await self._replay(begins.chain, behind.stands, after)
                await self._stream.append(begins.chain, after, lines, allow_gap=True)
            self._in_flight = []
        if not self._backlog:
            self._is_behind = False
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

    async def _replay(self, chain: str, stands: int, until: int) -> None:
        """Append the lines between, as far as they are still there; what is not is told."""
        where: dict[str, object] = {"chain": chain, "after": stands, "through": until}
        log.warning("audit_stream_catchup_started", extra=where)
        kept = self._lines_after(chain, stands)
        missing = until - stands
        try:
            while stands < until and (
                lines := await asyncio.to_thread(_take, kept, min(_SEND_BATCH, until - stands))
            ):
                after = parse_line(lines[0]).seq - 1
                if after >= until:
                    break
                lines = lines[: until - after]
                await self._stream.append(chain, after, lines, allow_gap=after > stands)
                await self._stream.trim()  # it may be more than there is room for
                missing -= len(lines)
                stands = after + len(lines)
        except (OSError, ValueError) as error:
            where["error"] = type(error).__name__
        if missing:
            log.error("audit_stream_lines_lost", extra={**where, "missing": missing})


def _take(lines: Iterator[bytes], count: int) -> list[bytes]:
    return [*islice(lines, count)]
