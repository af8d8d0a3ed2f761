"""Exit codes of the client commands, and the exception that ends such a command."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

OK: Final = 0
REJECTED: Final = 1
USAGE: Final = 2
NOT_PERMITTED: Final = 3
NOT_AUTHENTICATED: Final = 4
LATER: Final = 5
UNREACHABLE: Final = 6
CLIENT_EXIT_CODES: Final[Mapping[int, str]] = {
    OK: "done",
    REJECTED: "rejected",
    USAGE: "wrong usage",
    NOT_PERMITTED: "not permitted",
    NOT_AUTHENTICATED: "not authenticated",
    LATER: "try again later",
    UNREACHABLE: "gateway unreachable",
}


class CommandFailed(Exception):
    """Ends a command with an exit code and a message."""

    def __init__(self, code: int, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.code = code
        self.fields = {"error_code": "", "error_msg": message, **fields}
        """The JSON object that `--json` prints."""
        self.help: list[str] = []
        """Lines that follow the message for people."""

    @property
    def is_refusal(self) -> bool:
        """Return whether the gateway refused the person, as opposed to an outage."""
        is_missing = self.fields.get("status") == HTTPStatus.NOT_FOUND
        return bool(self.fields["error_code"]) and (self.code == NOT_PERMITTED or is_missing)


class NoSuchServer(CommandFailed):
    """No server visible to the person has the name: it may exist."""

    def __init__(self, message: str) -> None:
        super().__init__(USAGE, message)

    @property
    def is_refusal(self) -> bool:
        return True


def usage_error(message: str) -> CommandFailed:
    return CommandFailed(USAGE, message)
