"""Names of servers for the completion of the shell: a small cache of this user.

The names come from a server and end up in a shell, so only harmless ones are offered.
"""

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.commands.gateway_client import GatewayClient
from gateway.commands.server_list import ListedServer

_HARMLESS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SERVERS_MAX: Final = 20_000
_OFFERED_MAX: Final = 500
_BYTES_MAX: Final = 8_388_608


class ServerNames:
    """The names that one person sees at one gateway."""

    def __init__(self, folder: Path, gateway: str, person: str) -> None:
        self._file = folder / f"servers-{_digest(gateway)}-{_digest(person)}"

    @classmethod
    def of(cls, gateway: GatewayClient) -> "ServerNames":
        return cls(_folder(), str(gateway.address), _person(gateway))

    @staticmethod
    def forget(gateway: str) -> None:
        """Delete the names of everyone at a gateway."""
        with suppress(OSError):
            for file in _folder().glob(f"servers-{_digest(gateway)}-*"):
                file.unlink(missing_ok=True)

    def remember(self, servers: Sequence[ListedServer]) -> None:
        """Store names and IDs of servers with a console, if the folder is writable."""
        some = [one for one in servers if one.can_open][:_SERVERS_MAX]
        texts = dict.fromkeys((*(one.name for one in some), *(one.id for one in some)))
        lines = "".join(f"{text}\n" for text in texts if _HARMLESS.fullmatch(text))
        temporary = self._file.with_suffix(f".{os.getpid()}.new")
        with suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            try:
                with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="ascii") as text:
                    text.write(lines)
                temporary.replace(self._file)
            finally:
                temporary.unlink(missing_ok=True)

    def age_s(self) -> float:
        """Return how old the names are; infinite: there are none."""
        try:
            return max(0.0, time.time() - self._file.lstat().st_mtime)  # noqa: TID251
        except OSError:
            return float("inf")

    def beginning_with(self, prefix: str) -> Iterator[str]:
        """Yield names before IDs; IDs only for a prefix."""
        count = 0
        for text in self._read():
            is_offered = text.startswith(prefix) and (prefix or not _is_id(text))
            if is_offered and _HARMLESS.fullmatch(text):
                yield text
                count += 1
            if count == _OFFERED_MAX:
                return

    def _read(self) -> list[str]:
        try:
            descriptor = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, encoding="ascii") as text:
                found = os.fstat(text.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                    return []
                return text.read(_BYTES_MAX).splitlines()
        except (OSError, ValueError):
            return []


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        parent = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # no home
        parent = Path("/nonexistent")
    return parent / "console-gateway"


def _person(gateway: GatewayClient) -> str:
    from gateway.commands.login_provider import unverified_claims

    token = gateway.token.token
    claims = {} if token is None else unverified_claims(token.reveal())
    return f"{claims.get('iss')}\n{claims.get('sub')}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_id(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4
