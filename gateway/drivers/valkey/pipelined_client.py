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
from redis.exceptions import RedisError, ResponseError
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


class _SharedConnection:
    """A connection of the pool whose replies are matched to the calls by their order.

    After an error the order is unknown: all calls that wait fail, and the connection is closed.
    """

    def __init__(self, pool: Any, connection: Any) -> None:
        self._pool = pool
        self._connection = connection
        self._unsent: list[bytes] = []
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        """The calls without a reply, in order, and when each is too late."""
        self._timer: PatientTimer | None = None
        self._loop = asyncio.get_running_loop()
        self._sender: asyncio.Task[None] | None = None
        # An empty context: the tasks outlive the call that opens the connection.
        self._reader = self._loop.create_task(self._read(), context=Context())
        self.has_ended = False

    def call(self, words: tuple[_Word, ...], timeout_s: float) -> "asyncio.Future[Any]":
        reply = self._loop.create_future()
        packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]
        self._unsent.append(packed)
        due = self._loop.time() + timeout_s
        self._waiting.append((reply, due))
        if self._timer is None:
            self._timer = PatientTimer(due, self._check)
        if self._sender is None:
            # It runs after all calls that this pass of the event loop makes. A task of its own: a
            # cancelled caller must not cut a command off.
            self._sender = self._loop.create_task(self._send(), context=Context())
        return reply

    async def close(self) -> None:
        self._end(RedisConnectionError("closed"))
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _send(self) -> None:
        try:
            while self._unsent:
                unsent, self._unsent = self._unsent, []
                await self._connection.send_packed_command(unsent, check_health=False)
        except (RedisError, OSError) as error:
            self._end(error)
        finally:
            self._sender = None

    async def _read(self) -> None:
        try:
            while True:
                try:
                    reply = await self._connection.read_response()
                except ResponseError as error:  # about one command
                    self._deliver(error)
                else:
                    self._deliver(reply)
        except (RedisError, OSError) as error:
            self._end(error)
        finally:
            self._end(RedisConnectionError("closed"))
            with suppress(RedisError, OSError):
                await self._connection.disconnect(nowait=True)
            await self._pool.release(self._connection)

    def _deliver(self, reply: Any) -> None:
        if not self._waiting:
            raise RedisConnectionError("a reply without a command")
        waiting, _ = self._waiting.popleft()
        if waiting.done():  # the caller was cancelled
            return
        if isinstance(reply, ResponseError):
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
        if self._sender is not None:
            self._sender.cancel()
        if self._reader is not asyncio.current_task():
            self._reader.cancel()
