"""The audit trail's lines in a Redis stream: alone it decides, beside files it follows behind."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice, takewhile

from gateway.drivers.audit_record import Committed, opening_body, unavailable
from gateway.drivers.valkey.connection import Script, Valkey
from gateway.errors import StoreUnavailable
from gateway.ports import Clock
from gateway.rules.audit_chain import Signer, beginning, checkpoint, link, parse, segment_opening

log = logging.getLogger("gateway.audit")

_APPEND = Script("audit_append")
_TRIM = Script("audit_trim")
_STATE_LIFE_MS = 86_400_000
"""How long it is known what was appended last; an attempt is repeated within seconds."""
_TRIM_EVERY_S = 10.0
_NEARLY_FULL = 0.9
_TRY_AGAIN_S = 0.5
_LINES_AT_ONCE = 500
_LAST_WORDS_WITHIN_S = 2.0


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

    async def append(self, chain: str, after_seq: int, lines: Sequence[bytes]) -> None:
        """Append lines after line `after_seq`; what the stream has beyond that is taken back.

        When it raises StoreUnavailable nobody knows whether it did.
        """
        self._attempts += 1
        keys = [self.name, self._valkey.key("chain", chain, tag="audit")]
        who: list[str | bytes | int] = [
            self._sender,
            self._attempts,
            after_seq,
            _STATE_LIFE_MS,
        ]
        if not await self._valkey.run_script(_APPEND, keys, [*who, *lines]):
            raise StoreUnavailable("audit_append: a later attempt came before")

    async def keep_trimmed(self, clock: Clock) -> None:
        """Keep the stream within its bounds, for ever, whatever else goes on or fails.

        A server is full or away for all purposes when the stream has filled it: it is asked all
        the same, since nothing else would make room.
        """
        while True:
            with suppress(StoreUnavailable):
                while await self._trim():
                    continue
            await clock.sleep(_TRIM_EVERY_S)

    async def _trim(self) -> int:
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
        self._checkpointed = 0

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, claim: Callable[[], bool]
    ) -> Committed:
        now, before = self._clock.now(), self._head
        begins = [] if before.seq else [segment_opening(1, now), opening_body(now)]
        lines, head = link(before, [*begins, *bodies])
        marks = (with_checkpoint or bool(begins)) and head.seq > self._checkpointed
        if marks:
            last, head = link(head, [checkpoint(head, now, self._signer)])
            lines += last
        if not lines:
            return Committed([], [])
        try:
            await self._stream.append(head.chain, before.seq, lines)
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


class StreamFollower:
    """Copies lines that are durable elsewhere; while Redis is away some may be left out."""

    def __init__(self, stream: AuditStream, clock: Clock, *, backlog_max: int = 50_000) -> None:
        self._stream = stream
        self._clock = clock
        self._backlog_max = backlog_max
        self._backlog: deque[bytes] = deque()
        self._filled = asyncio.Event()
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Lines that the stream never got; the files have them."""
        return self._dropped

    def follow(self, lines: Sequence[bytes]) -> None:
        room = self._backlog_max - len(self._backlog)
        if len(lines) > room:
            if self._dropped == 0:
                log.error("audit_stream_behind", extra={"backlog": len(self._backlog)})
            self._dropped += len(lines) - max(room, 0)
        self._backlog.extend(lines[: max(room, 0)])
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
                while self._backlog:
                    await self._send()
        self._dropped += len(self._backlog)
        if self._dropped:
            log.error("audit_stream_incomplete", extra={"dropped": self._dropped})

    async def _send(self) -> None:
        if self._backlog:
            first = self._backlog[0]
            chain = first[: first.index(b",")]
            same = takewhile(lambda line: line.startswith(chain), self._backlog)
            lines = [*islice(same, _LINES_AT_ONCE)]
            begins = parse(first)
            await self._stream.append(begins.chain, begins.seq - 1, lines)
            for _ in lines:
                self._backlog.popleft()
        if not self._backlog:
            self._filled.clear()
