"""Signing keys, lines and verification of audit chains."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.domain.audit.chain import Head
from gateway.domain.audit.events import CHAIN_LINES, LINE_FIELDS, RECORDS
from gateway.domain.audit.neighbours import recorded_neighbours, verify_chains
from gateway.domain.audit.record import AuditRecord
from gateway.domain.audit.report import Report, Segment
from gateway.domain.audit.verify import SignatureCheck, verify
from gateway.domain.model import Secret
from gateway.drivers.audit.directory import chain_directories, segment_files
from gateway.drivers.audit.signing_keys import load_signer, load_verifier


class SigningKey:
    """An Ed25519 key pair, as an operator makes one."""

    def __init__(self) -> None:
        key = Ed25519PrivateKey.generate()
        self.private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.signer = load_signer(Secret(self.private.decode()))

    @property
    def verifiers(self) -> dict[str, SignatureCheck]:
        found = load_verifier(self.public)
        assert found is not None
        return dict([found])


def assert_documented(record: Mapping[str, Any]) -> None:
    """Fail if the record has a value in a field that the table of events lacks for it."""
    event = next(one for one in (*RECORDS, *CHAIN_LINES) if one.name == record["event"])
    filled = {name for name, value in record.items() if value not in ("", [])}
    undocumented = filled - set(LINE_FIELDS) - set(event.fields)
    assert not undocumented, (event.name, undocumented)


def fields_of(record: AuditRecord) -> dict[str, Any]:
    """Return the fields of a record that is not written yet."""
    fields = asdict(record)
    extra = fields.pop("extra") or {}
    lists = {"groups": list(record.groups), "servers": list(record.servers)}
    return {**fields, **{name: value or "" for name, value in extra.items()}, **lists}


def lines_in(chain_directory: Path) -> list[bytes]:
    return [
        line
        for _, file in segment_files(chain_directory)
        for line in file.read_bytes().splitlines(True)
    ]


def verified(
    chain_directory: Path,
    keys: Mapping[str, SignatureCheck] | None = None,
    heads: Iterable[Head] = (),
) -> Report:
    """Verify one chain by itself."""
    return verify(chain_directory.name, _segments(chain_directory), keys, heads)


def all_verified(directory: Path, keys: Mapping[str, SignatureCheck] | None = None) -> list[Report]:
    """Verify all chains together."""
    chains = {
        chain_directory.name: _segments(chain_directory)
        for chain_directory in chain_directories(directory)
    }
    return verify_chains(chains, keys, recorded=recorded_neighbours(chains))


def _segments(chain_directory: Path) -> list[Segment]:
    return [
        Segment(number, file.name, file.read_bytes().splitlines(keepends=True))
        for number, file in segment_files(chain_directory)
    ]
