"""The directory of recordings: one directory for each, below the day of the session's start.

Every function blocks. Those that read raise OSError, and ValueError for a file that the gateway did
not write.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

import orjson

from gateway.domain.consoles.model import ConsoleTarget, PersonRef, SessionMode
from gateway.domain.model import ProjectId, ServerId
from gateway.domain.recordings.model import (
    PartInfo,
    PartState,
    RecordingDetails,
    RecordingInfo,
    RecordingPolicy,
)
from gateway.domain.recordings.part_format import (
    HEADER_BYTES_MAX,
    TRAILER_BYTES,
    PartFooter,
    PartHeader,
    footer_size,
    parse_footer,
    parse_header,
)
from gateway.drivers.audit.directory import make_directory
from gateway.drivers.files.durable import sync_directory

_DETAILS: Final = "recording.json"
_KEYS: Final = "keys.json"
_HOLDS: Final = "holds"
_REMOVALS_LOCK: Final = "removals.lock"
_LOCK_POLL_S: Final = 0.02
_REMOVED: Final = ".removed"
_NEW: Final = ".new"
_ABANDONED_S: Final = 3_600.0
"""After this time without a change, the process that created a directory has died."""
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_ID: Final = re.compile(r"[0-9a-f]{32}")
_LAST_S: Final = 253_402_300_799.0
"""The end of the year 9999."""
_PART: Final = re.compile(r"part-(\d{4,8})\.(open|part)")


@dataclass(frozen=True, slots=True)
class PartFile:
    number: int
    file: Path
    is_closed: bool


class RecordingDirectory:
    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, details: RecordingDetails) -> Path:
        return self.root / _day_of(details.started_at) / details.id

    def find(self, recording: str) -> Path | None:
        return next(self.find_each([recording]), None)

    def find_each(self, recordings: Iterable[str]) -> Iterator[Path]:
        """Yield the directory of each of these recordings that exists."""
        days = self._days()
        for recording in recordings:
            if _ID.fullmatch(recording):
                found = (day / recording for day in days if (day / recording).is_dir())
                yield from islice(found, 1)

    def recordings(self, *, days: int | None = None) -> Iterator[Path]:
        """Yield the directory of each recording, the newest day first; of `days` days or all."""
        for day in reversed(self._days()[-days if days else 0 :]):
            with suppress(FileNotFoundError):
                yield from sorted(one for one in day.iterdir() if _ID.fullmatch(one.name))

    def begun(self, since: float | None, until: float | None) -> Iterator[Path]:
        """Yield the directory of each recording that began on a day within these times."""
        first = "" if since is None else _day_of(since)
        last = "9999" if until is None else _day_of(until)
        for path in self.recordings():
            if first <= path.parent.name <= last:
                yield path

    def clean_up(self, now: float) -> list[tuple[Path, OSError]]:
        """Delete what a process that died has not created or not removed completely.

        Return the directories that cannot be deleted: a network file system keeps files that
        another host has open.
        """
        failed = []
        for day in self._days():
            for unused in (*day.glob(f"*{_REMOVED}"), *day.glob(f"*{_NEW}")):
                try:
                    if unused.suffix == _REMOVED or unused.stat().st_mtime < now - _ABANDONED_S:
                        _delete(unused)
                except FileNotFoundError:  # another process has done so
                    continue
                except OSError as error:
                    failed.append((unused, error))
            if day.stat().st_mtime < now - _ABANDONED_S:
                with suppress(OSError):  # it has recordings
                    day.rmdir()
        return failed

    def create(self, details: RecordingDetails, wrapped_keys: bytes) -> Path:
        """Make the directory of a recording, whole or not at all; return the one that exists."""
        path = self.path(details)
        make_directory(path.parent)
        new = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_NEW}")
        new.mkdir(mode=0o700)
        _write_file(new / _DETAILS, encode_details(details))
        _write_file(new / _KEYS, wrapped_keys)
        sync_directory(new)
        try:
            new.rename(path)
        except OSError:
            _delete(new)
            if not path.is_dir():
                raise
        sync_directory(path.parent)
        return path

    def _days(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(one for one in self.root.iterdir() if _DAY.fullmatch(one.name))


def _day_of(at: float) -> str:
    at = min(max(0.0, at), _LAST_S)  # of a query, it may be any time
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def encode_details(details: RecordingDetails) -> bytes:
    return orjson.dumps(
        {
            "id": details.id,
            "account": details.target.account,
            "project": details.target.project,
            "server": details.target.server,
            "issuer": details.person.issuer,
            "subject": details.person.subject,
            "mode": details.mode.value,
            "started_at": details.started_at,
            "policy": details.policy.value,
            "has_keystrokes": details.has_keystrokes,
            "client_address": details.client_address,
            "request_id": details.request_id,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def read_details(path: Path) -> RecordingDetails:
    fields = orjson.loads((path / _DETAILS).read_bytes())
    try:
        return RecordingDetails(
            id=fields["id"],
            target=ConsoleTarget(
                fields["account"], ProjectId(fields["project"]), ServerId(fields["server"])
            ),
            person=PersonRef(fields["subject"], fields["issuer"]),
            mode=SessionMode(fields["mode"]),
            started_at=fields["started_at"],
            policy=RecordingPolicy(fields["policy"]),
            has_keystrokes=fields["has_keystrokes"],
            client_address=fields["client_address"],
            request_id=fields["request_id"],
        )
    except (KeyError, TypeError):
        raise ValueError(f"{path / _DETAILS} is damaged") from None


def details_hash(path: Path) -> str:
    """Return the SHA-256 of recording.json; "" if it is missing."""
    return _hash_of(path / _DETAILS)


def keys_hash(path: Path) -> str:
    """Return the SHA-256 of keys.json; "" if it is missing."""
    return _hash_of(path / _KEYS)


def _hash_of(file: Path) -> str:
    try:
        return sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def frame_hash(file: Path) -> str:
    """Return the SHA-256 of a closed part's header line, time index and footer; "" without them."""
    try:
        line, _ = read_header(file)
        begin = read_footer(file).index
    except ValueError:
        return ""
    with file.open("rb") as opened:
        opened.seek(max(0, begin))
        return sha256(line + opened.read()).hexdigest()


def read_wrapped_keys(path: Path) -> bytes:
    return (path / _KEYS).read_bytes()


def replace_wrapped_keys(path: Path, wrapped: bytes) -> None:
    _replace_file(path / _KEYS, wrapped)


@contextmanager
def locked(file: Path, *, wait_s: float = 0.0) -> Iterator[bool]:
    """Yield whether this process has locked the file, within `wait_s`."""
    fd = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        is_locked = _try_lock(fd)
        for _ in range(round(wait_s / _LOCK_POLL_S)):
            if is_locked:
                break
            time.sleep(_LOCK_POLL_S)
            is_locked = _try_lock(fd)
        yield is_locked
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def removals_locked(root: Path, *, wait_s: float = 0.0) -> AbstractContextManager[bool]:
    """Lock out the decision to remove a recording, so that a hold is set before or after it."""
    return locked(root / _REMOVALS_LOCK, wait_s=wait_s)


def set_hold(root: Path, recording: str, content: bytes) -> None:
    """Keep a recording. It need not exist: its files may be brought back later."""
    make_directory(root / _HOLDS)
    _replace_file(root / _HOLDS / recording, content)


def lift_hold(root: Path, recording: str) -> None:
    (root / _HOLDS / recording).unlink(missing_ok=True)
    sync_directory(root / _HOLDS)


def on_hold(root: Path, recording: str) -> bool:
    return (root / _HOLDS / recording).exists()


def part_files(path: Path) -> list[PartFile]:
    """Return the file of each part in order; the closed one where both exist."""
    found: dict[int, PartFile] = {}
    for file in path.iterdir():
        named = _PART.fullmatch(file.name)
        if named is not None:
            one = PartFile(int(named[1]), file, named[2] == "part")
            if one.is_closed or one.number not in found:
                found[one.number] = one
    return [found[number] for number in sorted(found)]


def open_part_files(path: Path) -> list[PartFile]:
    """Return each open part, also where the closed one exists already."""
    named = ((_PART.fullmatch(file.name), file) for file in path.iterdir())
    return [
        PartFile(int(one[1]), file, is_closed=False)
        for one, file in named
        if one is not None and one[2] == "open"
    ]


def open_file(path: Path, number: int) -> Path:
    return path / f"part-{number:04}.open"


def closed_file(path: Path, number: int) -> Path:
    return path / f"part-{number:04}.part"


def lock_part(file: Path) -> int | None:
    """Lock an open part; None: another process, or thread, writes it or has just closed it."""
    try:
        fd = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            return fd
    except BlockingIOError:
        pass
    os.close(fd)
    return None


def read_header(file: Path) -> tuple[bytes, PartHeader]:
    """Return the first line of a part."""
    with file.open("rb") as opened:
        line = opened.readline(HEADER_BYTES_MAX)
    return line, parse_header(line)


def has_header(file: Path) -> bool:
    """Return whether the first line of a part is complete."""
    with file.open("rb") as opened:
        return opened.readline(HEADER_BYTES_MAX).endswith(b"\n")


def read_footer(file: Path) -> PartFooter:
    """Return the footer of a closed part."""
    with file.open("rb") as opened:
        end = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, end - TRAILER_BYTES))
        size = footer_size(opened.read())
        opened.seek(max(0, end - TRAILER_BYTES - size))
        return parse_footer(opened.read(size))


def read_part_info(part: PartFile) -> PartInfo:
    """Return what a part's first and last line say; a file without them is damaged."""
    found = part.file.stat()
    try:
        _, header = read_header(part.file)
        footer = read_footer(part.file) if part.is_closed else None
    except ValueError:
        at = found.st_mtime
        is_begun = not part.is_closed and not has_header(part.file)  # it is being opened
        state = _open_state(part.file) if is_begun else PartState.DAMAGED
        return PartInfo(part.number, at, None if is_begun else at, "", state, found.st_size, "")
    if footer is None:
        state = _open_state(part.file)
    else:
        state = PartState.CUT if footer.cut else PartState.CLOSED
    return PartInfo(
        number=part.number,
        started_at=header.started_at,
        ended_at=None if footer is None else footer.ended_at,
        end="" if footer is None else footer.end,
        state=state,
        size=found.st_size,
        host=header.host,
    )


def _open_state(file: Path) -> PartState:
    """Return whether a process writes or closes an open part."""
    try:
        lock = lock_part(file)
    except OSError:  # this process may only read
        return PartState.OPEN
    if lock is None:
        return PartState.OPEN
    os.close(lock)
    return PartState.LEFT


def read_info(path: Path) -> RecordingInfo:
    parts = tuple(read_part_info(one) for one in part_files(path))
    return RecordingInfo(read_details(path), parts, on_hold(path.parent.parent, path.name))


def mark_removed(path: Path) -> Path:
    """Take the recording out of every list, before its files are deleted."""
    removed = path.with_name(path.name + _REMOVED)
    path.rename(removed)
    sync_directory(path.parent)
    return removed


def delete_removed(removed: Path) -> None:
    _delete(removed)
    with suppress(OSError):  # the day has other recordings
        removed.parent.rmdir()


def _delete(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink(missing_ok=True)
    directory.rmdir()


def _write_file(file: Path, content: bytes) -> None:
    fd = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        while content:
            content = content[os.write(fd, content) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _replace_file(file: Path, content: bytes) -> None:
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    _write_file(new, content)
    new.rename(file)
    sync_directory(file.parent)
