"""Compiling of a large policy, once for all workers, in a process of its own.

Parsing holds the interpreter's lock, so in a serving process it would delay requests. The other
workers take the result from the handover: it is one block of bytes, which they open at once. A
worker copies as little as possible: the handover is written by the compiler.
"""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final

import msgspec

from gateway.config.errors import InvalidConfig
from gateway.config.policy_loader import policy_digest
from gateway.config.policy_names import KnownNames
from gateway.domain.policy.rule_index import RuleIndex
from gateway.drivers.files.policy_compiler import (
    HEAD_LENGTH_BYTES,
    CompiledPolicy,
    CompilerTask,
    compiled_name,
    policy_name,
)
from gateway.drivers.host.handover import Handover, allocate_memory, write_all

PARSED_HERE_BYTES_MAX: Final = 32_768
"""A larger policy is compiled in a process of its own. To parse this size takes milliseconds."""
_COMPILER: Final = (sys.executable, "-m", "gateway.drivers.files.policy_compiler")
_COMPILED: Final = msgspec.msgpack.Decoder(CompiledPolicy)


class PolicyCompiler:
    """Returns the rules of a policy file; raises InvalidConfig with all errors.

    The handover then has the content, if it is valid, for workers that start while the file is
    invalid. Raises OSError if the process failed.
    """

    def __init__(self, file: Path, known: KnownNames, handover: Handover) -> None:
        self._file = file
        self._known = known
        self._handover = handover

    def compile_now(self, content: bytes, *, at: float) -> RuleIndex:
        """Compile, or take what another worker compiled, and wait for it.

        `at`: monotonic seconds, before the content was read.
        """
        task = self._task(policy_digest(content), at)
        found = self._find(task, content)
        if found is None:
            found = _COMPILED.decode(_CompilerProcess().run(task, content))
        return _index(found)

    async def compile(
        self, content: bytes, digest: str, pause: Callable[[], Awaitable[None]], *, at: float
    ) -> RuleIndex:
        """Do as `compile_now`, while the event loop runs.

        `digest`: that of the content. `pause` is awaited again and again while another worker
        compiles.
        """
        task = self._task(digest, at)
        while not self._handover.try_turn():
            await pause()
        try:
            found = await asyncio.to_thread(self._find, task, content)
            if found is None:
                found = _COMPILED.decode(await self._run(task, content))
        finally:
            self._handover.end_turn()
        return _index(found)

    def _task(self, digest: str, at: float) -> CompilerTask:
        known = msgspec.msgpack.encode(self._known)
        key = hashlib.sha256(digest.encode() + known).digest()
        return CompilerTask(key, str(self._file), self._known, at, self._handover.memory)

    def _find(self, task: CompilerTask, content: bytes) -> CompiledPolicy | None:
        entry = self._handover.get(compiled_name(self._file))
        if entry is None:
            return None
        found = _COMPILED.decode(entry.text)
        if found.key != task.key:
            return None
        # Another text may have been accepted since: one that is too small for the compiler.
        text = policy_name(self._file)
        if not found.errors and self._handover.stored_at(text) != entry.at:
            self._handover.put(text, content, at=task.at)
        return found

    async def _run(self, task: CompilerTask, content: bytes) -> mmap:
        process = _CompilerProcess()
        try:
            return await asyncio.to_thread(process.run, task, content)
        except BaseException:
            process.end()
            raise


class _CompilerProcess:
    """One run of the compiler. Neither its input nor its output passes through a pipe.

    The start of a process and a pipe of megabytes would hold the event loop for milliseconds.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._has_ended = False

    def run(self, task: CompilerTask, content: bytes) -> mmap:
        """Return what the compiler writes, when it has exited; raise OSError."""
        with _memory() as received, _memory() as output:
            head = msgspec.msgpack.encode(task)
            head = len(head).to_bytes(HEAD_LENGTH_BYTES, "big") + head
            write_all(received, head, 0)
            write_all(received, content, len(head))
            with subprocess.Popen(  # noqa: S603 - the arguments are constant
                _COMPILER,
                stdin=received,
                stdout=output,
                stderr=subprocess.DEVNULL,
                pass_fds=[task.memory],
            ) as process:
                self._process = process
                if self._has_ended:
                    process.terminate()
            if process.returncode != 0:
                raise OSError("the process that compiles the policy failed")
            return mmap(output, os.fstat(output).st_size, access=ACCESS_READ)

    def end(self) -> None:
        """Terminate the process, so that `run` returns soon; in any thread, at any time."""
        self._has_ended = True
        if self._process is not None:
            self._process.terminate()


@contextmanager
def _memory() -> Iterator[int]:
    descriptor = allocate_memory()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _index(compiled: CompiledPolicy) -> RuleIndex:
    if compiled.errors:
        raise InvalidConfig(compiled.errors)
    return RuleIndex(compiled.index)
