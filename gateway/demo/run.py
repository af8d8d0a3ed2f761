"""`gateway demo`: the whole product on loopback, with only Python installed.

Runs the simulated cloud, an embedded Valkey and a real `gateway serve`. Prints tokens and commands
to try. On exit it removes its processes, sockets and files.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NoReturn, cast

from gateway.demo.cloud.simulated_cloud import SimulatedCloud
from gateway.demo.files import DEMO_CLOUD, DRAIN_S, DemoFiles
from gateway.drivers.valkey.embedded import EmbeddedValkey, end_with_parent

_READY_TIMEOUT_S = 20.0
_POLL_S = 0.02


class _PortTaken(Exception):
    """Another process took the port between the check and the gateway's start."""


class _GatewayFailed(Exception):
    """The gateway ended; the message is the end of its log."""


def run_demo(*, as_json: bool, port: int = 8080) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP; return the exit code.

    The gateway listens on `port`, or on a free port if that one is taken.
    """
    os.umask(0o077)  # the demo writes tokens and keys
    return asyncio.run(_Demo(as_json=as_json, port=port).run())


class _Demo:
    def __init__(self, *, as_json: bool, port: int) -> None:
        self._as_json = as_json
        self._port = port
        self._stopping = False

    async def run(self) -> int:
        loop, task = asyncio.get_running_loop(), cast("asyncio.Task[int]", asyncio.current_task())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop, task)
        try:
            with (
                EmbeddedValkey() as valkey,
                tempfile.TemporaryDirectory(prefix="gateway-demo-") as name,
            ):
                async with SimulatedCloud(DEMO_CLOUD) as cloud:
                    await self._serve(DemoFiles(Path(name), cloud, valkey.url))
        except asyncio.CancelledError:
            return 0
        except _GatewayFailed as failure:
            sys.stderr.write(f"The gateway ended unexpectedly:\n{failure}\n")
            return 1

    def _stop(self, task: asyncio.Task[int]) -> None:
        if not self._stopping:  # a second Ctrl-C must not interrupt the cleanup
            self._stopping = True
            task.cancel()

    async def _serve(self, files: DemoFiles) -> NoReturn:
        """Run until cancelled; raise _GatewayFailed if the gateway ends."""
        for port in (self._port, 0, 0):
            try:
                async with _gateway(files, _free_port(port), _free_port(0)) as gateway:
                    text = json.dumps(files.addresses()) if self._as_json else files.instructions()
                    print(text, flush=True)
                    await gateway.wait()
                    raise _GatewayFailed(files.log_tail())
            except _PortTaken:
                continue
        raise _GatewayFailed("every free port was taken before the gateway could listen on it")


@asynccontextmanager
async def _gateway(files: DemoFiles, port: int, admin_port: int) -> AsyncIterator[Process]:
    """Run `gateway serve`: enter when it is ready, exit when all its processes have ended."""
    files.write(port, admin_port)
    with files.log.open("wb") as log:
        gateway = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway", "serve", "--config", str(files.config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches only the demo, which then drains the gateway
            preexec_fn=end_with_parent(signal.SIGTERM),
        )
    try:
        await _wait_until_ready(gateway, files, admin_port)
        yield gateway
    finally:
        await _end(gateway)


async def _wait_until_ready(gateway: Process, files: DemoFiles, admin_port: int) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_READY_TIMEOUT_S):
            while gateway.returncode is None:
                if await _is_ready(admin_port):
                    return
                await asyncio.sleep(_POLL_S)
    output = files.log_tail()
    raise _PortTaken if "listen_failed" in output else _GatewayFailed(output)


async def _is_ready(admin_port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", admin_port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


async def _end(gateway: Process) -> None:
    if gateway.returncode is None:
        gateway.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S + 7.0):
                await gateway.wait()
    with suppress(ProcessLookupError):
        os.killpg(gateway.pid, signal.SIGKILL)  # workers that did not drain
    await gateway.wait()


def _free_port(wanted: int) -> int:
    """Return `wanted`, or a free port if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
