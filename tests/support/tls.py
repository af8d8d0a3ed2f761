"""Certificates for tests, and a TLS proxy in front of a server without TLS, such as Valkey."""

import asyncio
import datetime as dt
import ipaddress
import ssl
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID


def write_certificate(directory: Path, address: str) -> tuple[Path, Path]:
    """Write a self-signed certificate for an IP address; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "tls.crt", directory / "tls.key"
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key_file.write_bytes(pem)
    return certificate_file, key_file


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes
    serial: int
    ends_at: float

    def write(self, certificate_file: Path, key_file: Path) -> None:
        """Replace both files, each atomically."""
        for file, content in ((key_file, self.key), (certificate_file, self.certificate)):
            new = file.with_suffix(".new")
            new.write_bytes(content)
            new.replace(file)

    def with_password(self, password: bytes) -> "CertificatePair":
        key = load_pem_private_key(self.key, None)
        sealed = BestAvailableEncryption(password)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed)
        return replace(self, key=pem)


class Authority:
    """A CA that signs certificates for 127.0.0.1 and for people."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name("test authority")
        now = dt.datetime.now(dt.UTC)
        certificate = (
            _certificate_builder(self._name, self._name, self._key.public_key())
            .not_valid_before(now - dt.timedelta(days=30))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = certificate.public_bytes(Encoding.PEM)

    def issue(
        self, name: str, *, days: tuple[float, float] = (-1, 1), rsa_key: bool = False
    ) -> CertificatePair:
        """Return a pair that is valid between `days` from now. The name may be empty."""
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        if rsa_key:
            key = rsa.generate_private_key(65_537, 2_048)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        names = [x509.DNSName("console.example.com"), address]
        certificate = (
            _certificate_builder(_common_name(name), self._name, key.public_key())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
            .add_extension(x509.SubjectAlternativeName(names), critical=not name)
            .sign(self._key, hashes.SHA256())
        )
        return CertificatePair(
            certificate.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            certificate.serial_number,
            certificate.not_valid_after_utc.timestamp(),
        )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
    )


class TlsProxy:
    """A TLS proxy in a thread: forwards connections to a local port."""

    def __init__(
        self, certificate: Path, key: Path, port_behind: int, *, client_ca: Path | None = None
    ) -> None:
        """With `client_ca` clients must present a certificate that it signed."""
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
        self._context.load_cert_chain(certificate, key)
        if client_ca is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._port_behind = port_behind
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    def start(self) -> "TlsProxy":
        self._thread.start()
        self._listening.wait(10)
        return self

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()  # a close would wait for the other side's TLS
        await asyncio.sleep(0.01)  # transports close their sockets in the next turn

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", self._port_behind)
        self._writers += (writer, behind[1])
        await asyncio.gather(_pump(reader, behind[1]), _pump(behind[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
