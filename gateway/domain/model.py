"""The nouns of the gateway. Data only: nothing here reads a clock, a file or a network."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from hmac import compare_digest
from typing import Any, Final, Literal, NamedTuple, NewType, NoReturn, Protocol

Headers = tuple[tuple[str, str], ...]
"""Names and values, in their order."""
ProjectId = NewType("ProjectId", str)
ServerId = NewType("ServerId", str)
SERVER_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What a ServerId looks like: in lower case, so that one server has one spelling."""
InstanceId = NewType("InstanceId", str)
"""An instance is what is installed on a server; its id is not the server's."""

CONSOLE_OPEN: Final = "console:open"
SERVER_READ: Final = "server:read"
SERVER_TAG: Final = "server:tag"
"""A right of its own, since tags carry permissions."""
PERMISSIONS: Final = frozenset(
    {
        CONSOLE_OPEN,
        SERVER_READ,
        "server:power",
        "server:logs",
        SERVER_TAG,
        "instance:read",
        "instance:create",
        "instance:delete",
        "instance:reinstall",
        "instance:password",
        "instance:network",
        "site:read",
        "site:write",
    }
)


SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
"""RFC 9110, 9.2.1, as far as they are served here."""


class Secret:
    """Text that must not be seen: it cannot be printed, formatted, logged or pickled.

    `reveal()` is the only way to the text, so a search for that word finds each place where a
    token, a password or a console URL is used.
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
        raise TypeError("a Secret is not pickled")


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A JWT whose signature and algorithm are proved; its claims are not judged yet."""

    issuer: str
    """The issuer's name in our config."""
    header: dict[str, Any]
    claims: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as proved by a verified JWT."""

    issuer: str
    """The issuer's short name in our config, not its URL."""
    subject: str
    groups: frozenset[str]
    issued_at: float
    """Seconds since the epoch."""
    expires_at: float
    """Seconds since the epoch; leeway is not included."""
    token_id: str | None
    """The `jti`, where the issuer sets one."""
    key: str = field(init=False)
    """One text per person, over all issuers; the length keeps `a:b`+`c` from `a`+`b:c`."""

    def __post_init__(self) -> None:
        key = f"{len(self.issuer)}:{self.issuer}:{self.subject}"
        object.__setattr__(self, "key", key)


LogLevel = Literal["debug", "info", "warning", "error"]
Logger = Literal[
    "gateway",
    "gateway.admin",
    "gateway.audit",
    "gateway.inventory",
    "gateway.keys",
    "gateway.login",
    "gateway.overrides",
    "gateway.policy",
    "gateway.request",
    "gateway.supervisor",
    "gateway.tls",
    "gateway.valkey",
    "gateway.worker",
]
"""Those that have a level of their own. Libraries log what they read, tokens included."""


class BudgetClass(Enum):
    """Kinds of upstream calls that have separate budgets."""

    CONSOLE = "console"
    IAM = "iam"


class Priority(Enum):
    """What goes first when calls wait for one budget."""

    INTERACTIVE = "interactive"
    """Somebody sits in front of a screen and waits."""
    BULK = "bulk"
    SPARE = "spare"
    """Only what nobody else would use; never waits."""


@dataclass(frozen=True, slots=True)
class QueueRequest:
    """On whose account a call is queued, and how much of the budget they may claim."""

    caller: str
    """A Principal's key; "" for the gateway itself."""
    weight: float = 1.0
    """Twice the weight is twice the share."""
    priority: Priority = Priority.INTERACTIVE


class ResponseKind(Enum):
    """How the cloud's answer goes to the caller."""

    WHOLE = "whole"
    STREAMED = "streamed"
    """As it comes, for what is large; never kept here."""
    LISTED = "listed"
    """Filtered to what the caller may see."""
    CONSOLE_LINK = "console_link"
    PERMISSIONS = "permissions"
    """Not the cloud's: what the caller may do on each server that is named."""


class Paging(Enum):
    """How a list is asked for its next page (dossier 1.4)."""

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
    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # noqa: RUF012


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
    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # noqa: RUF012


@dataclass(frozen=True, slots=True)
class ResolvedCall:
    """A request in our words: what is to be done, where, and to which servers."""

    operation: Operation
    project: ProjectId
    servers: tuple[ServerId, ...]
    target: str = ""
    """Path and query as they are sent to the cloud, made of what was decided on."""
    query: Headers = ()
    instances: tuple[InstanceId, ...] = ()
    """Their servers are to be looked up before anything is decided."""
    body: bytes = field(default=b"", repr=False)
    touches_unnamed: bool = False
    """It touches servers, or what is no server, beyond those that it names."""


class WriteOutcome(Enum):
    """What became of a permitted write; but for `not_sent` these are the words of CADF and ECS."""

    SUCCESS = "success"
    FAILURE = "failure"
    """The cloud said that it did not do it."""
    UNKNOWN = "unknown"
    """It was sent, and the cloud did not say, or said that it had failed itself."""
    NOT_SENT = "not_sent"


class RuleKind(Enum):
    GRANT = "grant"
    DENIAL = "denial"


@dataclass(frozen=True, slots=True)
class RuleRef:
    """Where in the policy file the grant or denial stands that decided."""

    kind: RuleKind
    file: str
    line: int
    label: str
    """The rule as an operator would name it, e.g. `grant console-operator to group ops`."""
    place: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", f"{self.file}:{self.line}")


@dataclass(frozen=True, slots=True)
class ConsoleLink:
    """A console URL and how long it is good, on this process's monotonic clock."""

    url: Secret
    fingerprint: str
    """The URL's, for logs and for the audit log."""
    good_until: float
    """Monotonic seconds."""


class LinkSource(Enum):
    """Where the link in an answer came from."""

    LOCAL = "local"
    REDIS = "redis"
    COALESCED = "coalesced"
    UPSTREAM = "upstream"


class StageTimes(NamedTuple):
    """How long a request that got its link was in each stage, in seconds."""

    identify: float
    decide: float
    obtain: float
    record: float


class Reuse(Enum):
    """Who may be given a link that was fetched before (the cloud does not say: operators do)."""

    SHARED = "shared"
    """One link per server, for all who may open it."""
    CALLER = "caller"
    """One link per server and person."""
    NEVER = "never"
    """Only requests that are in flight together share."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What is to be sent to the cloud, without any credential."""

    method: str
    path: str
    """Path and query exactly as they are to stand on the request line."""
    headers: Headers = ()
    body: bytes = field(default=b"", repr=False)
    repeatable: bool = True
    """Whether sending it twice does no more than sending it once."""
    encoded: bool = False
    """The answer may come in the content coding that `headers` accept."""
    streamed: bool = False
    """The answer's body is to be read as it comes."""


class BodyStream(Protocol):
    """A body that is read as it comes; whoever holds it closes it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Looked up by names in lower case."""
    body: bytes = field(repr=False)
    stream: BodyStream | None = None
    """Instead of a body, where a stream was asked for and the answer is a good one."""
