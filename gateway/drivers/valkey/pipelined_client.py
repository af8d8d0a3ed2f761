"""A Redis client whose short script calls share one connection (pipelining).

redis-py takes a connection from its pool for each call, and the call has it alone until the reply
has arrived. That costs several times the CPU of the call itself. Calls whose arguments and replies
are small are therefore sent over one connection, without waiting for each other's replies. Others
use the pool: a reply of megabytes would delay the replies behind it.
"""

import asyncio
from collections import deque
from contextlib import suppress
from contextvars import Context
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.drivers.valkey.call_timeout import PatientTimer, connecting

_Word = str | bytes | int


class PipelinedClient(Redis):
    """A client of one server, or of the primary that the Sentinels name."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._opening = asyncio.Lock()
        self._shared: _SharedConnection | None = None

    @property
    def is_open(self) -> bool:
        """Whether a pipelined call is sent at once, without opening the connection first."""
        return self._shared is not None and not self._shared.has_ended

    async def call_pipelined(self, *words: _Word, timeout_s: float) -> Any:
        """Send a command over the shared connection and return its reply.

        `timeout_s` limits the time without a reply, not that of opening the connection. A cancelled
        call has been sent all the same; its reply is dropped. Raises redis-py's errors.
        """
        shared = self._shared
        if shared is None or shared.has_ended:
            shared = await self._open()
        return await shared.call(words, timeout_s)

    async def aclose(self, *args: Any) -> None:
        if self._shared is not None:
            await self._shared.close()
        await super().aclose(*args)

    async def _open(self) -> "_SharedConnection":
        with connecting():
            async with self._opening:
                if self._shared is None or self._shared.has_ended:
                    pool: Any = self.connection_pool
                    self._shared = _SharedConnection(pool, await pool.get_connection())
                return self._shared


class _SharedConnection(asyncio.Protocol):
    """A connection of the pool whose replies are matched to the calls by their order.

    redis-py opens it; from then on its socket is read and written here, without the tasks and
    streams that redis-py needs for each call. After an error the order is unknown: all calls that
    wait fail, and the connection is closed.
    """

    def __init__(self, pool: Any, connection: Any) -> None:
        """Use `connection`, which is open and has no call in progress."""
        self._pool = pool
        self._connection = connection
        self._unsent: list[bytes] = []
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        """The calls without a reply, in order, and when each is too late."""
        self._timer: PatientTimer | None = None
        self._loop = asyncio.get_running_loop()
        self._release_task: asyncio.Task[None] | None = None
        self.has_ended = False
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=connection._parser.parse_error,  # noqa: SLF001 - redis-py's error classes
        )
        self._transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        self._transport.set_protocol(self)

    def call(self, words: tuple[_Word, ...], timeout_s: float) -> "asyncio.Future[Any]":
        reply = self._loop.create_future()
        packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]
        if not self._unsent:
            # It runs after all calls that this pass of the event loop makes. Not in the caller: a
            # cancelled caller must not cut a command off.
            self._loop.call_soon(self._send)
        self._unsent.append(packed)
        due = self._loop.time() + timeout_s
        self._waiting.append((reply, due))
        if self._timer is None:
            self._timer = PatientTimer(due, self._check)
        return reply

    async def close(self) -> None:
        self._end(RedisConnectionError("closed"))
        if self._release_task is not None:
            await asyncio.gather(self._release_task, return_exceptions=True)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._deliver(reply)
        except RedisError as error:
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or RedisConnectionError("Connection closed by server."))

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport.is_closing():
            # Perhaps it was closed before it had this protocol, which then gets no event of it.
            self._end(RedisConnectionError("Connection closed by server."))
        elif not self.has_ended:
            self._transport.write(b"".join(unsent))

    def _deliver(self, reply: Any) -> None:
        if not self._waiting:
            raise RedisConnectionError("a reply without a command")
        waiting, _ = self._waiting.popleft()
        if waiting.done():  # the caller was cancelled
            return
        if isinstance(reply, RedisError):  # about one command
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)

    def _check(self) -> None:
        """End the connection if the oldest call has no reply in time, otherwise look again."""
        self._timer = None
        if not self._waiting:
            return
        _, due = self._waiting[0]
        if due <= self._loop.time():
            self._end(RedisTimeoutError("no reply in time"))
        else:
            self._timer = PatientTimer(due, self._check)

    def _end(self, error: Exception) -> None:
        if self.has_ended:
            return
        self.has_ended = True
        for waiting, _ in self._waiting:
            if not waiting.done():
                waiting.set_exception(error)
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        # An empty context: it outlives the call that opened the connection.
        self._release_task = self._loop.create_task(self._release(), context=Context())

    async def _release(self) -> None:
        with suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)
        await self._pool.release(self._connection)
