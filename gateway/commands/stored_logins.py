"""Logins of `gateway login`: a 0600 file per gateway, issuer and client, in a 0700 folder."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.commands.exit_codes import LATER, CommandFailed

_LOCK_WAIT_S: Final = 30.0
_LOCK_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class StoredLogin:
    gateway: str
    """Its address: the only host that gets the token."""
    issuer: str
    issuer_name: str
    client_id: str
    token_kind: str
    """Which token the gateway takes: `access_token` or `id_token`."""
    subject: str
    logged_in_at: float
    expires_at: float
    """When `token` expires."""
    token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    """Empty where the provider issued none."""

    @property
    def key(self) -> str:
        parts = json.dumps([self.gateway, self.issuer, self.client_id])
        return hashlib.sha256(parts.encode()).hexdigest()[:32]


class LoginFolder:
    """The folder of a person's logins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_person(cls) -> "LoginFolder":
        base = os.environ.get("XDG_CONFIG_HOME", "")
        try:
            parent = Path(base) if Path(base).is_absolute() else Path.home() / ".config"
        except RuntimeError:  # no home
            parent = Path("/nonexistent")
        return cls(parent / "console-gateway" / "logins")

    def find(self, gateway: str) -> list[StoredLogin]:
        """Return the logins at a gateway, the newest first; an unreadable file is none."""
        try:
            files = list(self.path.glob("*.json"))
        except OSError:
            return []
        found = [one for file in files if (one := _read(file)) and one.gateway == gateway]
        return sorted(found, key=lambda one: one.logged_in_at, reverse=True)

    def read(self, login: StoredLogin) -> StoredLogin | None:
        """Return the login as it is now; None after a logout."""
        return _read(self._file(login))

    def write(self, login: StoredLogin) -> None:
        """Replace a login as a whole; raise OSError."""
        self._make()
        file = self._file(login)
        temporary = file.with_suffix(f".{os.getpid()}.new")
        with suppress(FileNotFoundError):
            temporary.unlink()  # of an earlier process with this ID
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as text:
                json.dump(asdict(login), text)
                text.flush()
                os.fsync(text.fileno())
            temporary.replace(file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def delete(self, login: StoredLogin) -> None:
        """Raise OSError if the login is still there."""
        self._file(login).unlink(missing_ok=True)

    @contextmanager
    def lock(self, login: StoredLogin) -> Iterator[None]:
        """Let one process at a time refresh a login; raise CommandFailed after 30 s.

        The lock ends with its process. Without a writable folder there is none.
        """
        import fcntl

        try:
            self._make()
            descriptor = os.open(
                self._file(login).with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600
            )
        except OSError:
            yield
            return
        try:
            deadline = time.monotonic() + _LOCK_WAIT_S  # noqa: TID251
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:  # noqa: TID251
                        message = "Another command is refreshing the login; it has not ended."
                        raise CommandFailed(LATER, message) from None
                    time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(0o700)

    def _file(self, login: StoredLogin) -> Path:
        return self.path / f"{login.key}.json"


def _read(file: Path) -> StoredLogin | None:
    try:
        fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        login = StoredLogin(**fields)
    except (OSError, ValueError, TypeError):
        return None
    times = (login.logged_in_at, login.expires_at)
    texts = fields.keys() - {"logged_in_at", "expires_at"}
    is_whole = all(isinstance(one, int | float) for one in times) and all(
        isinstance(fields[name], str) for name in texts
    )
    # A file with another gateway's name in it is no login.
    return login if is_whole and file.stem == login.key else None
