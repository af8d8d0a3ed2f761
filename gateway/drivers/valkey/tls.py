"""TLS contexts for connections to Redis, made anew when their files change."""

import hashlib
import ssl
from pathlib import Path

from gateway.config.files import load_certificate
from gateway.config.store import RedisAccess


class RedisTls:
    """The files of `store.redis`. Files that cannot be loaded never replace loaded ones."""

    def __init__(self, access: RedisAccess) -> None:
        self._access = access
        self._loaded = ""
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection; it reads files. Raises OSError, ValueError.

        The content is compared, not the files' times, for the reasons given in PolicyFile.run.
        """
        found = self._digest()
        if found != self._loaded or self._context is None:
            try:
                self._context = self._load()
            except (OSError, ValueError):
                if self._context is None:
                    raise
            else:
                self._loaded = found
        return self._context

    def _load(self) -> ssl.SSLContext:
        access = self._access
        context = ssl.create_default_context(cafile=access.tls_ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if access.tls_certificate_file is not None and access.tls_key_file is not None:
            load_certificate(context, access.tls_certificate_file, access.tls_key_file)
        return context

    def _digest(self) -> str:
        digest = hashlib.sha256()
        access = self._access
        for file in (access.tls_ca_file, access.tls_certificate_file, access.tls_key_file):
            digest.update(_content(file))
        return digest.hexdigest()


def _content(file: Path | None) -> bytes:
    try:
        content = b"" if file is None else file.read_bytes()
    except OSError:
        content = b""
    return len(content).to_bytes(8) + content
