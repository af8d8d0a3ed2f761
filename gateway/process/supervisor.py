"""The parent of the worker processes: it binds, forks, replaces and stops them; it serves nothing.

A changed config is taken over by starting new workers beside the old ones and draining those, so
any setting can be changed and no request is lost; a config with mistakes changes nothing.
"""

import faulthandler
import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.config.environment import inherited_descriptors
from gateway.config.errors import InvalidConfig
from gateway.config.settings import Settings
from gateway.drivers.host.handover import Handover
from gateway.drivers.network.accept_queue import drop_new_handshakes
from gateway.drivers.network.inherited_sockets import inherited_sockets
from gateway.process.worker_plan import (
    DUMP_STACKS,
    RETIRE,
    TAKE_OVER,
    SupervisorCounters,
    Watchdog,
    WorkerPlan,
)

log = logging.getLogger("gateway.supervisor")

_CHECK_INTERVAL_S = 1.0
_START_TIMEOUT_S = 20.0
_RESTART_DELAYS_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
_HEALTHY_UPTIME_S = 30.0
_STOP_GRACE_S = 5.0
_HUNG_AFTER_S = 30.0
"""Longer than anything that holds the loop by right, such as a policy of 100,000 rules."""
_STACK_DUMP_TIMEOUT_S = 1.0
_BACKLOG = 1024

Load = Callable[[], Settings]
"""Reads the config file; raises InvalidConfig."""
Work = Callable[[WorkerPlan], int]


@dataclass(slots=True)
class WorkerProcess:
    index: int
    pid: int
    started_at: float
    watchdog: Watchdog
    retired: bool = False
    """Told to end, so nobody need follow it."""
    ends_by: float = math.inf
    """When it is killed if it has not ended."""
    paused: bool = False
    """By a signal from outside; then it is no wonder that it stands still."""
    last_beats: int = 0
    stalled_s: float = 0.0


class Supervisor:
    def __init__(
        self,
        config_file: Path,
        load: Load,
        work: Work,
        *,
        workers: int,
        config: Settings,
    ) -> None:
        """`config` is what `load` gave first."""
        self._file = config_file
        self._load = load
        self._work = work
        self._count = workers
        self._config = config
        self._seen = _file_signature(config_file)
        self._workers: dict[int, WorkerProcess] = {}
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._passed = inherited_sockets(inherited_descriptors())
        self._deaths: dict[int, int] = {}
        self._restart_at: dict[int, float] = {}
        self._stopping = False
        self._reload_requested = False
        self._checked_at = _now()
        self._counters = SupervisorCounters()
        self._handover = Handover()
        self._signals_read, self._signals_write = os.pipe()
        self._alive_read, self._alive_write = os.pipe()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code."""
        os.set_blocking(self._signals_read, False)
        os.set_blocking(self._signals_write, False)
        signal.set_wakeup_fd(self._signals_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        for host, port in self._passed.keys() - self._configured_addresses():
            log.warning("inherited_socket_unused", extra={"host": host, "port": port})
        if not self._start_all(self._config):
            self._stop()
            return 0 if self._stopping else 1
        while not self._stopping:
            self._wait(_CHECK_INTERVAL_S)
            if self._reload_requested:
                self._reload_requested = False
                self._reload()
            self._reap()
            self._check_watchdogs()
            self._restart_dead()
            self._watch_config()
        self._stop()
        return 0

    def _watch_config(self) -> None:
        if _file_signature(self._file) != self._seen:
            self._reload()

    def _reload(self) -> None:
        self._seen = _file_signature(self._file)
        try:
            config = self._load()
        except InvalidConfig as found:
            self._counters.config_rejected()
            errors = [str(one) for one in found.errors]
            log.error("config_rejected", extra={"errors": errors})  # noqa: TRY400
            return
        if config == self._config:
            self._counters.config_accepted()
            for worker in self._workers.values():
                _send(worker.pid, signal.SIGHUP)
            return
        self._take_over(config)

    def _take_over(self, config: Settings) -> None:
        """Put new workers in the place of the old; where one does not come up, change nothing."""
        before = [worker for worker in self._workers.values() if not worker.retired]
        if not self._start_all(config):
            if self._stopping:
                return  # it was not tried to the end
            self._close_removed_ports()
            self._counters.config_rejected()
            log.error("config_rejected", extra={"errors": ["the new workers did not start"]})
            return
        # The new set is whole: who died of the old one has its successor, too.
        self._restart_at.clear()
        self._deaths.clear()
        for worker in before:
            self._retire(worker)  # in the time that its own config gives
        self._config = config
        self._close_removed_ports()
        for worker in self._workers.values():
            if not worker.retired:
                _send(worker.pid, TAKE_OVER)
        self._counters.config_accepted()
        log.info("config_reloaded", extra={"workers": self._count})

    def _start_all(self, config: Settings) -> bool:
        """Start a whole set of workers; when one does not come up, end those of this set."""
        started: list[WorkerProcess] = []
        for index in range(self._count):
            worker = self._start(config, index)
            if worker is None:
                for one in started:
                    self._retire(one)
                return False
            started.append(worker)
        return True

    def _start(self, config: Settings, index: int) -> WorkerProcess | None:
        sockets = []
        for listener, (host, port) in _addresses(config, index).items():
            try:
                sockets.append(self._socket(host, port))
            except OSError as error:
                message = f"{error.strerror}; free this address, or change it in the config"
                where = {"listener": listener, "host": host, "port": port}
                log.error("listen_failed", extra={**where, "error": message})  # noqa: TRY400
                return None
        public, admin = sockets
        ready_read, ready_write = os.pipe()
        watchdog = Watchdog()
        takes_over = any(one.index == index and not one.retired for one in self._workers.values())
        plan = WorkerPlan(
            config,
            index,
            public,
            admin,
            takes_over,
            ready_write,
            self._alive_read,
            self._counters,
            self._handover,
            watchdog,
        )
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            self._run_child(plan)
        os.close(ready_write)
        ready = self._wait_until_ready(ready_read)
        os.close(ready_read)
        worker = self._workers[pid] = WorkerProcess(index, pid, _now(), watchdog)
        if not ready:
            self._retire(worker, signal.SIGKILL)
            return None
        log.info("worker_started", extra={"worker": index, "pid": pid})
        return worker

    def _wait_until_ready(self, ready: int) -> bool:
        """Wait for the worker's word, unless we are told to stop meanwhile."""
        deadline = _now() + _START_TIMEOUT_S
        while not self._stopping and (left_s := deadline - _now()) > 0:
            self._wait(left_s, ready)
            if select.select([ready], [], [], 0)[0]:
                return bool(os.read(ready, 1))
        return False

    def _retire(self, worker: WorkerProcess, number: int = RETIRE) -> None:
        request = self._config.request
        worker.retired = True
        worker.ends_by = _now() + request.drain_delay_s + request.drain_s + _STOP_GRACE_S
        _send(worker.pid, number)

    def _run_child(self, plan: WorkerPlan) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            faulthandler.register(DUMP_STACKS)  # needs no lock of the interpreter
            os.close(self._signals_read)
            os.close(self._signals_write)
            os.close(self._alive_write)
            for bound in self._sockets.values():
                if bound not in (plan.public, plan.admin):
                    bound.close()  # a port is closed when nobody holds it any more
            code = self._work(plan)
        except BaseException:  # whatever it is, the child must not go on as a second parent
            log.exception("worker_failed", extra={"worker": plan.index})
        finally:
            os._exit(code)

    def _reap(self) -> None:
        for pid, worker in list(self._workers.items()):
            changed, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if changed and (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
                worker.paused = os.WIFSTOPPED(status)
                continue
            if not changed:
                if worker.ends_by < _now():
                    _send(pid, signal.SIGKILL)
                continue
            del self._workers[pid]
            if worker.retired or self._stopping:
                continue
            self._counters.worker_died()
            code = os.waitstatus_to_exitcode(status)
            log.error("worker_died", extra={"worker": worker.index, "pid": pid, "code": code})
            lived_s = _now() - worker.started_at
            deaths = 0 if lived_s > _HEALTHY_UPTIME_S else self._deaths.get(worker.index, 0) + 1
            self._deaths[worker.index] = deaths
            delay_s = _RESTART_DELAYS_S[min(deaths, len(_RESTART_DELAYS_S) - 1)]
            self._restart_at[worker.index] = _now() + delay_s

    def _check_watchdogs(self) -> None:
        """Kill who stands still, and let it tell where; another is started for it."""
        # Not for longer than a look: while all of us are paused, nobody stands still.
        elapsed_s = min(_now() - self._checked_at, _CHECK_INTERVAL_S)
        self._checked_at = _now()
        for worker in self._workers.values():
            beats = worker.watchdog.beats
            is_alive = beats != worker.last_beats or not beats or worker.paused
            worker.last_beats = beats
            worker.stalled_s = 0.0 if is_alive else worker.stalled_s + elapsed_s
            if worker.stalled_s > _HUNG_AFTER_S and worker.ends_by == math.inf:
                log.error("worker_hung", extra={"worker": worker.index, "pid": worker.pid})
                _send(worker.pid, DUMP_STACKS)
                worker.ends_by = _now() + _STACK_DUMP_TIMEOUT_S

    def _restart_dead(self) -> None:
        for index, at in list(self._restart_at.items()):
            if at <= _now() and not self._stopping:
                del self._restart_at[index]
                if self._start(self._config, index) is None:
                    self._restart_at[index] = _now() + _RESTART_DELAYS_S[-1]

    def _stop(self) -> None:
        """End all workers, and let nobody connect to a port that none of them accepts from."""
        for worker in self._workers.values():
            self._retire(worker, signal.SIGTERM)
        accept_until: float | None = _now() + self._config.request.drain_delay_s
        while self._workers:
            self._wait(0.05)
            self._reap()
            if accept_until is not None and _now() >= accept_until:
                accept_until = None
                self._close_ports()
        self._close_ports()

    def _close_removed_ports(self) -> None:
        """Keep no port open that the config in force does not name: nobody would answer there."""
        for address in self._sockets.keys() - self._configured_addresses():
            self._sockets.pop(address).close()

    def _configured_addresses(self) -> set[tuple[str, int]]:
        return {one for i in range(self._count) for one in _addresses(self._config, i).values()}

    def _close_ports(self) -> None:
        """Leave the sockets to the workers; these accept what has connected, then close theirs."""
        listen = self._config.listen
        for address, bound in self._sockets.items():
            if address == (listen.host, listen.port) and address not in self._passed:
                drop_new_handshakes(bound)
            bound.close()
        self._sockets.clear()

    def _wait(self, seconds: float, *others: int) -> None:
        """Sleep until a signal comes, one of the others is readable, or the span is over."""
        select.select([self._signals_read, *others], [], [], seconds)
        with suppress(BlockingIOError):
            caught = os.read(self._signals_read, 512)
            self._stopping |= signal.SIGTERM in caught or signal.SIGINT in caught
            self._reload_requested |= signal.SIGHUP in caught

    def _socket(self, host: str, port: int) -> socket.socket:
        """Bind once and keep: workers share the socket, so a connection survives any of them.

        One that was passed stays open elsewhere, too: who connects waits there for our successor.
        Port 0 and below ask for any free port; such addresses are told apart by the number.
        """
        if (host, port) not in self._sockets:
            passed = self._passed.get((host, port))
            self._sockets[host, port] = passed.dup() if passed else _bound(host, port)
        return self._sockets[host, port]


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, max(port, 0)))
    bound.listen(_BACKLOG)
    bound.setblocking(False)
    return bound


def _addresses(config: Settings, index: int) -> dict[str, tuple[str, int]]:
    """Return by listener where this worker serves, and where it answers operators."""
    ports = config.admin_ports(index + 1)
    return {
        "public": (config.listen.host, config.listen.port),
        "admin": (config.admin.host, ports[index] if ports else -1 - index),
    }


def _file_signature(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _now() -> float:
    return time.monotonic()  # noqa: TID251
