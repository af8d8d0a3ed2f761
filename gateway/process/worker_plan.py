"""What the supervisor passes to a worker at the fork: its plan, signals and shared memory."""

import mmap
import signal
import socket
from dataclasses import dataclass

from gateway.config.settings import Settings
from gateway.drivers.host.handover import Handover

RETIRE = signal.SIGUSR1
"""To a worker that has been replaced: others accept, and answer on the admin port. SIGTERM: the
whole gateway ends."""
TAKE_OVER = signal.SIGUSR2
"""To its replacement: one scrape target must not show the counters of two processes by turns."""
DUMP_STACKS = signal.SIGQUIT
"""To a worker whose event loop stands still: the stacks of its threads go to stderr."""


class SupervisorCounters:
    """What the parent counts, in memory that its workers see: they alone answer scrapes."""

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
        """Whether the file as it stands was refused."""
        return bool(self._shared[2])

    def config_rejected(self) -> None:
        self._shared[0] += 1
        self._shared[2] = True

    def config_accepted(self) -> None:
        self._shared[2] = False

    def worker_died(self) -> None:
        self._shared[1] += 1


class Watchdog:
    """The beats of a worker's event loop, in memory that its parent sees.

    One that stands still answers nobody and hears no signal, while its process is there. No thread
    beside it can tell: one of Python stands still, too, while C code holds the interpreter's lock.
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
    """What a worker is told at its birth."""

    config: Settings
    index: int
    public: socket.socket
    admin: socket.socket
    takes_over: bool
    """Another worker answers on the admin port until TAKE_OVER comes."""
    ready_fd: int
    """Written to once the worker answers."""
    parent_fd: int
    """Reads as ended when the parent is gone."""
    counters: SupervisorCounters
    handover: Handover
    watchdog: Watchdog
