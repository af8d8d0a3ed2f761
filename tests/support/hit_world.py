"""The public listener in process, with or without its hit path: real stages, fakes around them.

A test sends bytes on connections without sockets, changes what the stages decide by, and compares
everything that leaves: responses, audit records, log lines and metrics.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import msgspec
from aiohttp import web

from gateway.config.operations import built_in_operations
from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.identity.claims import TokenRules
from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import (
    CONSOLE_OPEN,
    LinkSource,
    Principal,
    ProjectId,
    Reuse,
    RuleKind,
    RuleRef,
    Secret,
    VerifiedToken,
)
from gateway.domain.overrides import Effect, Override, OverrideSet
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.policy.rule_index import RuleIndex, compile_rules
from gateway.domain.policy.rules import Rule
from gateway.domain.queue.pacing import Pace
from gateway.domain.requests.model import AccessRequest
from gateway.domain.sampling import EvenSampler
from gateway.drivers.audit.group_commit import GroupCommitAuditLog
from gateway.drivers.audit.store import Committed, unavailable
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.telemetry.trace_propagation import PropagatedTracing
from gateway.edge.listener.client_address import TrustedProxies
from gateway.edge.listener.server import ListenerConnection, ListenerServer
from gateway.edge.public.handler import PublicHandler
from gateway.edge.public.request_log import RequestLog
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.console_links import ConsoleAccount, ConsoleLinks
from gateway.flow.identify import Identify
from gateway.flow.locked_policies import LockedPolicies
from gateway.flow.pipeline import build_gateway
from gateway.flow.request_audit import RequestAudit
from gateway.flow.requests.requested_policies import RequestedPolicies
from gateway.flow.single_flight import FetchResult
from tests.support.clock import FakeClock, settle
from tests.support.request_lines import RecordedLines
from tests.support.stages import FakeInventories, FakePolicies

PROJECT = ProjectId("p")
SERVERS = tuple(f"{number}" * 8 + "-2222-4333-8444-555555555555" for number in range(3))
ISSUER = "corp"
LIFETIME_S, MIN_REMAINING_S, RENEW_BEFORE_S = 100.0, 30.0, 10.0
TOKEN_LIFE_S = 200.0


def grant(
    *,
    users: Iterable[str] = (),
    groups: Iterable[str] = (),
    since: float = float("-inf"),
    until: float = float("inf"),
    line: int = 1,
) -> Rule:
    """Return a grant on all servers of the project."""
    return Rule(
        RuleRef(RuleKind.GRANT, "policy.yaml", line, "a grant"),
        permissions=frozenset({CONSOLE_OPEN}),
        issuer=None,
        users=frozenset(users),
        groups=frozenset(groups),
        projects=frozenset({PROJECT}),
        servers=frozenset(),
        valid_from=since,
        valid_until=until,
    )


def denial(*, groups: Iterable[str]) -> Rule:
    return msgspec.structs.replace(
        grant(groups=groups), ref=RuleRef(RuleKind.DENIAL, "policy.yaml", 9, "a denial")
    )


def request_bytes(token: str, server: str = SERVERS[0], headers: str = "") -> bytes:
    path = f"/v1/{PROJECT}/physicalservers/{server}/remote-console-address"
    head = f"GET {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n"
    return f"{head}{headers}\r\n".encode()


class FakeTransport(asyncio.Transport):
    """A connection without a socket."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 1)})
        self.sent = b""
        self.is_closed = self.is_paused = False
        self.unsent = 0
        self.lost: Callable[[None], object] = lambda _: None

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.sent += data

    def take(self) -> bytes:
        sent, self.sent = self.sent, b""
        return sent

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.lost, None)

    abort = close

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class MemoryStore:
    """An AuditStore with commits that a test delays or fails."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.fails = False

    def commit_at_once(self, bodies: Sequence[bytes]) -> Committed | None:
        if self.fails or not self.may_commit.is_set() or len(bodies) % 2:
            return None
        self.records += [json.loads(body) for body in bodies]
        return Committed([], [])

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        await self.may_commit.wait()
        if self.fails or not confirm():
            raise unavailable("the disk is full")
        self.records += [json.loads(body) for body in bodies]
        return Committed([], [])

    async def apply_retention(self) -> Committed:
        return Committed([], [])

    async def close(self) -> None:
        pass


class HitWorld:
    def __init__(
        self,
        *,
        has_hit_path: bool,
        burst: int = 1_000,
        hit_sample_ratio: float = 1.0,
        trusted_proxies: TrustedProxies | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics({"ops": "operations"})
        self._lines = RecordedLines()
        self.lines = self._lines.found
        self.store = MemoryStore()
        self.policies = FakePolicies(Policy([], version="v0"))
        self.overrides = OverrideSet()
        self._override_ids = 0
        self._issued_at: dict[str, float] = {}
        self._sent_during_pause: set[int] = set()
        self.fetches: Counter[str] = Counter()
        self.renewals: Counter[str] = Counter()
        self.audit_log = GroupCommitAuditLog(
            self.store, clock=self.clock, telemetry=self.metrics, checkpoint_s=60.0
        )
        self.started: tuple[AccessRequest, ...] = ()
        requested = RequestedPolicies(
            self.policies,
            lambda: self.started,
            lambda: self.overrides.ended_requests,
            self.clock,
        )
        locked = LockedPolicies(requested, lambda: self.overrides.target_locks)
        nothing: Any = None
        itself: Any = self
        self.limits = CallerLimits(Pace(1, 1, burst), nothing, self.clock)
        self.identify = Identify(
            signatures=itself,
            rules={ISSUER: _RULES},
            revoked=self._is_revoked,
            find_lock=self._find_lock,
            groups_required=self._are_groups_required,
            groups_missing=lambda _: None,
            clock=self.clock,
            telemetry=self.metrics,
            tokens_max=100,
        )
        account = ConsoleAccount(
            "prod", itself, LIFETIME_S, MIN_REMAINING_S, RENEW_BEFORE_S, Reuse.CALLER,
            ConsoleAddresses(("*.example",)),
        )  # fmt: skip
        self.links = ConsoleLinks(
            {PROJECT: account},
            itself,
            self.clock,
            links_max=100,
            jitter=lambda: 0.0,
            fingerprints=itself,
            telemetry=self.metrics,
            override_ids=self._dropped_by,
        )
        request_audit = RequestAudit(
            self.audit_log, policies=locked, limits=self.limits, clock=self.clock
        )
        self.gateway = build_gateway(
            identify=self.identify,
            credentials=itself,
            catalogue=Catalogue(built_in_operations()),
            policies=locked,
            limits=self.limits,
            links=self.links,
            inventories=cast("Any", FakeInventories()),
            instances=nothing,
            forwarding=nothing,
            group_weights={},
            request_audit=request_audit,
            writes=nothing,
            clock=self.clock,
            telemetry=self.metrics,
            audit_log=self.audit_log,
        )
        self.handler = PublicHandler(
            self.gateway,
            self.clock,
            deadline_s=30.0,
            request_log=RequestLog(
                self.clock,
                count_request=self.metrics.request_done,
                lines=self._lines,
                hit_log_share=EvenSampler(hit_sample_ratio) if hit_sample_ratio < 1 else None,
                count_unlogged=self.metrics.log_line_sampled_out,
            ),
            limits=self.limits,
            trusted_proxies=trusted_proxies or TrustedProxies(),
            federation=nothing,
            pages={},
            tracing=PropagatedTracing(),
            cors=None,
            compresses_lists=True,
            link_stages=self.gateway.link_stages if has_hit_path else None,
        )
        self.handler._id_prefix = "request"
        self.server = ListenerServer(
            self.handler,
            idle_timeout_s=75.0,
            cancels_on_disconnect=True,
            exact_requests=self.handler.hit_path,
        )
        self.connections: list[tuple[ListenerConnection, FakeTransport]] = []

    async def start(self) -> "HitWorld":
        await self.audit_log.open()
        await web.ServerRunner(self.server).setup()
        return self

    async def connect(self, peer: str = "192.0.2.1") -> int:
        """Open a connection; return its number."""
        connection = self.server.make_connection()
        transport = FakeTransport(peer)
        transport.lost = lambda _: connection.connection_lost(None)
        connection.connection_made(transport)
        self.connections.append((connection, transport))
        await settle()
        return len(self.connections) - 1

    async def send(self, number: int, data: bytes) -> None:
        connection, transport = self.connections[number]
        if not transport.is_closed:
            connection.data_received(data)
        await settle()

    def has_sent_during_pause(self, number: int) -> bool:
        """Return whether records are held, and this is not the first request meanwhile."""
        if self.store.may_commit.is_set():
            self._sent_during_pause.clear()
            return False
        seen = number in self._sent_during_pause
        self._sent_during_pause.add(number)
        return seen

    async def hang_up(self, number: int) -> None:
        self.connections[number][1].close()
        await settle()

    def received(self, number: int) -> bytes:
        return self.connections[number][1].take()

    def set_policy(self, *rules: Rule, version: str) -> None:
        self.policies.policy = Policy(rules, version=version)

    def set_request_rules(self, *rules: RequestRule, version: str) -> None:
        index = RuleIndex(compile_rules((), requests=rules))
        self.policies.policy = Policy(index, version=version)

    def override(self, effect: Effect, *, life_s: float = 1e6) -> None:
        self._override_ids += 1
        now = self.clock.now()
        added = Override(f"o{self._override_ids}", now, now + life_s, "admin", "test", effect)
        self.overrides = self.overrides.merge([added], now)
        self.identify.drop_revoked()
        self.links.evict_dropped()

    def end_overrides(self) -> None:
        self.overrides = OverrideSet()
        self.identify.drop_revoked()

    async def close(self) -> None:
        self.store.may_commit.set()
        for _, transport in self.connections:
            transport.close()
        await settle()
        await self.audit_log.close()

    @property
    def hits(self) -> int:
        """How many requests the hit path has begun."""
        path = self.handler.hit_path
        return 0 if path is None else path.begun_count

    def exposition(self) -> list[str]:
        """Return the gateway's own metrics."""
        self.metrics.add_up()
        text = self.metrics.render("")[0].decode()
        return [line for line in text.splitlines() if line.startswith("gateway_")]

    def _is_revoked(self, principal: Principal) -> bool:
        return self.overrides.is_revoked(principal)

    def _find_lock(self, principal: Principal) -> str | None:
        return self.overrides.find_lock(principal)

    def _dropped_by(self, *names: str) -> tuple[str, ...]:
        return self.overrides.dropped_by(*names)

    def _are_groups_required(self, issuer: str) -> bool:
        if self.overrides.locks_groups(issuer):
            return True
        return self.policies.policy.denies_groups(self.clock.now())

    # The fakes: signatures, credentials, single-flight and fingerprints.

    async def verify(self, caller_jwt: Secret) -> VerifiedToken:
        """`PERSON.GROUP.ANYTHING` is a valid token; one that begins with `bad` is forged."""
        person, group, number = caller_jwt.reveal().split(".")
        if person == "bad":
            raise NotAuthenticated(Rejection.SIGNATURE)
        issued_at = self._issued_at.setdefault(caller_jwt.reveal(), self.clock.now())
        claims: dict[str, Any] = {
            "iss": "https://idp.example",
            "aud": "gateway",
            "sub": person,
            "iat": issued_at,
            "exp": issued_at + TOKEN_LIFE_S,
            "jti": f"{person}-{number}",
        }
        if group:
            claims["groups"] = [group]
        return VerifiedToken(ISSUER, {"alg": "RS256"}, claims)

    def unsigned_jwt(self, authorization: Sequence[str], *_: object) -> str:
        if not authorization:
            raise NotAuthenticated(Rejection.MISSING)
        return authorization[0].removeprefix("Bearer ")

    def early_entry(self, *_: object, **__: object) -> None:
        return None

    async def obtain(
        self, key: str, fetch: object, *, then: Callable[[FetchResult], None], **_: object
    ) -> FetchResult:
        self.fetches[key] += 1
        return self._link(key, self.fetches[key])

    def renew(
        self, key: str, fetch: object, *, then: Callable[[FetchResult], None], **_: object
    ) -> None:
        self.renewals[key] += 1
        then(self._link(key, 100 + self.renewals[key]))

    def _link(self, key: str, number: int) -> FetchResult:
        url = f"https://console.example/{key}?token={number}"
        good_until = self.clock.monotonic() + LIFETIME_S - MIN_REMAINING_S
        return FetchResult(url.encode(), good_until, LinkSource.UPSTREAM)

    def of(self, secret: Secret) -> str:
        return secret.reveal().rpartition("/")[2]


_RULES = TokenRules(
    issuer=ISSUER,
    iss="https://idp.example",
    audiences=frozenset({"gateway"}),
    leeway_s=0.0,
    token_age_max_s=1e6,
    token_type=None,
    subject_claim="sub",
    groups_claim="groups",
)


def person(name: str, group: str = "ops") -> Principal:
    return Principal(ISSUER, name, frozenset({group}), 0.0, 9e9, None)
