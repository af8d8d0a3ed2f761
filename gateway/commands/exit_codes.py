"""Exit codes of the client commands, and the exception that ends such a command."""

from collections.abc import Mapping
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


def usage_error(message: str) -> CommandFailed:
    return CommandFailed(USAGE, message)
