"""The system keyring, for the refresh tokens of `gateway login`.

The library `keyring` is an extra (`console-gateway[keyring]`). It is imported when it is needed.
"""

import secrets
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

_SERVICE: Final = "console-gateway"
_TIMEOUT_S: Final = 15.0
"""A locked keyring waits for its password, or without end where it cannot show a prompt."""
_SYSTEM_PRIORITY: Final = 1
"""Backends below write plain text, or discard the secret."""

_Result = TypeVar("_Result")


class KeyringUnavailable(Exception):
    """The message is the reason."""


class KeyringMissing(KeyringUnavailable):
    """The library is not installed, or this system has no keyring."""


class LoginKeyring:
    """Each call ends within the time limit."""

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s

    def store(self, key: str, token: str) -> str:
        """Store a token and return the keyring's name; raise KeyringUnavailable.

        A keyring may accept a secret and lose it, so one is written, read and deleted first.
        """

        def store(backend: Any) -> str:
            probe, content = f"probe-{secrets.token_hex(8)}", secrets.token_hex(8)
            backend.set_password(_SERVICE, probe, content)
            found = backend.get_password(_SERVICE, probe)
            backend.delete_password(_SERVICE, probe)
            if found != content:
                raise KeyringUnavailable("it does not return what was stored")
            return _replace(backend)

        def _replace(backend: Any) -> str:
            backend.set_password(_SERVICE, key, token)
            # Some keyrings shorten long secrets.
            if backend.get_password(_SERVICE, key) != token:
                raise KeyringUnavailable("it does not return what was stored")
            return str(backend.name)

        return self._run(store)

    def read(self, key: str) -> str:
        """Return the stored token; raise KeyringUnavailable."""

        def read(backend: Any) -> str:
            found = backend.get_password(_SERVICE, key)
            if not found:
                raise KeyringUnavailable("it has no entry for this login")
            return str(found)

        return self._run(read)

    def delete(self, key: str) -> None:
        """Delete the token if it is there; raise KeyringUnavailable if it may remain."""

        def delete(backend: Any) -> None:
            if backend.get_password(_SERVICE, key) is not None:
                backend.delete_password(_SERVICE, key)

        self._run(delete)

    def _run(self, action: Callable[[Any], _Result]) -> _Result:
        results: list[_Result] = []
        errors: list[KeyringUnavailable] = []

        def run() -> None:
            try:
                results.append(action(_backend()))
            except KeyringUnavailable as error:
                errors.append(error)
            except Exception as error:  # noqa: BLE001 - of any library below; its text may be long
                errors.append(KeyringUnavailable(type(error).__name__))

        # A daemon: a call that hangs must not keep the command from ending.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if errors:
            raise errors[0]
        if not results:
            raise KeyringUnavailable(f"it did not answer in {self._timeout_s:g} s; is it locked?")
        return results[0]


def _backend() -> Any:
    """Return the keyring of this system."""
    try:
        from keyring import get_keyring
    except ImportError:
        raise KeyringMissing("the extra `keyring` is not installed") from None
    backend = get_keyring()
    if backend.priority < _SYSTEM_PRIORITY:
        raise KeyringMissing("this system has none")
    return backend
