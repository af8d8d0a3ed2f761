"""How each error looks on HTTP: the only place that knows both (README renders this table).

Bodies are those of the cloud: {"error_code", "error_msg"}. The message is fixed text, save for
what the cloud itself said of a request that was permitted, and for sentences in BadRequest.
"""

import math
from dataclasses import dataclass

import orjson

from gateway.domain import errors
from gateway.domain.errors import GatewayError, Rejection, RetryLater
from gateway.domain.model import Headers
from gateway.domain.queue.pacing import Pace
from gateway.flow.caller_limits import Remaining


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    status: int
    error_code: str
    body: bytes
    headers: Headers


ERROR_TABLE: dict[type[GatewayError], ErrorSpec] = {
    errors.NotAuthenticated: ErrorSpec(
        401,
        "CGW.4010",
        "The token is not accepted here; get a new one from your identity provider.",
    ),
    errors.BadRequest: ErrorSpec(400, "CGW.4000", ""),
    errors.OperationUnknown: ErrorSpec(404, "CGW.4040", ""),
    errors.MethodNotAllowed: ErrorSpec(405, "CGW.4050", ""),
    errors.RequestTooLarge: ErrorSpec(413, "CGW.4130", ""),
    errors.NotPermitted: ErrorSpec(
        403,
        "CGW.4030",
        "You may not do this on this server, or there is no such server. "
        "Ask those who keep the gateway's policy.",
    ),
    errors.NamesNoServer: ErrorSpec(
        403,
        "CGW.4031",
        "The call names no server, which may mean all of them; name each in the set of ids.",
    ),
    errors.NotAdmin: ErrorSpec(
        403,
        "CGW.4032",
        "You may not administer this gateway; those in the groups of its admin.api may.",
    ),
    errors.CrossSiteRequest: ErrorSpec(
        403,
        "CGW.4033",
        "Cross-site request rejected. Use `gateway admin` or a same-origin page.",
    ),
    errors.CallerLimited: ErrorSpec(
        429, "CGW.4290", "You ask more often than you may; wait as Retry-After says."
    ),
    errors.BudgetExhausted: ErrorSpec(
        429,
        "CGW.4291",
        "The cloud's rate limit is used up for now; wait as Retry-After says.",
    ),
    errors.UpstreamRefused: ErrorSpec(400, "CGW.4001", "The cloud refused the request."),
    errors.UpstreamBusy: ErrorSpec(
        503, "CGW.5031", "The cloud is throttling; wait as Retry-After says."
    ),
    errors.UpstreamBroken: ErrorSpec(
        502, "CGW.5020", "The cloud's answer cannot be used; the operators are told."
    ),
    errors.UpstreamUnreachable: ErrorSpec(
        503, "CGW.5032", "The cloud cannot be reached; wait as Retry-After says."
    ),
    errors.UpstreamSlow: ErrorSpec(504, "CGW.5040", "The cloud did not answer in time; try again."),
    errors.ServiceLoginFailed: ErrorSpec(
        503,
        "CGW.5033",
        "The gateway cannot log in to the cloud; your token is fine, the operators are told.",
    ),
    errors.KeysUnavailable: ErrorSpec(
        503,
        "CGW.5034",
        "The identity provider's keys are not available; wait as Retry-After says.",
    ),
    errors.RevocationsUnavailable: ErrorSpec(
        503,
        "CGW.5037",
        "Revocations are not loaded on this replica yet. Retry after the number of seconds in"
        " Retry-After.",
    ),
    errors.UpstreamSuspended: ErrorSpec(
        503,
        "CGW.5036",
        "The cloud fails or is slow, so nothing is sent to it for a moment; "
        "wait as Retry-After says.",
    ),
    errors.AuditLogUnavailable: ErrorSpec(
        503, "CGW.5035", "The audit log cannot be written, so nothing is handed out."
    ),
    errors.DeadlineExceeded: ErrorSpec(504, "CGW.5041", "The request's time was up; try again."),
}

COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Server": "console-gateway",
}
"""Of every answer of either listener; aiohttp would name itself and its version."""
_INTEGER_MAX = 999_999_999_999_999
"""RFC 9651, 3.3.1."""

# RFC 6750, 3.1: what a client may know. `invalid_token` covers all that a new token would mend.
_CHALLENGE = 'Bearer realm="console-gateway"'
_DESCRIPTIONS = {
    Rejection.EXPIRED: "the token has expired: get a new one from your identity provider",
    Rejection.NOT_YET_VALID: "the token is not valid yet: send it again when its nbf and iat have"
    " passed",
    Rejection.TOO_OLD: "the token is too old: get a new one from your identity provider",
    Rejection.AMBIGUOUS: "the request bears two different tokens: send one of them",
    Rejection.MALFORMED: "the token is not a well-formed JWT: send the whole of it, and nothing"
    " else, as your identity provider gave it",
    Rejection.TOO_LARGE: "the token is too large: have your identity provider put less into it",
    Rejection.AUDIENCE: "the token is meant for another audience: get one from your identity"
    " provider that is meant for this gateway",
    Rejection.TOKEN_TYPE: "the token is not an access token: send the access token that your"
    " identity provider gave with it",
    Rejection.CLAIMS: "the token lacks a claim that is needed here: ask those who keep the gateway"
    " which",
    Rejection.CERTIFICATE: "the certificate has ended, or certificates were loaded anew since this"
    " connection was made: connect again",
    Rejection.FOREIGN_KEY: "the AK/SK are not of this gateway: send a JWT, or let the SDK fetch"
    " temporary ones with HUAWEICLOUD_SDK_IDP_ID and HUAWEICLOUD_SDK_ID_TOKEN_FILE",
    Rejection.ISSUED_KEY: "AK and X-Security-Token are not a pair of this gateway: fetch new ones",
    Rejection.ISSUED_KEY_EXPIRED: "the temporary AK/SK have expired: fetch new ones",
    Rejection.SUBJECT_TOKEN: "the subject token is not of this gateway:"
    " POST /v3.0/OS-AUTH/id-token/tokens gives one",
    Rejection.SIGNATURE_MALFORMED: "Authorization or X-Sdk-Date are not as SDK-HMAC-SHA256 has"
    " them, with Host and X-Sdk-Date among the SignedHeaders",
    Rejection.SIGNATURE_MISMATCH: "the request is not as its Authorization header says: a proxy"
    " may have changed Host, path or headers, or the SK is not the one that goes with the AK",
    Rejection.SIGNATURE_SKEW: "X-Sdk-Date is too far from the time here, which the Date header"
    " tells: set the clock of the machine that asks",
    Rejection.SIGNATURE_REPLAYED: "this very request was taken before: sign each write anew",
}


def render_error(error: GatewayError) -> ErrorResponse:
    wire = ERROR_TABLE[type(error)]
    status, code, message = wire.status, wire.code, wire.message
    headers: Headers = ()
    match error:
        case errors.NotAuthenticated():
            headers = (("WWW-Authenticate", _challenge(error.reason)),)
            message = _credential_message(error.reason, message)
        case errors.NotPermitted(refused=seen) if seen:
            message = f"{message} Refused among those that you may see: {', '.join(seen)}."
        case errors.MethodNotAllowed():
            headers = (("Allow", ", ".join(error.allowed)),)
            message = error.detail
        case errors.BadRequest():
            message = error.detail
        case errors.UpstreamRefused():
            status, code, message = error.status, error.error_code, error.error_msg
        case errors.RetryLater():
            headers = (("Retry-After", str(retry_after_seconds(error))),)
        case _:
            pass
    return ErrorResponse(status, code, error_body(code, message), headers)


def _credential_message(reason: Rejection, message: str) -> str:
    """Say what the challenge says: the vendor's SDK shows no headers."""
    if reason is Rejection.MISSING:
        return (
            "No token was sent: send your JWT as `Authorization: Bearer JWT`; /docs says for what."
        )
    described = _DESCRIPTIONS.get(reason)
    return message if described is None else f"The credential was not accepted: {described}."


def retry_after_seconds(error: RetryLater) -> int:
    return max(1, math.ceil(error.retry_after_s))


def rate_limit_policy_field(pace: Pace) -> str:
    """Return the value of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11)."""
    quota = int(min(pace.requests, _INTEGER_MAX))
    return f'"caller";q={quota};w={math.ceil(pace.per_s)}'


def rate_limit_field(remaining: Remaining) -> str:
    """Return the value of `RateLimit`, of the same draft."""
    return f'"caller";r={remaining.requests};t={remaining.restored_in_s}'


def error_body(code: str, message: str) -> bytes:
    return orjson.dumps({"error_code": code, "error_msg": message})


def _challenge(reason: Rejection) -> str:
    if reason is Rejection.MISSING:
        return _CHALLENGE  # RFC 6750, 3.1: no error code where no credential was sent
    description = _DESCRIPTIONS.get(reason, "the token is not accepted here")
    return f'{_CHALLENGE}, error="invalid_token", error_description="{description}"'


def _is_server_failure(kind: type[GatewayError], wire: ErrorSpec) -> bool:
    return wire.status >= 500 or kind is errors.BudgetExhausted


INTERNAL_ERROR = ErrorResponse(
    500,
    "CGW.5000",
    error_body("CGW.5000", "The gateway failed; the operators find it by the request id."),
    (),
)
SERVER_FAILURES = (
    (INTERNAL_ERROR.status, INTERNAL_ERROR.error_code),
    *(
        (wire.status, wire.code)
        for kind, wire in ERROR_TABLE.items()
        if _is_server_failure(kind, wire)
    ),
)
"""Statuses and codes of what is no mistake of the caller's."""
