"""The files of `gateway login`: one with mode 0600 per gateway, issuer and client."""

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.commands.exit_codes import LATER, REJECTED, CommandFailed

_LOCK_WAIT_S: Final = 30.0
_LOCK_POLL_S: Final = 0.05
_BYTES_MAX: Final = 262_144
_RESERVED_BYTES: Final = 32_768
"""More than the tokens of a person in many groups."""
_OWN_FOLDER: Final = "set XDG_CONFIG_HOME to a folder of your own"
_ADVICE: Final = {
    errno.ENOSPC: "Make room on the disk.",
    errno.EDQUOT: "Make room: your disk quota is used up.",
    errno.ENOTDIR: f"A file is in its place: remove it, or {_OWN_FOLDER}.",
    errno.EEXIST: f"A file is in its place: remove it, or {_OWN_FOLDER}.",
}


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
    """Empty where the provider issued none, or where it is in the keyring."""
    keyring: str = ""
    """Name of the system keyring that has the refresh token; empty: none."""

    @property
    def key(self) -> str:
        parts = json.dumps([self.gateway, self.issuer, self.client_id])
        return hashlib.sha256(parts.encode()).hexdigest()[:32]


class FolderNotWritable(CommandFailed):
    """Logins cannot be stored; the message says what to do."""

    def __init__(self, folder: Path, reason: str, advice: str) -> None:
        super().__init__(REJECTED, f"Logins cannot be stored in {folder}: {reason}. {advice}")


class LoginFolder:
    """The folder of a person's logins, with mode 0700."""

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

    @contextmanager
    def reserve(self, key: str) -> Iterator[Callable[[StoredLogin], None]]:
        """Reserve the room of a login on the disk, and yield what writes it there.

        A provider that rotates refresh tokens ends the old one when it issues the new one, which
        must not be lost then. Raises FolderNotWritable before that; writing raises OSError.
        """
        temporary = self.path / f"{key}.{os.getpid()}.new"
        try:
            self._make()
            temporary.unlink(missing_ok=True)  # of an earlier process with this ID
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            text = os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="utf-8")
        except OSError as error:
            raise self.not_writable(error) from None

        def write(login: StoredLogin) -> None:
            text.seek(0)
            json.dump(asdict(login), text)
            text.truncate()
            _flush(text.fileno(), text.flush)
            temporary.replace(self._file(login))

        try:
            try:
                text.write(" " * _RESERVED_BYTES)
                _flush(text.fileno(), text.flush)
            except OSError as error:
                raise self.not_writable(error) from None
            yield write
        finally:
            with suppress(OSError):  # of the rest of a write that failed
                text.close()
            temporary.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise FolderNotWritable if no login could be stored."""
        with self.reserve("check"):
            pass

    def delete(self, login: StoredLogin) -> None:
        """Raise OSError if the login is still there."""
        self._file(login).unlink(missing_ok=True)

    @contextmanager
    def lock(self, login: StoredLogin) -> Iterator[None]:
        """Let one process at a time refresh a login; raise CommandFailed after 30 s.

        The lock ends with its process. Without a writable folder there is none, and no refresh.
        """
        import fcntl

        try:
            self._make()
            file = self._file(login).with_suffix(".lock")
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except (OSError, FolderNotWritable):
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
        """Make the folder, for this user only; raise OSError or FolderNotWritable."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            reason = f"it belongs to another user (user ID {found.st_uid})"
            raise FolderNotWritable(self.path, reason, _sentence(_OWN_FOLDER))
        if found.st_mode & 0o077:
            self.path.chmod(0o700)
            if self.path.stat().st_mode & 0o077:  # a file system without modes
                reason = "other users can read it, and its mode cannot be changed"
                raise FolderNotWritable(self.path, reason, _sentence(_OWN_FOLDER))

    def not_writable(self, error: OSError) -> FolderNotWritable:
        reason = error.strerror or type(error).__name__
        advice = _ADVICE.get(error.errno or 0, _sentence(_OWN_FOLDER))
        return FolderNotWritable(self.path, reason, advice)

    def not_deleted(self, error: OSError) -> CommandFailed:
        reason = error.strerror or type(error).__name__
        return CommandFailed(REJECTED, f"The login cannot be deleted from {self.path}: {reason}.")

    def _file(self, login: StoredLogin) -> Path:
        return self.path / f"{login.key}.json"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _flush(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)


def _read(file: Path) -> StoredLogin | None:
    try:
        # O_NONBLOCK: a FIFO in the file's place must not block.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, encoding="utf-8") as text:
            found = os.fstat(text.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                return None
            if found.st_mode & 0o077:
                os.fchmod(text.fileno(), 0o600)
            fields: dict[str, Any] = json.loads(text.read(_BYTES_MAX))
        login = StoredLogin(**fields)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    times = (login.logged_in_at, login.expires_at)
    texts = fields.keys() - {"logged_in_at", "expires_at"}
    is_whole = all(isinstance(one, int | float) for one in times) and all(
        isinstance(fields[name], str) for name in texts
    )
    # A file with another gateway's name in it is no login.
    return login if is_whole and file.stem == login.key else None
