"""Questions to all processes, over the channel, and their answers, sealed (ports.Replicas)."""

import asyncio
import logging
import secrets
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from gateway.domain.errors import GatewayError, StoreUnavailable
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.ports import Clock, Heard

log = logging.getLogger("gateway.admin")

_ASK, _TELL, _TAKE = LuaScript("ask_processes"), LuaScript("tell_asker"), LuaScript("take_answers")
_MESSAGE = b"ask "
_ID_CHARS = 16
_LOOK_EVERY_S = 0.02
_ANSWER_LIFE_MS = 10_000
_WAITING_MAX = 16
"""Questions that wait for an answer here; who asks more often than that is told less."""


class ValkeyReplicas:
    """Implements ports.Replicas."""

    def __init__(self, valkey: Valkey, sealer: Sealer, clock: Clock) -> None:
        self._valkey = valkey
        self._sealer = sealer
        self._clock = clock
        self._id = secrets.token_hex(8)
        self._own: set[str] = set()
        self._questions: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(_WAITING_MAX)
        self._answer: Callable[[bytes], Awaitable[bytes]] | None = None
        valkey.on_message(self._hear)

    def answer_with(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._answer = answer

    async def ask(self, question: bytes, *, within_s: float) -> Heard:
        until = self._clock.monotonic() + within_s
        asked = secrets.token_hex(_ID_CHARS // 2)
        self._own.add(asked)
        processes = self._valkey.processes
        answers: list[bytes] = []
        try:
            sealed = self._sealer.seal(question, bound_to=self._name(asked).encode())
            message = _MESSAGE + asked.encode() + sealed
            key = self._valkey.key("processes", tag="fleet")
            told = await self._valkey.run_script(_ASK, [key], [self._valkey.channel, message])
            processes = int(told)
            answers = await self._collect(asked, processes - 1, until)
        except StoreUnavailable:
            pass  # this process is all that can be seen
        finally:
            self._own.discard(asked)
        return Heard(answers, processes)

    async def run(self) -> None:
        """Answer what others ask, for ever."""
        while True:
            asked, sealed = await self._questions.get()
            name = self._name(asked)
            question = self._sealer.open(sealed, bound_to=name.encode())
            if question is None or self._answer is None:
                log.error("question_unreadable")  # made up, or sealed with a key we do not hold
                continue
            # Who does not know the question, or cannot answer, is missing where it was asked.
            with suppress(GatewayError, ValueError):
                answer = zlib.compress(await self._answer(question), 1)
                told = self._sealer.seal(answer, bound_to=name.encode())
                await self._valkey.run_script(_TELL, [name], [self._id, told, _ANSWER_LIFE_MS])

    async def _collect(self, asked: str, others: int, until: float) -> list[bytes]:
        name = self._name(asked)
        if others <= 0:
            return []
        while True:
            is_last = self._clock.monotonic() >= until
            told = await self._valkey.run_script(_TAKE, [name], [1 if is_last else others])
            if told or is_last:
                return self._opened(told or (), name)
            await self._clock.sleep(_LOOK_EVERY_S)

    def _opened(self, told: Sequence[bytes], name: str) -> list[bytes]:
        opened = (self._sealer.open(one, bound_to=name.encode()) for one in told)
        return [zlib.decompress(one) for one in opened if one is not None]

    def _hear(self, message: bytes) -> None:
        if not message.startswith(_MESSAGE):
            return
        rest = message[len(_MESSAGE) :]
        asked = rest[:_ID_CHARS].decode("ascii", "replace")
        if asked not in self._own:
            with suppress(asyncio.QueueFull):
                self._questions.put_nowait((asked, rest[_ID_CHARS:]))

    def _name(self, asked: str) -> str:
        return self._valkey.key("answers", tag=asked)
