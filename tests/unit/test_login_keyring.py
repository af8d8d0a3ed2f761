"""The system keyring: a probe before it is used, a time limit, and the file in its place."""

import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.commands import client_login
from gateway.commands.client_login import ClientLogins
from gateway.commands.exit_codes import CommandFailed
from gateway.commands.login_keyring import KeyringMissing, KeyringUnavailable, LoginKeyring
from gateway.commands.stored_logins import LoginFolder, StoredLogin
from tests.unit.test_stored_logins import GATEWAY, Provider, a_login


class Backend:
    """A keyring in memory, with the methods of the library's."""

    priority, name = 5.0, "Test Keyring"

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], str] = {}
        self.length_max = 10_000
        self.error: Exception | None = None
        self.hangs: threading.Event | None = None

    def get_password(self, service: str, name: str) -> str | None:
        self._use()
        return self.entries.get((service, name))

    def set_password(self, service: str, name: str, value: str) -> None:
        self._use()
        self.entries[service, name] = value[: self.length_max]

    def delete_password(self, service: str, name: str) -> None:
        self._use()
        del self.entries[service, name]

    def _use(self) -> None:
        if self.hangs is not None:
            self.hangs.wait(60)
        if self.error is not None:
            raise self.error


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    found, module = Backend(), ModuleType("keyring")
    module.get_keyring = lambda: found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", module)
    monkeypatch.setattr(Provider, "used", [], raising=False)
    monkeypatch.setattr(client_login, "LoginProvider", Provider)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> LoginFolder:
    return LoginFolder(tmp_path / "logins")


@pytest.fixture
def logins(folder: LoginFolder, backend: Backend) -> ClientLogins:
    del backend
    return ClientLogins(folder, LoginKeyring(timeout_s=5.0))


def text_of(folder: LoginFolder) -> str:
    return "".join(one.read_text() for one in folder.path.glob("*.json"))


def test_only_the_refresh_token_is_in_the_keyring(
    logins: ClientLogins, folder: LoginFolder, backend: Backend
) -> None:
    stored = logins.store_new(a_login())
    assert backend.entries == {("console-gateway", stored.key): "old-refresh-token"}
    assert "old-refresh-token" not in text_of(folder)
    assert "in the system keyring (Test Keyring)" in logins.describe(stored)
    assert logins.current(GATEWAY).token == "new-token"
    assert Provider.used == ["old-refresh-token"]
    assert backend.entries == {("console-gateway", stored.key): "new-one"}
    assert "new-one" not in text_of(folder)
    logins.delete(stored)
    assert backend.entries == {}
    assert text_of(folder) == ""


def lose(backend: Backend) -> None:
    backend.length_max = 3


def fail(backend: Backend) -> None:
    backend.error = RuntimeError("secret words of a library")


def hang(backend: Backend) -> None:
    backend.hangs = threading.Event()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lose, "it does not return what was stored"),
        (fail, "unavailable: RuntimeError"),
        (hang, "it did not answer in 0.2 s; is it locked?"),
    ],
)
def test_unusable_keyring_is_named_and_the_file_used(
    folder: LoginFolder,
    backend: Backend,
    capsys: pytest.CaptureFixture[str],
    spoil: Any,
    reason: str,
) -> None:
    spoil(backend)
    timeout_s = 0.2 if spoil is hang else 60.0
    stored = ClientLogins(folder, LoginKeyring(timeout_s=timeout_s)).store_new(a_login())
    assert stored.keyring == ""
    shown = capsys.readouterr().err
    assert reason in shown
    assert f"is stored in {folder.path} instead" in shown
    assert "secret words" not in shown
    assert "old-refresh-token" in text_of(folder)
    if backend.hangs is not None:
        backend.hangs.set()


def test_missing_keyring_is_silent(
    logins: ClientLogins, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.priority = 0.5  # plain text, or nothing
    stored = logins.store_new(a_login())
    assert (stored.keyring, backend.entries) == ("", {})
    assert "not encrypted" in logins.describe(stored)
    assert capsys.readouterr().err == ""


def test_locked_keyring_loses_no_login(logins: ClientLogins, backend: Backend) -> None:
    logins.store_new(a_login())
    backend.error = RuntimeError("locked")
    with pytest.raises(CommandFailed, match="Unlock it, or run `gateway login`") as failed:
        logins.current(GATEWAY)
    assert failed.value.code == 5
    assert Provider.used == []
    backend.error = None
    assert logins.current(GATEWAY).token == "new-token"


def test_keyring_that_stores_no_new_token_is_replaced_by_the_file(
    logins: ClientLogins,
    folder: LoginFolder,
    backend: Backend,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The provider has rotated the refresh token by then: it must be somewhere."""
    logins.store_new(a_login())
    backend.length_max = 3
    assert logins.current(GATEWAY).keyring == ""
    assert "new-one" in text_of(folder)
    assert "instead" in capsys.readouterr().err


def test_logout_names_an_entry_that_remains(
    logins: ClientLogins, folder: LoginFolder, backend: Backend
) -> None:
    stored: StoredLogin = logins.store_new(a_login())
    backend.error = RuntimeError("locked")
    with pytest.raises(CommandFailed, match=f"entry `console-gateway` {stored.key} there"):
        logins.delete(stored)
    assert folder.find(GATEWAY) == []


def test_login_without_keyring_replaces_one_with_it(logins: ClientLogins, backend: Backend) -> None:
    stored = logins.store_new(a_login())
    logins.store_new(replace(stored, keyring="", refresh_token=""))
    assert backend.entries == {}


def test_library_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(KeyringMissing, match="extra `keyring` is not installed"):
        LoginKeyring().read("k")


@pytest.mark.parametrize("backend", ["fail", "null"])
def test_real_library_without_a_keyring_is_missing(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    library = pytest.importorskip("keyring", reason="not installed: keyring")
    found = __import__(f"keyring.backends.{backend}", fromlist=["Keyring"]).Keyring()
    monkeypatch.setattr(library, "get_keyring", lambda: found)
    with pytest.raises(KeyringUnavailable):
        LoginKeyring().store("k", "token")
    with pytest.raises(KeyringMissing):
        LoginKeyring().read("k")
