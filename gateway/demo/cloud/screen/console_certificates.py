"""Certificates of the simulated console host: one that its clients trust, and wrong ones."""

import datetime as dt
import ssl
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

CERTIFICATES: Final = ("valid", "foreign_authority", "other_name", "expired")
"""Certificates that the console host can present."""
_LIFE: Final = dt.timedelta(days=30)


class ConsoleAuthority:
    """A certificate authority that exists only in this process."""

    def __init__(self, common_name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        self._now = dt.datetime.now(dt.UTC)
        basic = x509.BasicConstraints(ca=True, path_length=0)
        certificate = self._sign(self._name, self._key.public_key(), basic, None, self._now + _LIFE)
        self.pem = certificate.public_bytes(Encoding.PEM).decode()
        """The authority's certificate, which clients trust."""

    def context(self, host: str, *, is_expired: bool = False) -> ssl.SSLContext:
        """Return a server's TLS context with a certificate for a host name or IP address."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "console host")])
        ends_at = self._now + (-dt.timedelta(hours=1) if is_expired else _LIFE)
        basic = x509.BasicConstraints(ca=False, path_length=None)
        certificate = self._sign(subject, key.public_key(), basic, host, ends_at)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        pem = certificate.public_bytes(Encoding.PEM)
        pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        # The ssl module loads certificates from files only.
        with tempfile.TemporaryDirectory(prefix="console-host-") as directory:
            file = Path(directory) / "pair.pem"
            file.touch(0o600)
            file.write_bytes(pem)
            context.load_cert_chain(file)
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        basic: x509.BasicConstraints,
        host: str | None,
        ends_at: dt.datetime,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _LIFE)
            .not_valid_after(ends_at)
            .add_extension(basic, critical=True)
        )
        if host is not None:
            builder = builder.add_extension(_names(host), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def make_contexts(authority: ConsoleAuthority, host: str) -> dict[str, ssl.SSLContext]:
    """Return a context for each of CERTIFICATES."""
    return {
        "valid": authority.context(host),
        "foreign_authority": ConsoleAuthority("foreign authority").context(host),
        "other_name": authority.context("console.elsewhere.example"),
        "expired": authority.context(host, is_expired=True),
    }


def _names(host: str) -> x509.SubjectAlternativeName:
    try:
        return x509.SubjectAlternativeName(
            [x509.IPAddress(ip_address(host)), x509.DNSName("localhost")]
        )
    except ValueError:
        return x509.SubjectAlternativeName([x509.DNSName(host)])
