"""Everything that can end a request. `edge/error_table.py` maps each error to HTTP.

GatewayError
├── NotAuthenticated          the credential is missing or invalid; `reason` is for operators
│   └── PersonLocked          an administrator has locked the person or one of their groups
├── LoginFailed               a login in a browser failed; `problem` is for the person
├── LoginRequired             the browser has no session, or it has ended
├── FreshLoginRequired        the login is too long ago for this action
├── BadRequest                the request is malformed; `detail` is for the caller
│   ├── OperationUnknown      the path is not in the catalogue
│   ├── MethodNotAllowed      the path exists with other methods
│   ├── UnsupportedMediaType  the body is declared as something other than JSON in UTF-8
│   ├── TooManyHeaders        the request has more headers than the parser accepts
│   ├── HttpVersionUnsupported  neither HTTP/1.1 nor HTTP/1.0
│   └── RequestTooLarge       request line, headers or body exceed their limit
├── NotPermitted              forbidden, or no such server or project: indistinguishable
├── NotAdmin                  the caller of the admin API lacks the admin permission
├── CrossSiteRequest          a browser sent a request from a page of another site
├── SessionCookieMissing      the page does not have the cookie of the live console
├── ServerIdsRequired         an operation on several servers, without an ID
├── CallerLimited             the rate limit per person is exceeded
├── BudgetExhausted           the account's budget cannot serve the request by its deadline
├── UpstreamRefused           the cloud rejected the request; its code and message are kept
├── UpstreamBusy              the cloud answered 429
├── UpstreamSuspended         the circuit breaker is open
├── UpstreamBroken            the cloud's response cannot be used
├── UpstreamUnreachable       no connection to the cloud, or its 500, 502, 503 or 504
├── UpstreamSlow              the cloud did not respond in time
├── ServiceLoginFailed        the gateway has no credential that the cloud accepts
├── KeysUnavailable           an issuer's keys were never loaded or are too old
├── RevocationsUnavailable    this process has not loaded the revocations yet
├── LoginUnavailable          sessions of browsers cannot be read, or the provider does not answer
├── AuditLogUnavailable       the audit record could not be written
├── TicketRejected            the ticket of a live console is spent, expired or forged
├── TicketOfAnotherPerson     the browser is logged in as another person than the ticket's
├── ConsoleBusy               another session has the server's keyboard
├── SessionLimitReached       a limit on live consoles forbids one more session
├── ConsoleUnavailable        the cloud's console cannot be reached
├── ConsoleStoreUnavailable   the tickets of other processes cannot be read at the moment
├── AccessRequestNotFound     no such access request, or the caller may not see it
├── AccessRequestForbidden    the caller may not take this step of an access request
├── AccessRequestConflict     the access request is not in a state for this step
├── AccessRequestLimited      a limit on access requests is reached
├── AccessRequestsUnavailable  access requests cannot be read or stored at the moment
├── DeadlineExceeded          the request's own deadline passed
└── StoreUnavailable          Redis is unavailable; never sent to a caller
"""

from collections.abc import Sequence
from enum import Enum

from gateway.domain.consoles.model import InUse
from gateway.domain.login.model import LoginProblem
from gateway.domain.model import Principal


class GatewayError(Exception):
    """The base class. Its text is for the log, not for the caller, and contains no secret."""

    out_of_time = False
    """Caused by the request's own deadline: a request with more time may succeed."""


class Rejection(Enum):
    """The reason why a credential was rejected. The value is the metric label."""

    MISSING = "missing"
    AMBIGUOUS = "ambiguous"
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    ISSUER_UNKNOWN = "issuer_unknown"
    ALGORITHM = "algorithm"
    KEY_UNKNOWN = "key_unknown"
    SIGNATURE = "signature"
    CRITICAL_HEADER = "critical_header"
    TOKEN_TYPE = "token_type"  # noqa: S105 - a metric label
    AUDIENCE = "audience"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    TOO_OLD = "too_old"
    CLAIMS = "claims"
    GROUPS_MISSING = "groups_missing"
    REVOKED = "revoked"
    LOCKED = "locked"
    CERTIFICATE = "certificate"
    """The certificate expired, or the trusted authorities were reloaded, after the handshake."""
    FOREIGN_KEY = "foreign_key"
    """Signed with an access key that the gateway did not issue, and without a JWT."""
    ISSUED_KEY = "issued_key"
    """The access key and the security token are not a pair, or cannot be decrypted."""
    ISSUED_KEY_EXPIRED = "issued_key_expired"
    SUBJECT_TOKEN = "subject_token"  # noqa: S105 - a metric label
    SIGNATURE_MALFORMED = "signature_malformed"
    SIGNATURE_MISMATCH = "signature_mismatch"
    SIGNATURE_SKEW = "signature_skew"
    SIGNATURE_REPLAYED = "signature_replayed"


class NotAuthenticated(GatewayError):
    def __init__(
        self,
        reason: Rejection,
        detail: str = "",
        *,
        issuer: str | None = None,
        principal: Principal | None = None,
        is_overage: bool = False,
    ) -> None:
        """`detail` and `issuer` (its name in the config) are for the log.

        `principal` is the person that the token was verified for, if it was. `is_overage`: the
        issuer left the groups out because there are too many.
        """
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.issuer = issuer
        self.principal = principal
        self.is_overage = is_overage


class PersonLocked(NotAuthenticated):
    """The credential is valid, but another one would not help: the person is kept out."""

    def __init__(self, principal: Principal, lock: str) -> None:
        """`lock` is the ID of the override."""
        super().__init__(
            Rejection.LOCKED, f"lock {lock}", issuer=principal.issuer, principal=principal
        )


class LoginFailed(GatewayError):
    def __init__(self, problem: LoginProblem, detail: str) -> None:
        """`problem` is for the person, `detail` for the log."""
        super().__init__(f"{problem.name}: {detail}" if detail else problem.name)
        self.problem = problem


class LoginRequired(GatewayError):
    """The browser has no session, or one that has ended."""


class FreshLoginRequired(GatewayError):
    """The session's login is too long ago for this action."""


class BadRequest(GatewayError):
    def __init__(self, detail: str) -> None:
        """`detail` says what the caller must correct. It must not contain the caller's input."""
        super().__init__(detail)
        self.detail = detail


class OperationUnknown(BadRequest):
    def __init__(self, detail: str = "") -> None:
        """Without `detail` the response has the text of the error table."""
        super().__init__(detail)


class MethodNotAllowed(BadRequest):
    def __init__(self, *, allowed: tuple[str, ...]) -> None:
        super().__init__("")
        self.allowed = allowed


class UnsupportedMediaType(BadRequest):
    def __init__(self) -> None:
        super().__init__("")


class TooManyHeaders(BadRequest):
    def __init__(self) -> None:
        super().__init__("")


class HttpVersionUnsupported(BadRequest):
    def __init__(self) -> None:
        super().__init__("")


class RequestTooLarge(BadRequest):
    def __init__(self, detail: str = "") -> None:
        """Without `detail` the response has the text of the error table."""
        super().__init__(detail)


class NotPermitted(GatewayError):
    def __init__(
        self,
        detail: str,
        *,
        rule: str = "",
        refused: tuple[str, ...] = (),
        permission: str = "",
    ) -> None:
        """`detail` is for the log: the denial that decided, or that no grant applies.

        `rule` is the denial's file and line. `refused` are the servers that the policy denied and
        that the caller may see. `permission` is the one that is lacking; "" is the operation's.
        """
        super().__init__(detail)
        self.rule = rule
        self.refused = refused
        self.permission = permission
        self.may_request = False
        """The person may request the permission of the operation, whatever the server."""


class NotAdmin(GatewayError):
    def __init__(self, required: str) -> None:
        """Name in `required` the missing permission, or those of which one is required."""
        super().__init__(f"requires the admin permission {required}")
        self.required = required


class CrossSiteRequest(GatewayError):
    pass


class ServerIdsRequired(GatewayError):
    """The cloud may treat an empty or absent set of IDs as all servers, or as any."""


class RetryLater(GatewayError):
    """The same request may succeed after `retry_after_s` seconds."""

    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class CallerLimited(RetryLater):
    pass


class BudgetExhausted(RetryLater):
    out_of_time = True


class UpstreamRefused(GatewayError):
    def __init__(self, status: int, error_code: str, error_msg: str) -> None:
        super().__init__(f"upstream answered {status} {error_code}")
        self.status = status
        self.error_code = error_code
        self.error_msg = error_msg


class UpstreamBusy(RetryLater):
    pass


class UpstreamSuspended(RetryLater):
    pass


class UpstreamBroken(GatewayError):
    pass


class UpstreamUnreachable(RetryLater):
    was_connected = True
    """False: the connection failed, so the cloud did not execute the request."""


class UpstreamSlow(GatewayError):
    pass


class ServiceLoginFailed(RetryLater):
    pass


class KeysUnavailable(RetryLater):
    pass


class RevocationsUnavailable(RetryLater):
    pass


class LoginUnavailable(RetryLater):
    pass


class AuditLogUnavailable(RetryLater):
    pass


class TicketRejected(GatewayError):
    def __init__(self, detail: str, *, is_genuine: bool) -> None:
        """`is_genuine`: a replica made the ticket, so its rejection has an audit record."""
        super().__init__(detail)
        self.is_genuine = is_genuine


class TicketOfAnotherPerson(GatewayError):
    """The browser is logged in as another person than the ticket's."""


class ConsoleBusy(GatewayError):
    def __init__(self, in_use: InUse) -> None:
        super().__init__("another session has the console")
        self.in_use = in_use


class SessionCookieMissing(GatewayError):
    pass


class SessionLimitReached(GatewayError):
    def __init__(self, limit: str) -> None:
        """`limit` names it: `person`, `viewers`, `account` or `total`."""
        super().__init__(f"limit {limit}")
        self.limit = limit


class ConsoleUnavailable(GatewayError):
    def __init__(self, detail: str, *, was_reached: bool = False, was_silent: bool = False) -> None:
        """`detail` is for the page as well: neither URL nor token, nor text of the peer.

        `was_reached`: the cloud gave no greeting of RFB, so another shape may work. `was_silent`:
        it gave no answer at all until the time-out.
        """
        super().__init__(detail)
        self.detail = detail
        self.was_reached = was_reached
        self.was_silent = was_silent


class RecordingNotFound(GatewayError):
    """Also raised where the right is missing: the caller sees no difference."""


class RecordingUnavailable(GatewayError):
    def __init__(self, detail: str) -> None:
        """`detail` is for the caller, who may view the recording."""
        super().__init__(detail)
        self.detail = detail


class RecordingElsewhere(GatewayError):
    """Another host has the files; the caller may view the recording."""

    def __init__(self, hosts: Sequence[str], gone: Sequence[str] = ()) -> None:
        """`gone`: those of `hosts` from which no gateway reports any more."""
        super().__init__(f"the recording is on {', '.join(hosts)}")
        self.hosts = tuple(hosts)
        self.gone = tuple(gone)


class ConsoleStoreUnavailable(RetryLater):
    pass


class AccessRequestNotFound(GatewayError):
    pass


class AccessRequestForbidden(GatewayError):
    def __init__(self, detail: str) -> None:
        """`detail` is for the caller. It must not contain the caller's input."""
        super().__init__(detail)
        self.detail = detail


class AccessRequestConflict(GatewayError):
    def __init__(self, detail: str) -> None:
        """`detail` is for the caller, as above."""
        super().__init__(detail)
        self.detail = detail


class AccessRequestLimited(RetryLater):
    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        """`detail` is for the caller."""
        super().__init__(detail, retry_after_s=retry_after_s)
        self.detail = detail


class AccessRequestsUnavailable(RetryLater):
    pass


class DeadlineExceeded(GatewayError):
    out_of_time = True


class StoreUnavailable(GatewayError):
    pass
