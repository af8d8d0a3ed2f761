"""`gateway audit export`: the trail in the Redis stream, as the files that verify and search read.

A stream forgets its beginning without regard to segments. What is left of a segment whose beginning
is gone cannot be verified, so it stands apart, where search finds it all the same.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.commands.interrupts import run_async
from gateway.config.settings import load_settings
from gateway.config.store import RedisEmbedded, StoreSettings
from gateway.domain.audit.chain import SEGMENT_OPENED, parse_line
from gateway.domain.errors import StoreUnavailable
from gateway.drivers.audit.paths import segment_file
from gateway.drivers.audit.stream_store import AuditStream
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.valkey.client import make_client
from gateway.drivers.valkey.connection import Valkey

OK, NOT_EXPORTED, USAGE = 0, 1, 2
CUT_OFF: Final = "cut-off"
"""The directory of lines whose segment's beginning is gone."""
_ANSWER_WITHIN_S = 10.0
_NO_SEGMENT = 0


@dataclass(slots=True)
class _Chain:
    lines: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """By their numbers, with the number of the segment that they open."""

    def by_segment(self) -> dict[int, list[bytes]]:
        """Return the lines of each segment; of _NO_SEGMENT are those whose opening is gone."""
        segments: dict[int, list[bytes]] = {}
        current = _NO_SEGMENT
        for _, (line, opens) in sorted(self.lines.items()):
            current = opens or current
            segments.setdefault(current, []).append(line)
        return segments


def export(config_file: Path, directory: Path) -> int:
    """Write each chain into a directory of its own; return 0, 1 when there is none, 2 for usage."""
    config = load_settings(config_file)
    # What was sent there before it was switched off can still be written.
    why_empty = "" if config.audit.stream else f": `audit.stream` is not on in {config_file}"
    return export_stream(config.store, directory, why_empty=why_empty)


def export_stream(store: StoreSettings, directory: Path, *, why_empty: str = "") -> int:
    if isinstance(store.redis, RedisEmbedded):
        return _fail("the embedded server is that gateway's own: nobody else can read it", USAGE)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        return _fail(f"{directory}: is there already and is no empty directory", USAGE)
    try:
        chains, unreadable = run_async(_read(store))
    except StoreUnavailable as error:
        return _fail(f"redis does not answer: {error}", NOT_EXPORTED)
    if unreadable:
        _fail(f"{unreadable} entries of the stream are no lines of a trail", NOT_EXPORTED)
    if not chains:
        return _fail(f"the stream holds no chain{why_empty}", NOT_EXPORTED)
    try:
        for number, (name, chain) in enumerate(chains.items(), 1):
            _write_chain(name, chain, directory, f"chain-{number}")
    except OSError as error:
        return _fail(f"{error.filename or directory}: {error.strerror}", USAGE)
    return OK


async def _read(store: StoreSettings) -> tuple[dict[str, _Chain], int]:
    """Return the chains by their names, and how many entries are none of theirs."""
    patient = store.model_copy(update={"timeout_s": _ANSWER_WITHIN_S})
    valkey = Valkey(
        patient,
        make_client(patient),
        process_id="export",
        clock=SystemClock(),
        telemetry=Metrics(),
    )
    chains: dict[str, _Chain] = {}
    unreadable = 0
    try:
        async for text in AuditStream(valkey, keep_s=0.0, bytes_max=0).lines():
            try:
                line = parse_line(text)
            except ValueError:
                unreadable += 1
                continue
            opens = line.fields.get("segment") if line.event == SEGMENT_OPENED else None
            # The later of two with one number: the other one was taken back while we read.
            chains.setdefault(line.chain, _Chain()).lines[line.seq] = (
                text,
                opens if isinstance(opens, int) else _NO_SEGMENT,
            )
    finally:
        await valkey.close()
    return chains, unreadable


def _write_chain(name: str, chain: _Chain, directory: Path, place: str) -> None:
    segments = chain.by_segment()
    cut = segments.pop(_NO_SEGMENT, [])
    first = min(segments, default=0)
    for number, lines in segments.items():
        _write(segment_file(directory / place, number), lines)
    count = sum(map(len, segments.values()))
    print(f"{directory / place}: chain {name}, {count} lines in {len(segments)} segments")
    if first > 1:
        print(f"  begins with segment {first}: the stream has forgotten what was before")
    if cut:
        file = segment_file(directory / CUT_OFF / place, max(first - 1, 1))
        _write(file, cut)
        print(f"  {len(cut)} lines whose segment's beginning is forgotten: {file.parent},")
        print("  where search finds them; nothing proves them")


def _write(file: Path, lines: Iterable[bytes]) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as opened:
        opened.writelines(lines)


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
