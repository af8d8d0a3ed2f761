"""How long a busy machine stops the processes of a test, measured while a time limit counts."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Self

from tests.support.stack import TIMEOUT_S, RunningGateway, fetch
from tests.support.valkey import RealValkey

_INTERVAL_S = 0.05


class RoundTrips:
    """Times requests that change nothing: on a busy machine all else takes longer, too."""

    def __init__(self, *gateways: RunningGateway, valkey: RealValkey | None = None) -> None:
        self._longest_s = dict.fromkeys(range(len(gateways) + 1), 0.0)
        self._is_over = Event()
        probes: list[Callable[[], object]] = [
            lambda one=one: fetch(one.url, "GET", "/console/none")  # type: ignore[misc]
            for one in gateways
        ]
        if valkey is not None:
            probes.append(lambda: _ping(valkey.port))
        self._threads = [
            Thread(target=self._run, args=(number, probe)) for number, probe in enumerate(probes)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def limit_s(self, promised_s: float) -> float:
        """Return the time by which something must have happened that takes few round trips."""
        return promised_s + 3 * sum(self._longest_s.values())

    def _run(self, number: int, probe: Callable[[], object]) -> None:
        began = time.monotonic()
        while not self._is_over.wait(_INTERVAL_S):
            with suppress(OSError):
                probe()
            # With the wait: this process may be stopped there, too.
            ended = time.monotonic()
            taken_s = ended - began - _INTERVAL_S
            self._longest_s[number] = max(self._longest_s[number], taken_s)
            began = ended


def _ping(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(b"PING\r\n")
        connection.recv(100)
