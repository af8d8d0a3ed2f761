"""Everything that can end a request. `edge/error_table.py` maps each error to HTTP.

GatewayError
├── NotAuthenticated          who asks is not proved; `reason` is for the operator
├── BadRequest                the request is malformed; `detail` is for the caller
│   ├── OperationUnknown      no such path in the catalogue
│   ├── MethodNotAllowed      the path exists, the method does not
│   └── RequestTooLarge       headers, path or body over their bound
├── NotPermitted              forbidden, or no such server or project: never told apart
├── NotAdmin                  who asks the admin API is in none of its groups
├── CrossSiteRequest          a browser sent a page's cross-site request to the admin API
├── ServerIdsRequired             a call on several that names none, which may mean all
├── CallerLimited             this caller's own limit
├── BudgetExhausted           the account's budget cannot serve this by its deadline
├── UpstreamRefused           the cloud refuses what was asked; its own words are kept
├── UpstreamBusy              the cloud says 429
├── UpstreamSuspended         the cloud failed too often of late; nothing is sent for a while
├── UpstreamBroken            the cloud's answer cannot be used
├── UpstreamUnreachable       no connection, reset, or 503 and the like
├── UpstreamSlow              no answer in time
├── ServiceLoginFailed        we hold no service credential that the cloud takes
├── KeysUnavailable           an issuer's keys were never loaded or are too old
├── RevocationsUnavailable    this process has not loaded the revocations yet
├── JournalUnavailable        the audit record cannot be written
├── DeadlineExceeded          the request's own deadline passed
├── Draining                  this process is stopping
└── StoreUnavailable          Redis is away; never reaches a caller: the flow goes on without
"""

from enum import Enum

from gateway.domain.model import Principal


class GatewayError(Exception):
    """Base of all. Its text goes to the operator's log, never to the caller, never a secret."""

    out_of_time = False
    """It stopped one who had too little time, and says nothing of those who have more."""


class Rejection(Enum):
    """Why a credential was refused. The value is the metric label."""

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
    REVOKED = "revoked"
    CERTIFICATE = "certificate"
    """A client certificate that has ended since, or whose authorities were loaded anew since."""
    FOREIGN_KEY = "foreign_key"
    """Signed with an access key that is not of this gateway's making, and no JWT beside it."""
    ISSUED_KEY = "issued_key"
    """An access key and a security token that we did not hand out together, or cannot open."""
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
    ) -> None:
        """`detail` and `issuer` (our config's name for it) are for the operator's log.

        `principal` is whose token it is, where that is proved.
        """
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.issuer = issuer
        self.principal = principal


class BadRequest(GatewayError):
    def __init__(self, detail: str) -> None:
        """`detail` tells the caller what to correct. It must not contain input of the caller."""
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


class RequestTooLarge(BadRequest):
    def __init__(self, detail: str = "") -> None:
        """Without `detail` the response has the text of the error table."""
        super().__init__(detail)


class NotPermitted(GatewayError):
    def __init__(self, detail: str, *, rule: str = "", refused: tuple[str, ...] = ()) -> None:
        """`detail` tells the operator which denial decided, or that no grant does.

        `rule` is where that denial stands. `refused` are the servers on which this was not
        allowed and which the caller may see.
        """
        super().__init__(detail)
        self.rule = rule
        self.refused = refused


class NotAdmin(GatewayError):
    pass


class CrossSiteRequest(GatewayError):
    pass


class ServerIdsRequired(GatewayError):
    """The cloud may take an empty or absent set of ids for all, or for any."""


class RetryLater(GatewayError):
    """Asking again makes sense, after `retry_after_s` seconds."""

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
    """False: there was no connection, so nothing can have been done."""


class UpstreamSlow(GatewayError):
    pass


class ServiceLoginFailed(RetryLater):
    pass


class KeysUnavailable(RetryLater):
    pass


class RevocationsUnavailable(RetryLater):
    pass


class AuditLogUnavailable(RetryLater):
    pass


class DeadlineExceeded(GatewayError):
    out_of_time = True


class StoreUnavailable(GatewayError):
    pass
