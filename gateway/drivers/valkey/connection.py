"""The process's connection to Redis or Valkey: script calls, pub/sub and availability.

While the server is unavailable each call fails at once, and one probe detects its return. Single
server, Sentinel and Cluster differ only in the client (client.py).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import NoScriptError

from gateway.config.store import StoreSettings
from gateway.domain.errors import StoreUnavailable
from gateway.drivers.valkey.call_timeout import CallTimeout
from gateway.drivers.valkey.client import RedisClient
from gateway.drivers.valkey.script import LuaScript
from gateway.drivers.valkey.store_errors import STORE_ERRORS, describe_store_error
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.valkey")

_PROBE_INTERVAL_S_MIN = 0.1
_PROBE_INTERVAL_S_MAX = 2.0
"""Below REUNION in lua/fair_queue.lua, the time for which it reserves a missing replica's share."""
_STABLE_AFTER_S = 10.0
"""If the server is lost again earlier, the probe interval doubles."""
_HEARTBEAT_INTERVAL_S = 0.5
_PROCESS_TTL_MS = 3_000

_HEARTBEAT = LuaScript("heartbeat")


class Valkey:
    """Runs scripts, receives messages of one channel, and tracks whether the server responds."""

    def __init__(
        self,
        store: StoreSettings,
        client: RedisClient,
        *,
        process_id: str | None,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """Create a connection; `process_id` None: not counted as a process of the gateway."""
        self._client = client
        self._clock = clock
        self._telemetry = telemetry
        self._timeout_s = store.timeout_s
        self._counted_as = process_id or ""
        self._namespace = store.namespace
        self._processes = 0
        self._available = False
        self._attempted = False
        self._lost = asyncio.Event()
        self._availability_callbacks: list[Callable[[], None]] = []
        self._message_callbacks: list[Callable[[bytes], None]] = []

    @property
    def available(self) -> bool:
        return self._available

    @property
    def processes(self) -> int:
        """Return how many gateway processes the last heartbeat counted; 0 before the first."""
        return self._processes

    def key(self, *parts: str, tag: str) -> str:
        """Return a key. In a cluster, keys with the same `tag` are on one node.

        All keys of one script call must have the same tag.
        """
        return ":".join((self._namespace, "{" + tag + "}", *parts))

    @property
    def channel(self) -> str:
        return f"{self._namespace}:wake"

    def on_availability_change(self, call: Callable[[], None]) -> None:
        self._availability_callbacks.append(call)

    def on_message(self, call: Callable[[bytes], None]) -> None:
        self._message_callbacks.append(call)

    async def run_script(
        self,
        script: LuaScript,
        keys: Sequence[str],
        args: Sequence[str | bytes | int],
        *,
        even_if_unavailable: bool = False,
    ) -> Any:
        """Run a script in one round trip. Raises StoreUnavailable.

        While the server is unavailable the call fails at once. With `even_if_unavailable` it is
        sent all the same and may take up to `store.timeout_s`.
        """
        if not (self._available or even_if_unavailable):
            raise StoreUnavailable("unavailable since an earlier call")
        return await self._attempt(script, keys, args)

    async def ping(self) -> None:
        """Send a heartbeat and update `available` and `processes`. Raises StoreUnavailable."""
        key = self.key("processes", tag="fleet")
        count = await self._attempt(_HEARTBEAT, [key], [self._counted_as, _PROCESS_TTL_MS])
        self._processes = int(count)
        self._set_available()

    async def probe(self) -> bool:
        """Send a heartbeat and return whether the server responded."""
        try:
            await self.ping()
        except StoreUnavailable:
            return False
        return True

    async def eviction_policy(self) -> str:
        """Return the server's `maxmemory-policy` if it may evict keys without expiry, else "".

        Revocations have no expiry, so a `volatile-*` policy keeps them; replicas restore the rest.
        "" also if the user may not read it: INFO is a dangerous command for access control lists.
        """
        try:
            found: dict[str, Any] = await self._client.info("memory")
        except STORE_ERRORS:
            return ""
        # A cluster client returns one section per node.
        nodes = [found] if "maxmemory" in found else list(found.values())
        limited = [one for one in nodes if int(one.get("maxmemory", 0))]
        policies = {str(one.get("maxmemory_policy", "")) for one in limited}
        return ", ".join(sorted(one for one in policies if one.startswith("allkeys")))

    async def close(self) -> None:
        clients: list[RedisClient] = [self._client]
        pool = getattr(self._client, "connection_pool", None)
        if isinstance(pool, SentinelConnectionPool):
            clients += pool.sentinel_manager.sentinels
        for client in clients:
            with suppress(*STORE_ERRORS):
                await client.aclose()

    async def _attempt(
        self, script: LuaScript, keys: Sequence[str], args: Sequence[str | bytes | int]
    ) -> Any:
        began = self._clock.monotonic()
        try:
            # One timeout over connect, redirect and read: a slow server counts as unavailable.
            async with CallTimeout(self._timeout_s):
                reply = await self._evaluate(script, keys, args)
        except STORE_ERRORS as error:
            _raise_if_cancelled()
            self._telemetry.store_called(self._clock.monotonic() - began, ok=False)
            reason = describe_store_error(error)
            self._set_unavailable(type(error).__name__, reason)
            raise StoreUnavailable(reason) from None
        _raise_if_cancelled()
        self._telemetry.store_called(self._clock.monotonic() - began, ok=True)
        return reply

    async def _evaluate(
        self, script: LuaScript, keys: Sequence[str], args: Sequence[str | bytes | int]
    ) -> Any:
        try:
            return await self._client.evalsha(script.digest, len(keys), *keys, *args)
        except NoScriptError:  # a new server, a flush or a failover: EVAL loads the script
            return await self._client.eval(script.text, len(keys), *keys, *args)

    def _set_available(self) -> None:
        if self._available:
            return
        self._available = self._attempted = True
        log.info("store_available", extra={"processes": self._processes})
        self._report_availability()

    def _set_unavailable(self, error: str, reason: str) -> None:
        if self._attempted and not self._available:
            return
        self._available, self._attempted = False, True
        log.warning("store_unavailable", extra={"error": error, "reason": reason})
        self._lost.set()
        self._report_availability()

    def _report_availability(self) -> None:
        self._telemetry.store_available(available=self._available)
        for call in self._availability_callbacks:
            call()

    async def run_heartbeat(self) -> None:
        """Send heartbeats while the server responds, and probe for it otherwise; forever.

        Each return of the server restarts the shared budgets without a burst. The probe interval
        therefore doubles while the server is lost again and again.
        """
        interval_s = _PROBE_INTERVAL_S_MIN
        while True:
            while not await self.probe():
                await self._clock.sleep(interval_s)
            found_at = self._clock.monotonic()
            await self._beat_until_lost()
            was_stable = self._clock.monotonic() - found_at >= _STABLE_AFTER_S
            interval_s = (
                _PROBE_INTERVAL_S_MIN if was_stable else min(2 * interval_s, _PROBE_INTERVAL_S_MAX)
            )
            await self._clock.sleep(interval_s)

    async def _beat_until_lost(self) -> None:
        self._lost.clear()
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT_INTERVAL_S):
                    await self._lost.wait()
            except TimeoutError:
                if await self.probe():
                    continue
            return

    async def run_subscription(self) -> None:
        """Pass the channel's messages to the callbacks, and subscribe again after errors; forever.

        Each waiter also polls, so a lost message costs time only.
        """
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(self.channel)
                    await self._deliver(pubsub)
            except STORE_ERRORS:
                await self._clock.sleep(_PROBE_INTERVAL_S_MIN)

    async def _deliver(self, pubsub: Any) -> None:
        while True:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
            if message is not None and message["type"] == "message":
                for call in self._message_callbacks:
                    call(message["data"])


def _raise_if_cancelled() -> None:
    """Raise CancelledError if this task was cancelled: redis-py swallows some cancellations."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
