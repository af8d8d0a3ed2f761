"""Compiling of a large policy, once for all workers, in a process of its own.

Parsing holds the interpreter's lock, so in a serving process it would delay requests. The other
workers take the result from the handover: it is one block of bytes, which they open at once.
"""

import asyncio
import hashlib
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
from gateway.drivers.host.handover import Handover

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
            process = subprocess.run(  # noqa: S603 - the arguments are constant
                _COMPILER,
                input=msgspec.msgpack.encode(task),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            _require_success(process.returncode)
            found = _COMPILED.decode(process.stdout)
            self._handover.put(self._name, process.stdout, at=at)
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
                output = await self._run(await asyncio.to_thread(msgspec.msgpack.encode, task))
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

    async def _run(self, task: bytes) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *_COMPILER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            output, _ = await process.communicate(task)
        except BaseException:
            if process.returncode is None:
                process.kill()
            raise
        _require_success(process.returncode)
        return output


def _require_success(code: int | None) -> None:
    if code != 0:
        raise OSError("the process that compiles the policy failed")


def _index(compiled: CompiledPolicy) -> RuleIndex:
    if compiled.errors:
        raise InvalidConfig(compiled.errors)
    return RuleIndex(compiled.index)
