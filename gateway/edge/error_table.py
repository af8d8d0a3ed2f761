"""Every error code that a caller may receive: one text each, for the wire, OpenAPI and the docs.

`docs/reference/errors.md` is generated from this table. A message says what is wrong and what to
do; it contains no input of the caller and nothing that the cloud did not send to this caller.
"""

from typing import Final

from gateway.domain import errors
from gateway.domain.errors import GatewayError
from gateway.edge.access_request_errors import ACCESS_REQUEST_ERRORS
from gateway.edge.error_spec import (
    AFTER,
    LATER,
    NO_ACTION,
    ONCE_CHECKED,
    ErrorSpec,
)

INTERNAL_ERROR: Final = ErrorSpec(
    500,
    "CGW.5000",
    "Internal error. Report the X-Request-Id of this response to the operators.",
    cause="A defect of the gateway.",
    retry=f"once{ONCE_CHECKED}",
    caller_action="Report the `X-Request-Id` to the operators.",
    operator_action="Find the log event `request_failed` with this request ID; it has the stack"
    " trace. Report it as a bug.",
    alerts=("ConsoleGatewayInternalErrors",),
)

ERROR_TABLE: Final[dict[type[GatewayError], ErrorSpec]] = {
    errors.BadRequest: ErrorSpec(
        400,
        "CGW.4000",
        "Malformed request. Correct it and send it again.",
        cause="The path, the query, a header or the body is invalid for the operation.",
        caller_action="Correct what `error_msg` names.",
        operator_action=NO_ACTION,
    ),
    errors.UpstreamRefused: ErrorSpec(
        400,
        "CGW.4001",
        "The cloud rejected the request.",
        cause="The cloud rejected a permitted request. The response has the cloud's own status,"
        " `error_code` and `error_msg`; the code CGW.4001 itself is not sent.",
        caller_action="Look up the code in the cloud's API reference.",
        operator_action=NO_ACTION,
    ),
    errors.NotAuthenticated: ErrorSpec(
        401,
        "CGW.4010",
        "The credential was rejected. Get a new token from your identity provider.",
        cause="The token, signature or client certificate is missing, invalid, expired or"
        " revoked. `WWW-Authenticate` has the reason unless it would help an attacker.",
        caller_action="Get a new token, unless `error_msg` names another fault: then correct that.",
        operator_action="Read `reason` in the log event `request` with this request ID.",
        alerts=(
            "ConsoleGatewayMostTokensRejected",
            "ConsoleGatewayForgedTokens",
            "ConsoleGatewayRevokedTokens",
            "ConsoleGatewayReplayedSignatures",
        ),
    ),
    errors.NotPermitted: ErrorSpec(
        403,
        "CGW.4030",
        "Not permitted on this server, or no such server. "
        "Request access from the administrators of the gateway's policy.",
        cause="No grant of the policy applies, a denial applies, or the server or project does"
        " not exist. The response is the same in each case.",
        caller_action="Check the project and server ID, then request access.",
        operator_action="Run `gateway explain` for the person, the permission and the server. Add a"
        " grant if access is intended.",
        alerts=("ConsoleGatewayManyDenials",),
    ),
    errors.ServerIdsRequired: ErrorSpec(
        403,
        "CGW.4031",
        "Specify at least one server or instance ID. An empty set is rejected because the cloud"
        ' may treat it as "all".',
        cause="A request of an operation on several servers contains no ID.",
        caller_action="Name each server or instance in the request.",
        operator_action=NO_ACTION,
    ),
    errors.NotAdmin: ErrorSpec(
        403,
        "CGW.4032",
        "The gateway's config grants admin permissions to groups (`admin.api.groups`) and to"
        " certificates (`admin.api.certificates`).",
        cause="The admin API was called with a valid credential that lacks the permission of this"
        " action, or has none. `error_msg` begins with the missing permission.",
        caller_action="Ask an administrator who has the permission.",
        operator_action="If access is intended, add the permission for one of the person's groups,"
        " or for the certificate's subject, to the config.",
        alerts=("ConsoleGatewayAdminAccessDenied",),
    ),
    errors.CrossSiteRequest: ErrorSpec(
        403,
        "CGW.4033",
        "Cross-site request rejected. Use `gateway admin` or a same-origin page.",
        cause="A browser called the admin API or a live console from a page of another site, or"
        " `listen.public_url` or `admin.public_url` is not the address that browsers use, or the"
        " page's token is that of an earlier login in this browser.",
        caller_action="Use `gateway admin` or a same-origin page.",
        operator_action="Find out which page sent the request; it may be an attack (CSRF).",
        alerts=("ConsoleGatewayAdminAccessDenied",),
    ),
    errors.PersonLocked: ErrorSpec(
        403,
        "CGW.4034",
        "Your access is locked. Contact the administrators of the gateway; a new token does not"
        " help.",
        cause="An administrator has locked the person or one of their groups.",
        caller_action="Contact the administrators of the gateway.",
        operator_action="List the locks with `gateway admin locks`. Lift the one that no longer"
        " applies with `gateway admin unlock ID`.",
        alerts=("ConsoleGatewayLockedPersons",),
    ),
    errors.OperationUnknown: ErrorSpec(
        404,
        "CGW.4040",
        "Unknown operation. /docs lists the supported operations.",
        cause="The path is not in the catalogue of operations, or the config disables it.",
        caller_action="Compare the path with /docs.",
        operator_action="If the operation is intended, add it to `operations.add`, or remove it"
        " from `operations.disable`.",
    ),
    errors.MethodNotAllowed: ErrorSpec(
        405,
        "CGW.4050",
        "Method not allowed on this path. Use a method in the Allow header.",
        cause="The path exists with other methods.",
        caller_action="Use a method in the `Allow` header.",
        operator_action=NO_ACTION,
    ),
    errors.RequestTooLarge: ErrorSpec(
        413,
        "CGW.4130",
        "Request too large. Shorten the request line, the headers or the body.",
        cause="The request line exceeds 8,190 bytes, a header exceeds 65,536 bytes, or the body"
        " exceeds `body_bytes_max` of the operation.",
        caller_action="Send less.",
        operator_action=NO_ACTION,
    ),
    errors.UnsupportedMediaType: ErrorSpec(
        415,
        "CGW.4150",
        "Unsupported media type. Send the body with Content-Type: application/json.",
        cause="The body's `Content-Type` is not `application/json`, or names a `charset` other"
        " than UTF-8. The cloud could read other IDs in it than the gateway.",
        caller_action="Send JSON in UTF-8 with `Content-Type: application/json`.",
        operator_action=NO_ACTION,
    ),
    errors.TooManyHeaders: ErrorSpec(
        431,
        "CGW.4310",
        "Too many headers. Send at most 128.",
        cause="The request has more than 128 headers.",
        caller_action="Send fewer headers.",
        operator_action="Check the proxies in front of the gateway if no client sends so many.",
    ),
    errors.CallerLimited: ErrorSpec(
        429,
        "CGW.4290",
        f"Rate limit exceeded. {LATER}",
        cause="The caller exceeds the rate limit per person (`caller_limits`).",
        retry=AFTER,
        caller_action="Send fewer requests. `RateLimit` and `RateLimit-Policy` have the limit.",
        operator_action="Raise `caller_limits` if the load is intended.",
    ),
    errors.BudgetExhausted: ErrorSpec(
        429,
        "CGW.4291",
        f"The cloud's rate limit is exhausted. {LATER}",
        cause="The queue for the account's upstream budget is longer than the request may wait,"
        " or the caller has too many downloads in progress.",
        retry=AFTER,
        caller_action="Wait. More requests do not yield a larger share.",
        operator_action="Compare the budget (`accounts[].budget`) with the cloud's real limit. For"
        " downloads, `accounts[].streams_max` is the bound.",
        alerts=("ConsoleGatewayBudgetExhausted", "ConsoleGatewayUpstreamThrottled"),
    ),
    errors.UpstreamBroken: ErrorSpec(
        502,
        "CGW.5020",
        "Unexpected response from the cloud. Report the X-Request-Id to the operators.",
        cause="The cloud's response cannot be used: it is malformed or too large, or it is a"
        " 403 for the service account, or a console link to a host outside `links.console_hosts`.",
        caller_action="Report the `X-Request-Id` to the operators.",
        operator_action="Read `detail` in the log event `request` with this request ID.",
        alerts=("ConsoleGatewayUpstreamFailing", "ConsoleGatewayUpstreamRejectsAccount"),
    ),
    errors.UpstreamBusy: ErrorSpec(
        503,
        "CGW.5031",
        f"The cloud throttles requests. {LATER}",
        cause="The cloud answered 429, and the gateway has no attempt left for this request.",
        retry=AFTER,
        caller_action="Wait.",
        operator_action="Lower the budget (`accounts[].budget`), or find other users of the"
        " service account.",
        alerts=("ConsoleGatewayUpstreamThrottled",),
    ),
    errors.UpstreamUnreachable: ErrorSpec(
        503,
        "CGW.5032",
        f"The cloud is unavailable. {LATER}",
        cause="The connection to the cloud failed, or the cloud answered 500, 502, 503 or 504.",
        retry=AFTER + ONCE_CHECKED,
        caller_action="Wait.",
        operator_action="Check the cloud's status page, DNS, firewall and egress proxy with"
        " `gateway check --online`.",
        alerts=("ConsoleGatewayUpstreamFailing",),
    ),
    errors.ServiceLoginFailed: ErrorSpec(
        503,
        "CGW.5033",
        f"The gateway cannot log in to the cloud; your own credential is valid. {LATER}",
        cause="The cloud rejects the service account's credential, or its IAM is unavailable.",
        retry=AFTER,
        caller_action="Wait.",
        operator_action="Check the password, the AK/SK pair or the token file of the account."
        " Repeated manual logins can lock the account.",
        alerts=(
            "ConsoleGatewayServiceLoginRejected",
            "ConsoleGatewayServiceLoginFailing",
            "ConsoleGatewayUpstreamRejectsAccount",
        ),
    ),
    errors.KeysUnavailable: ErrorSpec(
        503,
        "CGW.5034",
        f"The identity provider's signing keys are unavailable. {LATER}",
        cause="The issuer's keys were never loaded, or are older than `keys_age_max_s`; or the "
        "token's `kid` is unknown and the keys could not be refreshed.",
        retry=AFTER,
        caller_action="Wait.",
        operator_action="Check that the gateway reaches the issuer's discovery document and JWKS.",
        alerts=("ConsoleGatewayKeysNearlyExpired", "ConsoleGatewayKeysStale"),
    ),
    errors.AuditLogUnavailable: ErrorSpec(
        503,
        "CGW.5035",
        f"The audit log is unavailable, so the gateway rejects requests. {LATER}",
        cause="The audit record could not be written durably within its time limit.",
        retry=AFTER,
        caller_action="Wait.",
        operator_action="Check space, permissions and latency of the audit log's disk or Redis.",
        alerts=("ConsoleGatewayAuditNotDurable", "ConsoleGatewayAuditLag"),
    ),
    errors.UpstreamSuspended: ErrorSpec(
        503,
        "CGW.5036",
        f"Requests to the cloud are suspended because it fails or is slow. {LATER}",
        cause="The account's circuit breaker is open: too many recent requests failed or were"
        " slower than `accounts[].breaker.slow_s`.",
        retry=AFTER,
        caller_action="Wait.",
        operator_action="Find out why the cloud fails. A successful probe closes the breaker.",
        alerts=("ConsoleGatewayBreakerOpen", "ConsoleGatewayBreakerFlapping"),
    ),
    errors.RevocationsUnavailable: ErrorSpec(
        503,
        "CGW.5037",
        f"Revocations are not loaded on this replica yet. {LATER}",
        cause="The replica started without Redis and without a complete `overrides.file`, so it"
        " cannot know which tokens are revoked.",
        retry=AFTER,
        caller_action="Wait.",
        operator_action="Restore Redis, and set `overrides.file`.",
        alerts=("ConsoleGatewayOverridesNotLoaded",),
    ),
    errors.LoginUnavailable: ErrorSpec(
        503,
        "CGW.5039",
        f"Logins are unavailable at the moment. {LATER}",
        cause="Redis is unavailable, or the issuer has not answered for 2 minutes after the"
        " session's tokens had to be refreshed.",
        retry=AFTER,
        caller_action="Wait, or use a JWT. Consoles that are open go on.",
        operator_action="Check Redis, and the log event `login_refresh_failed`.",
    ),
    errors.UpstreamSlow: ErrorSpec(
        504,
        "CGW.5040",
        "The cloud did not respond in time. Try again.",
        cause="The cloud did not respond within `accounts[].timeouts`.",
        retry=f"at once{ONCE_CHECKED}",
        caller_action="Try again.",
        operator_action="Check the cloud's latency.",
        alerts=("ConsoleGatewayUpstreamFailing",),
    ),
    errors.DeadlineExceeded: ErrorSpec(
        504,
        "CGW.5041",
        "The request exceeded its deadline. Try again.",
        cause="The request took longer than `request.deadline_s`, or than `Prefer: wait`.",
        retry=f"at once{ONCE_CHECKED}",
        caller_action="Try again, with a longer `Prefer: wait` if the request had one.",
        operator_action="Look at the latency by stage; it shows what the request waited for.",
        alerts=("ConsoleGatewayQueueLong", "ConsoleGatewayEventLoopLag"),
    ),
    errors.HttpVersionUnsupported: ErrorSpec(
        505,
        "CGW.5050",
        "HTTP version not supported. Use HTTP/1.1.",
        cause="The request line names a version other than HTTP/1.1 and HTTP/1.0.",
        caller_action="Use HTTP/1.1.",
        operator_action="Configure the proxy in front of the gateway to use HTTP/1.1 to it.",
    ),
    errors.ConsoleBusy: ErrorSpec(
        409,
        "CGW.4090",
        "Another session has this console. Wait for its end, watch it, or take it over if you may.",
        cause="The server has as many live consoles with keyboard as the config allows.",
        caller_action="Agree with the person who has the console, or open it view-only.",
        operator_action="List the sessions with `gateway admin consoles`. End one if the server is"
        " needed.",
    ),
    errors.SessionCookieMissing: ErrorSpec(
        403,
        "CGW.4035",
        "This page does not have the cookie of the live console. Request a new address.",
        cause="Another browser started the session, the session is over, or cookies are blocked.",
        caller_action="Use the tab in which the console was opened, or request a new address.",
        operator_action="Check that proxies pass `Cookie` and `Set-Cookie` unchanged.",
    ),
    errors.LoginRequired: ErrorSpec(
        401,
        "CGW.4011",
        "Not logged in, or the session has ended. Log in again.",
        cause="A page used the session of its browser, which has none, or whose session has ended:"
        " idle for `login.idle_s`, older than `login.absolute_s`, logged out, revoked, or ended by"
        " the issuer. The pages of the admin listener have both times in `admin.login`.",
        caller_action="Log in again. Programs send a JWT to the paths without `/ui`.",
        operator_action="The audit record `logout` has the reason, except for time limits.",
    ),
    errors.FreshLoginRequired: ErrorSpec(
        403,
        "CGW.4036",
        "This action requires a recent login. Log in again.",
        cause="The login at the issuer is older than `login.fresh_s`, or the issuer does not send"
        " `auth_time`.",
        caller_action="Log in again; the page offers it.",
        operator_action="The issuer must honor `max_age`.",
    ),
    errors.LoginFailed: ErrorSpec(
        403,
        "CGW.4037",
        "The login was rejected. Start again.",
        cause="A login with a browser failed. The page says why, and the log event `login_failed`"
        " has the details.",
        caller_action="Follow the page.",
        operator_action="Read `error` in the log event `login_failed`.",
    ),
    errors.TicketOfAnotherPerson: ErrorSpec(
        403,
        "CGW.4038",
        "This address is for another person than the one who is logged in. Log out and log in as"
        " that person, or request an address of your own.",
        cause="A one-time address opens only for the person who requested it, in a browser in which"
        " another person is logged in.",
        caller_action="Request an address of your own.",
        operator_action="The audit record `console_ticket_rejected` names both people. If neither"
        " knows the other, an address has leaked.",
    ),
    errors.SessionLimitReached: ErrorSpec(
        409,
        "CGW.4091",
        "The limit on live consoles is reached. End another session, or wait until one ends.",
        cause="A limit per person, of viewers, per account or in all is reached.",
        caller_action="End another session, or wait until one ends.",
        operator_action="List the sessions. Raise the limit in section `console` of the config if"
        " it is too low.",
    ),
    errors.RecordingNotFound: ErrorSpec(
        404,
        "CGW.4048",
        "No recording with this ID that you may view. You may lack `recording:view` on its server"
        " (and `recording:keys` for keystrokes), or it may be older than the gateway keeps"
        " recordings.",
        cause="The recording does not exist, was removed by retention, or the caller lacks"
        " `recording:view` on its server (`recording:keys` for keystrokes). Without Redis, also a"
        " recording of another host.",
        caller_action="Check the ID. Request access to the recordings of this server.",
        operator_action="Look in `recordings.directory` of each host; read the audit records"
        " `refused` with this request ID.",
    ),
    errors.RecordingUnavailable: ErrorSpec(
        409,
        "CGW.4092",
        "This recording cannot be played now. If it is in progress, try again after the session has"
        " ended; otherwise report the X-Request-Id to the operators.",
        cause="The session has not ended, the gateway lacks the key that encrypted the recording,"
        " the recording was changed, or its files cannot be read. `error_msg` names the cause.",
        caller_action="If the recording is in progress, play it when the session has ended."
        " Otherwise report the request ID to the operators.",
        operator_action="Run `gateway recordings verify`. Restore a missing key in"
        " `recordings.keys`.",
    ),
    errors.RecordingElsewhere: ErrorSpec(
        409,
        "CGW.4094",
        "Another host has the files of this recording. Report the request ID to the operators.",
        cause="Replicas do not share `recordings.directory`. `error_msg` names the host.",
        caller_action="Report the request ID to the operators.",
        operator_action="Send the request to a replica on that host, or share the directory.",
    ),
    errors.TicketRejected: ErrorSpec(
        410,
        "CGW.4100",
        "This address was used already or has expired. Request a new one.",
        cause="The ticket is spent, older than 60 s (10 minutes if a browser parked it for a login:"
        " `console.browser_login: required`), replaced by newer ones, or forged.",
        caller_action="Request a new address.",
        operator_action="Read the audit records `console_ticket_rejected`.",
    ),
    errors.ConsoleUnavailable: ErrorSpec(
        502,
        "CGW.5021",
        "The cloud's console cannot be reached. Request a new address; if it happens again, report"
        " the request ID to the operators.",
        cause="The connection to the cloud's console failed, or an address check forbids it.",
        caller_action="Request a new address.",
        operator_action="Check DNS, firewall, egress proxy and `console.private_networks`.",
    ),
    errors.ConsoleStoreUnavailable: ErrorSpec(
        503,
        "CGW.5038",
        f"Live consoles of other processes are unavailable here at the moment. {LATER}",
        cause="Redis is unavailable, and another process of the gateway has this ticket or"
        " session.",
        retry=AFTER,
        caller_action="Wait: the page retries by itself.",
        operator_action="Check Redis.",
    ),
    **ACCESS_REQUEST_ERRORS,
}

ERROR_SPECS: Final = tuple(
    sorted((*ERROR_TABLE.values(), INTERNAL_ERROR), key=lambda spec: (spec.status, spec.code))
)


def _is_server_failure(kind: type[GatewayError], spec: ErrorSpec) -> bool:
    if issubclass(kind, errors.BadRequest):  # 505 is the client's fault
        return False
    return spec.status >= 500 or kind is errors.BudgetExhausted


SERVER_FAILURES: Final = (
    (INTERNAL_ERROR.status, INTERNAL_ERROR.code),
    *(
        (spec.status, spec.code)
        for kind, spec in ERROR_TABLE.items()
        if _is_server_failure(kind, spec)
    ),
)
"""Statuses and codes that count against the service level objectives."""
