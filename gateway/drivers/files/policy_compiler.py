"""The program that compiles a policy: `policy_process` runs it in a process of its own.

Its start counts in the time of a reload, so it imports neither asyncio nor logging.
"""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Final

import msgspec

from gateway.config.errors import ConfigError, InvalidConfig
from gateway.config.located_yaml import parse
from gateway.config.policy_names import KnownNames
from gateway.config.policy_parser import compile_policy, read_policy
from gateway.drivers.host.handover import Handover

HEAD_LENGTH_BYTES: Final = 4
_NICENESS: Final = 5


class CompilerTask(msgspec.Struct):
    """What precedes the policy's text on standard input, after its length (big-endian)."""

    key: bytes
    """Identifies content and names; the output repeats it."""
    file: str
    known: KnownNames
    at: float
    """Monotonic seconds, before the content was read."""
    memory: int
    """The descriptor of the handover's memory."""


class CompiledPolicy(msgspec.Struct):
    key: bytes
    errors: list[ConfigError]
    index: memoryview
    """What `RuleIndex` reads; empty if there are errors."""


def policy_name(file: Path) -> str:
    """Return the name under which the last accepted text of a policy file is handed over."""
    return f"policy {file}"


def compiled_name(file: Path) -> str:
    """Return the name under which the last CompiledPolicy of a file is handed over."""
    return f"compiled policy {file}"


def main() -> None:
    """Compile the policy on standard input; write a CompiledPolicy, and hand over both."""
    os.nice(_NICENESS)
    gc.disable()
    received = sys.stdin.buffer
    size = int.from_bytes(received.read(HEAD_LENGTH_BYTES), "big")
    task = msgspec.msgpack.decode(received.read(size), type=CompilerTask)
    file, content = Path(task.file), received.read()
    errors, index = list[ConfigError](), b""
    try:
        index = compile_policy(read_policy(parse(file, content), task.known))
    except InvalidConfig as invalid:
        errors = list(invalid.errors)
    output = msgspec.msgpack.encode(CompiledPolicy(task.key, errors, memoryview(index)))
    # A process that ends while it writes the handover leaves it empty.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    # Written here and not in a worker, whose requests would wait while it copies megabytes.
    handover = Handover(task.memory)
    if not errors:  # first: what takes the compiled policy does not hand over its text again
        handover.put(policy_name(file), content, at=task.at)
    handover.put(compiled_name(file), output, at=task.at)
    os._exit(0)  # to free the objects one by one would take a tenth of the time


if __name__ == "__main__":
    main()
