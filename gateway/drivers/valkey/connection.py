"""One way to Redis or Valkey for the whole process: it either answers soon or is away.

While it is away nobody waits for it: each call fails at once, and one probe finds out when it
is back. Single server, Sentinel and Cluster differ only in how the client is made.
"""

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from gateway.config import settings
from gateway.domain.errors import StoreUnavailable
from gateway.domain.model import Secret
from gateway.drivers.valkey.faults import STORE_ERRORS, describe_store_error
from gateway.flow.ports import Clock, Telemetry

log = logging.getLogger("gateway.valkey")

RedisClient = Redis | RedisCluster

_PROBE_EVERY_S = 0.1
_PROBE_SELDOM_S = 2.0
"""Less than the time for which lua/fair_queue.lua keeps the part of who may still be alone."""
_STEADY_AFTER_S = 10.0
"""A store that is lost again before that is given twice the time before it is trusted."""
_HEARTBEAT_EVERY_S = 0.5
_PROCESS_LIFE_MS = 3_000
_CONNECTIONS_MAX = 8
"""Each call is short; what waits for a connection waits less than making one takes."""


class LuaScript:
    """A named .lua file; its text goes over once, then its digest."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_HEARTBEAT = LuaScript("heartbeat")


class Valkey:
    """Runs scripts, listens to one channel, and knows whether the store is there."""

    def __init__(
        self,
        store: settings.Store,
        client: RedisClient,
        *,
        process_id: str | None,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """`process_id`: None for who only looks, and counts as no process of the gateway."""
        self._client = client
        self._clock = clock
        self._telemetry = telemetry
        self._timeout_s = store.timeout_s
        self._counted_as = process_id or ""
        self._namespace = store.namespace
        self._processes = 0
        self._available = False
        self._tried = False
        self._lost = asyncio.Event()
        self._on_change: list[Callable[[], None]] = []
        self._on_message: list[Callable[[bytes], None]] = []

    @property
    def available(self) -> bool:
        return self._available

    @property
    def processes(self) -> int:
        """How many gateway processes were alive when the store was last seen; 0: never seen."""
        return self._processes

    def key(self, *parts: str, tag: str) -> str:
        """Name a key; all keys of one script share `tag`, so that Cluster keeps them together."""
        return ":".join((self._namespace, "{" + tag + "}", *parts))

    @property
    def channel(self) -> str:
        return f"{self._namespace}:wake"

    def on_availability_change(self, call: Callable[[], None]) -> None:
        self._on_change.append(call)

    def on_message(self, call: Callable[[bytes], None]) -> None:
        self._on_message.append(call)

    async def run_script(
        self,
        script: LuaScript,
        keys: Sequence[str],
        args: Sequence[str | bytes | int],
        *,
        even_if_unavailable: bool = False,
    ) -> Any:
        """Run a script in one round trip; raise StoreUnavailable when the store is away.

        `even_if_away`: ask it though it is known to be, which takes time that no caller has.
        """
        if not (self._available or even_if_unavailable):
            raise StoreUnavailable("known to be away")
        return await self._attempt(script, keys, args)

    async def ping(self) -> None:
        """Ask the store once and remember whether it is there; raise StoreUnavailable if not."""
        key = self.key("processes", tag="fleet")
        count = await self._attempt(_HEARTBEAT, [key], [self._counted_as, _PROCESS_LIFE_MS])
        self._processes = int(count)
        self._change(available=True)

    async def probe(self) -> bool:
        """Look, and tell whether it is there."""
        try:
            await self.ping()
        except StoreUnavailable:
            return False
        return True

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
        # It guards the sum of connect, retry of a moved slot and the read, so that a slow store
        # is as good as an absent one.
        began = self._clock.monotonic()
        try:
            async with _CallTimeout(self._timeout_s):
                reply = await self._evaluate(script, keys, args)
        except STORE_ERRORS as error:
            _raise_if_cancelled()
            self._telemetry.store_called(self._clock.monotonic() - began, ok=False)
            why = describe_store_error(error)
            self._change(available=False, error=type(error).__name__, reason=why)
            raise StoreUnavailable(why) from None
        _raise_if_cancelled()
        self._telemetry.store_called(self._clock.monotonic() - began, ok=True)
        return reply

    async def _evaluate(
        self, script: LuaScript, keys: Sequence[str], args: Sequence[str | bytes | int]
    ) -> Any:
        try:
            return await self._client.evalsha(script.digest, len(keys), *keys, *args)
        except NoScriptError:  # a new server, a flush or a failover: EVAL loads it there
            return await self._client.eval(script.text, len(keys), *keys, *args)

    def _change(self, *, available: bool, **lost_by: str) -> None:
        if available == self._available and self._tried:
            return
        self._available, self._tried = available, True
        self._telemetry.store_available(available=available)
        if available:
            log.info("store_available", extra={"processes": self._processes})
        else:
            log.warning("store_unavailable", extra=lost_by)
            self._lost.set()
        for call in self._on_change:
            call()

    async def run_heartbeat(self) -> None:
        """Find a lost store again, and say that this process lives, for ever.

        Going back and forth costs more than staying away: each time begins without a burst.
        """
        away_s = _PROBE_EVERY_S
        while True:
            while not await self.probe():
                await self._clock.sleep(away_s)
            found_at = self._clock.monotonic()
            await self._beat_until_lost()
            was_steady = self._clock.monotonic() - found_at >= _STEADY_AFTER_S
            away_s = _PROBE_EVERY_S if was_steady else min(2 * away_s, _PROBE_SELDOM_S)
            await self._clock.sleep(away_s)

    async def _beat_until_lost(self) -> None:
        self._lost.clear()
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT_EVERY_S):
                    await self._lost.wait()
            except TimeoutError:
                if await self.probe():
                    continue
            return

    async def run_subscription(self) -> None:
        """Hand on what comes over the channel, for ever."""
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(self.channel)
                    await self._deliver(pubsub)
            except STORE_ERRORS:
                # Who waits polls as well, so a lost message costs time, not correctness.
                await self._clock.sleep(_PROBE_EVERY_S)

    async def _deliver(self, pubsub: Any) -> None:
        while True:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
            if message is not None and message["type"] == "message":
                for call in self._on_message:
                    call(message["data"])


class _CallTimeout:
    """A timeout that a busy process does not take for a slow server.

    Where the loop comes to the timer late, the answer may lie in the socket unread: reading it
    gets one more moment.
    """

    _LATE_S = 0.005
    _MOMENT_S = 0.03

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + seconds
        self._timeout = asyncio.timeout(None)
        self._timer = self._loop.call_at(self._due, self._expire)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, raised, traceback)

    def _expire(self) -> None:
        now = self._loop.time()
        if now - self._due > self._LATE_S:
            self._due = now + self._MOMENT_S
            self._timer = self._loop.call_at(self._due, self._expire_now)
        else:
            self._expire_now()

    def _expire_now(self) -> None:
        self._timeout.reschedule(self._loop.time())


def _raise_if_cancelled() -> None:
    # redis-py swallows a cancellation that comes at some moments; then it would never end.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def make_client(store: settings.Store, embedded_url: str | None = None) -> RedisClient:
    """Make the client that the config asks for; nothing connects before the first command."""
    common: dict[str, Any] = {
        "socket_timeout": None,  # Valkey._attempt guards each call as a whole
        "socket_connect_timeout": store.timeout_s,
        "health_check_interval": 0,  # our own heartbeat does this
        "retry": Retry(NoBackoff(), 0),  # our own breaker decides
        "decode_responses": False,
        "client_name": "console-gateway",
    }
    match store.redis:
        case settings.RedisEmbedded():
            if embedded_url is None:
                raise ValueError("the embedded server's address is needed")
            pool = BlockingConnectionPool.from_url(
                embedded_url, max_connections=_CONNECTIONS_MAX, timeout=store.timeout_s, **common
            )
            return Redis.from_pool(pool)
        case settings.RedisServer() as server:
            tls = server.url.startswith("rediss:")
            pool = BlockingConnectionPool.from_url(
                server.url,
                max_connections=_CONNECTIONS_MAX,
                timeout=store.timeout_s,
                **common,
                **_login(server.username, server.password),
                **(_tls(server.tls_ca_file) if tls else {}),
            )
            return Redis.from_pool(pool)
        case settings.RedisSentinel() as sentinel:
            options = {**common, **_login(sentinel.username, sentinel.password)}
            if sentinel.tls:
                options |= {"ssl": True, **_tls(sentinel.tls_ca_file)}
            watch = Sentinel(  # type: ignore[no-untyped-call]
                [settings.parse_host_port(address) for address in sentinel.sentinels],
                sentinel_kwargs={
                    "socket_timeout": store.timeout_s,
                    # One that is down would be asked again while the next could have answered.
                    "retry": Retry(NoBackoff(), 0),
                },
                **options,
            )
            found: Redis = watch.master_for(sentinel.service)
            return found
        case settings.RedisCluster() as cluster:
            options = {**common, **_login(cluster.username, cluster.password)}
            if cluster.tls:
                options |= {"ssl": True, **_tls(cluster.tls_ca_file)}
            nodes = [ClusterNode(*settings.parse_host_port(address)) for address in cluster.cluster]
            return RedisCluster(startup_nodes=nodes, **options)


def address_of(store: settings.Store) -> str:
    """Name what the config asks for; it bears no credentials."""
    match store.redis:
        case settings.RedisEmbedded():
            return "the embedded server"
        case settings.RedisServer() as server:
            return server.url
        case settings.RedisSentinel() as sentinel:
            return f"{sentinel.service} by the Sentinels {', '.join(sentinel.sentinels)}"
        case settings.RedisCluster() as cluster:
            return f"the cluster of {', '.join(cluster.cluster)}"


def _login(username: str | None, password: Secret | None) -> dict[str, Any]:
    return {
        "username": username,
        "password": password.reveal() if password is not None else None,
    }


def _tls(ca_file: Path | None) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        "ssl_ca_certs": str(ca_file) if ca_file is not None else None,
    }
