"""Parsing of a large policy in a process of its own.

Parsing holds the interpreter's lock, so in the serving process it would delay requests. The
process returns the rules in small parts. To decode one takes less than a millisecond.
"""

import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from gateway.config.errors import ConfigError, InvalidConfig
from gateway.config.located_yaml import parse
from gateway.config.policy_names import KnownNames
from gateway.config.policy_parser import read_policy
from gateway.domain.policy.rule_index import RuleIndex
from gateway.domain.policy.rules import Rule

_PART_RULES: Final = 50
_LENGTH_BYTES: Final = 4
_NICENESS: Final = 10
_RULES: Final = msgspec.msgpack.Decoder(list[Rule])


class _Head(msgspec.Struct):
    """The first part of the output."""

    errors: list[ConfigError]
    group_aliases: dict[str, frozenset[str]]


_HEAD: Final = msgspec.msgpack.Decoder(_Head)


class _Task(msgspec.Struct):
    file: str
    content: bytes
    known: KnownNames


async def parse_apart(
    file: Path, content: bytes, known: KnownNames, pause: Callable[[], Awaitable[None]]
) -> RuleIndex:
    """Return the rules of a policy file; `pause` is awaited between parts.

    Raises InvalidConfig with all errors, and OSError if the process failed.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        task = msgspec.msgpack.encode(_Task(str(file), content, known))
        output, _ = await process.communicate(task)
    except BaseException:
        if process.returncode is None:
            process.kill()
        raise
    if process.returncode != 0:
        raise OSError("the process that parses the policy failed")
    parts = _parts(output)
    head = _HEAD.decode(next(parts))
    if head.errors:
        raise InvalidConfig(head.errors)
    index = RuleIndex(group_aliases=head.group_aliases)
    for part in parts:
        index.add(_RULES.decode(part))
        await pause()
    return index


def _parts(output: bytes) -> Iterator[memoryview]:
    rest = memoryview(output)
    while rest:
        end = _LENGTH_BYTES + int.from_bytes(rest[:_LENGTH_BYTES], "big")
        yield rest[_LENGTH_BYTES:end]
        rest = rest[end:]


def main() -> None:
    """Parse the task on standard input; write errors and aliases, then the rules in parts."""
    os.nice(_NICENESS)
    gc.disable()
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Task)
    head, rules = _Head([], {}), list[Rule]()
    try:
        parsed = read_policy(parse(Path(task.file), task.content), task.known)
        rules = [located.rule for located in parsed.rules]
        head.group_aliases = dict(parsed.groups)
    except InvalidConfig as invalid:
        head.errors = list(invalid.errors)
    _write(msgspec.msgpack.encode(head))
    for at in range(0, len(rules), _PART_RULES):
        _write(msgspec.msgpack.encode(rules[at : at + _PART_RULES]))
    sys.stdout.buffer.flush()


def _write(part: bytes) -> None:
    sys.stdout.buffer.write(len(part).to_bytes(_LENGTH_BYTES, "big") + part)


if __name__ == "__main__":
    main()
