"""The gateway beside Envoy, HAProxy and aiohttp applications: `... side_by_side [hits|misses]`.

Every server has the same requests of 200 people for 300 servers (RS256), one process on one core,
and its turn in each round. The client and everything else have the other core. Figures are medians
of the rounds. Before that, each server that checks tokens must reject a forged, an expired and a
missing token, one for another audience, and a foreign project.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK

from gateway.demo.cloud.idp import AUDIENCE
from gateway.drivers.audit.file_store import write_durably
from tests.benchmarks import proxies
from tests.benchmarks.drive import Driver, Throughput
from tests.benchmarks.load import children
from tests.support.haproxy import HAPROXY
from tests.support.stack import (
    CloudProcess,
    RunningGateway,
    Stack,
    console_path,
    eventually,
    fetch,
)
from tests.support.valkey import free_port

_ROUNDS = 5
_PEOPLE, _SERVERS, _SERVERS_PER_PERSON = 200, 300, 4
_WARM_UP_S, _SECONDS = 0.3, 1.5
_LATENCY_SECONDS = 2.5
_FEW, _MANY = 32, 256
_HITS_PER_S, _MISSES_PER_S = 500.0, 300.0
_SERVER_CORE, _OTHER_CORE = {0}, {1}
_NO_LIMIT = {"requests": 1e7, "per_s": 1, "burst": 100_000}
_BUDGET = {"console": {"requests": 100_000, "per_s": 1, "burst": 1_000}}
_FOREIGN_PROJECT = "f" * 32
_SEED = 20_260_401


@dataclass(slots=True)
class Server:
    name: str
    port: int
    pids: Sequence[int]
    rejects: bool = True
    """It checks tokens and the project."""
    headers: str = ""
    """More header lines of its requests."""
    rounds: dict[int, list[Throughput]] = field(default_factory=dict)
    """By number of connections."""
    latencies: list[list[float]] = field(default_factory=list)


class Bench:
    """The cloud, the tokens, and the servers that are compared."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.servers: list[Server] = []
        self.cloud = CloudProcess(servers=_SERVERS)
        self.cloud.rate(rate=1e6, burst=1e6)
        self.cloud.settings(latency_s=[0.0, 0.0])
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        with urllib.request.urlopen(self.cloud.issuer + "/jwks") as page:
            self.keys = page.read().decode()
        (published,) = json.loads(self.keys)["keys"]
        self.public_pem = (
            PyJWK(published)
            .key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )
        rng = random.Random(_SEED)
        groups = ["operators", "staff"]
        self._calls = [
            (token, server)
            for token in (self.cloud.token(f"person-{i}", groups=groups) for i in range(_PEOPLE))
            for server in rng.sample(self.cloud.servers[:-1], _SERVERS_PER_PERSON)
        ]
        rng.shuffle(self._calls)

    def requests(self, headers: str = "") -> list[bytes]:
        return [
            _request(console_path(self.cloud.project, server), token, headers)
            for token, server in self._calls
        ]

    def gateway(self, name: str, made: RunningGateway) -> None:
        self.servers.append(Server(name, made.port, children(made.pid)))

    def peer(
        self,
        name: str,
        start: Callable[[int], subprocess.Popen[bytes]],
        *,
        rejects: bool = True,
    ) -> None:
        port = free_port()
        self.servers.append(Server(name, port, [self.start(start, port)], rejects=rejects))

    def start(self, start: Callable[[int], subprocess.Popen[bytes]], port: int) -> int:
        process = start(port)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return process.pid

    def proxies(self, *, forwards_to: int | None = None) -> None:
        rules = proxies.Rules(
            issuer=self.cloud.issuer,
            audience=AUDIENCE,
            keys=self.keys,
            public_pem=self.public_pem,
            project=self.cloud.project,
            forwards_to=forwards_to,
        )
        if proxies.find_envoy() is None:
            print(proxies.ENVOY_IS_MISSING)
        else:
            self.peer(
                "Envoy, JWT cache", lambda port: proxies.start_envoy(rules, port, self.directory)
            )
        if HAPROXY is None:
            print(proxies.HAPROXY_IS_MISSING)
        else:
            self.peer("HAProxy", lambda port: proxies.start_haproxy(rules, port, self.directory))

    def aiohttp(self, name: str, kind: str, **environ: str) -> None:
        def start(port: int) -> subprocess.Popen[bytes]:
            arguments = [sys.executable, "-m", "tests.benchmarks.peers", kind, str(port)]
            env = {**os.environ, "PEER_PUBLIC_KEY": self.public_pem, **environ}
            return subprocess.Popen(arguments, env=env, stdout=subprocess.DEVNULL)

        self.peer(name, start, rejects=kind != "bare")

    def settle(self, *, passes: int) -> None:
        """Wait for the servers, let them reject and serve all requests, and pin them."""
        for server in self.servers:
            requests = self.requests(server.headers)
            eventually(lambda port=server.port: _status(port, self._calls[0], self.cloud) == 200)  # type: ignore[misc]
            if server.rejects:
                self._assert_rejects(server)
            with Driver(server.port, requests, connections=8, pids=server.pids) as driver:
                driver.serve_all(passes)
            for pid in server.pids:
                _pin(pid, _SERVER_CORE)
        _pin(os.getpid(), _OTHER_CORE)

    def _assert_rejects(self, server: Server) -> None:
        mint, (_, server_id) = self.cloud.token, self._calls[0]
        ours = console_path(self.cloud.project, server_id)
        for case, token, path in (
            ("forged", mint("eve", forged="signature"), ours),
            ("of a foreign key", mint("eve", forged="foreign_key"), ours),
            ("unsigned", mint("eve", forged="none"), ours),
            ("expired", mint("eve", life_s=-3_600), ours),
            ("for another audience", mint("eve", claims={"aud": "another"}), ours),
            ("missing", None, ours),
            ("for a foreign project", self._calls[0][0], console_path(_FOREIGN_PROJECT, server_id)),
        ):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            status = fetch(f"http://127.0.0.1:{server.port}", "GET", path, headers).status
            assert status in {401, 403, 404}, f"{server.name}: token {case}: {status}"

    def throughput(self, connections: int, *, names: Sequence[str] = ()) -> None:
        for _ in range(_ROUNDS):
            for server in self.servers:
                if names and server.name not in names:
                    continue
                with Driver(
                    server.port, self.requests(server.headers),
                    connections=connections, pids=server.pids,
                ) as driver:  # fmt: skip
                    measured = driver.closed(warm_up_s=_WARM_UP_S, seconds=_SECONDS)
                server.rounds.setdefault(connections, []).append(measured)

    def latency(self, per_s: float, *, spins: bool) -> None:
        for seed in range(_ROUNDS):
            for server in self.servers:
                with Driver(
                    server.port, self.requests(server.headers),
                    connections=_FEW, pids=server.pids,
                ) as driver:  # fmt: skip
                    server.latencies.append(
                        driver.opened(per_s=per_s, seconds=_LATENCY_SECONDS, spins=spins, seed=seed)
                    )

    def print_table(self, title: str, per_s: float, *, beside: str) -> None:
        """Print the figures, and their ratios to those of the server `beside`, round by round."""
        named = [one for one in self.servers if one.name == beside]
        base = named[0] if named else self.servers[0]
        print(f"\n{title}; medians of {_ROUNDS} interleaved rounds, least and most in brackets")
        print(f"  ratios to {base.name}; per core by CPU: from the CPU time of a request")
        print(
            f"  {'':34} {'req/s per core':>24} {'ratio':>6} {'CPU µs/req':>11} {'by CPU':>7}"
            f" {f'p50 at {per_s:g}/s':>13} {'ratio':>6} {'p99':>9}"
        )
        for server in self.servers:
            rates = [one.per_s for one in server.rounds[_FEW]]
            p50, p99 = (
                statistics.median(_quantile(one, share) for one in server.latencies) * 1e3
                for share in (0.5, 0.99)
            )
            print(
                f"  {server.name:34} {_figures(server, base, _FEW)} {p50:10.2f} ms"
                f" {_wait_ratio(server, base):6.2f} {p99:6.2f} ms"
                f"   ({min(rates):.0f} to {max(rates):.0f} /s)"
            )
        if _MANY in base.rounds:
            print(f"  at {_MANY} connections:")
            for server in self.servers:
                if _MANY in server.rounds:
                    print(f"  {server.name:34} {_figures(server, base, _MANY)}")


def _figures(server: Server, base: Server, connections: int) -> str:
    rounds = list(zip(server.rounds[connections], base.rounds[connections], strict=True))
    rate = statistics.median(one.per_s for one, _ in rounds)
    ratio = statistics.median(one.per_s / other.per_s for one, other in rounds)
    by_cpu = statistics.median(other.cpu_us / one.cpu_us for one, other in rounds)
    cpu_us = _median_cpu_us(server.rounds[connections])
    return f"{rate:24.0f} {ratio:6.2f} {cpu_us:11.1f} {by_cpu:7.2f}"


def _wait_ratio(server: Server, base: Server) -> float:
    pairs = zip(server.latencies, base.latencies, strict=True)
    return statistics.median(_quantile(one, 0.5) / _quantile(other, 0.5) for one, other in pairs)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[int(len(ordered) * share)]


def _median_cpu_us(rounds: Sequence[Throughput]) -> float:
    return statistics.median(one.cpu_us for one in rounds)


def _request(path: str, token: str, headers: str) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: gateway.example\r\nAuthorization: Bearer {token}\r\n"
    return f"{head}Accept: */*\r\nUser-Agent: bench/1\r\n{headers}\r\n".encode()


def _status(port: int, call: tuple[str, str], cloud: CloudProcess) -> int:
    token, server = call
    headers = {"Authorization": f"Bearer {token}"}
    try:
        base = f"http://127.0.0.1:{port}"
        return fetch(base, "GET", console_path(cloud.project, server), headers).status
    except OSError:
        return 0


def _pin(pid: int, cores: set[int]) -> None:
    """Run all threads of a process on these cores, where the machine has them."""
    if cores <= set(range(os.cpu_count() or 1)) and (os.cpu_count() or 1) > 1:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


@contextmanager
def _bench() -> Iterator[tuple[Bench, ExitStack]]:
    with ExitStack() as stack:
        bench = Bench(stack)
        stack.callback(bench.cloud.close)
        yield bench, stack


def _gateways(
    bench: Bench, stack: ExitStack, audits: dict[str, dict[str, Any]], **links: Any
) -> Stack:
    """Start a gateway for each place of the audit log."""
    account = {
        "budget": _BUDGET,
        "breaker": {"calls_min": 10_000},
        "links": {"lifetime_s": 3_600, **links.pop("links", {})},
        **links,
    }
    made: Stack | None = None
    for name, audit in audits.items():
        options: dict[str, Any] = {
            "change": {"caller_limits": _NO_LIMIT, "audit": audit},
            "account": account,
        }
        if made is None:
            made = Stack(bench.cloud, **options)
            stack.callback(made.close)
            bench.gateway(name, made.gateway)
        else:
            bench.gateway(name, made.replica(**options))
    assert made is not None
    return made


def hits() -> None:
    """Print the table of the cache-hit path."""
    with _bench() as (bench, stack):
        bench.proxies()
        bench.aiohttp("bare aiohttp, checks nothing", "bare")
        _gateways(
            bench,
            stack,
            {
                "ours, audit on stdout": {"stdout": True},
                "ours, audit on disk": {"directory": "audit"},
            },
        )
        stdout = next(one for one in bench.servers if one.name.endswith("stdout"))
        bench.servers.append(
            Server(
                "ours, stdout, never remembered", stdout.port, stdout.pids,
                headers="X-Other: a header that the hit path does not know\r\n",
            )
        )  # fmt: skip
        bench.settle(passes=3)
        bench.throughput(_FEW)
        bench.throughput(_MANY, names=["Envoy, JWT cache", stdout.name, "ours, audit on disk"])
        bench.latency(_HITS_PER_S, spins=True)
        title = f"cache-hit path, {_FEW} connections"
        bench.print_table(title, _HITS_PER_S, beside="Envoy, JWT cache")
        print(f"  the disk's own write and sync of one record: {_sync_ms(bench.directory):.2f} ms")


def misses() -> None:
    """Print the table of the forward path: no link is ever cached."""
    with _bench() as (bench, stack):
        cloud_port = free_port()
        arguments = [sys.executable, "-m", "tests.benchmarks.fixed_upstream", str(cloud_port)]
        cloud_pid = bench.start(lambda _: subprocess.Popen(arguments), cloud_port)
        bench.proxies(forwards_to=cloud_port)
        upstream = f"http://127.0.0.1:{cloud_port}"
        ours = _gateways(
            bench,
            stack,
            {"ours, audit on stdout": {"stdout": True}},
            links={"reuse": "never"},
            endpoint=upstream,
        )
        environ = {
            "PEER_REDIS": ours.valkey.url,
            "PEER_PROJECT": bench.cloud.project,
            "PEER_UPSTREAM": upstream,
        }
        bench.aiohttp("aiohttp, all remembered, one Redis", "lean-misses", **environ)
        bench.aiohttp("plain aiohttp handler", "plain-misses", **environ)
        bench.settle(passes=1)
        _pin(cloud_pid, _OTHER_CORE)
        bench.throughput(_FEW)
        bench.latency(_MISSES_PER_S, spins=False)
        title = f"forward path, always a miss, {_FEW} connections"
        bench.print_table(title, _MISSES_PER_S, beside="plain aiohttp handler")


def _sync_ms(directory: Path) -> float:
    """Return the median time of one durable append."""
    spans = []
    descriptor = os.open(directory / "sync", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for _ in range(200):
        began = time.perf_counter()
        write_durably(descriptor, b"x" * 700)
        spans.append(time.perf_counter() - began)
    os.close(descriptor)
    return statistics.median(spans) * 1e3


def main() -> None:
    """Print the tables that the command line names, or all."""
    chosen = sys.argv[1:] or ["hits", "misses"]
    for name in chosen:
        {"hits": hits, "misses": misses}[name]()


if __name__ == "__main__":
    main()
