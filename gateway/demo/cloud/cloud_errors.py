"""The cloud's error responses, by a short name (upstream-api.md#1.3, #2.1, #2.2 and #3.2).

Clients distinguish causes by these codes and texts. Do not change a word: tests on the simulated
cloud prove only as much as these texts match the real ones.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from gateway.demo.cloud.faults import Fault, ResponseFactory

_WRONG = "Incorrect IAM authentication information: "


@dataclass(frozen=True, slots=True)
class CloudError:
    status: int
    code: str
    message: str
    keystone: bool = False
    """Use IAM's second shape, `{"error": {"code", "message", "title"}}`."""
    html: bool = False
    """Send a page with the message, as a proxy before the front does."""

    def with_message(self, message: str) -> "CloudError":
        return replace(self, message=message)

    def response(self, request_id: str = "") -> web.Response:
        if self.html:
            page = f"<html><body><h1>{self.message}</h1></body></html>"
            return web.Response(status=self.status, text=page, content_type="text/html")
        return web.json_response(self._body(request_id), status=self.status)

    def _body(self, request_id: str) -> dict[str, Any]:
        if self.keystone:
            title = _TITLES[self.status]
            return {"error": {"code": self.status, "message": self.message, "title": title}}
        body = {"error_code": self.code, "error_msg": self.message}
        # The front repeats the request ID in the body; the service behind it does not.
        return body | {"request_id": request_id} if self.code.startswith("APIG") else body


def as_faults(errors: Mapping[str, CloudError]) -> dict[str, ResponseFactory]:
    """Return each error as a response fault of a listener."""
    return {name: _responder(error) for name, error in errors.items()}


def _responder(error: CloudError) -> ResponseFactory:
    def respond(fault: Fault) -> web.Response:
        response = error.response(uuid.uuid4().hex)
        response.headers.update(fault.headers)
        return response

    return respond


_TITLES = {400: "Bad Request", 401: "Unauthorized"}


def token_expired(at: str) -> CloudError:
    return CloudError(401, "APIGW.0301", f"{_WRONG}token expires, expires_at: {at}")


def access_key_unknown(key: str) -> CloudError:
    return CloudError(401, "APIGW.0301", f"{_WRONG}Get secretKey failed,ak:{key},err:ak not exist")


TOKEN_MISSING = CloudError(401, "APIGW.0301", _WRONG + "x-auth-token not found")
TOKEN_UNDECODABLE = CloudError(401, "APIGW.0301", _WRONG + "decrypt token fail")
TOKEN_OUTDATED = CloudError(401, "APIGW.0307", "The token must be updated.")
SIGNATURE_WRONG = CloudError(401, "APIGW.0301", _WRONG + "verify aksk signature fail")
ACCESS_KEY_LOCKED = CloudError(
    401, "APIGW.0301", _WRONG + "AK access failed to reach the limit,forbidden"
)
CLOCK_SKEWED = CloudError(
    401,
    "APIGW.0303",
    "Incorrect app authentication information: the difference between the server and client "
    "times exceeds 15 minutes",
)
FORBIDDEN = CloudError(403, "iMetal.0004", "Insufficient permission.")
API_UNKNOWN = CloudError(404, "APIGW.0101", "The API does not exist or has not been published.")
METHOD_WRONG = CloudError(405, "APIGW.0501", "The request method is not supported.")
BAD_REQUEST = CloudError(400, "APIGW.0201", "Bad request.")
PARAMETER_INVALID = CloudError(400, "iMetal.0001", "Invalid parameter.")
PARAMETER_MISSING = CloudError(400, "iMetal.0002", "A parameter is missing.")
SERVER_UNKNOWN = CloudError(404, "iMetal.0100", "The physical servers are not found.")
INSTANCE_UNKNOWN = CloudError(404, "iMetal.0200", "The instances are not found.")
SERVER_NOT_READY = CloudError(400, "iMetal.0101", "The state of the physical server is not ready.")

CLOUD = {
    "token_missing": TOKEN_MISSING,
    "token_expired": token_expired("2026-01-01T00:00:00.000000Z"),
    "token_undecodable": TOKEN_UNDECODABLE,
    "token_outdated": TOKEN_OUTDATED,
    "signature_wrong": SIGNATURE_WRONG,
    "access_key_unknown": access_key_unknown("SOMEKEY"),
    "access_key_locked": ACCESS_KEY_LOCKED,
    "clock_skewed": CLOCK_SKEWED,
    "auth_wrong": CloudError(401, "APIGW.0305", "Incorrect authentication information."),
    "unauthorized": CloudError(401, "iMetal.0003", "Unauthorized."),
    "forbidden": FORBIDDEN,
    "front_forbidden": CloudError(403, "APIGW.0302", "The IAM user is not allowed to access."),
    "api_unknown": API_UNKNOWN,
    "bad_request": BAD_REQUEST,
    "parameter_invalid": PARAMETER_INVALID,
    "parameter_missing": PARAMETER_MISSING,
    "instance_unknown": INSTANCE_UNKNOWN,
    "server_unknown": SERVER_UNKNOWN,
    "server_not_ready": SERVER_NOT_READY,
    "internal": CloudError(500, "iMetal.0099", "Internal error."),
    "front_internal": CloudError(500, "APIGW.0601", "Internal server error."),
    "bad_gateway": CloudError(502, "APIGW.0201", "Backend unavailable."),
    "unavailable": CloudError(503, "APIGW.0613", "The IAM service is unavailable."),
    "gateway_timeout": CloudError(504, "APIGW.0201", "Backend timeout."),
}

BODY_WRONG = CloudError(400, "", "The request body is invalid.", keystone=True)
PASSWORD_WRONG = CloudError(401, "", "The username or password is wrong.", keystone=True)
ACCOUNT_LOCKED = CloudError(401, "IAM.0061", "The account has been locked.")
PROJECT_UNKNOWN = CloudError(404, "IAM.0004", "The project could not be found.")
ROLE_MISSING = CloudError(
    401, "", "The request you have made requires authentication.", keystone=True
)
"""Keystone's response to a login to a project in which the user has no role."""

IAM_TOKEN_INVALID = CloudError(401, "IAM.0067", "The token is invalid.")
# Assumed: no source documents the responses to an agency that may not be assumed.
AGENT_OPERATOR_MISSING = CloudError(403, "IAM.0003", "Policy doesn't allow the action.")
AGENCY_UNKNOWN = CloudError(404, "IAM.0004", "The agency could not be found.")

IAM = {
    "body_wrong": BODY_WRONG,
    "password_wrong": PASSWORD_WRONG,
    "password_wrong_iam": CloudError(401, "IAM.0062", "The username or password is wrong."),
    "account_locked": ACCOUNT_LOCKED,
    "token_expired": CloudError(401, "IAM.0066", "The token has expired."),
    "token_invalid": IAM_TOKEN_INVALID,
    "no_programmatic_access": CloudError(403, "IAM.0081", "The user has no programmatic access."),
    "project_unknown": PROJECT_UNKNOWN,
    "throttled": CloudError(
        429, "IAM.0012", "Too many requests. Threshold: 5 times per 1 seconds."
    ),
    "internal": CloudError(500, "IAM.0006", "Internal error."),
}
