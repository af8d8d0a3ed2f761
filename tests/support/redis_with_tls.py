"""Debian's Redis 7.0, which has TLS; the wheel's Valkey has none."""

import shutil
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import valkey

from tests.support.tls import Authority
from tests.support.valkey import RealValkey

# The package redis-tools has the server's program under this name, and no service.
REDIS = shutil.which("redis-check-rdb")
NOT_HERE = "Debian's package redis-tools (a Redis 7.0 with TLS) is not installed"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """An authority, and the certificates of servers and clients that it signed."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> "TlsFiles":
        authority = Authority()
        (directory / "ca.crt").write_bytes(authority.certificate)
        made = cls(directory)
        for name in ("server", "client"):
            authority.issue(name).write(directory / f"{name}.crt", directory / f"{name}.key")
        return made

    @property
    def config(self) -> Mapping[str, Path]:
        """Return the keys of `store.redis`."""
        return {
            "tls_ca_file": self.directory / "ca.crt",
            "tls_certificate_file": self.directory / "client.crt",
            "tls_key_file": self.directory / "client.key",
        }

    @property
    def server_options(self) -> tuple[str, ...]:
        options = {
            "tls-ca-cert-file": "ca.crt",
            "tls-cert-file": "server.crt",
            "tls-key-file": "server.key",
        }
        files = [part for key, name in options.items() for part in (f"--{key}", self._file(name))]
        return (*files, "--tls-auth-clients", "yes", "--tls-replication", "yes")

    def _file(self, name: str) -> str:
        return str(self.directory / name)


class RedisWithTls(RealValkey):
    """A server that accepts only TLS with a client certificate, and a password if it has one."""

    program = (REDIS or "", "redis-server")

    def __init__(self, tls: TlsFiles, *options: str, password: str = "", **more: Any) -> None:
        super().__init__(*tls.server_options, *options, **more)
        self.password = password
        self._tls = tls

    @classmethod
    def sentinel_of(
        cls, primary: "RedisWithTls", tls: TlsFiles, *, password: str
    ) -> "RedisWithTls":
        """Return a Sentinel of the service `main`."""
        made = cls(tls, "--sentinel", password=password)
        file = made._dir / "sentinel.conf"
        file.write_text(
            f"sentinel monitor main {primary.host} {primary.port} 2\n"
            f"sentinel auth-pass main {primary.password}\n"
            f"requirepass {password}\n"
        )
        made._config = [str(file)]
        return made

    @property
    def url(self) -> str:
        return f"rediss://{self.host}:{self.port}/0"

    @property
    def listen_options(self) -> tuple[str, ...]:
        return ("--port", "0", "--tls-port", str(self.port))

    def _responds(self) -> bool:
        try:
            return bool(self.command("PING"))
        except valkey.ConnectionError:
            return False

    def command(self, *parts: str) -> Any:
        files = self._tls.config
        client: Any = valkey.Valkey(
            host=self.host,
            port=self.port,
            password=self.password or None,
            ssl=True,
            ssl_ca_certs=str(files["tls_ca_file"]),
            ssl_certfile=str(files["tls_certificate_file"]),
            ssl_keyfile=str(files["tls_key_file"]),
            ssl_min_version=ssl.TLSVersion.TLSv1_2,
        )
        try:
            return client.execute_command(*parts)
        finally:
            client.close()
