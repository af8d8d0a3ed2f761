"""The server of prepared programs: it has imported the gateway and forks a process per program.

`python -m tests.support.program_server DESCRIPTOR` runs until the socket of this descriptor closes.
See `tests.support.programs` for the other side.
"""

import gc
import io
import json
import os
import runpy
import signal
import socket
import sys
from importlib import import_module
from typing import Any

from gateway.commands.parser import COMMANDS

MESSAGE_BYTES_MAX = 200_000
"""The kernel accepts about so much in one message."""
IMPORTED_WHEN_NEEDED = (
    "gateway.commands.console_check",
    "gateway.commands.online_check",
    "gateway.demo.cloud.simulated_cloud",
    "uvloop",
)
"""Modules that the commands import only when they run."""


def serve(control: socket.socket) -> None:
    """Start one program per message until the other side closes the socket.

    A program begins in a returned call: it leaves the loop and the stack of the server.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES_MAX, 3)
        if not message:
            return
        between = os.fork()
        if between == 0:
            adopted_from = os.getpid()
            if (pid := os.fork()) == 0:
                control.close()
                while os.getppid() == adopted_from:
                    os.sched_yield()
                _run(json.loads(message), descriptors)
            control.send(str(pid).encode())
            os._exit(0)  # the process of the tests adopts the program
        os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(b"adopted")


def _run(program: dict[str, Any], descriptors: list[int]) -> None:
    """Become the program; its SystemExit ends the interpreter as that of `python -m` does."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if program["new_session"]:
        os.setsid()
    os.chdir(program["directory"])
    os.environ.clear()
    os.environ.update(program["environ"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    sys.path[0] = program["directory"]
    sys.argv[1:] = program["arguments"]
    runpy.run_module(program["module"], run_name="__main__", alter_sys=True)
    raise SystemExit


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for command in COMMANDS:
        import_module(f"gateway.commands.{command}")
    for name in IMPORTED_WHEN_NEEDED:
        import_module(name)
    gc.collect()
    gc.freeze()  # a collection would copy the memory that the programs share
    serve(socket.socket(fileno=int(sys.argv[1])))
