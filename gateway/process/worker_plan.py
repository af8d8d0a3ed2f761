"""The plan of a worker, the signals that it receives, and the memory that it shares."""

import json
import mmap
import signal
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from gateway.config.settings import Settings
from gateway.drivers.host.handover import Handovers
from gateway.process.delivery_change import DeliveryChange

RETIRE = signal.SIGUSR1
"""To a replaced worker: its replacement serves both ports. SIGTERM stops the whole gateway."""
TAKE_OVER = signal.SIGUSR2
"""To the replacement: serve the admin port. One scrape target must not alternate between two
processes."""
DUMP_STACKS = signal.SIGQUIT
"""To a worker whose event loop has stalled: write the stacks of its threads to stderr."""


_JSON_BYTES: Final = 4 * 1024 * 1024
_SIZE_BYTES: Final = 8
_PREFIX_BYTES: Final = sha256().digest_size + _SIZE_BYTES


class SupervisorCounters:
    """Counters of the supervisor in shared memory: its workers export them as metrics."""

    def __init__(self) -> None:
        self._shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    @property
    def config_rejections(self) -> int:
        return self._shared[0]

    @property
    def worker_deaths(self) -> int:
        return self._shared[1]

    @property
    def is_config_rejected(self) -> bool:
        """Whether the current config file is invalid."""
        return bool(self._shared[2])

    @property
    def workers_retired(self) -> int:
        """Replaced workers that still run, because live consoles keep them."""
        return self._shared[3]

    def set_workers_retired(self, count: int) -> None:
        self._shared[3] = count

    def config_rejected(self) -> None:
        self._shared[0] += 1
        self._shared[2] = True

    def config_accepted(self) -> None:
        self._shared[2] = False

    def worker_died(self) -> None:
        self._shared[1] += 1


class _SharedJson:
    """A JSON value in memory that one process writes and others read."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _JSON_BYTES)

    def set(self, value: object) -> None:
        """Replace the value; a reader sees all or nothing of it."""
        text = json.dumps(value).encode()
        size = len(text).to_bytes(_SIZE_BYTES, "big")
        self._shared[: _PREFIX_BYTES + len(text)] = sha256(size + text).digest() + size + text

    def get(self) -> Any:
        """Return the value; None before the first, and while it is being replaced."""
        digest = self._shared[: sha256().digest_size]
        size = self._shared[sha256().digest_size : _PREFIX_BYTES]
        text = self._shared[_PREFIX_BYTES : _PREFIX_BYTES + int.from_bytes(size, "big")]
        return json.loads(text) if sha256(size + text).digest() == digest else None


class AccountsInForce:
    """The names of the accounts of the config in force, in memory that old workers read."""

    def __init__(self) -> None:
        self._json = _SharedJson()

    def set(self, names: Iterable[str]) -> None:
        self._json.set(sorted(names))

    @property
    def names(self) -> frozenset[str] | None:
        """The names; None before the first, and while they are being replaced."""
        names = self._json.get()
        return None if names is None else frozenset(names)


class ConsoleCounts:
    """Live consoles by account of a replaced worker, or of all: its admin port has closed."""

    def __init__(self) -> None:
        self._json = _SharedJson()
        self._last: Mapping[str, int] = {}

    def set(self, counts: Mapping[str, int]) -> None:
        if counts != self._last:
            self._last = dict(counts)
            self._json.set(self._last)

    @property
    def counts(self) -> Mapping[str, int]:
        """The counts; the last ones that were read while they are being replaced."""
        counts = self._json.get()
        if counts is not None:
            self._last = counts
        return self._last


class Watchdog:
    """Heartbeat counter of a worker's event loop, in memory that the supervisor reads.

    A worker with a stalled loop serves no request and handles no signal. The supervisor detects
    it, because a thread of the worker stalls as well while C code holds the interpreter lock.
    """

    def __init__(self) -> None:
        self._beats = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    @property
    def beats(self) -> int:
        return self._beats[0]

    def beat(self) -> None:
        self._beats[0] += 1


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Everything that a worker receives when it starts."""

    config: Settings
    index: int
    public: socket.socket
    admin: socket.socket
    takes_over: bool
    """Another worker serves the admin port until TAKE_OVER arrives."""
    ready_fd: int
    """The worker writes to it once it serves."""
    parent_fd: int
    """Becomes readable when the supervisor has exited."""
    counters: SupervisorCounters
    accounts: AccountsInForce
    handovers: Handovers
    watchdog: Watchdog
    consoles: ConsoleCounts
    """Where the worker writes its own live consoles once it is replaced."""
    retired_consoles: ConsoleCounts
    """The live consoles of all replaced workers."""
    delivery: DeliveryChange
