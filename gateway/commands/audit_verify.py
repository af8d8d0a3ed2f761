"""`gateway audit verify`: reads an audit log and reports whether it is intact."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from gateway.commands.arguments import CommandParser, add_output_options
from gateway.commands.audit import DIRECTORIES
from gateway.commands.terminal import print_error, print_json, print_line
from gateway.domain.audit.chain import Head
from gateway.domain.audit.neighbours import recorded_neighbours, verify_chains
from gateway.domain.audit.report import Report
from gateway.domain.audit.verify import SignatureCheck
from gateway.domain.timestamps import iso
from gateway.drivers.audit.segments import read_chains
from gateway.drivers.audit.signing_keys import load_verifier

INTACT, BROKEN, USAGE = 0, 1, 2


def register(parser: CommandParser) -> None:
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help=DIRECTORIES)
    add_proof_options(
        parser,
        head="this line: a head saved earlier, such as from a log line `audit_checkpoint`",
    )
    parser.exit_codes = {INTACT: "intact", BROKEN: "broken", USAGE: "wrong usage, or no chain"}
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return verify_audit_log(
        options.directories, options.public_key, options.head, as_json=options.json
    )


def verify_audit_log(
    directories: Sequence[Path],
    public_keys: Sequence[Path],
    heads: Sequence[Head],
    *,
    as_json: bool,
) -> int:
    """Print a report for each chain; return the exit code."""
    try:
        keys = load_public_keys(public_keys)
        recorded = recorded_neighbours(read_chains(directories))
        reports = verify_chains(read_chains(directories), keys, heads, recorded)
    except ValueError as error:
        return _usage(str(error))
    except OSError as error:  # an error of a read, unlike one of an open, has no file name
        return _usage(f"{error.filename or 'audit log'}: {error.strerror}")
    if not reports and not heads:
        return _usage(_no_chain(directories))
    found = {report.chain for report in reports}
    missing = [head for head in heads if head.chain not in found]
    not_compared = [head for head in heads if any(head in one.not_compared for one in reports)]
    intact = not missing and all(report.intact for report in reports)
    if as_json:
        summary = {
            "intact": intact,
            "chains": [report.as_json() for report in reports],
            "missing": [*map(str, missing)],
            "not_compared": [*map(str, not_compared)],
        }
        print_json(summary)
    else:
        for report in reports:
            print_report(report, checked=keys is not None)
        for head in not_compared:
            print_line(f"not compared: retention removed line {head.seq} of the chain {head.chain}")
        print_missing(missing)
    return INTACT if intact else BROKEN


def add_proof_options(parser: CommandParser, *, head: str, default_key: str = "") -> None:
    """Add the options of a check of chains; `head` says which line a saved head is."""
    parser.add_argument(
        "--public-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"check signatures with this public key in PEM{default_key}; repeat it for each"
        " signing key used",
    )
    parser.add_argument(
        "--head",
        type=saved_head,
        action="append",
        default=[],
        metavar="CHAIN:SEQ:HASH",
        help=f"require {head}",
    )
    add_output_options(parser, "one document")


def saved_head(text: str) -> Head:
    """Return the value of `--head`."""
    chain, _, rest = text.partition(":")
    seq, _, digest = rest.partition(":")
    if not chain or not seq.isdecimal() or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise argparse.ArgumentTypeError("must be CHAIN:SEQ:HASH, as `gateway audit verify` prints")
    return Head(chain, int(seq), digest)


def load_public_keys(files: Sequence[Path]) -> dict[str, SignatureCheck] | None:
    """Read public keys; None if there are no files. Raises ValueError."""
    keys = {}
    for file in files:
        try:
            text = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
        if b"PRIVATE KEY-----" in text:
            raise ValueError(
                f"{file}: must be a public key, not the private key of the gateway; make one with"
                " `openssl pkey -pubout`"
            )
        found = load_verifier(text)
        if found is None:
            raise ValueError(f"{file}: must be an Ed25519 public key in PEM")
        keys[found[0]] = found[1]
    return keys or None


def _no_chain(directories: Sequence[Path]) -> str:
    searched = ", ".join(map(str, directories))
    return (
        f"No chain in {searched}: nothing was verified. Is this the `audit.directory` of the"
        " config? If so, the whole audit log was removed; a saved head (--head) proves that."
    )


def print_missing(heads: Sequence[Head]) -> None:
    """Print the saved heads whose chain is gone."""
    for head in heads:
        print_line(
            f"BROKEN: the chain {head.chain} is missing; a saved head is its line {head.seq}"
        )


def print_report(report: Report, *, checked: bool) -> None:
    """Print how far a chain is intact; `checked`: its signatures were verified."""
    head = report.head
    if report.finding is not None:
        print_line(f"BROKEN: {report.finding}")
    if head is None:
        return
    verdict = "intact" if report.intact else "intact before that"
    print_line(
        f"{report.name}: {verdict}, chain {head.chain}, lines {report.first_seq} to {head.seq},"
        f" {_count(report.records, 'record')} in {_count(report.segments, 'segment')}"
    )
    for first, through in report.removed:
        print_line(f"  segments {first} to {through}: removed by retention, as recorded in the log")
    _print_proof(report, checked=checked)
    if report.intact:
        print_line(f"  head {head}    save it elsewhere and pass it to --head later")


def _print_proof(report: Report, *, checked: bool) -> None:
    """Print what the signatures prove and what they cannot prove."""
    signed = report.signed
    if signed is None:
        print_line("  no signed checkpoint: anyone with write access could have rewritten this log")
        return
    note = "" if checked else ", NOT CHECKED: pass --public-key"
    print_line(
        f"  last signed checkpoint: line {signed.seq} at {iso(signed.at)}, key {signed.key}{note}"
    )
    if report.unsigned_lines:
        print_line(
            f"  unsigned lines after it: {report.unsigned_lines}; only a head saved later proves"
            " that none was rewritten or cut off"
        )
    else:
        print_line("  only a head saved later proves that no later line was cut off")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _usage(message: str) -> int:
    print_error(message)
    return USAGE
