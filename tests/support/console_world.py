"""What replicas with live consoles share in tests: Redis, the cloud, policy, tokens."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gateway.domain.audit.record import AuditRecord, ConsoleSessionFields
from gateway.domain.consoles.model import Clipboard
from gateway.domain.consoles.rules import AccountSessions, SessionRules
from gateway.domain.errors import (
    AuditLogUnavailable,
    GatewayError,
    NotAuthenticated,
    Rejection,
    StoreUnavailable,
)
from gateway.domain.model import (
    CONSOLE_OPEN,
    Principal,
    ProjectId,
    RuleKind,
    RuleRef,
    ServerId,
    UpstreamResponse,
)
from gateway.domain.policy.inventory import NO_INVENTORY, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.flow.consoles.connector import FetchUrl
from gateway.flow.consoles.console_store import ConsoleStore
from gateway.flow.consoles.local_console_store import LocalConsoleStore
from tests.support import rfb
from tests.support.consoles import ACCOUNT
from tests.support.frame_channel import MemoryChannel
from tests.support.virtual_time import VirtualClock

KEYS = [b"k" * 32]
OUTLIVE_S = 3_600.0
RULES = SessionRules(
    accounts={ACCOUNT: AccountSessions(Clipboard.BOTH, 200)},
    time_limit_s=28_800.0,
    view_time_limit_s=3_600.0,
    idle_s=1_800.0,
    person_max=5,
    server_max=1,
    viewers_max=5,
    total_max=1_000,
    connect_timeout_s=10.0,
    link_timeout_s=60.0,
)


def a_rule(
    permission: str = CONSOLE_OPEN,
    *users: str,
    kind: RuleKind = RuleKind.GRANT,
    groups: frozenset[str] = frozenset(),
    **more: Any,
) -> Rule:
    """Return a rule for some people, or for all without `users` and `groups`."""
    return Rule(
        RuleRef(kind, "policy.yaml", 1, f"{kind.value} {permission}"),
        permissions=frozenset({permission}),
        issuer=None,
        users=frozenset(users),
        groups=groups,
        projects=frozenset(),
        servers=frozenset(),
        everyone=not users and not groups,
        **more,
    )


class SteppedClock(VirtualClock):
    """A clock with a wall time that a test steps."""

    def __init__(self) -> None:
        super().__init__()
        self.stepped_s = 0.0

    def now(self) -> float:
        return super().now() + self.stepped_s


class FakeTokens:
    """Identifies tokens that a test has made; knows who is revoked or locked."""

    def __init__(self, clock: SteppedClock) -> None:
        self._clock = clock
        self.revocations_version = 0
        self.refused: dict[str, Rejection] = {}
        self.tokens: dict[str, Principal] = {}

    def refuse(self, subject: str, reason: Rejection = Rejection.REVOKED) -> None:
        self.refused[subject] = reason
        self.revocations_version += 1

    def valid_until(self, principal: Principal) -> float:
        return principal.expires_at

    def check(self, principal: Principal, *, outlive_s: float = 0.0) -> None:
        if principal.subject in self.refused:
            raise NotAuthenticated(self.refused[principal.subject], principal=principal)
        if self._clock.now() >= principal.expires_at + outlive_s:
            raise NotAuthenticated(Rejection.EXPIRED, principal=principal)

    async def identify(self, token: str, deadline: float) -> Principal:
        if token not in self.tokens:
            raise NotAuthenticated(Rejection.SIGNATURE)
        return self.tokens[token]


class FakeInventories:
    def __init__(self) -> None:
        self.inventory = self.last = NO_INVENTORY

    def set(self, inventory: Inventory) -> None:
        self.inventory, self.last = inventory, inventory.however_old()

    def current(self, project: ProjectId) -> Inventory:
        return self.inventory

    def last_known(self, project: ProjectId) -> Inventory:
        return self.last

    def refresh_soon(self, project: ProjectId) -> None:
        pass


class ConsoleMetrics:
    """A `ConsoleTelemetry` that records its calls."""

    def __init__(self) -> None:
        self.rejected: Counter[str] = Counter()
        self.started: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.resumed: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()

    def ticket_rejected(self, reason: str) -> None:
        self.rejected[reason] += 1

    def request_rejected(self, reason: str) -> None:
        self.requests[reason] += 1

    def session_started(self, account: str, mode: str) -> None:
        self.started[mode] += 1

    def session_ended(self, account: str, end: str) -> None:
        self.ended[end] += 1

    def session_resumed(self, outcome: str) -> None:
        self.resumed[outcome] += 1


class StoreOutage:
    """A store that a test makes unavailable, for one replica."""

    def __init__(self, store: ConsoleStore) -> None:
        self._store = store
        self.is_down = False
        self.loses_answers = False

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self._store, name)

        async def method(*arguments: Any, **options: Any) -> Any:
            await asyncio.sleep(0.001)
            self._require_available()
            result = await call(*arguments, **options)
            await asyncio.sleep(0.001)
            self._require_available()
            if self.loses_answers:
                raise StoreUnavailable("the answer is lost")
            return result

        return method

    def _require_available(self) -> None:
        if self.is_down:
            raise StoreUnavailable("away")


class FakeCloud:
    """Returns a fresh URL for each call, and a channel for each connection."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, str]] = []
        self.channels: list[MemoryChannel] = []
        self.queue_s = 0.0
        self.error: GatewayError | None = None
        self.refuses: GatewayError | None = None

    async def call(self, request: Any, **options: Any) -> UpstreamResponse:
        caller = options["queue_request"].caller
        await asyncio.sleep(self.queue_s)
        options["attempts"].begin()
        if self.error is not None:
            raise self.error
        self.calls.append((asyncio.get_running_loop().time(), caller))
        url = f"https://console.example/vnc?token=secret-{len(self.calls)}"
        return UpstreamResponse(200, {}, json.dumps({"url": url}).encode())

    async def connect(self, fetch_url: FetchUrl, account: str, *, timeout_s: float) -> Any:
        await fetch_url()
        if self.refuses is not None:
            raise self.refuses
        channel = MemoryChannel()
        self.channels.append(channel)
        channel.put(rfb.GREETING)
        return channel


class ConsoleWorld:
    """The state that all replicas share: Redis, the cloud, policy and tokens."""

    def __init__(self, rules: SessionRules = RULES) -> None:
        self.clock = SteppedClock()
        self.rules = rules
        self.redis: ConsoleStore = LocalConsoleStore(self.clock)
        self.cloud = FakeCloud()
        self.power_changes: list[tuple[ProjectId, Sequence[ServerId]]] = []
        self.tokens = FakeTokens(self.clock)
        self.inventories = FakeInventories()
        self.policy = Policy([a_rule()], version="v1")
        self.records: list[AuditRecord] = []
        self.recorded_at: list[float] = []
        """Seconds of the loop, by the index of the record."""
        self.metrics = ConsoleMetrics()
        self.is_audit_down = False
        self.while_recorded: Callable[[], None] = lambda: None
        self.random = itertools.count(1)
        self.failures: list[Exception] = []
        self.spare_s: float | None = 0.1
        self.expected_wait_s = 0.0

    def current(self) -> Policy:
        return self.policy

    async def record(self, record: AuditRecord) -> None:
        if self.is_audit_down:
            raise AuditLogUnavailable("away", retry_after_s=1.0)
        self.while_recorded()
        self.write(record)

    def write(self, record: AuditRecord) -> None:
        self.records.append(record)
        self.recorded_at.append(self.clock.monotonic())

    def person(self, subject: str = "ada", *, life_s: float = 36_000.0) -> Principal:
        now = self.clock.now()
        return Principal("corp", subject, frozenset({"ops"}), now, now + life_s, None)

    def events(self, event: str) -> list[AuditRecord]:
        return [one for one in self.records if one.event == event]

    def ends(self) -> list[tuple[str, str]]:
        """Return the subject and the end of each session that has ended."""
        found = []
        for one in self.events("console_session_ended"):
            assert isinstance(one.extra, ConsoleSessionFields)
            found.append((one.subject, one.extra.end))
        return found
