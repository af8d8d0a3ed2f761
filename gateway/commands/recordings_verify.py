"""`gateway recordings verify`: compares the recordings of a directory with their signed index."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.commands.arguments import CommandParser, add_config_option
from gateway.commands.audit_verify import (
    add_proof_options,
    load_public_keys,
    print_missing,
    print_report,
)
from gateway.commands.recordings import recording_id
from gateway.commands.terminal import print_error, print_json, print_line
from gateway.config.settings import load_settings
from gateway.domain.audit.chain import Head
from gateway.domain.audit.neighbours import recorded_neighbours, verify_chains
from gateway.domain.audit.report import Report
from gateway.domain.audit.verify import SignatureCheck
from gateway.domain.recordings.index_lines import read_index
from gateway.domain.recordings.verdicts import Judgement, Verdict, judge
from gateway.drivers.audit.segments import read_chains
from gateway.drivers.audit.signing_keys import load_verifier_of
from gateway.drivers.recordings.found_recordings import found_recordings
from gateway.drivers.recordings.recording_directory import RecordingDirectory
from gateway.drivers.recordings.recording_index import INDEX_DIRECTORY, index_lines
from gateway.drivers.recordings.recording_keys import RecordingKeys

INTACT, BROKEN, USAGE = 0, 1, 2
_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Subject:
    directory: Path
    keys: RecordingKeys | None
    wanted: Sequence[str]
    """IDs; () for all."""
    signatures: Mapping[str, SignatureCheck] | None


def register(parser: CommandParser) -> None:
    add_config_option(parser, required=False)
    parser.add_argument(
        "recordings",
        type=recording_id,
        metavar="ID",
        nargs="*",
        help="compare only these recordings (default: all); the whole index is verified",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="a copy of recordings.directory (default: that of the config)",
    )
    add_proof_options(
        parser,
        head="this line of the index: a head saved earlier",
        default_key=" (default: audit.signing_key of the config)",
    )
    parser.exit_codes = {
        INTACT: "intact; parts that a crash has cut short are",
        BROKEN: "a recording was changed or removed, or the index is broken",
        USAGE: "wrong usage, or no index",
    }
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        return verify(_subject(options), options.head, as_json=options.json)
    except ValueError as error:
        print_error(str(error))
    except OSError as error:
        print_error(f"{error.filename or 'recordings'}: {error.strerror}")
    return USAGE


def verify(subject: _Subject, heads: Sequence[Head], *, as_json: bool) -> int:
    """Print a judgement of each recording that is not intact; return the exit code."""
    index = subject.directory / INDEX_DIRECTORY
    recorded = recorded_neighbours(read_chains([index]))
    reports = verify_chains(read_chains([index]), subject.signatures, heads, recorded)
    if not reports:
        raise ValueError(f"{index} has no chain: nothing was verified. Is this the directory?")
    missing = [one for one in heads if one.chain not in {report.chain for report in reports}]
    is_intact = not missing and all(report.intact for report in reports)
    # What a broken index says of the recordings proves nothing.
    judgements = _judge_all(subject) if is_intact else []
    is_intact = is_intact and not any(one.verdict.is_problem for one in judgements)
    if as_json:
        print_json(
            {
                "intact": is_intact,
                "index": [report.as_json() for report in reports],
                "missing": [*map(str, missing)],
                "parts": [one.as_json() for one in judgements],
            }
        )
    else:
        _print(reports, missing, judgements, is_signed=subject.signatures is not None)
    return INTACT if is_intact else BROKEN


def _judge_all(subject: _Subject) -> list[Judgement]:
    """Judge the recordings, and once more what a gateway has changed meanwhile."""
    directory, keys, wanted = RecordingDirectory(subject.directory), subject.keys, subject.wanted
    index = read_index(index_lines(subject.directory))
    judgements = [*judge(index, found_recordings(directory, keys, wanted), wanted)]
    for _ in range(_TRIES):
        before, index = index, read_index(index_lines(subject.directory))
        problems = {one.recording for one in judgements if one.verdict.is_problem}
        changed = {name for name in problems if index.get(name) != before.get(name)}
        if not changed:
            break
        found = found_recordings(directory, keys, changed)
        lines = {name: one for name, one in index.items() if name in changed}
        judgements = [one for one in judgements if one.recording not in changed]
        judgements += judge(lines, found)
    return judgements


def _subject(options: argparse.Namespace) -> _Subject:
    """Raise ValueError for options that name no directory, and for unusable keys."""
    directory, keys = options.directory, None
    signatures = load_public_keys(options.public_key)
    if options.config is not None:
        config = load_settings(options.config)
        directory = directory or config.recordings.directory
        if config.recordings.keys:
            keys = RecordingKeys(config.recordings.keys)
        if signatures is None and config.audit.signing_key is not None:
            signatures = dict([load_verifier_of(config.audit.signing_key)])
    if directory is None:
        raise ValueError("name the recordings: --directory, or --config with recordings.directory")
    if not (directory / INDEX_DIRECTORY).is_dir():
        raise ValueError(f"{directory} has no index of recordings")
    return _Subject(directory, keys, options.recordings, signatures)


def _print(
    reports: Sequence[Report],
    missing: Sequence[Head],
    judgements: Sequence[Judgement],
    *,
    is_signed: bool,
) -> None:
    for report in reports:
        print_report(report, checked=is_signed)
    print_missing(missing)
    for one in judgements:
        if one.verdict.is_problem:
            print_line(f"BROKEN: {one}")
        elif one.detail or one.verdict is not Verdict.INTACT:
            print_line(one)
    if all(report.intact for report in reports):
        counts = Counter(one.verdict for one in judgements)
        summary = ", ".join(f"{counts[one]} {one.value}" for one in Verdict if counts[one])
        print_line(f"parts: {summary or 'none'}")
    else:
        print_line("The recordings were not compared: their index is broken.")
