"""The audit trail's lines in a Redis stream: alone it decides, beside files it follows behind."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice, takewhile

from gateway.drivers.audit_record import Committed, opening_body, unavailable
from gateway.drivers.valkey.connection import Script, Valkey
from gateway.errors import StoreUnavailable
from gateway.ports import Clock
from gateway.rules.audit_chain import (
    Head,
    Signer,
    beginning,
    checkpoint,
    link,
    parse,
    segment_opening,
)

log = logging.getLogger("gateway.audit")

_APPEND = Script("audit_append")
_TRIM = Script("audit_trim")
_STATE_LIFE_MS = 366 * 86_400_000
"""How long after its last line it is known where a chain stands: a process may be idle."""
_TRIM_EVERY_S = 10.0
_NEARLY_FULL = 0.9
_TRY_AGAIN_S = 0.5
_LINES_AT_ONCE = 500
_LAST_WORDS_WITHIN_S = 2.0


class ChainBehind(Exception):
    """The stream has lost lines of a chain, or never got them; nothing was appended."""

    def __init__(self, stands: int) -> None:
        super().__init__(f"the stream has the chain's lines up to {stands} only")
        self.stands = stands


class AuditStream:
    """The stream that all processes append to, and keep within its bounds."""

    def __init__(self, valkey: Valkey, *, keep_s: float, bytes_max: int) -> None:
        """Lines older than `keep_s` are forgotten (0: never), others while there is no room."""
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

    async def append(
        self, chain: str, after_seq: int, lines: Sequence[bytes], *, leaves_gap: bool = False
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
            self._keep_ms + _STATE_LIFE_MS,
            int(leaves_gap),
        ]
        stands = int(await self._valkey.run_script(_APPEND, keys, [*who, *lines]))
        if stands < 0:
            raise StoreUnavailable("audit_append: a later attempt came before")
        if stands < after_seq:
            raise ChainBehind(stands)

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
        self.bytes, old, crowded = await self._valkey.run_script(
            _TRIM, [self.name], [self._keep_ms, self._bytes_max], even_if_away=True
        )
        if crowded and not self._is_full:
            self._is_full = True
            log.warning("audit_stream_full", extra={"bytes_max": self._bytes_max})
        elif self.bytes < _NEARLY_FULL * self._bytes_max:
            self._is_full = False
        return int(old) + int(crowded)


class StreamStore:
    """A chain that lives in the stream alone (audit_trail.AuditStore); each process makes one."""

    def __init__(self, stream: AuditStream, *, clock: Clock, signer: Signer | None) -> None:
        self._stream = stream
        self._clock = clock
        self._signer = signer
        self._head = beginning(secrets.token_hex(8))
        self._lost: Head | None = None
        """Where the chain before stood, of which lines are gone."""
        self._checkpointed = 0

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, claim: Callable[[], bool]
    ) -> Committed:
        now, before = self._clock.now(), self._head
        begins = [] if before.seq else [segment_opening(1, now), opening_body(now, lost=self._lost)]
        lines, head = link(before, [*begins, *bodies])
        marks = (with_checkpoint or bool(begins)) and head.seq > self._checkpointed
        if marks:
            last, head = link(head, [checkpoint(head, now, self._signer)])
            lines += last
        if not lines:
            return Committed([], [])
        try:
            await self._stream.append(head.chain, before.seq, lines)
        except ChainBehind as behind:
            log.error(  # noqa: TRY400 - the text says it all
                "audit_stream_lost_lines", extra={"head": str(before), "stands": behind.stands}
            )
            self._lost, self._head, self._checkpointed = before, beginning(secrets.token_hex(8)), 0
            raise unavailable(str(behind)) from behind
        except StoreUnavailable as error:
            raise unavailable(str(error)) from error
        if not claim():  # the next attempt takes it back
            raise unavailable("the stream took too long")
        self._head = head
        if marks:
            self._checkpointed = head.seq
        return Committed(lines, [head] if marks else [])

    async def tidy(self) -> Committed:
        return Committed([], [])  # AuditStream.keep_trimmed does

    async def close(self) -> None:
        return


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
        self._under_way: list[bytes] = []
        self._filled = asyncio.Event()
        self._is_behind = False

    def follow(self, lines: Sequence[bytes]) -> None:
        self._backlog.extend(lines)
        if len(self._backlog) > self._backlog_max:
            if not self._is_behind:
                self._is_behind = True
                log.error("audit_stream_behind", extra={"backlog": self._backlog_max})
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
                await self._clock.sleep(_TRY_AGAIN_S)

    async def close(self) -> None:
        """Send what is left, if that is possible at once."""
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_WITHIN_S):
                while self._under_way or self._backlog:
                    await self._send()
        if left := len(self._under_way) + len(self._backlog):
            log.error("audit_stream_incomplete", extra={"unsent": left})

    async def _send(self) -> None:
        lines = self._under_way = self._under_way or self._next_lines()
        if lines:
            begins = parse(lines[0])
            after = begins.seq - 1
            try:
                await self._stream.append(begins.chain, after, lines)
            except ChainBehind as behind:
                await self._replay(begins.chain, behind.stands, after)
                await self._stream.append(begins.chain, after, lines, leaves_gap=True)
            self._under_way = []
        if not self._backlog:
            self._is_behind = False
            self._filled.clear()

    def _next_lines(self) -> list[bytes]:
        """Take lines of one chain from the backlog."""
        if not self._backlog:
            return []
        chain = self._backlog[0].partition(b",")[0]
        same = takewhile(lambda line: line.startswith(chain), self._backlog)
        lines = [*islice(same, _LINES_AT_ONCE)]
        for _ in lines:
            self._backlog.popleft()
        return lines

    async def _replay(self, chain: str, stands: int, until: int) -> None:
        """Append the lines between, as far as they are still there; what is not is told."""
        where: dict[str, object] = {"chain": chain, "after": stands, "through": until}
        log.warning("audit_stream_catches_up", extra=where)
        kept = self._lines_after(chain, stands)
        missing = until - stands
        try:
            while stands < until and (
                lines := await asyncio.to_thread(_take, kept, min(_LINES_AT_ONCE, until - stands))
            ):
                after = parse(lines[0]).seq - 1
                if after >= until:
                    break
                lines = lines[: until - after]
                await self._stream.append(chain, after, lines, leaves_gap=after > stands)
                await self._stream.trim()  # it may be more than there is room for
                missing -= len(lines)
                stands = after + len(lines)
        except (OSError, ValueError) as error:
            where["error"] = type(error).__name__
        if missing:
            log.error("audit_stream_lost_lines", extra={**where, "missing": missing})


def _take(lines: Iterator[bytes], count: int) -> list[bytes]:
    return [*islice(lines, count)]
