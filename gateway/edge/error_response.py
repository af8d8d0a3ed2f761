"""GatewayError -> HTTP response, with the cloud's error schema {"error_code", "error_msg"}."""

import math
from dataclasses import dataclass

import orjson

from gateway.domain import errors
from gateway.domain.errors import GatewayError, Rejection, RetryLater
from gateway.domain.model import Headers
from gateway.edge.error_table import ERROR_TABLE, INTERNAL_ERROR
from gateway.edge.rejection_texts import NO_CREDENTIAL_TEXTS, REJECTION_TEXTS

_MAY_REQUEST = (
    "You may request such access for a limited time: `gateway requests rules` shows what."
)
_CHALLENGE = 'Bearer realm="console-gateway"'
_COOKIE_CHALLENGE = 'Cookie realm="console-gateway"'
"""Not a registered scheme: browsers must not ask for a password."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    status: int
    error_code: str
    body: bytes
    headers: Headers


def render_error(error: GatewayError) -> ErrorResponse:
    spec = ERROR_TABLE[type(error)]
    status, code, message = spec.status, spec.code, _message(error, spec.message)
    headers: Headers = ()
    match error:
        case errors.PersonLocked():
            pass  # no challenge: a new token would not help
        case errors.NotAuthenticated():
            headers = (("WWW-Authenticate", _challenge(error.reason)),)
        case errors.LoginRequired():
            headers = (("WWW-Authenticate", _COOKIE_CHALLENGE),)
        case errors.MethodNotAllowed():
            headers = (("Allow", ", ".join(error.allowed)),)
        case errors.UpstreamRefused():
            status, code, message = error.status, error.error_code, error.error_msg
        case errors.RetryLater():
            headers = (("Retry-After", str(retry_after_seconds(error))),)
        case _:
            pass
    return ErrorResponse(status, code, _body(code, message), headers)


def _message(error: GatewayError, message: str) -> str:
    """Return the message of the error table with the details that a client may see."""
    match error:
        case errors.PersonLocked():
            return message
        case errors.NotAuthenticated():
            return _credential_message(error.reason, message)
        case errors.NotPermitted(refused=visible):
            hint = f" {_MAY_REQUEST}" if error.may_request else ""
            denied = f" Denied servers that you may see: {', '.join(visible)}." if visible else ""
            return f"{message}{hint}{denied}"
        case errors.NotAdmin():
            return f"Missing admin permission: {error.required}. {message}"
        case errors.RecordingElsewhere():
            where = ", ".join(error.hosts)
            gone = (
                f" No gateway reports from {', '.join(error.gone)} any more." if error.gone else ""
            )
            return (
                f"The files of this recording are on {where}, which the replica that answered"
                f" cannot read.{gone} Report the request ID to the operators."
            )
        case errors.BadRequest() | errors.RecordingUnavailable():
            return error.detail or message
        case (
            errors.AccessRequestForbidden()
            | errors.AccessRequestConflict()
            | errors.AccessRequestLimited()
        ):
            return error.detail
        case _:
            return message


def retry_after_seconds(error: RetryLater) -> int:
    """Return the value of Retry-After: whole seconds, at least 1."""
    return max(1, math.ceil(error.retry_after_s))


def _credential_message(reason: Rejection, message: str) -> str:
    """Repeat the text of WWW-Authenticate: the vendor's SDK does not show headers."""
    if reason in NO_CREDENTIAL_TEXTS:
        return NO_CREDENTIAL_TEXTS[reason]
    text = REJECTION_TEXTS.get(reason)
    return message if text is None else f"The credential was rejected: {text}."


def _challenge(reason: Rejection) -> str:
    if reason in NO_CREDENTIAL_TEXTS:
        return _CHALLENGE  # RFC 6750, 3.1: no error code if the request has no credential
    text = REJECTION_TEXTS.get(reason, "the token was rejected")
    return f'{_CHALLENGE}, error="invalid_token", error_description="{text}"'


def _body(code: str, message: str) -> bytes:
    return orjson.dumps({"error_code": code, "error_msg": message})


INTERNAL_ERROR_RESPONSE = ErrorResponse(
    INTERNAL_ERROR.status,
    INTERNAL_ERROR.code,
    _body(INTERNAL_ERROR.code, INTERNAL_ERROR.message),
    (),
)
