"""Compiling of a large policy, once for all workers, in a process of its own.

Parsing holds the interpreter's lock, so in a serving process it would delay requests. The other
workers take the result from the handover: it is one block of bytes, which they open at once.
"""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from gateway.config.errors import InvalidConfig
from gateway.config.policy_loader import policy_digest
from gateway.config.policy_names import KnownNames
from gateway.domain.policy.rule_index import RuleIndex
from gateway.drivers.files.policy_compiler import CompiledPolicy, CompilerTask
from gateway.drivers.host.handover import Handover, allocate_memory, read_all

PARSED_HERE_BYTES_MAX: Final = 32_768
"""A larger policy is compiled in a process of its own. To parse this size takes milliseconds."""
_COMPILER: Final = (sys.executable, "-m", "gateway.drivers.files.policy_compiler")
_COMPILED: Final = msgspec.msgpack.Decoder(CompiledPolicy)


class PolicyCompiler:
    """Returns the rules of a policy file; raises InvalidConfig with all errors.

    Raises OSError if the process failed.
    """

    def __init__(self, file: Path, known: KnownNames, handover: Handover) -> None:
        self._file = file
        self._known = known
        self._handover = handover

    def compile_now(self, content: bytes, *, at: float) -> RuleIndex:
        """Compile, or take what another worker compiled, and wait for it.

        `at`: monotonic seconds, before the content was read.
        """
        task = self._task(content)
        found = self._find(task.key)
        if found is None:
            output = _CompilerProcess().run(task)
            found = _COMPILED.decode(output)
            self._handover.put(self._name, output, at=at)
        return _index(found)

    async def compile(
        self, content: bytes, pause: Callable[[], Awaitable[None]], *, at: float
    ) -> RuleIndex:
        """Do as `compile_now`, while the event loop runs.

        `pause` is awaited again and again while another worker compiles.
        """
        task = await asyncio.to_thread(self._task, content)
        while not self._handover.try_turn():
            await pause()
        try:
            found = await asyncio.to_thread(self._find, task.key)
            if found is None:
                output = await self._run(task)
                found = _COMPILED.decode(output)
                await asyncio.to_thread(self._handover.put, self._name, output, at=at)
        finally:
            self._handover.end_turn()
        return _index(found)

    @property
    def _name(self) -> str:
        return f"compiled policy {self._file}"

    def _task(self, content: bytes) -> CompilerTask:
        known = msgspec.msgpack.encode(self._known)
        key = hashlib.sha256(policy_digest(content).encode() + known).digest()
        return CompilerTask(key, str(self._file), content, self._known)

    def _find(self, key: bytes) -> CompiledPolicy | None:
        entry = self._handover.get(self._name)
        if entry is None:
            return None
        found = _COMPILED.decode(entry.text)
        return found if found.key == key else None

    async def _run(self, task: CompilerTask) -> bytes:
        process = _CompilerProcess()
        try:
            return await asyncio.to_thread(process.run, task)
        except BaseException:
            process.end()
            raise


class _CompilerProcess:
    """One run of the compiler. Its output does not pass through an event loop.

    The start of a process and reading its output from a pipe would hold the loop for milliseconds.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._has_ended = False

    def run(self, task: CompilerTask) -> bytes:
        """Return what the compiler writes, when it has exited; raise OSError."""
        content = msgspec.msgpack.encode(task)
        output = allocate_memory()
        try:
            with subprocess.Popen(  # noqa: S603 - the arguments are constant
                _COMPILER, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.DEVNULL
            ) as process:
                self._process = process
                if self._has_ended:
                    process.kill()
                process.communicate(content)
            if process.returncode != 0:
                raise OSError("the process that compiles the policy failed")
            return read_all(output, 0, os.fstat(output).st_size)
        finally:
            os.close(output)

    def end(self) -> None:
        """Kill the process, so that `run` returns soon; in any thread, at any time."""
        self._has_ended = True
        if self._process is not None:
            self._process.kill()


def _index(compiled: CompiledPolicy) -> RuleIndex:
    if compiled.errors:
        raise InvalidConfig(compiled.errors)
    return RuleIndex(compiled.index)
