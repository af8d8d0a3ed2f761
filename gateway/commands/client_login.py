"""The login of the client commands: where its tokens are, and their silent refresh."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

from gateway.commands.cli_issuer import with_tokens
from gateway.commands.exit_codes import (
    LATER,
    NOT_AUTHENTICATED,
    CommandFailed,
    usage_error,
)
from gateway.commands.login_keyring import KeyringMissing, KeyringUnavailable, LoginKeyring
from gateway.commands.login_provider import LoginEnded, LoginProvider, current_time
from gateway.commands.stored_logins import LoginFolder, StoredLogin
from gateway.commands.terminal import print_error

_REFRESH_BEFORE_S: Final = 30.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ClientLogins:
    """The logins of a person: files, and refresh tokens in the system keyring if there is one."""

    def __init__(
        self, folder: LoginFolder | None = None, keyring: LoginKeyring | None = None
    ) -> None:
        self.folder = folder or LoginFolder.of_person()
        self._keyring = keyring or LoginKeyring()

    def store_new(self, login: StoredLogin) -> StoredLogin:
        """Store a login and return it as stored; raise CommandFailed."""
        before = self.folder.read(login)
        with self.folder.reserve(login.key) as write:
            stored = self._with_keyring(login)
            try:
                write(stored)
            except OSError as error:
                raise self.folder.not_writable(error) from None
        if before is not None and before.keyring and not stored.keyring:
            with suppress(KeyringUnavailable):
                self._keyring.delete(login.key)
        return stored

    def delete(self, login: StoredLogin) -> str:
        """Delete a login and return its refresh token, or "".

        Raises CommandFailed with what remains.
        """
        refresh_token = ""
        try:
            with self.folder.lock(login):  # a refresh in progress would write it again
                with suppress(CommandFailed):
                    refresh_token = self._refresh_token(self.folder.read(login) or login)
                self.folder.delete(login)
        except OSError as error:
            raise self.folder.not_deleted(error) from None
        if login.keyring:
            try:
                self._keyring.delete(login.key)
            except KeyringUnavailable as error:
                raise CommandFailed(
                    LATER,
                    "The login is forgotten, but its refresh token is still in the system"
                    f" keyring: {error}. Delete the entry `console-gateway` {login.key} there.",
                ) from None
        return refresh_token

    def current(self, gateway: str, *, ca_file: Path | None = None) -> StoredLogin:
        """Return the newest login at a gateway with a valid token; raise CommandFailed if none.

        Commands that run at once refresh it once: the others wait, and read the new token.
        """
        login = next(iter(self.folder.find(gateway)), None)
        if login is None:
            raise usage_error(
                "There is no token, and you are not logged in at this gateway. Run `gateway login`,"
                " or set CONSOLE_GATEWAY_TOKEN to a JWT."
            )
        if _is_valid(login, for_s=_REFRESH_BEFORE_S):
            return login
        with self.folder.lock(login):
            now = self.folder.read(login)
            if now is None:
                raise _ended()
            if _is_valid(now, for_s=_REFRESH_BEFORE_S):
                return now
            provider = LoginProvider(now.issuer, now.client_id, ca_file=ca_file)
            try:
                return self._refresh(now, provider)
            except LoginEnded:
                raise _ended() from None
            except CommandFailed:
                if _is_valid(now):
                    return now
                raise

    def _refresh(self, login: StoredLogin, provider: LoginProvider) -> StoredLogin:
        """Return the login with new tokens; raise CommandFailed, with the old one as it was."""
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token(login)}
        provider.endpoint("token_endpoint")  # before anything is at stake
        with self.folder.reserve(login.key) as write, _uninterrupted():
            new = with_tokens(login, provider.request_tokens(form))
            if login.keyring and new.refresh_token:
                new = self._with_keyring(new)
            try:
                write(new)
            except OSError as error:
                # The refresh token that is stored may be used up.
                print_error(self.folder.not_writable(error))
                print_error("Your login ends with this command. Then run `gateway login` again.")
        return new

    def _refresh_token(self, login: StoredLogin) -> str:
        if login.refresh_token:
            return login.refresh_token
        if not login.keyring:
            raise _ended()
        try:
            return self._keyring.read(login.key)
        except KeyringUnavailable as error:
            raise CommandFailed(
                LATER,
                f"Your refresh token is in the system keyring, which is unavailable: {error}."
                " Unlock it, or run `gateway login`.",
            ) from None

    def _with_keyring(self, login: StoredLogin) -> StoredLogin:
        """Move the refresh token into the keyring, or return it to be stored in the file."""
        if not login.refresh_token:
            return login
        try:
            name = self._keyring.store(login.key, login.refresh_token)
        except KeyringMissing:
            return replace(login, keyring="")
        except KeyringUnavailable as error:
            print_error(f"The system keyring is unavailable: {error}.")
            print_error(f"The refresh token is stored in {self.folder.path} instead.")
            return replace(login, keyring="")
        return replace(login, keyring=name, refresh_token="")

    def describe(self, login: StoredLogin) -> str:
        """Return where the tokens are."""
        if login.keyring:
            return f"{self.folder.path}, the refresh token in the system keyring ({login.keyring})"
        return f"{self.folder.path} (mode 0600, not encrypted)"


def _is_valid(login: StoredLogin, *, for_s: float = 0.0) -> bool:
    return login.expires_at - current_time() > for_s


def _ended() -> CommandFailed:
    return CommandFailed(NOT_AUTHENTICATED, "Your login has ended. Run `gateway login`.")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay signals: between the provider's answer and the disk, the new token exists only here."""
    received: list[int] = []

    def record(number: int, _: FrameType | None) -> None:
        received.append(number)

    previous = {one: signal.signal(one, record) for one in _SIGNALS}
    try:
        yield
    finally:
        for one, handler in previous.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)
        for number in received:
            signal.raise_signal(number)
