"""The program that compiles a policy: `policy_process` runs it in a process of its own.

Its start counts in the time of a reload, so it imports neither asyncio nor logging.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from gateway.config.errors import ConfigError, InvalidConfig
from gateway.config.located_yaml import parse
from gateway.config.policy_names import KnownNames
from gateway.config.policy_parser import compile_policy, read_policy

_NICENESS: Final = 5


class CompilerTask(msgspec.Struct):
    key: bytes
    """Identifies content and names; the output repeats it."""
    file: str
    content: bytes
    known: KnownNames


class CompiledPolicy(msgspec.Struct):
    key: bytes
    errors: list[ConfigError]
    index: memoryview
    """What `RuleIndex` reads; empty if there are errors."""


def main() -> None:
    """Compile the task on standard input; write a CompiledPolicy."""
    os.nice(_NICENESS)
    gc.disable()
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=CompilerTask)
    errors, index = list[ConfigError](), b""
    try:
        index = compile_policy(read_policy(parse(Path(task.file), task.content), task.known))
    except InvalidConfig as invalid:
        errors = list(invalid.errors)
    output = CompiledPolicy(task.key, errors, memoryview(index))
    sys.stdout.buffer.write(msgspec.msgpack.encode(output))
    sys.stdout.buffer.flush()
    os._exit(0)  # to free the objects one by one would take a tenth of the time


if __name__ == "__main__":
    main()
