"""A storm: all callers want a console at once, from a cloud with ten calls per second.

`python -m tests.benchmarks.storm [SCENARIO …]`: the simulated cloud, Valkey, three replicas (or
three plain peers) in separate processes, the callers in this one.
"""

import asyncio
import functools
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK

from tests.benchmarks.load import children
from tests.support.simulated_cloud import login_body
from tests.support.stack import CloudProcess, RunningGateway, Stack, console_path, eventually, fetch
from tests.support.valkey import RealValkey, free_port

_SECONDS = 30.0
_REPLICAS = 3
_CALLERS = 200
_SERVERS = 300
_RATE, _BURST = 10.0, 10.0
"""The cloud's limit."""
_OUR_RATE, _OUR_BURST = 9.7, 5
"""The configured rate ceiling."""
_MISSED_S = 0.03
"""A slower response was no cache hit."""
_GRACE_S = 1.0
"""Time for calls in progress at the end."""
_TIMEOUT_S = 35.0
_SEED = 20_260_401

_GREEDY_OPEN = 50
_FEW = 40
"""Few enough for several links each; with 200 callers no index could exceed 0.9."""
_COLD_REQUESTS, _COLD_CONNECTIONS = 5_000, 400
_KILL_AT_S, _BACK_AT_S = 8.0, 18.0
_LIMIT_CALLERS = 60
_LIMIT_DROPS_S, _LIMIT_SETTLED_S, _LIMIT_RISES_S, _LIMIT_ENDS_S = 15.0, 25.0, 45.0, 90.0
_DROPPED_RATE = 3.0
_HIGH_CEILINGS = ((15.0, 10.0), (30.0, 30.0), (50.0, 5.0))
"""Rate ceiling and the cloud's burst."""
_SETTLES_S, _MEASURED_S = 30.0, 60.0
_RATE_METRIC = 'gateway_budget_rate{account="prod",budget="console"}'
_FOREIGN_PER_S, _FOREIGN_S, _FOREIGN_LAST_S = 5.0, 60.0, 30.0


@dataclass(frozen=True, slots=True)
class _Answer:
    caller: int
    server: int
    port: int
    requested: float
    """When this caller first requested this link. All times are seconds since the epoch."""
    began: float
    ended: float
    status: int
    """0 without a response."""
    retry_after_s: float | None
    link: str

    @property
    def missed(self) -> bool:
        return self.status == 200 and self.ended - self.requested > _MISSED_S


@dataclass(frozen=True, slots=True)
class _Call:
    """One call that reached the cloud."""

    at: float
    status: int
    server: str
    foreign: bool


@dataclass(frozen=True, slots=True)
class _Bench:
    cloud: CloudProcess
    valkey: RealValkey
    ports: list[int]
    gateways: list[RunningGateway]
    tokens: list[str]

    def request(self, caller: int, server: int) -> bytes:
        path = console_path(self.cloud.project, self.cloud.servers[server])
        token = self.tokens[caller]
        return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()

    def calls(self) -> list[_Call]:
        return [
            _Call(
                call["at"],
                call["status"],
                call["path"].split("/")[4],
                "x-foreign" in call["headers"],
            )
            for call in self.cloud.calls(self.cloud.upstream)
        ]


@dataclass(frozen=True, slots=True)
class _Run:
    """The result of one load."""

    began: float
    ended: float
    answers: list[_Answer]
    calls: list[_Call]
    servers: list[str]
    store_losses: int
    """How often a replica found Redis unavailable."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def links(self) -> list[_Answer]:
        return [answer for answer in self.answers if answer.status == 200]

    @property
    def ours(self) -> list[_Call]:
        return [call for call in self.calls if not call.foreign]

    @property
    def statuses(self) -> dict[int, int]:
        return dict(sorted(Counter(answer.status for answer in self.answers).items()))

    @property
    def failed(self) -> int:
        return sum(answer.status not in (200, 429, 503) for answer in self.answers)

    def per_caller(self, callers: Iterable[int]) -> list[int]:
        """Count the links that each caller waited for and got before the end."""
        first: dict[tuple[int, str], _Answer] = {}
        for answer in self.links:
            first.setdefault((answer.caller, answer.link), answer)
        given = [one for one in first.values() if one.missed and one.ended <= self.ended]
        count = Counter(answer.caller for answer in given)
        return [count[caller] for caller in callers]

    def count(self, status: int, since_s: float = 0.0, until_s: float = float("inf")) -> int:
        """Count the gateway's calls with this status in a part of the run."""
        return sum(
            call.status == status and since_s <= call.at - self.began < until_s
            for call in self.ours
        )

    def over_allowance(self, span_s: float) -> float:
        """Return the excess over the configured rate in the worst window."""
        at = sorted(call.at for call in self.ours)
        worst = max((_count_within(at, first, span_s) for first in range(len(at))), default=0)
        return worst - (_OUR_BURST + _OUR_RATE * span_s)


def _count_within(at: Sequence[float], first: int, span_s: float) -> int:
    return sum(1 for _ in itertools.takewhile(lambda one: one < at[first] + span_s, at[first:]))


class _Connection:
    """One keep-alive connection, opened on first use."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def fetch(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Raise OSError or EOFError without a response; the next call reconnects."""
        if self._streams is None or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.rstrip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await reader.readexactly(int(headers["content-length"]))
        except (OSError, EOFError, asyncio.CancelledError):
            await self.aclose()
            raise
        return int(status_line.split(" ")[1]), headers, body

    async def aclose(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass(frozen=True, slots=True)
class _Caller:
    """A person with the sequences of servers and replicas that it uses."""

    number: int
    wanted_servers: Iterator[int]
    ports: list[int]


class _Load:
    """Callers in closed loops."""

    def __init__(self, bench: _Bench) -> None:
        self.answers: list[_Answer] = []
        self._bench = bench
        self._over = False

    async def run(
        self,
        callers: Iterable[_Caller],
        seconds: float,
        events: Mapping[float, Callable[[], Awaitable[None]]],
    ) -> tuple[float, float]:
        """Return start and end: after `seconds`, or when all callers are done."""
        began = time.time()
        timeline = asyncio.create_task(_happen(events))
        loops = [asyncio.create_task(self._go_on(caller)) for caller in callers]
        await asyncio.wait(loops, timeout=seconds)
        ended, self._over = time.time(), True
        await asyncio.wait(loops, timeout=_GRACE_S)
        for task in (timeline, *loops):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return began, ended

    async def _go_on(self, caller: _Caller) -> None:
        async with AsyncExitStack() as open_ones:
            ports = list(caller.ports)
            connections = {port: _Connection(port) for port in ports}
            for connection in connections.values():
                open_ones.push_async_callback(connection.aclose)
            for server in caller.wanted_servers:
                await self._obtain(caller.number, server, ports, connections)
                if self._over:
                    return

    async def _obtain(
        self, caller: int, server: int, ports: list[int], connections: dict[int, _Connection]
    ) -> None:
        """Try one replica after the other; skip an unreachable one from then on."""
        requested = time.time()
        while True:
            ports.append(ports.pop(0))
            answer = await self._send(caller, server, connections[ports[-1]], ports[-1], requested)
            self.answers.append(answer)
            if self._over or answer.status not in (0, 429, 503):
                return
            if answer.status == 0 and len(ports) > 1:
                ports.pop()
            else:
                await asyncio.sleep(answer.retry_after_s or 1.0)

    async def _send(
        self, caller: int, server: int, connection: _Connection, port: int, requested: float
    ) -> _Answer:
        request, began = self._bench.request(caller, server), time.time()
        status, body = 0, b""
        headers: dict[str, str] = {}
        with suppress(OSError, EOFError):
            async with asyncio.timeout(_TIMEOUT_S):
                status, headers, body = await connection.fetch(request)
        reported = headers.get("retry-after")
        return _Answer(
            caller,
            server,
            port,
            requested,
            began,
            time.time(),
            status,
            None if reported is None else float(reported),
            body.decode() if status == 200 else "",
        )


async def _happen(events: Mapping[float, Callable[[], Awaitable[None]]]) -> None:
    began = time.monotonic()
    for at_s, event in sorted(events.items()):
        await asyncio.sleep(began + at_s - time.monotonic())
        await event()


def _configure(config: dict[str, Any], reuse: str, ceiling: float) -> None:
    config["caller_limits"] = {"requests": 1e7, "per_s": 1, "burst": 100_000}
    config["request"] = {"deadline_s": 30, "drain_s": 5}
    config["store"]["processes_max"] = _REPLICAS
    account = config["accounts"][0]
    account["budget"]["console"] = {"requests": ceiling, "per_s": 1, "burst": _OUR_BURST}
    account["budget"]["wait_max_s"] = 28
    account["links"] = {"lifetime_s": 300, "min_remaining_s": 30, "reuse": reuse}


def _policy(cloud: CloudProcess) -> dict[str, Any]:
    return {
        "roles": {"operator": ["console:open"]},
        "grants": [
            {
                "role": "operator",
                "to": {"groups": ["operators"]},
                "on": {"projects": [cloud.project]},
            }
        ],
    }


def _cloud() -> CloudProcess:
    """Start a cloud with one extra server per replica for the warm-up."""
    options = ("--rate", str(_RATE), "--burst", str(_BURST), "--latency", "0.05", "0.15")
    return CloudProcess(*options, servers=_SERVERS + _REPLICAS)


@contextmanager
def _gateways(reuse: str, ceiling: float = _OUR_RATE) -> Iterator[_Bench]:
    with ExitStack() as ending:
        cloud = _cloud()
        ending.callback(cloud.close)
        stack = Stack(cloud, start=False)
        ending.callback(stack.close)
        gateways = [stack.gateway, *(stack.replica(start=False) for _ in range(_REPLICAS - 1))]
        for gateway in gateways:
            _configure(gateway.config, reuse, ceiling)
            gateway.write_config()
            gateway.write_policy(_policy(cloud))
            gateway.start(wait=False)
        yield _warm(cloud, stack.valkey, [gateway.port for gateway in gateways], gateways)


@contextmanager
def _peers() -> Iterator[_Bench]:
    with ExitStack() as ending:
        cloud = _cloud()
        ending.callback(cloud.close)
        valkey = RealValkey()
        ending.callback(valkey.close)
        valkey.start()
        ports = [free_port() for _ in range(_REPLICAS)]
        for port in ports:
            ending.callback(_end, _peer(port, cloud, valkey))
        yield _warm(cloud, valkey, ports, [])


def _peer(port: int, cloud: CloudProcess, valkey: RealValkey) -> subprocess.Popen[bytes]:
    with urllib.request.urlopen(cloud.issuer + "/jwks") as page:
        (published,) = json.load(page)["keys"]
    public = PyJWK(published).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    environ = {
        **os.environ,
        "PEER_REDIS": valkey.url,
        "PEER_PUBLIC_KEY": public.decode(),
        "PEER_CLOUD": cloud.upstream,
        "PEER_IAM": cloud.iam,
        "PEER_LOGIN": _login(cloud),
    }
    arguments = [sys.executable, "-m", "tests.benchmarks.storm_peer", str(port)]
    return subprocess.Popen(arguments, env=environ, stdout=subprocess.DEVNULL)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _login(cloud: CloudProcess) -> str:
    return json.dumps(login_body(scope={"project": {"id": cloud.project}}))


def _warm(
    cloud: CloudProcess, valkey: RealValkey, ports: list[int], gateways: list[RunningGateway]
) -> _Bench:
    """Make each replica log in and fetch one link, then wait for the cloud's bucket to fill."""
    headers = {"Authorization": f"Bearer {cloud.token('warmer')}"}

    def is_warm(port: int, server: str) -> bool:
        path = console_path(cloud.project, server)
        try:
            return fetch(f"http://127.0.0.1:{port}", "GET", path, headers).status == 200
        except OSError:
            return False

    for port, server in zip(ports, cloud.servers[_SERVERS:], strict=True):
        eventually(functools.partial(is_warm, port, server), functools.partial(_logs, gateways))
    tokens = [cloud.token(f"person-{i}") for i in range(_CALLERS)]
    time.sleep(_BURST / _RATE)
    fetch(cloud.upstream, "DELETE", "/_box/calls")
    return _Bench(cloud, valkey, ports, gateways, tokens)


def _logs(gateways: Iterable[RunningGateway]) -> str:
    return "\n".join(gateway.log_text() for gateway in gateways)


def _run(
    bench: _Bench,
    callers: Iterable[_Caller],
    seconds: float,
    events: Mapping[float, Callable[[], Awaitable[None]]] | None = None,
) -> _Run:
    load = _Load(bench)
    began, ended = asyncio.run(load.run(callers, seconds, events or {}))
    calls = [call for call in bench.calls() if call.at <= ended]
    losses = sum(len(gateway.log_lines("store_unavailable")) for gateway in bench.gateways)
    return _Run(began, ended, load.answers, calls, bench.cloud.servers, losses)


def _zipf(caller: int) -> Iterator[int]:
    """Yield servers with a weight of 1/k for the k-th one, the same sequence in each run."""
    weights = list(itertools.accumulate(1 / (k + 1) for k in range(_SERVERS)))
    draw = random.Random(_SEED + caller)
    while True:
        yield from draw.choices(range(_SERVERS), cum_weights=weights, k=100)


def _crowd(bench: _Bench, callers: Iterable[int] = range(_CALLERS)) -> list[_Caller]:
    """Return callers that start on replicas in turn."""
    return [
        _Caller(i, _zipf(i), bench.ports[i % _REPLICAS :] + bench.ports[: i % _REPLICAS])
        for i in callers
    ]


def _greedy_crowd(bench: _Bench, callers: int) -> list[_Caller]:
    greedy = [
        _Caller(0, itertools.cycle(range(i, _SERVERS, _GREEDY_OPEN)), bench.ports)
        for i in range(_GREEDY_OPEN)
    ]
    # The greedy caller starts last: links without competition would distort the shares.
    return _crowd(bench, range(1, callers)) + greedy


@functools.cache
def _stormed(kind: str) -> _Run:
    """Run a storm once for the scenarios that share it."""
    with _peers() if kind == "plain" else _gateways(kind) as bench:
        return _run(bench, _crowd(bench), _SECONDS)


def _storm_shared() -> None:
    _print_storm("storm_shared", _stormed("shared"), lambda answer: answer.server)


def _storm_caller() -> None:
    run = _stormed("caller")
    _print_storm("storm_caller", run, lambda answer: (answer.caller, answer.server))


def _print_storm(name: str, run: _Run, key: Callable[[_Answer], object]) -> None:
    missed = [answer.ended - answer.requested for answer in run.links if answer.missed]
    refusals = [answer for answer in run.answers if answer.status in (429, 503)]
    _print(
        name,
        {
            "upstream": len(run.ours),
            "429s": f"{run.count(429)} ({run.count(429, 1.0)} after 1 s)",
            "budget used": _budget_used(run),
            "duplicates": _duplicates(run, key),
            "answers": run.statuses,
            "no Retry-After": sum(answer.retry_after_s is None for answer in refusals),
            "failed": run.failed,
            "missed p50/p99": _p50_p99(missed),
            "all p50/p99": _p50_p99([answer.ended - answer.requested for answer in run.links]),
            "Jain": _fairness(run.per_caller(range(_CALLERS))),
            "store lost": run.store_losses,
        },
    )


def _greedy() -> None:
    for callers in (_CALLERS, _FEW):
        _print_greedy(callers)


def _print_greedy(callers: int) -> None:
    with _gateways("caller") as bench:
        run = _run(bench, _greedy_crowd(bench, callers), _SECONDS)
    (greedy,), others = run.per_caller([0]), run.per_caller(range(1, callers))
    mean = sum(others) / len(others)
    _print(
        f"greedy of {callers}",
        {
            "Jain of others": _fairness(others),
            "greedy": f"{greedy} links, others {mean:.2f} on average",
            "greedy / others": f"{greedy / mean:.2f}" if mean else "-",
            "answers": run.statuses,
            "429s": run.count(429),
            "failed": run.failed,
        },
    )


def _cold() -> None:
    with _gateways("shared") as bench:
        each, more = divmod(_COLD_REQUESTS, _COLD_CONNECTIONS)
        callers = [
            _Caller(
                i % _CALLERS,
                itertools.repeat(0, each + (i < more)),
                [bench.ports[i % _REPLICAS]],
            )
            for i in range(_COLD_CONNECTIONS)
        ]
        run = _run(bench, callers, _SECONDS)
    _print(
        "cold",
        {
            "requests": len(run.answers),
            "within": f"{run.seconds:.2f} s",
            "upstream": len(run.ours),
            "answers": run.statuses,
            "links": len({answer.link for answer in run.links}),
            "p50/p99": _p50_p99([answer.ended - answer.requested for answer in run.links]),
        },
    )


def _limit_change() -> None:
    with _gateways("caller") as bench:

        async def change(rate: float) -> None:
            await asyncio.to_thread(bench.cloud.rate, rate=rate, burst=_BURST)

        events = {
            _LIMIT_DROPS_S: lambda: change(_DROPPED_RATE),
            _LIMIT_RISES_S: lambda: change(_RATE),
        }
        run = _run(bench, _crowd(bench, range(_LIMIT_CALLERS)), _LIMIT_ENDS_S, events)
    spans = itertools.pairwise((_LIMIT_DROPS_S, _LIMIT_SETTLED_S, _LIMIT_RISES_S, _LIMIT_ENDS_S))
    tens = [run.count(200, at, at + 10.0) / 10.0 for at in range(0, round(_LIMIT_ENDS_S), 10)]
    throttled = {f"429s in {a:.0f}-{b:.0f} s": run.count(429, a, b) for a, b in spans}
    goodput = {"goodput per s, by 10 s": " ".join(f"{one:.1f}" for one in tens)}
    _print("limit_change", throttled | goodput | {"failed": run.failed})


def _high_ceiling() -> None:
    for ceiling, burst in _HIGH_CEILINGS:
        _print_high_ceiling(ceiling, burst)


def _print_high_ceiling(ceiling: float, burst: float) -> None:
    """Measure from 30 s after the first 429, which names neither a time nor a limit."""
    with _gateways("caller", ceiling) as bench:
        bench.cloud.rate(rate=_RATE, burst=burst, shape="string")
        samples: list[tuple[float, float]] = []

        async def sample() -> None:
            rate = await asyncio.to_thread(bench.gateways[0].metric, _RATE_METRIC)
            samples.append((time.time(), rate))

        span_s = _SETTLES_S + _MEASURED_S + 5.0
        events = dict.fromkeys((float(i) for i in range(1, round(span_s))), sample)
        run = _run(bench, _crowd(bench, range(_LIMIT_CALLERS)), span_s, events)
    first = min((call.at for call in run.ours if call.status == 429), default=run.began)
    since_s = first - run.began + _SETTLES_S
    until_s = since_s + _MEASURED_S
    used = run.count(200, since_s, until_s) / (_RATE * _MEASURED_S)
    rates = [rate for at, rate in samples if since_s <= at - run.began < until_s]
    _print(
        f"ceiling {ceiling:.0f}",
        {
            "cloud": f"{_RATE:.0f} per s, burst {burst:.0f}",
            "budget used": f"{used:.1%} of {_MEASURED_S:.0f} s",
            "429s meanwhile": run.count(429, since_s, until_s),
            "429s before": run.count(429, 0.0, since_s),
            "learned rate": f"{sum(rates) / len(rates):.1f} on average",
            "failed": run.failed,
        },
    )


def _foreign() -> None:
    with _gateways("caller") as bench:
        events = {0.0: lambda: _interfere(bench)}
        run = _run(bench, _crowd(bench, range(_LIMIT_CALLERS)), _FOREIGN_S, events)
    throttled, calls = run.count(429), len(run.ours)
    since = run.ended - _FOREIGN_LAST_S
    late = Counter(call.foreign for call in run.calls if call.status == 200 and call.at >= since)
    left = _RATE * _FOREIGN_LAST_S - late[True]
    _print(
        "foreign",
        {
            "our 429s": f"{throttled} of {calls} calls ({throttled / max(1, calls):.1%})",
            "foreign calls": dict(Counter(call.status for call in run.calls if call.foreign)),
            "goodput / what was left, last 30 s": f"{late[False]} / {left:.0f} = "
            f"{late[False] / left:.2f}",
            "failed": run.failed,
        },
    )


async def _interfere(bench: _Bench) -> None:
    """Call the cloud at a steady rate, like another client of the account."""
    headers = {"Content-Type": "application/json"}
    target, login = "/v3/auth/tokens?nocatalog=1", _login(bench.cloud)
    answer = await asyncio.to_thread(fetch, bench.cloud.iam, "POST", target, headers, login)
    token = answer.headers["x-subject-token"]
    path = console_path(bench.cloud.project, bench.cloud.servers[-1])
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {token}\r\nX-Foreign: 1\r\n\r\n"
    connection = _Connection(int(bench.cloud.upstream.rpartition(":")[2]))
    began = time.monotonic()
    try:
        for i in itertools.count():
            await asyncio.sleep(began + i / _FOREIGN_PER_S - time.monotonic())
            await connection.fetch(head.encode())
    finally:
        await connection.aclose()


def _replica_killed() -> None:
    with _gateways("caller") as bench:
        killed = bench.gateways[-1]
        at: list[float] = []

        async def kill() -> None:
            for pid in (killed.pid, *children(killed.pid)):
                os.kill(pid, signal.SIGKILL)
            at.append(time.time())

        run = _run(bench, _crowd(bench), _SECONDS, {_KILL_AT_S: kill})
    unanswered = [answer for answer in run.answers if answer.status == 0]
    there = [answer for answer in unanswered if answer.port == killed.port]
    later = sorted([at[0], run.ended, *(call.at for call in run.ours if call.at > at[0])])
    _print(
        "replica_killed",
        {
            "upstream": len(run.ours),
            "429s": run.count(429),
            "worst 1 s over allowance": f"{run.over_allowance(1.0):+.1f}",
            "no answer elsewhere": len(unanswered) - len(there),
            "open on the killed": sum(answer.began < at[0] for answer in there),
            "sent there later": sum(answer.began >= at[0] for answer in there),
            "longest without a call": f"{max(b - a for a, b in itertools.pairwise(later)):.2f} s",
            "answers": run.statuses,
        },
    )


def _redis_killed() -> None:
    with _gateways("caller") as bench:
        at: list[float] = []

        async def kill() -> None:
            await asyncio.to_thread(bench.valkey.kill)
            at.append(time.time())

        async def start() -> None:
            at.append(time.time())
            await asyncio.to_thread(bench.valkey.start)

        run = _run(bench, _crowd(bench), _SECONDS, {_KILL_AT_S: kill, _BACK_AT_S: start})
    gone, back = at
    _print(
        "redis_killed",
        {
            "answers": run.statuses,
            "links while away": sum(gone <= answer.ended < back for answer in run.links),
            "upstream": len(run.ours),
            "429s": run.count(429),
            "worst 1 s over allowance": f"{run.over_allowance(1.0):+.1f}",
            "worst 10 s": f"{run.over_allowance(10.0):+.1f}",
            "failed": run.failed,
        },
    )


def _plain() -> None:
    for name, kind in (("plain: gateway", "caller"), ("plain: peer", "plain")):
        run = _stormed(kind)
        missed = [answer.ended - answer.requested for answer in run.links if answer.missed]
        given = run.per_caller(range(_CALLERS))
        _print(
            name,
            {
                "links per s": f"{sum(given) / run.seconds:.2f}",
                "upstream": len(run.ours),
                "429s": run.count(429),
                "answers": run.statuses,
                "failed": run.failed,
                "missed p50/p99": _p50_p99(missed),
                "Jain": _fairness(given),
            },
        )


def _budget_used(run: _Run) -> str:
    """Return the successful calls relative to the cloud's limit until the last call."""
    used = [call.at for call in run.ours if call.status == 200]
    if not used:
        return "-"
    ended = run.ended if run.ended - max(used) < 1.0 else max(used)
    return f"{len(used) / (_RATE * (ended - run.began)):.1%} of {ended - run.began:.1f} s"


def _duplicates(run: _Run, key: Callable[[_Answer], object]) -> str:
    """Count the links beyond one per key, and the calls without a caller that received the link."""
    first: dict[str, _Answer] = {}
    for answer in run.links:
        first.setdefault(answer.link, answer)
    repeated = len(first) - len({key(answer) for answer in first.values()})
    return f"{repeated} given, {_unclaimed(run, first.values())} given to nobody"


def _unclaimed(run: _Run, firsts: Iterable[_Answer]) -> int:
    """Count successful calls without a caller that received the link."""
    given: dict[str, list[float]] = defaultdict(list)
    for answer in firsts:
        given[run.servers[answer.server]].append(answer.ended)
    unclaimed = 0
    for call in run.ours:
        later = [at for at in given[call.server] if at > call.at]
        if call.status == 200 and later:
            given[call.server].remove(min(later))
        elif call.status == 200:
            unclaimed += 1
    return unclaimed


def _p50_p99(spans: Sequence[float]) -> str:
    if not spans:
        return "-"
    ordered = sorted(spans)
    p50, p99 = (ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
    return f"{p50:.3f}/{p99:.3f} s"


def _fairness(counts: Sequence[int]) -> str:
    """Return Jain's index and the best one that whole links allow."""
    each, more = divmod(sum(counts), len(counts))
    fairest = [each + (i < more) for i in range(len(counts))]
    return f"{_jain(counts):.3f} (fairest: {_jain(fairest):.3f})"


def _jain(counts: Sequence[int]) -> float:
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 1.0


def _print(name: str, columns: Mapping[str, object]) -> None:
    reported = "  ".join(f"{title}: {value}" for title, value in columns.items())
    print(f"{name:15} {reported}", flush=True)


_SCENARIOS = {
    "storm_shared": _storm_shared,
    "storm_caller": _storm_caller,
    "greedy": _greedy,
    "cold": _cold,
    "limit_change": _limit_change,
    "high_ceiling": _high_ceiling,
    "foreign": _foreign,
    "replica_killed": _replica_killed,
    "redis_killed": _redis_killed,
    "plain": _plain,
}


def main() -> None:
    for name in sys.argv[1:] or _SCENARIOS:
        _SCENARIOS[name]()


if __name__ == "__main__":
    main()
