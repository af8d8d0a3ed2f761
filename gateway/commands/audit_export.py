"""`gateway audit export`: writes the audit log of the Redis stream as files.

The stream trims its oldest lines regardless of segments. A segment without its first line cannot
be verified: its remaining lines are written to a separate directory, for search.
"""

import argparse
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.commands.arguments import CommandParser, add_config_option
from gateway.commands.interrupts import run_async
from gateway.commands.terminal import print_error, print_line
from gateway.config.settings import load_settings
from gateway.config.store import RedisEmbedded, StoreSettings
from gateway.domain.audit.chain import SEGMENT_OPENED, parse_line
from gateway.domain.errors import StoreUnavailable
from gateway.drivers.audit.directory import segment_file
from gateway.drivers.audit.stream_store import AuditStream
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.valkey.client import client_factory
from gateway.drivers.valkey.connection import Valkey

OK, NOT_EXPORTED, USAGE = 0, 1, 2
CUT_OFF: Final = "cut-off"
"""Directory of the lines of segments that lost their first line."""
_TIMEOUT_S = 10.0
_NO_SEGMENT = 0


@dataclass(slots=True)
class _ExportedChain:
    lines: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """Each line by its number, with the number of the segment that it opens."""

    def by_segment(self) -> dict[int, list[bytes]]:
        """Return the lines of each segment; _NO_SEGMENT has those of incomplete segments."""
        segments: dict[int, list[bytes]] = {}
        current = _NO_SEGMENT
        for _, (line, opens) in sorted(self.lines.items()):
            current = opens or current
            segments.setdefault(current, []).append(line)
        return segments


def register(parser: CommandParser) -> None:
    add_config_option(parser)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a new or empty directory")
    parser.exit_codes = {
        OK: "written",
        NOT_EXPORTED: "no chain to write, or Redis is unavailable",
        USAGE: "wrong usage",
    }
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return export(options.config, options.directory)


def export(config_file: Path, directory: Path) -> int:
    """Write each chain to a directory below `directory`; return the exit code."""
    config = load_settings(config_file)
    # Lines sent before `audit.stream` was switched off can still be exported.
    hint = "" if config.audit.stream else f": `audit.stream` is false in {config_file}"
    return export_stream(config.store, directory, hint=hint)


def export_stream(store: StoreSettings, directory: Path, *, hint: str = "") -> int:
    if isinstance(store.redis, RedisEmbedded):
        return _fail("embedded Redis cannot be exported: only its gateway can read it", USAGE)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        return _fail(f"{directory}: must not exist, or be an empty directory", USAGE)
    try:
        chains, unreadable = run_async(_read(store))
    except StoreUnavailable as error:
        return _fail(f"Redis is unavailable: {error}", NOT_EXPORTED)
    if unreadable:
        _fail(f"{unreadable} entries of the stream are not audit log lines", NOT_EXPORTED)
    if not chains:
        return _fail(f"the stream contains no chain{hint}", NOT_EXPORTED)
    try:
        for number, (name, chain) in enumerate(chains.items(), 1):
            _write_chain(name, chain, directory, f"chain-{number}")
    except OSError as error:
        return _fail(f"{error.filename or directory}: {error.strerror}", USAGE)
    return OK


async def _read(store: StoreSettings) -> tuple[dict[str, _ExportedChain], int]:
    """Return the chains by ID, and the number of entries that are not lines of a chain."""
    store = store.model_copy(update={"timeout_s": _TIMEOUT_S})
    valkey = Valkey(
        store,
        client_factory(store),
        process_id="export",
        clock=SystemClock(),
        telemetry=Metrics(),
    )
    chains: dict[str, _ExportedChain] = {}
    unreadable = 0
    try:
        async for text in AuditStream(valkey, keep_s=0.0, bytes_max=0).lines():
            try:
                line = parse_line(text)
            except ValueError:
                unreadable += 1
                continue
            opens = line.fields.get("segment") if line.event == SEGMENT_OPENED else None
            # Of two lines with one number the later counts: the earlier was deleted meanwhile.
            chains.setdefault(line.chain, _ExportedChain()).lines[line.seq] = (
                text,
                opens if isinstance(opens, int) else _NO_SEGMENT,
            )
    finally:
        await valkey.close()
    return chains, unreadable


def _write_chain(chain_id: str, chain: _ExportedChain, directory: Path, name: str) -> None:
    segments = chain.by_segment()
    cut = segments.pop(_NO_SEGMENT, [])
    first = min(segments, default=0)
    for number, lines in segments.items():
        _write(segment_file(directory / name, number), lines)
    count = sum(map(len, segments.values()))
    print_line(f"{directory / name}: chain {chain_id}, {count} lines, segments: {len(segments)}")
    if first > 1:
        print_line(f"  begins with segment {first}: the stream has trimmed earlier lines")
    if cut:
        file = segment_file(directory / CUT_OFF / name, max(first - 1, 1))
        _write(file, cut)
        print_line(
            f"  {len(cut)} lines of an incomplete segment: {file.parent} (search only, unverified)"
        )


def _write(file: Path, lines: Iterable[bytes]) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as opened:
        opened.writelines(lines)


def _fail(message: str, code: int) -> int:
    print_error(message)
    return code
