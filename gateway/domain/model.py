"""The data types of the gateway. Pure."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from hmac import compare_digest
from http import HTTPStatus
from typing import Any, Final, Literal, NamedTuple, NewType, NoReturn, Protocol

import msgspec

Headers = tuple[tuple[str, str], ...]
"""Names and values, in order."""
ProjectId = NewType("ProjectId", str)
ServerId = NewType("ServerId", str)
SERVER_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The form of a ServerId: lower case, so each server has one spelling."""
InstanceId = NewType("InstanceId", str)
"""An instance is installed on a server and has an ID that differs from the server's."""

CONSOLE_OPEN: Final = "console:open"
CONSOLE_VIEW: Final = "console:view"
"""View-only; only where live consoles run through the gateway: a cloud's URL is a keyboard."""
CONSOLE_TAKEOVER: Final = "console:takeover"
"""End another person's live console in order to open it."""
RECORDING_VIEW: Final = "recording:view"
"""View and export the recordings of a server's live consoles, one's own included."""
RECORDING_KEYS: Final = "recording:keys"
"""See the recorded keystrokes, besides `recording:view`."""
SERVER_POWER: Final = "server:power"
SERVER_READ: Final = "server:read"
SERVER_TAG: Final = "server:tag"
"""Separate from other writes, because grants can select servers by tag."""
SERVER_TAG_POLICY: Final = "server:tag_policy"
"""Required besides `server:tag` to write a tag whose key a rule of the policy uses."""
PERMISSIONS: Final = frozenset(
    {
        CONSOLE_OPEN,
        CONSOLE_VIEW,
        CONSOLE_TAKEOVER,
        SERVER_READ,
        SERVER_POWER,
        "server:logs",
        SERVER_TAG,
        SERVER_TAG_POLICY,
        "instance:read",
        "instance:create",
        "instance:delete",
        "instance:reinstall",
        "instance:password",
        "instance:network",
        "site:read",
        "site:write",
        RECORDING_VIEW,
        RECORDING_KEYS,
    }
)
EXPLICIT_PERMISSIONS: Final = frozenset({SERVER_TAG_POLICY, RECORDING_VIEW, RECORDING_KEYS})
"""A role has them only if it names them: `all` in a role does not include them."""


SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
"""The safe methods of RFC 9110, 9.2.1 that the gateway serves."""


def is_ok(status: int) -> bool:
    """Return whether a status is 200, or a 2xx that is not registered (RFC 9110, 15)."""
    return status == HTTPStatus.OK or (200 < status < 300 and status not in _REGISTERED_STATUSES)


_REGISTERED_STATUSES: Final = frozenset(status.value for status in HTTPStatus)


class Secret:
    """Secret text: printing, formatting, logging and pickling do not expose it.

    Only `reveal()` returns the text, so a search for that word finds every use of a token, a
    password or a console URL.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A JWT with a verified signature and algorithm; its claims are not checked yet."""

    issuer: str
    """The issuer's name in the config."""
    header: dict[str, Any]
    claims: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, identified by a verified JWT."""

    issuer: str
    """The issuer's name in the config, not its URL."""
    subject: str
    groups: frozenset[str]
    issued_at: float
    """Seconds since the epoch."""
    expires_at: float
    """Seconds since the epoch, without leeway."""
    token_id: str | None
    """The `jti` claim, if the token has one."""
    has_groups_claim: bool = True
    """False: the token has no groups claim, so the person's groups are unknown."""
    person: str = ""
    """The claim that identifies the person over all issuers (`requests.person_claim`), or ""."""
    key: str = field(init=False)
    """Identifies the person over all issuers; the length separates `a:b`+`c` from `a`+`b:c`."""

    def __post_init__(self) -> None:
        key = f"{len(self.issuer)}:{self.issuer}:{self.subject}"
        object.__setattr__(self, "key", key)


LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "text"]
Logger = Literal[
    "gateway",
    "gateway.admin",
    "gateway.audit",
    "gateway.console",
    "gateway.recording",
    "gateway.identity",
    "gateway.inventory",
    "gateway.keys",
    "gateway.login",
    "gateway.overrides",
    "gateway.policy",
    "gateway.request",
    "gateway.requests",
    "gateway.supervisor",
    "gateway.tls",
    "gateway.valkey",
    "gateway.worker",
]
"""Loggers with a configurable level. Libraries are excluded, because they may log tokens."""


class BudgetClass(Enum):
    """Kinds of upstream calls with separate budgets."""

    CONSOLE = "console"
    IAM = "iam"


class Priority(Enum):
    """The order in which waiting calls get slots of a budget."""

    INTERACTIVE = "interactive"
    """A person waits for the response."""
    BULK = "bulk"
    SPARE = "spare"
    """Uses only slots that no other call needs; never waits."""


@dataclass(frozen=True, slots=True)
class QueueRequest:
    """A request for a slot of a budget: its caller, weight and priority."""

    caller: str
    """`Principal.key`; "" for the gateway's own calls."""
    weight: float = 1.0
    """A caller with twice the weight gets twice the share."""
    priority: Priority = Priority.INTERACTIVE


class ResponseKind(Enum):
    """How the response is returned to the caller."""

    WHOLE = "whole"
    """After it has been read completely."""
    STREAMED = "streamed"
    """As it arrives; for large bodies."""
    LISTED = "listed"
    """Filtered to the servers that the caller may see."""
    CONSOLE_LINK = "console_link"
    PERMISSIONS = "permissions"
    """The gateway's own response: the caller's permissions on each named server."""


class Paging(Enum):
    """How the next page of a list is requested (upstream-api.md#1.4)."""

    MARKER = "marker"
    OFFSET = "offset"


@dataclass(frozen=True, slots=True)
class Listing:
    """Form of a list in a response, needed to filter it."""

    entries: str
    """Member of the response that holds the list."""
    server: str
    """Member of an entry with its server ID; dots lead into objects and lists."""
    paging: Paging
    """How the next page is requested: by `marker` or by `offset`."""
    limit: int = 10
    """Page size if the caller gives none."""
    limit_min: int = 10
    """Smallest page size that a caller may request."""
    limit_max: int = 1000
    """Largest page size that a caller may request."""
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the catalogue: an operation of the cloud's API that callers may use."""

    name: str
    """Name of the operation, unique in the catalogue."""
    method: str
    """HTTP method."""
    path: str
    """Path after `/v1/{project_id}`. `{server_id}` and `{instance_id}` are authorized; any other
    name in braces matches one segment."""
    permission: str
    """Permission that a call requires on each of its servers."""
    query: tuple[str, ...] = ()
    """Query parameters that are forwarded, besides those of the keys below and of paging."""
    servers_in_query: str = ""
    """Query parameter that holds server IDs, separated by commas."""
    instances_in_query: str = ""
    """Query parameter that holds instance IDs, separated by commas."""
    servers_in_body: str = ""
    """Member of the body that holds one server ID or a list; dots lead into objects."""
    instances_in_body: str = ""
    """Member of the body that holds one instance ID or a list; dots lead into objects."""
    ids_max: int = 100
    """Largest number of IDs in one call."""
    may_name_none: bool = False
    """Accept a call without IDs. The cloud then chooses servers, so it requires a grant on
    `everything`."""
    counts_in_body: tuple[str, ...] = ()
    """Members of the body that hold a number of servers. Servers beyond the named ones require a
    grant on `everything`."""
    tags_in_body: str = ""
    """Member of the body that holds a list of tags. Writing a tag whose key a rule of the policy
    uses requires `server:tag_policy` as well. An operation with the permission `server:tag` and
    without this key requires it as soon as any rule uses tags."""
    body_bytes_max: int = 0
    """Largest request body in bytes; 0 rejects a body."""
    writes: bool = False
    """The operation changes something: its audit record is written before it is sent."""
    repeatable: bool = False
    """Sending it twice has the effect of sending it once, so it may be retried."""
    budget: BudgetClass = BudgetClass.CONSOLE
    """Budget that a call uses."""
    priority: Priority = Priority.INTERACTIVE
    """Priority in the queue: `interactive` before `bulk` before `spare`."""
    response: ResponseKind = ResponseKind.WHOLE
    """How the response is returned. `listed` filters it to the caller's servers; `streamed` never
    holds it whole."""
    listing: Listing | None = None
    """Form of the list; required for `response: listed`."""
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012


@dataclass(frozen=True, slots=True)
class ResolvedCall:
    """A request, resolved: the operation, the project and the servers that it touches."""

    operation: Operation
    project: ProjectId
    servers: tuple[ServerId, ...]
    target: str = ""
    """Path and query for the cloud, rebuilt from the parsed values."""
    query: Headers = ()
    instances: tuple[InstanceId, ...] = ()
    """Instances; their servers are looked up before the decision."""
    body: bytes = field(default=b"", repr=False)
    touches_unnamed: bool = False
    """The call also touches servers, or other objects, that it does not name."""
    tag_keys: frozenset[str] | None = frozenset()
    """Keys of the tags that it writes; None: unknown."""


class WriteOutcome(Enum):
    """The effect of a permitted write. Values of CADF and ECS, besides `not_sent`."""

    SUCCESS = "success"
    FAILURE = "failure"
    """The cloud rejected it."""
    UNKNOWN = "unknown"
    """It was sent; the cloud did not respond, or reported a failure in the cloud."""
    NOT_SENT = "not_sent"


class RuleKind(Enum):
    GRANT = "grant"
    DENIAL = "denial"


class RuleRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The position in the policy file of the grant or denial that decided."""

    kind: RuleKind
    file: str
    line: int
    label: str
    """The rule as an operator would name it, e.g. `grant console-operator to group ops`."""
    by_break_glass: bool = False
    """The grant of an access request that no person has approved."""

    @property
    def location(self) -> str:
        """`file:line`; for the grant of an access request, `request:ID`."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class ConsoleLink:
    """A console URL and the end of its lifetime."""

    url: Secret
    fingerprint: str
    """Identifies the URL in logs and audit records."""
    good_until: float
    """Monotonic seconds of this process."""


class LinkSource(Enum):
    """Where the gateway obtained a link."""

    LOCAL = "local"
    """This process's cache."""
    REDIS = "redis"
    COALESCED = "coalesced"
    """A fetch that another request started (single-flight)."""
    UPSTREAM = "upstream"
    TICKET = "ticket"
    """The gateway's own one-time address; no call to the cloud."""


class StageTimes(NamedTuple):
    """Seconds that a request for a link spent in each stage."""

    identify: float
    decide: float
    obtain: float
    record: float


class Reuse(Enum):
    """Which callers may get a cached link; a setting, because the cloud documents no rule."""

    SHARED = "shared"
    """One link per server, for every caller with the permission."""
    CALLER = "caller"
    """One link per server and person."""
    NEVER = "never"
    """Links are not cached; concurrent requests share a fetch."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """A request to the cloud, without a credential."""

    method: str
    path: str
    """Path and query, exactly as in the request line."""
    headers: Headers = ()
    body: bytes = field(default=b"", repr=False)
    repeatable: bool = True
    """Sending it twice has the effect of sending it once, so it may be retried."""
    encoded: bool = False
    """The response may have the content coding that `headers` accept."""
    streamed: bool = False
    """The body of the response is read as it arrives."""


class BodyStream(Protocol):
    """A body that is read as it arrives; the receiver closes it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    status: int
    headers: Mapping[str, str] = field(repr=False)
    """A mapping by names in lower case."""
    body: bytes = field(repr=False)
    stream: BodyStream | None = None
    """Replaces `body` in a successful response to a `streamed` request."""
