"""One error code of the error table, and texts that several codes share."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    status: int
    code: str
    message: str
    """The `error_msg` of the response. An error that has a more specific text sends that text."""
    cause: str
    caller_action: str
    operator_action: str
    retry: str = ""
    """When the same request may succeed; "" means that a retry does not help."""
    alerts: tuple[str, ...] = ()
    """Alerts that fire for this error; each has a section in the runbook."""


LATER: Final = "Retry after the number of seconds in Retry-After."
AFTER: Final = "after the number of seconds in `Retry-After`"
ONCE_CHECKED: Final = (
    "; a write may have been executed, so check the server before you send it again"
)
NO_ACTION: Final = "None."
