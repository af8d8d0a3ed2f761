"""The state of one request: what the edge has read, and what the stages have found so far."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from gateway.domain.identity.sdk_signature import IncomingRequest
from gateway.domain.model import Principal, ResolvedCall
from gateway.flow.context import RequestTrace


@dataclass(slots=True, kw_only=True, repr=False)
class RequestContext:
    """The state that requests of all kinds share."""

    request_id: str
    client_address: str
    deadline: float
    """Monotonic seconds."""
    trace: RequestTrace | None = None
    """None: the request is not traced."""
    principal: Principal | None = None
    """Set by stage identify."""
    call: ResolvedCall | None = None
    """Set by stage resolve, and again when the servers of its instances are known."""
    access_key: str = ""
    """Access key of the issued key pair that signed the request; empty without a signature."""
    is_admitted: bool = False
    """The request is counted in the caller's rate limit."""
    has_fresh_login: bool = True
    """False: the login of the browser's session is older than `login.fresh_s`."""
    login: str = ""
    """`BrowserSession.lineage`; empty without a browser's session."""
    recheck_session: Callable[[], Awaitable[None]] | None = None
    """Raises LoginRequired if the browser's session has ended meanwhile; None without a session."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.request_id})"

    def enter(self, stage: str) -> None:
        """Begin a stage in the request's trace."""
        if self.trace is not None:
            self.trace.enter(stage)


@dataclass(slots=True, kw_only=True, repr=False)
class ApiRequest(RequestContext):
    """A request for an operation of the cloud's API."""

    authorization: Sequence[str]
    """Every value of the header, as in `x_auth_token` and `x_security_token`."""
    x_auth_token: Sequence[str]
    method: str
    target: str
    has_body: bool
    read_body: Callable[[int], Awaitable[bytes]]
    """Reads the whole body, up to a number of bytes; raises RequestTooLarge above it."""
    fresh: bool
    """The caller sent `Cache-Control: no-cache`."""
    headers: Iterable[tuple[str, str]]
    """The caller's headers; few of them are forwarded."""
    x_security_token: Sequence[str] = ()
    body: bytes | None = None
    """Set when the body was read to verify the signature; None: not read yet."""
    signed: IncomingRequest | None = None
    """The signed write, which is accepted once; None: not signed, or a read."""
    identify_s: float = 0.0
    """Duration of stage identify."""
    identified_at: float = 0.0
    """Monotonic seconds: the end of stage identify."""
