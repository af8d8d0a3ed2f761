"""Queries to all processes over the Redis channel, and their sealed responses (port `Replicas`)."""

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
from gateway.flow.admin.cluster_query import QueryResult
from gateway.flow.clock import Clock

log = logging.getLogger("gateway.admin")

_PUBLISH, _RESPOND = LuaScript("publish_query"), LuaScript("respond_to_query")
_COLLECT = LuaScript("collect_responses")
_MESSAGE = b"query "
_ID_CHARS = 16
_POLL_INTERVAL_S = 0.02
_RESPONSE_TTL_MS = 10_000
_QUEUED_MAX = 16
"""Queries that wait for a response of this process; further ones are dropped."""


class ValkeyReplicas:
    """Implements the port `Replicas`."""

    def __init__(self, valkey: Valkey, sealer: Sealer, clock: Clock) -> None:
        self._valkey = valkey
        self._sealer = sealer
        self._clock = clock
        self._id = secrets.token_hex(8)
        self._own_queries: set[str] = set()
        self._queries: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(_QUEUED_MAX)
        self._respond: Callable[[bytes], Awaitable[bytes]] | None = None
        valkey.on_message(self._receive)

    def on_query(self, respond: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._respond = respond

    async def query(self, query: bytes, *, timeout_s: float) -> QueryResult:
        until = self._clock.monotonic() + timeout_s
        query_id = secrets.token_hex(_ID_CHARS // 2)
        self._own_queries.add(query_id)
        processes = self._valkey.processes
        responses: list[bytes] = []
        try:
            sealed = self._sealer.seal(query, bound_to=self._key(query_id).encode())
            message = _MESSAGE + query_id.encode() + sealed
            key = self._valkey.key("processes", tag="fleet")
            count = await self._valkey.run_script(_PUBLISH, [key], [self._valkey.channel, message])
            processes = int(count)
            responses = await self._collect(query_id, processes - 1, until)
        except StoreUnavailable:
            pass  # only this process is visible
        finally:
            self._own_queries.discard(query_id)
        return QueryResult(responses, processes)

    async def run(self) -> None:
        """Respond to the queries of other processes, until cancelled."""
        while True:
            query_id, sealed = await self._queries.get()
            key = self._key(query_id)
            query = self._sealer.open(sealed, bound_to=key.encode())
            if query is None or self._respond is None:
                # Forged, or sealed with a key that this process does not have.
                log.error("cluster_query_unreadable")
                continue
            # Without a response this process counts as missing.
            with suppress(GatewayError, ValueError):
                response = zlib.compress(await self._respond(query), 1)
                sealed = self._sealer.seal(response, bound_to=key.encode())
                await self._valkey.run_script(_RESPOND, [key], [self._id, sealed, _RESPONSE_TTL_MS])

    async def _collect(self, query_id: str, others: int, until: float) -> list[bytes]:
        key = self._key(query_id)
        if others <= 0:
            return []
        while True:
            is_last = self._clock.monotonic() >= until
            sealed = await self._valkey.run_script(_COLLECT, [key], [1 if is_last else others])
            if sealed or is_last:
                return self._open(sealed or (), key)
            await self._clock.sleep(_POLL_INTERVAL_S)

    def _open(self, sealed: Sequence[bytes], key: str) -> list[bytes]:
        opened = (self._sealer.open(one, bound_to=key.encode()) for one in sealed)
        return [zlib.decompress(one) for one in opened if one is not None]

    def _receive(self, message: bytes) -> None:
        if not message.startswith(_MESSAGE):
            return
        rest = message[len(_MESSAGE) :]
        query_id = rest[:_ID_CHARS].decode("ascii", "replace")
        if query_id not in self._own_queries:
            with suppress(asyncio.QueueFull):
                self._queries.put_nowait((query_id, rest[_ID_CHARS:]))

    def _key(self, query_id: str) -> str:
        return self._valkey.key("responses", tag=query_id)
