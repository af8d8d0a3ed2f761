"""The process's connection to Redis or Valkey: script calls, pub/sub and availability.

While the server is unavailable each call fails at once, and one probe detects its return. Single
server, Sentinel and Cluster differ only in the client (client.py).
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import NoScriptError

from gateway.config.store import StoreSettings
from gateway.domain.errors import StoreUnavailable
from gateway.drivers.valkey.call_timeout import CallTimeout
from gateway.drivers.valkey.client import ClientFactory, RedisClient
from gateway.drivers.valkey.pipelined_client import PipelinedClient
from gateway.drivers.valkey.rights import KINDS, TRY_COMMANDS, require_all
from gateway.drivers.valkey.script import LuaScript
from gateway.drivers.valkey.store_errors import STORE_ERRORS, describe_store_error
from gateway.drivers.valkey.subscription import Subscription
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.valkey")

_PROBE_INTERVAL_S_MIN = 0.1
_PROBE_INTERVAL_S_MAX = 2.0
"""Below REUNION in lua/fair_queue.lua, the time for which it reserves a missing replica's share."""
_STABLE_AFTER_S = 10.0
"""If the server or the subscription is lost again earlier, its interval doubles."""
_HEARTBEAT_INTERVAL_S = 0.5
_PROCESS_TTL_MS = 3_000
_POLL_INTERVAL_S = 0.02

SHORT_BYTES = 16_384
"""Calls with larger arguments do not share a connection."""

_HEARTBEAT = LuaScript("heartbeat")

_T = TypeVar("_T")
_Arguments = Sequence[str | bytes | int]


class Valkey:
    """Runs scripts, receives messages of one channel, and tracks whether the server responds.

    After each failed call it continues with a new client: a connection may lead to a server that
    was demoted or replaced, or through a proxy that no longer delivers. A new client resolves
    names, discovers nodes and reads password files again.
    """

    def __init__(
        self,
        store: StoreSettings,
        new_client: ClientFactory,
        *,
        process_id: str | None,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """Create a connection; `process_id` None: not counted as a process of the gateway."""
        self._store = store
        self._new_client = new_client
        self._client = new_client()
        self._replaced: list[RedisClient] = []
        self._client_replaced = asyncio.Event()
        self._calls: set[CallTimeout] = set()
        self._clock = clock
        self._telemetry = telemetry
        self._counted_as = process_id or ""
        self._needs_stream = False
        self._scratch = secrets.token_hex(8)
        self._processes = 0
        self._available = False
        self._attempted = False
        self._lost = asyncio.Event()
        self._found = asyncio.Event()
        self._subscription: Subscription | None = None
        self._subscription_problem = ""
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
        return ":".join((self._store.namespace, "{" + tag + "}", *parts))

    @property
    def channel(self) -> str:
        return f"{self._store.namespace}:wake"

    def leave(self) -> None:
        """Count no longer as a process: a replaced one takes no share of a budget."""
        self._counted_as = ""

    def require_audit_stream(self) -> None:
        """Count the server as available only if it allows the commands of the audit stream."""
        self._needs_stream = True

    def on_availability_change(self, call: Callable[[], None]) -> None:
        """Call `call` when the server is lost or found, and after messages may have been missed."""
        self._availability_callbacks.append(call)

    def on_message(self, call: Callable[[bytes], None]) -> None:
        self._message_callbacks.append(call)

    def on_change(self, message: bytes, call: Callable[[], None]) -> None:
        """Call `call` at each such message, and whenever one may have been missed."""

        def receive(received: bytes) -> None:
            if received == message:
                call()

        self.on_message(receive)
        self.on_availability_change(call)

    async def run_script(
        self,
        script: LuaScript,
        keys: Sequence[str],
        args: _Arguments,
        *,
        is_short: bool = False,
        even_if_unavailable: bool = False,
    ) -> Any:
        """Run a script in one round trip. Raises StoreUnavailable.

        `is_short`: arguments and reply are small, so the call may share a connection with others.
        While the server is unavailable the call fails at once. With `even_if_unavailable` it is
        sent all the same and may take up to `store.timeout_s`, and `store.connect_timeout_s` more.
        """
        if not (self._available or even_if_unavailable):
            raise StoreUnavailable("unavailable since an earlier call")
        if is_short:
            return await self._run_short(script, keys, args)
        return await self._attempt(lambda client: _evaluate(client, script, keys, args))

    async def ping(self) -> None:
        """Send a heartbeat and update `available` and `processes`. Raises StoreUnavailable.

        A server that was unavailable must first accept every command that serving needs.
        """
        if not self._available:
            await self._try_commands()
        subscription, channel, number = self._subscription, "", 0
        if subscription is not None and subscription.confirmed:
            channel, number = subscription.own_channel, subscription.next_number()
        key = self.key("processes", tag="fleet")
        args = (self._counted_as, _PROCESS_TTL_MS, channel, number)
        count = await self._run_short(_HEARTBEAT, [key], args)
        self._processes = int(count)
        self._set_available()
        if subscription is not None and number:
            subscription.expect(number)

    async def probe(self) -> bool:
        """Send a heartbeat and return whether the server responded."""
        try:
            await self.ping()
        except StoreUnavailable:
            return False
        return True

    async def eviction_problem(self) -> str:
        """Return why the server may evict keys without expiry; "" if it does not.

        Revocations have no expiry, so a `volatile-*` policy keeps them; replicas restore the rest.
        """
        try:
            found: dict[str, Any] = await self._client.info("memory")
        except STORE_ERRORS as error:
            # INFO is a dangerous command for access control lists.
            reason = describe_store_error(error, self._store.namespace)
            return (
                f"maxmemory-policy cannot be read ({reason}); allow +info, or verify that it is "
                "noeviction"
            )
        # A cluster client returns one section per node.
        nodes = [found] if "maxmemory" in found else list(found.values())
        limited = [one for one in nodes if int(one.get("maxmemory", 0))]
        policies = {str(one.get("maxmemory_policy", "")) for one in limited}
        evicting = ", ".join(sorted(one for one in policies if one.startswith("allkeys")))
        return f"maxmemory-policy is {evicting}; set it to noeviction" if evicting else ""

    async def check(self) -> None:
        """Do once all that serving needs: each command, and a message that comes back.

        Raises StoreUnavailable.
        """
        await self.ping()
        within_s = self._store.connect_timeout_s + self._store.timeout_s
        until, problem = self._clock.monotonic() + within_s, ""
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(self.run_subscription())
            while not (self._subscription is not None and self._subscription.received):
                if self._subscription_problem or self._clock.monotonic() > until:
                    problem = self._subscription_problem or "no message arrives in time"
                    break
                await self.probe()
                await self._clock.sleep(_POLL_INTERVAL_S)
            listening.cancel()
        if problem:
            raise StoreUnavailable(problem)

    async def close(self) -> None:
        await asyncio.gather(*map(_close, (self._client, *self._replaced)))
        self._replaced.clear()

    async def _try_commands(self) -> None:
        keys = [self.key("tried", kind, tag=self._scratch) for kind in KINDS]
        args = (self.channel, int(self._needs_stream))

        async def run(client: RedisClient) -> None:
            # Sent as text: serving needs EVAL whenever a server has lost the scripts.
            failures = await client.eval(TRY_COMMANDS.text, len(keys), *keys, *args)
            require_all(failures, self._store.namespace)

        await self._attempt(run)

    async def _run_short(self, script: LuaScript, keys: Sequence[str], args: _Arguments) -> Any:
        client, timeout_s = self._client, self._store.timeout_s
        if not isinstance(client, PipelinedClient):
            return await self._attempt(lambda client: _evaluate(client, script, keys, args))
        call = _evaluate_pipelined(client, script, keys, args, timeout_s=timeout_s)
        if not client.is_open:
            return await self._attempt(lambda _: call)
        # The connection itself limits the time of each call.
        began = self._clock.monotonic()
        try:
            reply = await call
        except STORE_ERRORS as error:
            raise self._failed(client, error, began) from None
        self._telemetry.store_called(self._clock.monotonic() - began, ok=True)
        return reply

    async def _attempt(self, run: Callable[[RedisClient], Awaitable[_T]]) -> _T:
        began, client = self._clock.monotonic(), self._client
        timeout = CallTimeout(self._store.timeout_s, connect_s=self._store.connect_timeout_s)
        self._calls.add(timeout)
        try:
            async with timeout:  # a slow server counts as unavailable
                reply = await run(client)
        except STORE_ERRORS as error:
            _raise_if_cancelled()
            raise self._failed(client, error, began) from None
        finally:
            self._calls.discard(timeout)
        _raise_if_cancelled()
        self._telemetry.store_called(self._clock.monotonic() - began, ok=True)
        return reply

    def _failed(self, client: RedisClient, error: BaseException, began: float) -> StoreUnavailable:
        self._telemetry.store_called(self._clock.monotonic() - began, ok=False)
        reason = describe_store_error(error, self._store.namespace)
        if client is self._client:  # else the process has continued with another since
            self._replace_client()
            self._set_unavailable(type(error).__name__, reason)
        return StoreUnavailable(reason)

    def _replace_client(self) -> None:
        self._replaced.append(self._client)
        self._client_replaced.set()
        self._client = self._new_client()
        for call in self._calls:
            call.expire_if_connecting()
        if self._subscription is not None:
            self._subscription.end("")

    def _set_available(self) -> None:
        if self._available:
            return
        self._available = self._attempted = True
        log.info("store_available", extra={"processes": self._processes})
        self._found.set()
        self._report_availability()

    def _set_unavailable(self, error: str, reason: str) -> None:
        if self._attempted and not self._available:
            return
        self._available, self._attempted = False, True
        log.warning("store_unavailable", extra={"error": error, "reason": reason})
        self._found.clear()
        self._lost.set()
        self._report_availability()

    def _report_availability(self) -> None:
        self._telemetry.store_available(available=self._available)
        self._wake()

    def _wake(self) -> None:
        for call in self._availability_callbacks:
            call()

    async def run_heartbeat(self) -> None:
        """Send heartbeats while the server responds, and probe for it otherwise; until cancelled.

        Each return of the server restarts the shared budgets without a burst. The probe interval
        therefore doubles while the server is lost again and again.
        """
        interval_s = _PROBE_INTERVAL_S_MIN
        while True:
            while not await self.probe():
                await self._clock.sleep(interval_s)
            found_at = self._clock.monotonic()
            await self._beat_until_lost()
            interval_s = self._next_interval_s(interval_s, found_at)
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
        """Pass messages to the callbacks and subscribe again after errors, until cancelled.

        Each waiter also polls, so a lost message costs time only.
        """
        interval_s = _PROBE_INTERVAL_S_MIN
        while True:
            await self._found.wait()
            began = self._clock.monotonic()
            self._subscription = subscription = Subscription(
                self.channel,
                self._receive,
                timeout_s=self._store.timeout_s,
                connect_timeout_s=self._store.connect_timeout_s,
            )
            try:
                await subscription.run(self._client, self._set_subscribed)
            except STORE_ERRORS as error:
                _raise_if_cancelled()
                self._set_unsubscribed(describe_store_error(error, self._store.namespace))
            finally:
                self._subscription = None
                self._telemetry.store_subscribed(subscribed=False)
            if self._available:
                interval_s = self._next_interval_s(interval_s, began)
                await self._clock.sleep(interval_s)

    def _next_interval_s(self, interval_s: float, began: float) -> float:
        if self._clock.monotonic() - began >= _STABLE_AFTER_S:
            return _PROBE_INTERVAL_S_MIN
        return min(2 * interval_s, _PROBE_INTERVAL_S_MAX)

    def _receive(self, message: bytes) -> None:
        for call in self._message_callbacks:
            call(message)

    def _set_subscribed(self) -> None:
        self._subscription_problem = ""
        log.info("store_subscribed")
        self._telemetry.store_subscribed(subscribed=True)
        self._wake()

    def _set_unsubscribed(self, reason: str) -> None:
        if not (self._available and reason) or reason == self._subscription_problem:
            return
        self._subscription_problem = reason
        log.warning("store_subscription_lost", extra={"reason": reason})

    async def run_cleanup(self) -> None:
        """Close replaced clients once their calls have ended, until cancelled."""
        while True:
            await self._client_replaced.wait()
            self._client_replaced.clear()
            clients = [*self._replaced]
            await self._clock.sleep(self._store.connect_timeout_s + self._store.timeout_s)
            await asyncio.gather(*map(_close, clients))
            del self._replaced[: len(clients)]


async def _evaluate(
    client: RedisClient, script: LuaScript, keys: Sequence[str], args: _Arguments
) -> Any:
    try:
        return await client.evalsha(script.digest, len(keys), *keys, *args)
    except NoScriptError:  # a new server, a flush or a failover: EVAL loads the script
        return await client.eval(script.text, len(keys), *keys, *args)


async def _evaluate_pipelined(
    client: PipelinedClient,
    script: LuaScript,
    keys: Sequence[str],
    args: _Arguments,
    *,
    timeout_s: float,
) -> Any:
    words = (len(keys), *keys, *args)
    try:
        return await client.call_pipelined("EVALSHA", script.digest, *words, timeout_s=timeout_s)
    except NoScriptError:
        return await client.call_pipelined("EVAL", script.text, *words, timeout_s=timeout_s)


async def _close(client: RedisClient) -> None:
    clients: list[RedisClient] = [client]
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        clients += pool.sentinel_manager.sentinels
    for one in clients:
        with suppress(*STORE_ERRORS):
            await one.aclose()


def _raise_if_cancelled() -> None:
    """Raise CancelledError if this task was cancelled: redis-py swallows some cancellations."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
