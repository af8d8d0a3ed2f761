"""The supervisor: binds the sockets, then starts, replaces and stops the worker processes.

A changed config is applied by new workers that start beside the old ones, which then drain. So any
setting can change without a lost request, and an invalid config changes nothing.
"""

import faulthandler
import gc
import logging
import math
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.config.environment import inherited_descriptors
from gateway.config.errors import InvalidConfig
from gateway.config.secrets import SecretOfFile, secrets_of
from gateway.config.settings import Settings, egress_files
from gateway.drivers.files.writers import being_written, is_open_for_writing
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.host.handover import Handovers
from gateway.drivers.network.accept_queue import drop_new_handshakes
from gateway.drivers.network.inherited_sockets import inherited_sockets
from gateway.drivers.network.listening_socket import (
    Address,
    bind,
    file_number,
    is_unix,
    remove_file,
)
from gateway.drivers.telemetry import log as logs
from gateway.process.delivery_change import DeliveryChange
from gateway.process.worker_plan import (
    DUMP_STACKS,
    RETIRE,
    TAKE_OVER,
    AccountsInForce,
    ConsoleCounts,
    SupervisorCounters,
    Watchdog,
    WorkerPlan,
)

log = logging.getLogger("gateway.supervisor")

_CHECK_INTERVAL_S = 1.0
_RETRY_REJECTED_S = 5.0
_SETTLE_S = 0.3
"""A changed file is loaded when it has not changed for so long."""
_START_TIMEOUT_S = 20.0
_RESTART_DELAYS_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
_HEALTHY_UPTIME_S = 30.0
_STOP_GRACE_S = 5.0
_SESSIONS_CLOSED_S = 5.0
"""How long the last live consoles of a worker may take to close."""
_HUNG_AFTER_S = 30.0
"""Longer than any legitimate work on the event loop, such as loading 100,000 policy rules."""
_STACK_DUMP_TIMEOUT_S = 1.0

FileSignature = tuple[int, int, int]
Signatures = dict[Path, FileSignature]

Load = Callable[[], Settings]
"""Reads the config file; raises InvalidConfig."""
Work = Callable[[WorkerPlan], int]


@dataclass(slots=True)
class WorkerProcess:
    """A running worker, as the supervisor sees it."""

    index: int
    pid: int
    started_at: float
    watchdog: Watchdog
    consoles: ConsoleCounts
    retired: bool = False
    """It received a signal to exit, so it needs no replacement."""
    kill_at: float = math.inf
    """When it is killed if it still runs."""
    paused: bool = False
    """Stopped by SIGSTOP from outside, so its event loop does not run."""
    last_beats: int = 0
    stalled_s: float = 0.0


class Supervisor:
    """Runs the workers until SIGTERM or SIGINT. It serves no request itself."""

    def __init__(
        self,
        config_file: Path,
        load: Load,
        work: Work,
        *,
        workers: int,
        config: Settings,
        handovers: Handovers,
    ) -> None:
        """`config` is the first result of `load`."""
        self._file = config_file
        self._load = load
        self._work = work
        self._count = workers
        self._config = config
        self._seen = self._accepted = self._signatures(config)
        self._changing: Signatures | None = None
        """A change that was seen once."""
        self._egress_seen = self._egress_signature()
        self._rejected: list[str] = []
        self._rejected_at = 0.0
        self._workers: dict[int, WorkerProcess] = {}
        self._sockets: dict[Address, socket.socket] = {}
        self._socket_files: dict[Address, int] = {}
        """The inode of each Unix socket's file."""
        self._inherited = inherited_sockets(inherited_descriptors())
        self._deaths: dict[int, int] = {}
        self._restart_at: dict[int, float] = {}
        self._stopping = False
        self._reload_requested = False
        self._watchdogs_checked_at = _now()
        self._counters = SupervisorCounters()
        self._accounts = AccountsInForce()
        self._retired_consoles = ConsoleCounts()
        self._delivery = DeliveryChange.between(None, config, now=SystemClock().now())
        self._handovers = handovers
        self._signals_read, self._signals_write = os.pipe()
        self._alive_read, self._alive_write = os.pipe()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code."""
        os.set_blocking(self._signals_read, False)
        os.set_blocking(self._signals_write, False)
        signal.set_wakeup_fd(self._signals_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        for host, port in self._inherited.keys() - self._configured_addresses():
            log.warning("inherited_socket_unused", extra={"host": host, "port": port})
        if not self._start_all(self._config):
            self._stop()
            return 0 if self._stopping else 1
        while not self._stopping:
            self._wait(_CHECK_INTERVAL_S if self._changing is None else _SETTLE_S)
            if self._reload_requested:
                self._reload_requested = False
                self._rejected = []  # a requested reload reports its errors again
                self._reload()
            self._reap()
            self._count_retired_consoles()
            self._check_watchdogs()
            self._restart_dead()
            self._watch_config()
        self._stop()
        return 0

    def _watch_config(self) -> None:
        found = self._signatures(self._config)
        if found != self._seen:
            if found != self._changing:
                self._changing = found  # it may still be written
                return
            self._rejected = []
            self._reload()
        elif self._rejected and _now() - self._rejected_at >= _RETRY_REJECTED_S:
            self._reload()  # it may name a file that was written since

    def _signatures(self, config: Settings) -> Signatures:
        """Identify the content of the config file and of the files that it names."""
        secrets = (one for _, one in secrets_of(config) if isinstance(one, SecretOfFile))
        files = (self._file, *(one.file for one in secrets), *egress_files(config))
        return {file: _file_signature(file) for file in files}

    def _load_complete(self) -> tuple[Settings, Signatures]:
        """Load the config; raise InvalidConfig if a changed file is being written."""
        config = self._load()
        found = self._signatures(config)
        changed = (file for file, _ in found.items() - self._accepted.items())
        if written := sorted(str(file) for file in changed if is_open_for_writing(file)):
            raise InvalidConfig([being_written(file) for file in written])
        return config, found

    def _egress_signature(self) -> list[FileSignature]:
        """Identify the content of certificates that workers load at their start."""
        return [_file_signature(file) for file in egress_files(self._config)]

    def _reload(self) -> None:
        self._seen, self._changing = self._signatures(self._config), None
        try:
            config, signatures = self._load_complete()
        except InvalidConfig as found:
            errors = [str(one) for one in found.errors]
            if errors != self._rejected:
                self._counters.config_rejected()
                log.error("config_rejected", extra={"errors": errors})  # noqa: TRY400
            self._rejected, self._rejected_at = errors, _now()
            return
        self._rejected = []
        if self._signatures(self._config) != self._seen:
            return  # a file changed during the load; the next checks load it again
        egress, self._egress_seen = self._egress_seen, self._egress_signature()
        if config == self._config and egress == self._egress_seen:
            self._accepted = signatures
            self._counters.config_accepted()
            for worker in self._workers.values():
                _send(worker.pid, signal.SIGHUP)
            return
        self._replace_workers(config, signatures)

    def _replace_workers(self, config: Settings, signatures: Signatures) -> None:
        """Replace all workers; if a new one does not start, keep the old ones."""
        before = [worker for worker in self._workers.values() if not worker.retired]
        old, new = _account_names(self._config), _account_names(config)
        self._accounts.set(old | new)
        delivery = self._delivery
        self._delivery = DeliveryChange.between(self._config, config, now=SystemClock().now())
        if not self._start_all(config):
            if self._stopping:
                return  # the start was interrupted, not rejected
            self._delivery = delivery
            self._accounts.set(old)
            self._close_removed_ports()
            self._counters.config_rejected()
            log.error("config_rejected", extra={"errors": ["the new workers did not start"]})
            return
        # Dead workers of the old set need no restart: the new set is complete.
        self._restart_at.clear()
        self._deaths.clear()
        for worker in before:
            self._retire(worker)  # with the drain time of its own config
        if config.log != self._config.log:
            logs.set_up(config.log.levels, config.log.format)
        self._config = config
        self._accounts.set(new)
        self._accepted = self._seen = signatures
        self._close_removed_ports()
        for worker in self._workers.values():
            if not worker.retired:
                _send(worker.pid, TAKE_OVER)
        self._counters.config_accepted()
        log.info("config_reloaded", extra={"workers": self._count})

    def _start_all(self, config: Settings) -> bool:
        """Start all workers; if one does not start, stop the others of this set."""
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
        for listener, address in _addresses(config, index).items():
            try:
                sockets.append(self._socket(address, config.listen.unix_mode))
            except OSError as error:
                host, port = address
                message = f"{error.strerror}; free this address, or change it in the config"
                where = {"listener": listener, "host": host, "port": port}
                log.error("listen_failed", extra={**where, "error": message})  # noqa: TRY400
                return None
        public, admin = sockets
        ready_read, ready_write = os.pipe()
        watchdog, consoles = Watchdog(), ConsoleCounts()
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
            self._accounts,
            self._handovers,
            watchdog,
            consoles,
            self._retired_consoles,
            self._delivery,
        )
        # A collection writes to each object that it visits, and so copies the page that parent and
        # worker share. Frozen objects are not visited.
        gc.collect()
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            self._run_child(plan)
        os.close(ready_write)
        ready = self._wait_until_ready(ready_read)
        os.close(ready_read)
        worker = self._workers[pid] = WorkerProcess(index, pid, _now(), watchdog, consoles)
        if not ready:
            self._retire(worker, signal.SIGKILL)
            return None
        log.info("worker_started", extra={"worker": index, "pid": pid})
        return worker

    def _wait_until_ready(self, ready: int) -> bool:
        """Wait until the worker serves; return False if it does not, or if the gateway stops."""
        deadline = _now() + _START_TIMEOUT_S
        while not self._stopping and (left_s := deadline - _now()) > 0:
            self._wait(left_s, ready)
            if select.select([ready], [], [], 0)[0]:
                return bool(os.read(ready, 1))
        return False

    def _retire(self, worker: WorkerProcess, number: int = RETIRE) -> None:
        request = self._config.request
        worker.retired = True
        drain_s = request.drain_s
        if self._config.delivers_proxied:
            console = self._config.console
            drain_s = max(drain_s, console.drain_s + _SESSIONS_CLOSED_S)
            if number == RETIRE:
                drain_s += console.reload_drain_s
        worker.kill_at = _now() + request.drain_delay_s + drain_s + _STOP_GRACE_S
        self._count_retired()
        _send(worker.pid, number)

    def _count_retired(self) -> None:
        self._counters.set_workers_retired(sum(one.retired for one in self._workers.values()))

    def _count_retired_consoles(self) -> None:
        total: Counter[str] = Counter()
        for worker in self._workers.values():
            if worker.retired:
                total.update(worker.consoles.counts)
        self._retired_consoles.set(total)

    def _run_child(self, plan: WorkerPlan) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            faulthandler.register(DUMP_STACKS)  # works without the interpreter lock
            os.close(self._signals_read)
            os.close(self._signals_write)
            os.close(self._alive_write)
            for bound in self._sockets.values():
                if bound not in (plan.public, plan.admin):
                    bound.close()  # a port closes with its last descriptor
            code = self._work(plan)
        except BaseException:  # the child must never continue as a second supervisor
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
                if worker.kill_at < _now():
                    _send(pid, signal.SIGKILL)
                continue
            del self._workers[pid]
            self._count_retired()
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
        """Kill each worker whose event loop has stalled; it dumps its stacks first."""
        # At most one interval: while the whole gateway is paused, no worker counts as stalled.
        elapsed_s = min(_now() - self._watchdogs_checked_at, _CHECK_INTERVAL_S)
        self._watchdogs_checked_at = _now()
        for worker in self._workers.values():
            beats = worker.watchdog.beats
            is_alive = beats != worker.last_beats or not beats or worker.paused
            worker.last_beats = beats
            worker.stalled_s = 0.0 if is_alive else worker.stalled_s + elapsed_s
            if worker.stalled_s > _HUNG_AFTER_S and worker.kill_at == math.inf:
                log.error("worker_hung", extra={"worker": worker.index, "pid": worker.pid})
                _send(worker.pid, DUMP_STACKS)
                worker.kill_at = _now() + _STACK_DUMP_TIMEOUT_S

    def _restart_dead(self) -> None:
        for index, at in list(self._restart_at.items()):
            if at <= _now() and not self._stopping:
                del self._restart_at[index]
                if self._start(self._config, index) is None:
                    self._restart_at[index] = _now() + _RESTART_DELAYS_S[-1]

    def _stop(self) -> None:
        """Stop all workers; close the ports as soon as the workers stop accepting."""
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
        """Close the ports that the config in force does not name."""
        for address in self._sockets.keys() - self._configured_addresses():
            self._remove_socket_file(address)
            self._sockets.pop(address).close()

    def _configured_addresses(self) -> set[Address]:
        return {one for i in range(self._count) for one in _addresses(self._config, i).values()}

    def _close_ports(self) -> None:
        """Close the supervisor's sockets; the workers accept what is queued, then close theirs."""
        public = _addresses(self._config, 0)["public"]
        for address, bound in self._sockets.items():
            self._remove_socket_file(address)
            is_tcp = not is_unix(address)
            if is_tcp and address == public and address not in self._inherited:
                drop_new_handshakes(bound)
            bound.close()
        self._sockets.clear()

    def _remove_socket_file(self, address: Address) -> None:
        remove_file(address[0], self._socket_files.pop(address, 0))

    def _wait(self, seconds: float, *others: int) -> None:
        """Sleep until a signal arrives, one of `others` is readable, or the time has passed."""
        select.select([self._signals_read, *others], [], [], seconds)
        with suppress(BlockingIOError):
            caught = os.read(self._signals_read, 512)
            self._stopping |= signal.SIGTERM in caught or signal.SIGINT in caught
            self._reload_requested |= signal.SIGHUP in caught

    def _socket(self, address: Address, unix_mode: int) -> socket.socket:
        """Bind an address once: all workers share the socket, so it survives each of them.

        An inherited socket also stays open in its owner, where connections wait for the next
        gateway. Port 0 or less means any free port; the number only distinguishes addresses.
        """
        if address not in self._sockets:
            passed = self._inherited.get(address)
            self._sockets[address] = passed.dup() if passed else bind(address, unix_mode=unix_mode)
            if is_unix(address) and not passed:
                self._socket_files[address] = file_number(address[0])
        elif address in self._socket_files:
            os.chmod(address[0], unix_mode)  # noqa: PTH101 - the config may have changed it
        return self._sockets[address]


def _addresses(config: Settings, index: int) -> dict[str, Address]:
    """Return the public and the admin address of a worker."""
    ports = config.admin_ports(index + 1)
    listen = config.listen
    unix = listen.unix_socket
    return {
        "public": (listen.host, listen.port) if unix is None else (str(unix), 0),
        "admin": (config.admin.host, ports[index] if ports else -1 - index),
    }


def _account_names(config: Settings) -> set[str]:
    return {account.name for account in config.accounts}


def _file_signature(file: Path) -> FileSignature:
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
