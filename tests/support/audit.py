"""Audit chains in a test's own directory: made, read, judged."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.domain.audit.chain import Head
from gateway.domain.audit.chains import told_in, verify_all
from gateway.domain.audit.verify import Report, Segment, Verify, verify
from gateway.domain.model import Secret
from gateway.drivers.audit.paths import chain_places, segment_files
from gateway.drivers.audit.signing_keys import signer_of, verifier_of


class SigningKey:
    """An Ed25519 key as an operator makes one, with both of its files."""

    def __init__(self) -> None:
        key = Ed25519PrivateKey.generate()
        self.private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.signer = signer_of(Secret(self.private.decode()))

    @property
    def verifiers(self) -> dict[str, Verify]:
        found = verifier_of(self.public)
        assert found is not None
        return dict([found])


def lines_in(place: Path) -> list[bytes]:
    return [line for _, file in segment_files(place) for line in file.read_bytes().splitlines(True)]


def judged(
    place: Path, keys: Mapping[str, Verify] | None = None, heads: Iterable[Head] = ()
) -> Report:
    """Judge one chain by itself."""
    return verify(place.name, _segments(place), keys, heads)


def all_judged(directory: Path, keys: Mapping[str, Verify] | None = None) -> list[Report]:
    """Judge all chains together."""
    chains = {place.name: _segments(place) for place in chain_places(directory)}
    return verify_all(chains, keys, told=told_in(chains))


def _segments(place: Path) -> list[Segment]:
    return [
        Segment(number, file.name, file.read_bytes().splitlines(keepends=True))
        for number, file in segment_files(place)
    ]
