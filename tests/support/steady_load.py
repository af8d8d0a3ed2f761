"""Callers with a steady request rate while a test changes the gateways.

They use connections like real clients: a connection is reused unless the response or an end of
file closed it. No request is repeated, so each request that a restart loses is visible. Only a
refused connect goes to another replica.
"""

import asyncio
import json
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.support.stack import TIMEOUT_S, RunningGateway, console_path

_ANSWERED_WITHIN_S = TIMEOUT_S
_NEW_CONNECTIONS = 0.2
_HEALTH_EVERY_S = 0.2
_REUSED_MAX = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """One kind of request, with a check of its response."""

    name: str
    weight: float
    make: Callable[[], bytes]
    is_right: Callable[[int, bytes], bool]
    slow_body: bytes = b""
    """Sent shortly after the head."""


@dataclass(slots=True)
class Target:
    """One replica as a load balancer knows it."""

    port: int
    admin_port: int | None = None
    """Port of /readyz; None: only a refused connection counts."""
    ready: bool = True
    stored: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)


class SteadyLoad:
    """Runs in a separate thread."""

    def __init__(
        self,
        targets: Sequence[Target],
        wanted: Sequence[Wanted],
        *,
        per_s: float = 200.0,
        tls: ssl.SSLContext | None = None,
        on_response: Callable[[str, int, str, float], None] = lambda *_: None,
    ) -> None:
        """`on_response` gets each kind, status (0: none), error code and duration in seconds."""
        self._on_response = on_response
        self._targets = list(targets)
        self._wanted = list(wanted)
        self.per_s = per_s
        """May change while it runs."""
        self._tls = tls
        self._random = random.Random(7)
        self._stopping = threading.Event()
        self._turn = 0
        self.answers: Counter[str] = Counter()
        self.connects = 0
        self.reused = 0
        self.slowest_s = 0.0
        self.failures: list[str] = []

    @contextmanager
    def running(self) -> Iterator["SteadyLoad"]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            thread.join(_ANSWERED_WITHIN_S + 5)
        assert not thread.is_alive()

    @property
    def count(self) -> int:
        return sum(self.answers.values())

    def goes_on(self, seconds: float) -> None:
        """Let the load run for some seconds, and until it got a response in that time."""
        before = self.count
        time.sleep(seconds)
        deadline = time.monotonic() + _ANSWERED_WITHIN_S
        while self.count == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.count > before, self.failures[:5]

    async def _run(self) -> None:
        health = asyncio.create_task(self._look_at_health())
        requesting: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._stopping.is_set():
            due += 1 / self.per_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            one = asyncio.create_task(self._request())
            requesting.add(one)
            one.add_done_callback(requesting.discard)
        await asyncio.gather(*requesting)
        health.cancel()
        await asyncio.gather(health, return_exceptions=True)
        for target in self._targets:
            for _, writer in target.stored:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _look_at_health(self) -> None:
        while True:
            for target in self._targets:
                if target.admin_port is not None:
                    target.ready = await _is_ready(target.admin_port)
            await asyncio.sleep(_HEALTH_EVERY_S)

    async def _request(self) -> None:
        wanted = self._random.choices(self._wanted, [one.weight for one in self._wanted])[0]
        began = time.monotonic()
        status, body = 0, b""
        try:
            async with asyncio.timeout(_ANSWERED_WITHIN_S):
                status, body = await self._request_once(wanted)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.failures.append(f"{wanted.name} after {time.monotonic() - began:.3f} s: {error!r}")
        took_s = time.monotonic() - began
        self.slowest_s = max(self.slowest_s, took_s)
        self._on_response(wanted.name, status, _error_code(status, body), took_s)

    async def _request_once(self, wanted: Wanted) -> tuple[int, bytes]:
        target, reader, writer = await self._connection()
        try:
            writer.write(wanted.make())
            if wanted.slow_body:
                await asyncio.sleep(0.1)
                writer.write(wanted.slow_body)
            status, is_last, body = await _read_answer(reader)
        except BaseException:
            writer.close()
            raise
        if is_last or len(target.stored) >= _REUSED_MAX:
            writer.close()
        else:
            target.stored.append((reader, writer))
        if wanted.is_right(status, body):
            self.answers[wanted.name] += 1
        else:
            self.failures.append(f"{wanted.name}: {status} {body[:300]!r}")
        return status, body

    async def _connection(self) -> tuple[Target, asyncio.StreamReader, asyncio.StreamWriter]:
        self._turn += 1
        turn = self._turn
        order = [self._targets[(turn + i) % len(self._targets)] for i in range(len(self._targets))]
        order.sort(key=lambda one: not one.ready)
        may_reuse = self._random.random() >= _NEW_CONNECTIONS
        refused: OSError | None = None
        for target in order:
            while may_reuse and target.stored:
                reader, writer = target.stored.pop()
                if not reader.at_eof() and not writer.is_closing():
                    self.reused += 1
                    return target, reader, writer
                writer.close()
            try:
                host = "127.0.0.1"
                reader, writer = await asyncio.open_connection(host, target.port, ssl=self._tls)
            except ConnectionRefusedError as error:
                refused = error
                continue
            self.connects += 1
            return target, reader, writer
        raise refused or OSError("there is no target")


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(lines[0].split()[1]), headers.get("connection", "").lower() == "close", body


def _error_code(status: int, body: bytes) -> str:
    return str(json.loads(body).get("error_code", "")) if status >= 400 and body else ""


async def _is_ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


def console_mix(gateway: RunningGateway) -> list[Wanted]:
    """Return a mix of requests: cached and new links, reads, and rejected ones."""
    cloud = gateway.cloud
    callers = [cloud.token(f"caller-{i}") for i in range(20)]
    servers = cloud.servers[:4]
    names = {server: _console_of(gateway.console(callers[0], server).body) for server in servers}
    choose = random.Random(11)

    def request(server: str, token: str, *more: str) -> bytes:
        return request_head("GET", console_path(cloud.project, server), token, *more)

    def some_link(*more: str) -> bytes:
        return request(choose.choice(servers), choose.choice(callers), *more)

    def is_a_link(status: int, body: bytes) -> bool:
        return status == 200 and _console_of(body) in names.values()

    one = servers[0]
    hidden = cloud.servers[-1]
    order = json.dumps({"action": "power off", "server_id_set": [one]}).encode()
    path = f"/v1/{cloud.project}/physicalservers"
    return [
        Wanted("link", 70, some_link, is_a_link),
        Wanted(
            "this server's link",
            15,
            lambda: request(one, choose.choice(callers)),
            lambda status, body: status == 200 and _console_of(body) == names[one],
        ),
        Wanted("fresh link", 5, lambda: some_link("Cache-Control: no-cache"), is_a_link),
        Wanted(
            "server",
            3,
            lambda: request_head("GET", f"{path}/{one}", choose.choice(callers)),
            lambda status, body: status == 200 and json.loads(body)["id"] == one,
        ),
        Wanted("denied", 3, lambda: request(hidden, callers[0]), lambda status, _: status == 403),
        Wanted("no token", 2, lambda: request(one, "x"), lambda status, _: status == 401),
        Wanted(
            "switch with a slow body",
            2,
            lambda: request_head(
                "PUT", f"{path}/power-state", callers[0], f"Content-Length: {len(order)}"
            ),
            lambda status, _: status == 403,
            slow_body=order,
        ),
    ]


def request_head(method: str, path: str, token: str, *more: str) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: gateway", f"Authorization: Bearer {token}", *more)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


def _console_of(body: bytes) -> str:
    """Return the part of a link that names the server."""
    return str(json.loads(body)["url"]).partition("?")[0]
