"""What the flow needs from outside, each promise in one place. Drivers implement, tests fake."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from gateway.domain.audit.record import AuditRecord
from gateway.domain.model import (
    BudgetClass,
    Headers,
    LinkSource,
    ProjectId,
    QueueRequest,
    Secret,
    StageTimes,
    UpstreamRequest,
    UpstreamResponse,
    VerifiedToken,
)
from gateway.domain.overrides import Override
from gateway.domain.policy.inventory import Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.queue.fair_queue import BatchResult, BudgetLimit, QueueBatch, QueueState
from gateway.domain.trace_context import TraceContext
from gateway.flow.waiters import Waiters


class Clock(Protocol):
    def now(self) -> float:
        """Wall clock, seconds since the epoch: for claims and for display."""

    def monotonic(self) -> float:
        """Seconds that never jump: for waiting and for deadlines."""

    async def sleep(self, seconds: float) -> None:
        """Wait; returns at once for zero and for negative spans."""


class Signatures(Protocol):
    async def verify(self, caller_jwt: Secret) -> VerifiedToken:
        """Prove the signature with a key of the issuer that the token names.

        Raises NotAuthenticated; KeysUnavailable when the issuer's keys were never loaded, or are
        older than operators allow. May wait for one key refresh when the `kid` is unknown.
        """


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What a caller signs with in place of sending a JWT, and the JWT that it stands for."""

    access: str
    secret: Secret
    security_token: Secret
    caller_jwt: Secret
    expires_at: float
    """The pair's own end, in seconds since the epoch; the JWT's may come before."""


class IssuedKeys(Protocol):
    """Key pairs and subject tokens that hold all that they stand for, so none is stored.

    What is opened was made by a replica with the same seal keys; the JWT in it is yet to be judged.
    """

    def subject_token(self, caller_jwt: Secret) -> Secret: ...

    def open_subject_token(self, subject_token: str) -> Secret | None:
        """Return the JWT; None: the text is no subject token of ours."""

    def key_pair(self, caller_jwt: Secret, *, expires_at: float) -> KeyPair: ...

    def open_key_pair(self, security_token: str) -> KeyPair | None:
        """Return the pair that was handed out with this; None: the text is none of ours."""


class ReplayCache(Protocol):
    async def use(self, key: str, *, ttl_s: float) -> bool:
        """Mark `key` as used for `ttl_s` seconds; return False if it was used already.

        Applies to all replicas. Raises StoreUnavailable.
        """

    async def undo_use(self, key: str) -> None:
        """Undo `use`, because the request had no effect. Raises StoreUnavailable."""


class Fingerprints(Protocol):
    def of(self, secret: Secret) -> str:
        """Tell secrets apart in logs and in the audit log, the same over all replicas."""


class Policies(Protocol):
    def current(self) -> Policy:
        """Return the policy in force. Take it once per request and hand it on."""


class ReloadedPolicies(Policies, Protocol):
    """The policy, for who may look after it."""

    @property
    def loaded_at(self) -> float:
        """Seconds since the epoch."""

    @property
    def error(self) -> str:
        """The first mistake for which the file as it stands was refused; "" when it was not."""

    async def reload(self) -> bool:
        """Take the file over now; return whether it was good."""


class Inventories(Protocol):
    def current(self, project: ProjectId) -> Inventory:
        """Return what is known of the project's servers; NO_INVENTORY where nothing is."""

    def refresh_soon(self, project: ProjectId) -> None:
        """Look again as soon as the budget allows: something has changed."""


class SnapshotFile(Protocol):
    """A file for state that outlives the process and an outage of the cloud or of Redis."""

    def load(self) -> bytes | None:
        """Return the saved text; None if there is none."""

    async def save(self, update: Callable[[bytes | None], bytes]) -> None:
        """Replace the text by `update(text)`, while no other process saves.

        `update` runs in a thread. A failed write is logged and not raised; a hung disk is waited
        for without a limit.
        """


@dataclass(frozen=True, slots=True)
class StoredOverrides:
    version: str
    is_complete: bool
    """A process that knew all overrides has added them; False in a store that lost its data."""
    overrides: Sequence[Override]
    """The overrides that the caller had not cached."""
    ids: AbstractSet[str]
    """IDs of all entries that are readable and sealed with the current key. A process that has
    one of the others cached writes it again."""
    unreadable: int
    """How many entries that the caller had not cached cannot be read."""


class OverrideStore(Protocol):
    """Overrides shared by all replicas. `read` and `add` raise StoreUnavailable."""

    async def read(self, known: str, *, cached: AbstractSet[str]) -> StoredOverrides | None:
        """Return the overrides whose IDs are not in `cached`.

        None: the version is still `known`.
        """

    async def add(
        self, overrides: Sequence[Override], *, expired: Sequence[str], complete: bool
    ) -> None:
        """Add overrides for all replicas and remove those with the IDs in `expired`.

        `complete`: with these, the store has all overrides.
        """

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the store may have changed."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    responses: Sequence[bytes]
    """Responses of other processes that arrived in time."""
    processes: int
    """Number of processes, this one included, at the last contact with the store; 0: none yet."""


class Replicas(Protocol):
    """The gateway's processes, on this host and on others."""

    async def query(self, query: bytes, *, timeout_s: float) -> QueryResult:
        """Query all other processes; while the store is unavailable there is no response."""

    def on_query(self, respond: Callable[[bytes], Awaitable[bytes]]) -> None:
        """`respond` returns the response to a query, or raises ValueError if it is unknown."""


class Budget(Protocol):
    async def admit(
        self,
        account: str,
        budget: BudgetClass,
        queue_request: QueueRequest,
        *,
        deadline: float,
        requeued: bool = False,
        waiters: Waiters | None = None,
    ) -> float:
        """Wait for a slot of the account's budget; the caller of this then sends exactly one call.

        Returns until when it may be sent: later, the slot is lost. `deadline` is monotonic.
        `again`: the slot that this call had was lost, to a 429 or to time; it goes to the head
        and is not charged once more. `waiters`: the call is for all of these, as they come and go,
        and waits in the best of their places. Raises BudgetExhausted as soon as it is known that
        the slot would come too late, or, for spare demand, that there is none.
        """

    def throttled(
        self, account: str, budget: BudgetClass, *, pause_s: float | None, named_rate: float | None
    ) -> None:
        """Tell all replicas that the cloud said 429; nobody is admitted for `pause_s` seconds.

        `named_rate` is the limit that the cloud named, in calls a second. None: it named none.
        """


@dataclass(frozen=True, slots=True)
class QueueUpdate:
    """What another replica's turn at the queue meant for this one."""

    granted: Mapping[str, float]
    refused: Mapping[str, float]
    paused_until: float
    next_at: float | None
    replicas_rejoin: bool
    """Some come back from a time alone; whoever is here says so by a turn."""


class SharedQueue(Protocol):
    """One budget's queue over all replicas (rules/fair_queue.py says how it goes)."""

    @property
    def available(self) -> bool: ...

    def set_limit(self, limit: BudgetLimit) -> None:
        """Go by another limit from the next turn on; it has as many windows."""

    @property
    def processes(self) -> int:
        """How many were alive when the store was last seen; 0: it never was."""

    def new_id(self) -> str:
        """Name an entry of this replica's."""

    async def apply(self, batch: QueueBatch, state: QueueState) -> BatchResult:
        """Tell the queue and be told, in one round trip; raises StoreUnavailable.

        `state` is what this replica knows, and fills in what the store may have lost.
        """

    def rejoin(self, processes: int) -> None:
        """Come back after a time alone, one of so many: all entries made before are void."""

    def on_update(self, call: Callable[[QueueUpdate], None]) -> None: ...

    def on_availability_change(self, call: Callable[[], None]) -> None: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought: the value and how long it may be kept."""

    value: bytes = field(repr=False)
    good_until: float
    """Monotonic seconds of this process."""


@dataclass(frozen=True, slots=True)
class FlightResult:
    """A value out of a shared flight."""

    value: bytes = field(repr=False)
    good_until: float
    source: LinkSource


class Shared(Protocol):
    """Values that all replicas share, each fetched by one of them (flow/shared_flight.py)."""

    async def obtain(  # noqa: PLR0913 - each says for itself what it asks for
        self,
        key: str,
        fetch: Callable[[], Awaitable[Fetched]],
        *,
        deadline: float,
        unusable: bytes | None = None,
        fresh: bool = False,
        run_to_completion: bool = False,
        waiters: Waiters | None = None,
    ) -> FlightResult:
        """Return the value stored under `key`, or let exactly one replica fetch it.

        `unusable`: a value known to be bad (a token that the cloud refused); a stored value equal
        to it counts as absent. `fresh`: whatever is stored now counts as absent. `to_the_end`: the
        fetch goes on when nobody waits for it any more. `waiters`: where `fetch` sees who waits for
        it; it is new for each call. Without Redis the flight is shared in this process only. Raises
        what `fetch` raises (those who waited for a fetch share its failure), and DeadlineExceeded.
        """

    def renew(
        self,
        key: str,
        fetch: Callable[[], Awaitable[Fetched]],
        *,
        unusable: bytes,
        then: Callable[[FlightResult], None],
    ) -> None:
        """Replace the value `unusable` under `key` in the background, once over all replicas.

        `then` is told what came of it, unless it failed: then the old value serves to its end.
        """


@dataclass(frozen=True, slots=True)
class StoredValue:
    value: bytes = field(repr=False)
    ttl_s: float
    version: bytes


@dataclass(frozen=True, slots=True)
class LeaseAcquired:
    """The lease is ours: fetch, then settle."""

    store_time: float
    """Seconds by the store's clock, when it was claimed."""


@dataclass(frozen=True, slots=True)
class LeaseHeld:
    holder: str
    lease_left_s: float
    version: bytes
    """Of the value that is stored now; b"" if none is."""


@dataclass(frozen=True, slots=True)
class HolderFailed:
    """The fetch that we waited for failed."""

    failure: bytes


ANY_VERSION = b"*"


class SharedStore(Protocol):
    """Values and leases that all replicas see. Every method raises StoreUnavailable."""

    async def claim(
        self, key: str, *, owner: str, lease_s: float, skip: bytes = b"", awaited: str = ""
    ) -> StoredValue | LeaseAcquired | LeaseHeld | HolderFailed:
        """Look `key` up, or take the lease to fetch it.

        A value of version `skip` (ANY_VERSION: of any) counts as absent. `awaited` is the holder
        that an earlier claim named: if it failed, so have we.
        """

    async def extend(self, key: str, *, owner: str, lease_s: float) -> bool:
        """Keep the lease; False when it is no longer ours."""

    async def publish(
        self, key: str, *, owner: str, value: bytes, ttl_s: float, until: float
    ) -> bool:
        """Store what was fetched and end the lease; False (and no effect) when it was lost.

        It is kept for `ttl_s`, but no longer than `until` by the store's clock: the store may run
        this late. `ttl_s` holds where that clock is set back before it is stored; set back
        afterwards, behind the storing, it makes the value absent: nobody knows its age.
        """

    async def fail(self, key: str, *, owner: str, failure: bytes) -> None:
        """End the lease and tell those who wait why."""

    async def abandon(self, key: str, *, owner: str) -> None:
        """End the lease without a result, so that another may fetch."""

    async def notify_holder(self, key: str, *, sender: str, text: bytes) -> None:
        """Tell whoever fetches `key`; it is sealed, and it may be lost."""

    def watch(
        self, key: str, on_message: Callable[[str, bytes], None] | None = None
    ) -> AbstractContextManager[asyncio.Event]:
        """Give an event that is set when a fetch of `key` ends, or when the store is lost.

        `heard` is given the teller and the text of what its holder is told, one's own included.
        """


class CallerUsage(Protocol):
    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        """Add these callers' requests to what all replicas counted.

        Returns how many seconds each caller's theoretical arrival time lies ahead.
        Raises StoreUnavailable.
        """


class Upstream(Protocol):
    """The connection pool of one account; two accounts never share one."""

    async def send(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        """Send once and read the whole answer, whatever its status.

        Raises UpstreamUnreachable, UpstreamSlow, UpstreamBroken (over its bounds, or no HTTP).
        """

    async def open(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        """Send once and return with the answer's head, and its body as a stream if it is good.

        `timeout_s` is for the head; the body may take as long as it goes on coming. Raises as
        `send` does, also while the body is read.
        """


class ServiceCredential(Protocol):
    """How one account proves itself to the cloud: a token, a signature, or a token file."""

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        """Return the headers that make `request` ours; may wait for a login.

        Raises ServiceLoginFailed (at once while a refused login backs off), DeadlineExceeded.
        """

    async def renew(self, refused: Headers, *, deadline: float) -> bool:
        """After the cloud refused these headers: get a newer credential, one login for all.

        False where there is no newer one to get (a signature, an unchanged token file).
        Raises ServiceLoginFailed, DeadlineExceeded.
        """


AUDIT_TIMEOUT_S: Final = 5.0
"""Time limit for one record; a record that takes longer has failed."""


class AuditLog(Protocol):
    async def record(self, record: AuditRecord) -> None:
        """Return when the record is durable, or raise AuditLogUnavailable.

        Both happen within AUDIT_TIMEOUT_S.
        """


class Telemetry(Protocol):
    """Counts what happened. Every label value comes from config or from an Enum."""

    def identified(self, issuer: str, outcome: str) -> None: ...
    def decided(self, permission: str, *, allowed: bool) -> None: ...
    def link_served(
        self, account: str, groups: frozenset[str], source: LinkSource, times: StageTimes
    ) -> None: ...
    def evicted(self, kind: str) -> None: ...
    def upstream_call(self, account: str, outcome: str, seconds: float) -> None: ...
    def service_login(self, account: str, outcome: str) -> None: ...
    def service_credential_expires(self, account: str, project: str, at: float) -> None: ...
    def service_login_refused(self, account: str, project: str, *, refused: bool) -> None: ...
    def keys_refreshed(self, issuer: str, outcome: str) -> None: ...
    def policy_reloaded(self, outcome: str, rules: int) -> None: ...
    def budget_wait(self, account: str, budget: BudgetClass, seconds: float) -> None: ...
    def budget_refused(self, account: str, budget: BudgetClass) -> None: ...
    def budget_slot_lost(self, account: str, budget: BudgetClass) -> None: ...
    def breaker_opened(self, account: str) -> None: ...
    def link_renewed(self, account: str, outcome: str) -> None: ...
    def inventory_polled(self, account: str, outcome: str) -> None: ...
    def store_available(self, *, available: bool) -> None: ...
    def store_called(self, seconds: float, *, ok: bool) -> None: ...
    def audit_record_missing(self) -> None: ...
    def audit_recorded(self, event: str, count: int = 1) -> None: ...
    def audit_committed(self, seconds: float) -> None: ...
    def audit_failed(self) -> None: ...


class CallSpan(Protocol):
    @property
    def headers(self) -> Headers:
        """What tells the cloud whose child the call is; it holds what callers sent along."""

    def set_status(self, status: int) -> None: ...


class CallTracing(Protocol):
    """Notes down the calls that are made for one request, or for none."""

    @property
    def trace_id(self) -> str:
        """32 hex digits; "" where each call is a trace of its own."""

    def call(self, name: str, *, method: str, account: str) -> AbstractContextManager[CallSpan]:
        """Note a call down while it lasts; of an error that ends it, the type."""


class RequestTrace(CallTracing, Protocol):
    """One request's trace."""

    @property
    def is_sampled(self) -> bool:
        """Tell whether somebody can look it up."""

    def enter(self, stage: str) -> None:
        """Note down that the stage before has ended and this one begins."""

    def end(self, facts: Mapping[str, Any]) -> None:
        """Note down the end; `facts` are those of the request's log line."""


class Tracing(Protocol):
    @property
    def records(self) -> bool:
        """Whether requests are traced that come without a trace of their caller's."""

    def begin(self, came: TraceContext | None, method: str) -> RequestTrace | None:
        """Begin a request's trace, or go on with its caller's; None: nobody wants to know."""
