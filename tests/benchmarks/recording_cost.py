"""What recordings cost: throughput beside the bare relay, 100 sessions, an hour at a terminal.

The relay writes to a file on this disk before it sends. The payload is Tight traffic of a real
TigerVNC; without it (.ci/system-packages) only zeros are relayed, and hour and jumps are left out.
"""

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import ClientSession, ClientWebSocketResponse

from gateway.domain.recordings.model import RecordingQuery
from gateway.domain.recordings.records import screen_record
from gateway.domain.recordings.view_messages import opened_fields
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings import open_part
from gateway.drivers.recordings.stored_recordings import StoredRecordings
from gateway.edge.consoles.page_assets import PageAssets
from gateway.edge.consoles.recording_file import RecordingFile
from gateway.flow.recordings.recording_writer import PartWriter
from tests.benchmarks.load import cpu_seconds
from tests.benchmarks.relay_path import LOAD_CORE, PROXY_CORE, Proxy, flooded, latencies
from tests.support import rfb
from tests.support.browser import CHROMIUM, open_browser
from tests.support.real_console import MISSING, RealConsoleHost
from tests.support.recordings import RecordingScene, a_recording
from tests.support.relay_peer import Peer
from tests.support.relay_server import open_rfb

_ROUNDS: Final = 5
_TARGETS: Final = {1024: 0.6, 16 * 1024: 0.35}
_ACTIVE: Final = 100
_SLOW_SESSIONS: Final = 50
_SLOW_CALL_S: Final = 0.1
_CAPTURED_MAX: Final = 8_000_000
_HOUR_S: Final = 3_600
_MIB: Final = 1 << 20
_TOKEN: Final = "benchmark"
_RETURN: Final = 0xFF0D

_ENCODINGS: Final = (1, 7, 16, 5, 0, -26, -254, -223, -224)
"""Those of noVNC without fences, which this client does not answer."""
HOUR: Final = (
    *("ls -la /etc", "cd /var/log; ls -la", "head -60 /etc/services", "df -h; free; uptime") * 10,
    *("grep -n root /etc/passwd /etc/group", "ps aux | tail -40", "seq 1 200", "clear") * 10,
    *("for i in $(seq 1 40); do date; ps aux | head -30; done",) * 10,
    *("find /usr/share/doc | head -400", "echo a line that a person types, word by word") * 15,
)
"""The lines that are typed in the hour, one key at a time. The rest of the hour is idle."""
_IDLE_S: Final = 120.0
"""Of the idle time, this much is measured."""


def main() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        print("recordings: needs two cores; skipped")
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        # Not /tmp, which may be in memory.
        with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
            directory = Path(name)
            payload = _capture(directory)
            _print_throughput(directory, payload)
            _print_active(directory, payload)
            asyncio.run(_print_slow_disk(directory))
            if MISSING:
                print(f"recordings: the hour is left out: not installed: {', '.join(MISSING)}")
            else:
                _print_hour(directory)
                _print_jumps(directory)
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def _peers(
    directory: Path, cloud: str, roles: Sequence[str], *, ca: Path | None = None
) -> Iterator[dict[str, Peer]]:
    """Start relays on a core of their own; `recorded` is the gateway's relay with a recording."""
    started: dict[str, Peer] = {}
    try:
        for role in roles:
            recordings = directory / "recordings" if role == "recorded" else None
            name = "relay" if recordings else role
            started[role] = Peer(name, target=cloud, core=PROXY_CORE, ca=ca, recordings=recordings)
        yield started
    finally:
        for peer in started.values():
            peer.__exit__()


def _capture(directory: Path) -> Path | None:
    """Store Tight traffic of a real screen; return its file."""
    if MISSING:
        return None
    file = directory / "tight"
    with (
        _real_console(directory) as url,
        _peers(directory, url, ["relay"], ca=_ca(directory)) as found,
    ):
        file.write_bytes(uvloop.run(_captured(found["relay"].url)))
    return file


async def _captured(url: str) -> bytes:
    async with _terminal(url) as terminal:
        while len(terminal.received) < _CAPTURED_MAX and terminal.lines < 60:
            await terminal.run("seq 1 3000; find /usr -maxdepth 4 | tail -800", settle_s=1.0)
        return bytes(terminal.received[:_CAPTURED_MAX])


def _print_throughput(directory: Path, payload: Path | None) -> None:
    what = "zeros" if payload is None else "Tight traffic"
    print(f"one console floods one browser with {what}, median of {_ROUNDS} rounds")
    with (
        Peer("cloud", core=LOAD_CORE, payload=payload) as cloud,
        _peers(directory, cloud.url, ["bare", "relay", "recorded"]) as peers,
    ):
        for size, target in _TARGETS.items():
            rates: dict[str, list[float]] = {name: [] for name in peers}
            costs: dict[str, list[float]] = {name: [] for name in peers}
            for _ in range(_ROUNDS):
                for name, peer in peers.items():
                    rate, cost = uvloop.run(flooded(Proxy(name, peer.url, peer.pid), size))
                    rates[name].append(rate)
                    costs[name].append(cost)
                    _remove_recordings(directory)
            print(f"  frames of {size // 1024} KiB (target: recorded at least {target} of bare)")
            for name, found in rates.items():
                ratios = [one / bare for one, bare in zip(found, rates["bare"], strict=True)]
                cost = statistics.median(costs[name])
                us = cost * 1000 * size / 1e6
                print(
                    f"    {name:10} {statistics.median(found):7.0f} MB/s  {cost:6.2f} CPU ms per MB"
                    f"  {us:6.1f} us a frame  {statistics.median(ratios):5.2f} of bare"
                    f" ({min(ratios):.2f} to {max(ratios):.2f})"
                )


def _print_active(directory: Path, payload: Path | None) -> None:
    print(f"{_ACTIVE} sessions on one core, 30 frames of 4 KiB a second each")
    with (
        Peer("cloud", core=LOAD_CORE, payload=payload) as cloud,
        _peers(directory, cloud.url, ["bare", "relay", "recorded"]) as peers,
    ):
        for name, peer in {"none": cloud, **peers}.items():
            p50, p99, load = uvloop.run(latencies(Proxy(name, peer.url, peer.pid), _ACTIVE))
            print(f"  {name:10} p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  {load:5.0%} of a core")


@dataclass(frozen=True, slots=True)
class _Hour:
    size: int
    """Bytes of screen data."""
    typed_s: float
    """Seconds in which lines were typed."""
    typed_cpu_s: float
    idle_share: float
    """CPU of the idle time, of a core."""

    @property
    def cpu_s(self) -> float:
        return self.typed_cpu_s + self.idle_share * (_HOUR_S - self.typed_s)


def _print_hour(directory: Path) -> None:
    spent: dict[str, _Hour] = {}
    _remove_recordings(directory)
    for role in ("relay", "recorded"):
        with (
            _real_console(directory) as url,
            _peers(directory, url, [role], ca=_ca(directory)) as peers,
        ):
            spent[role] = uvloop.run(_hour(peers[role].url, peers[role].pid))
    written = _size(directory, "*.open")
    began = time.process_time()
    scene = RecordingScene(directory / "recordings", clock=SystemClock())
    scene.closer.recover(scene.directory.recordings())
    closing_s = time.process_time() - began
    closed = _size(directory, "*.part")
    relay, recorded = spent["relay"], spent["recorded"]
    share = (recorded.cpu_s - relay.cpu_s + closing_s) / _HOUR_S
    print(
        f"an hour at a terminal: {len(HOUR)} lines in {recorded.typed_s:.0f} s and"
        f" {recorded.size / _MIB:.1f} MiB of screen data, then nothing:"
        f" {written / _MIB:.1f} MiB while it runs, {closed / _MIB:.1f} MiB closed (target: 20)"
    )
    for name, one in spent.items():
        print(
            f"  CPU of {name:8} {one.typed_cpu_s:.2f} s while lines are typed, {one.idle_share:.3%}"
            f" of a core while idle: {one.cpu_s:.2f} s in the hour"
        )
    print(f"  closing {closing_s:.2f} s: the recording takes {share:.2%} of a core (target: 1 %)")


def _print_jumps(directory: Path) -> None:
    """Time jumps in the hour that was recorded last, in the player of its exported file."""
    if CHROMIUM is None:
        print("recordings: jumps are left out: not installed: chromium")
        return
    file = directory / "hour.html"
    uvloop.run(_export(directory, file))
    os.sched_setaffinity(0, {LOAD_CORE, PROXY_CORE})
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(file.as_uri())
        page.wait_for_function("() => document.body.dataset.state === 'paused'")
        end = float(page.locator("#position").get_attribute("max") or "0")
        for share in (1.0, 0.25, 0.75):
            began = time.perf_counter()
            page.locator("#position").fill(str(round(end * share)))
            page.wait_for_function("() => document.body.dataset.jump === 'false'")
            took_s = time.perf_counter() - began
            print(f"  jump to {share:.0%} of it: {took_s:.2f} s (target: below 2 s)")


async def _export(directory: Path, file: Path) -> None:
    scene = RecordingScene(directory / "recordings", clock=SystemClock())
    store = StoredRecordings(scene.directory, scene.keys)
    (recording,) = (await store.list(RecordingQuery(), 1)).recordings
    reader = await store.open(recording.details.id, with_keystrokes=False)
    html = RecordingFile(PageAssets.load("").files)
    with file.open("wb") as output:
        output.write(html.head(opened_fields(reader.info, reader.parts)))
        for part in reader.parts:
            for index in range(len(part.chunks)):
                records = await reader.chunk(part.info.number, index)
                output.write(html.chunk(part.info.number, index, records))
        output.write(html.tail())
    reader.close()


async def _print_slow_disk(directory: Path) -> None:
    """Record sessions on a disk on which each write and each sync takes long."""
    _remove_recordings(directory)
    scene = RecordingScene(directory / "slow", clock=SystemClock())
    waits, lags, failed = list[float](), list[float](), list[str]()

    async def session(part: PartWriter, ends_at: float) -> None:
        while time.monotonic() < ends_at:
            began = time.monotonic()
            await part.append([screen_record(0, bytes(4_096))])
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.03)

    def slow(call: Callable[..., None]) -> Callable[..., None]:
        def slowly(*arguments: object) -> None:
            time.sleep(_SLOW_CALL_S)
            call(*arguments)

        return slowly

    async with scene.running() as recordings:
        parts = [
            await recordings.open_part(a_recording(number), failed.append)
            for number in range(1, _SLOW_SESSIONS + 1)
        ]
        before = open_part._write, open_part.sync
        open_part._write, open_part.sync = (slow(one) for one in before)
        ends_at = time.monotonic() + 10.0
        sessions = [asyncio.ensure_future(session(one, ends_at)) for one in parts]
        while time.monotonic() < ends_at:
            lags.append(recordings.lag_s)
            await asyncio.sleep(0.05)
        await asyncio.gather(*sessions)
        open_part._write, open_part.sync = before
    waits.sort()
    print(
        f"{_SLOW_SESSIONS} sessions on a disk of {_SLOW_CALL_S * 1000:.0f} ms a call: a frame waits"
        f" p50 {waits[len(waits) // 2]:.2f} s, at most {waits[-1]:.2f} s; the oldest byte that is"
        f" not durable is at most {max(lags):.2f} s old; {len(failed)} failed"
    )


def _remove_recordings(directory: Path) -> None:
    """Remove all but the index, which is open."""
    for day in (directory / "recordings").glob("[0-9]*"):
        shutil.rmtree(day)


def _size(directory: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in (directory / "recordings").rglob(pattern))


async def _hour(url: str, pid: int) -> _Hour:
    async with _terminal(url) as terminal:
        began, cpu = time.monotonic(), cpu_seconds([pid])
        for line in HOUR:
            await terminal.run(line, settle_s=0.15)
        typed_s, typed_cpu_s = time.monotonic() - began, cpu_seconds([pid]) - cpu
        idle = cpu_seconds([pid])
        await asyncio.sleep(_IDLE_S)
        idle_share = (cpu_seconds([pid]) - idle) / _IDLE_S
        return _Hour(terminal.total, typed_s, typed_cpu_s, idle_share)


def _ca(directory: Path) -> Path:
    return directory / "console-ca.pem"


@contextmanager
def _real_console(directory: Path) -> Iterator[str]:
    """Yield the address of a real console's WebSocket."""
    console = RealConsoleHost()
    try:
        _ca(directory).write_text(console.authority_pem)
        console.token_file.write_text(f"{_TOKEN}: {console.target}\n")
        yield f"{console.base.replace('https', 'wss')}/websockify?token={_TOKEN}"
    finally:
        console.close()


class _Terminal:
    """A person at a shell: types key by key, and requests updates as noVNC does."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.received = bytearray()
        self.total = 0
        self.lines = 0
        self._socket = socket
        self._seen_at = time.monotonic()

    async def read(self) -> None:
        async for message in self._socket:
            self.total += len(message.data)
            if len(self.received) < _CAPTURED_MAX:
                self.received += message.data
            self._seen_at = time.monotonic()
            await self._socket.send_bytes(rfb.update_request())

    async def run(self, line: str, *, settle_s: float) -> None:
        """Type a line, and wait until the screen is quiet."""
        self.lines += 1
        for character in (*line.encode(), _RETURN):
            await self._socket.send_bytes(rfb.key(character) + rfb.key(character, down=False))
            await asyncio.sleep(0.012)
        while time.monotonic() - self._seen_at < settle_s:  # noqa: ASYNC110 - silence is no event
            await asyncio.sleep(settle_s / 3)


@asynccontextmanager
async def _terminal(url: str) -> AsyncIterator[_Terminal]:
    async with ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
        await open_rfb(socket, _ENCODINGS)
        await socket.send_bytes(rfb.set_pixel_format())  # that of the player
        terminal = _Terminal(socket)
        await socket.send_bytes(rfb.update_request(incremental=False))
        reading = asyncio.create_task(terminal.read())
        await asyncio.sleep(1.0)
        try:
            yield terminal
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading


if __name__ == "__main__":
    main()
