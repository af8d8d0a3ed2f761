"""Logins on the disk: what cannot be stored is not refreshed, so that no refresh token is lost."""

import errno
import json
import os
import signal
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.commands import client_login, stored_logins
from gateway.commands.client_login import ClientLogins, _uninterrupted
from gateway.commands.exit_codes import CommandFailed
from gateway.commands.login_keyring import LoginKeyring
from gateway.commands.login_provider import LoginProvider
from gateway.commands.stored_logins import FolderNotWritable, LoginFolder, StoredLogin

GATEWAY = "https://gateway.example:443"


def a_login(**changes: Any) -> StoredLogin:
    fields: dict[str, Any] = {
        "gateway": GATEWAY,
        "issuer": "https://idp.example",
        "issuer_name": "corp",
        "client_id": "cli",
        "token_kind": "access_token",
        "subject": "olga",
        "logged_in_at": 1.0,
        "expires_at": 2.0,
        "token": "old-token",
        "refresh_token": "old-refresh-token",
    }
    return StoredLogin(**{**fields, **changes})


class Provider(LoginProvider):
    """A provider that rotates refresh tokens."""

    used: list[str]

    def __init__(self, issuer: str, client_id: str, *, ca_file: Path | None = None) -> None:
        super().__init__(issuer, client_id, ca_file=ca_file)
        self._metadata = {"token_endpoint": "https://idp.example/token"}

    def request_tokens(self, form: Mapping[str, str]) -> dict[str, Any]:
        self.used.append(form["refresh_token"])
        return {"access_token": "new-token", "refresh_token": "new-one", "expires_in": 300}


@pytest.fixture
def folder(tmp_path: Path) -> LoginFolder:
    return LoginFolder(tmp_path / "console-gateway" / "logins")


@pytest.fixture
def logins(folder: LoginFolder, monkeypatch: pytest.MonkeyPatch) -> ClientLogins:
    monkeypatch.setattr(Provider, "used", [], raising=False)
    monkeypatch.setattr(client_login, "LoginProvider", Provider)
    monkeypatch.setattr(LoginKeyring, "_run", _no_keyring)
    found = ClientLogins(folder)
    found.store_new(a_login())
    return found


def _no_keyring(*_: object) -> None:
    raise client_login.KeyringMissing("none")


def files(folder: LoginFolder) -> list[str]:
    return sorted(one.suffix for one in folder.path.iterdir() if one.suffix != ".lock")


def test_login_is_refreshed_once_and_replaced_as_a_whole(
    logins: ClientLogins, folder: LoginFolder
) -> None:
    assert logins.current(GATEWAY).token == "new-token"
    assert logins.current(GATEWAY).token == "new-token"
    assert Provider.used == ["old-refresh-token"]
    (stored,) = folder.find(GATEWAY)
    assert (stored.refresh_token, stored.token) == ("new-one", "new-token")
    assert files(folder) == [".json"]
    (file,) = folder.path.glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().endswith("}")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Make room on the disk"),
        (errno.EDQUOT, "disk quota"),
        (errno.EROFS, "Set XDG_CONFIG_HOME to a folder of your own"),
        (errno.EIO, "Set XDG_CONFIG_HOME"),
    ],
)
def test_full_disk_refreshes_nothing(
    logins: ClientLogins,
    folder: LoginFolder,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    advice: str,
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as changed:
        changed.setattr(stored_logins.os, "fsync", fail)
        with pytest.raises(FolderNotWritable, match=advice) as failed:
            logins.current(GATEWAY)
    assert str(folder.path) in str(failed.value)
    assert failed.value.code == 1
    assert Provider.used == []
    assert files(folder) == [".json"]
    assert logins.current(GATEWAY).token == "new-token"


def test_valid_token_is_used_while_it_cannot_be_refreshed(
    logins: ClientLogins, folder: LoginFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folder.reserve(a_login().key) as write:
        write(a_login(expires_at=client_login.current_time() + 20))
    monkeypatch.setattr(folder, "_make", lambda: (_ for _ in ()).throw(OSError(errno.EROFS, "x")))
    assert logins.current(GATEWAY).token == "old-token"
    assert Provider.used == []


def test_write_that_fails_after_the_refresh_leaves_one_command(
    logins: ClientLogins,
    folder: LoginFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The room is reserved, so this needs a disk that breaks in between."""
    real, calls = os.fsync, iter(range(9))

    def fail(descriptor: int) -> None:
        if next(calls) > 0:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(stored_logins.os, "fsync", fail)
    assert logins.current(GATEWAY).token == "new-token"
    assert "Your login ends with this command. Then run `gateway login`" in capsys.readouterr().err
    assert files(folder) == [".json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_refused(logins: ClientLogins, folder: LoginFolder) -> None:
    os.chown(folder.path, 4_321, -1)
    with pytest.raises(FolderNotWritable, match=r"another user \(user ID 4321\). Set XDG_CONFIG"):
        logins.current(GATEWAY)
    assert Provider.used == []
    (file,) = folder.path.glob("*.json")
    os.chown(file, 4_321, -1)
    assert folder.find(GATEWAY) == []


def test_folder_that_others_can_read_is_closed(logins: ClientLogins, folder: LoginFolder) -> None:
    (file,) = folder.path.glob("*.json")
    file.chmod(0o644)
    folder.path.chmod(0o755)
    assert logins.current(GATEWAY).token == "new-token"
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    file.chmod(0o644)
    assert folder.find(GATEWAY)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_folder_without_modes_is_refused(
    folder: LoginFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.path.mkdir(parents=True)
    folder.path.chmod(0o777)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    with pytest.raises(FolderNotWritable, match="other users can read it"):
        folder.check()


@pytest.mark.parametrize("place", [".", ".."], ids=["folder", "parent"])
def test_file_in_the_place_of_a_folder_is_named(folder: LoginFolder, place: str) -> None:
    blocked = folder.path if place == "." else folder.path.parent
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("")
    with pytest.raises(FolderNotWritable, match="A file is in its place: remove it"):
        folder.check()


def test_folder_that_has_gone_is_made_again(logins: ClientLogins, folder: LoginFolder) -> None:
    (login,) = folder.find(GATEWAY)
    for file in folder.path.iterdir():
        file.unlink()
    folder.path.rmdir()
    with pytest.raises(CommandFailed, match="not logged in at this gateway"):
        logins.current(GATEWAY)
    logins.store_new(login)
    assert folder.find(GATEWAY) == [login]


def test_links_and_fifos_are_no_logins(
    logins: ClientLogins, folder: LoginFolder, tmp_path: Path
) -> None:
    (file,) = folder.path.glob("*.json")
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert folder.find(GATEWAY) == []
    content = elsewhere.read_text()
    logins.store_new(a_login(token="mine"))
    assert elsewhere.read_text() == content  # the link was replaced, not followed
    assert not file.is_symlink()
    file.unlink()
    os.mkfifo(file)
    assert folder.find(GATEWAY) == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", '{"gateway": 1}', json.dumps({"unknown": "x"}), "\x00", "[" * 100_000],
)
def test_damaged_file_is_no_login(folder: LoginFolder, content: str) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / f"{a_login().key}.json").write_text(content)
    assert folder.find(GATEWAY) == []


def test_no_token_is_in_a_repr() -> None:
    assert "old-" not in repr(a_login())


def test_signal_waits_until_the_token_is_stored() -> None:
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with _uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            assert received == []
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_lock_is_for_one_at_a_time(folder: LoginFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_logins, "_LOCK_WAIT_S", 0.1)
    entered, leave = threading.Event(), threading.Event()

    def occupy() -> None:
        with folder.lock(a_login()):
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=occupy)
    thread.start()
    assert entered.wait(20)
    with (
        pytest.raises(CommandFailed, match="Another command is refreshing"),
        folder.lock(a_login()),
    ):
        pass
    leave.set()
    thread.join()
    with folder.lock(a_login()):
        pass
