"""The account, cache, reuse and renewal of console links."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.domain.errors import (
    BudgetExhausted,
    GatewayError,
    NotPermitted,
    UpstreamBroken,
    UpstreamUnreachable,
)
from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import (
    CONSOLE_OPEN,
    BudgetClass,
    LinkSource,
    Operation,
    Principal,
    Priority,
    ProjectId,
    QueueRequest,
    ResolvedCall,
    Reuse,
    RuleKind,
    RuleRef,
    Secret,
    ServerId,
    UpstreamRequest,
    UpstreamResponse,
)
from gateway.domain.policy.policy import Permit
from gateway.domain.upstream.conversation import NotSent
from gateway.domain.upstream.verdicts import Usable
from gateway.drivers.crypto.fingerprints import KeyedFingerprints
from gateway.flow.admit import Admit
from gateway.flow.attempts import Attempts
from gateway.flow.console_links import ConsoleAccount, ConsoleLinks
from gateway.flow.shared_queue import EarlyEntry
from gateway.flow.shared_store import HolderFailed, LeaseAcquired, LeaseHeld, StoredValue
from gateway.flow.single_flight import SingleFlight
from gateway.flow.waiters import Waiters
from tests.support.clock import FakeClock, settle
from tests.support.shared_store import FakeSharedStore
from tests.support.telemetry import RecordingTelemetry

OPERATION = Operation(
    "ShowRemoteConsole",
    "GET",
    "/physicalservers/{server_id}/console",
    CONSOLE_OPEN,
)
SEAL_KEY = Secret("a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=")
RULE = RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant")


@dataclass
class FakeExchange:
    """Returns a new link per call and records the calls."""

    host: str
    clock: FakeClock
    answer_s: float = 0.0
    admit_s: float = 0.0
    requested: list[tuple[str, str, str]] = field(default_factory=list)
    queue_requests: list[QueueRequest] = field(default_factory=list)
    waiters: list[Waiters | None] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    refuses: GatewayError | None = None

    def early_entry(self, *_: object, **__: object) -> None:
        """Return no entry: a fake store would not make it."""

    async def call(
        self,
        request: UpstreamRequest,
        *,
        project: str,
        queue_request: QueueRequest,
        budget: BudgetClass,
        deadline: float,
        attempts: Attempts,
        waiters: Waiters | None,
        is_finished: bool,
    ) -> UpstreamResponse:
        self.queue_requests.append(queue_request)
        self.waiters.append(waiters)
        self.deadlines.append(deadline)
        self.requested.append((request.path, project, queue_request.caller))
        await self.clock.sleep(self.admit_s)
        attempts.begin()
        await self.clock.sleep(self.answer_s)
        if self.refuses is not None:
            attempts.end(NotSent(self.refuses))
            raise self.refuses
        attempts.end(Usable(UpstreamResponse(200, {}, b"")))
        url = f'{{"url": "https://{self.host}/vnc?token={len(self.requested)}"}}'
        return UpstreamResponse(200, {}, url.encode())


def a_permit(project: str = "p1", server: str = "s1", subject: str = "ann", *groups: str) -> Permit:
    person = Principal("corp", subject, frozenset(groups), 0.0, 9e9, None)
    target = f"/v1/{project}/physicalservers/{server}/console"
    call = ResolvedCall(OPERATION, ProjectId(project), (ServerId(server),), target)
    return Permit(person, call, RULE)


def an_account(name: str, exchange: FakeExchange, reuse: Reuse) -> ConsoleAccount:
    return ConsoleAccount(
        name=name,
        exchange=exchange,  # type: ignore[arg-type]
        lifetime_s=300.0,
        min_remaining_s=30.0,
        renew_before_s=60.0,
        reuse=reuse,
        addresses=ConsoleAddresses(("a.example", "b.example")),
    )


class SlowStore(FakeSharedStore):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self._sleep = clock.sleep
        self.answers_after_s = 0.0

    async def claim(
        self,
        key: str,
        *,
        owner: str,
        lease_s: float,
        skip: bytes = b"",
        awaited: str = "",
        entry: EarlyEntry | None = None,
    ) -> StoredValue | LeaseAcquired | LeaseHeld | HolderFailed:
        reported = await super().claim(
            key, owner=owner, lease_s=lease_s, skip=skip, awaited=awaited
        )
        await self._sleep(self.answers_after_s)
        return reported


class Subject:
    def __init__(self, clock: FakeClock, reuse: Reuse = Reuse.CALLER, links_max: int = 10) -> None:
        self.clock = clock
        self.a, self.b = FakeExchange("a.example", clock), FakeExchange("b.example", clock)
        accounts = {
            ProjectId("p1"): an_account("a", self.a, reuse),
            ProjectId("p2"): an_account("b", self.b, reuse),
        }
        self.store = SlowStore(clock)
        single_flight = SingleFlight(self.store, clock)
        self.chance = 1.0
        self.telemetry = RecordingTelemetry()
        nothing: Any = None
        self.admit = Admit(nothing, nothing, group_weights={"oncall": 4.0, "staff": 2.0})
        self.consoles = ConsoleLinks(
            accounts,
            single_flight,
            clock,
            links_max=links_max,
            jitter=lambda: self.chance,
            fingerprints=KeyedFingerprints(SEAL_KEY),
            override_ids=lambda *_: (),
            telemetry=self.telemetry,
        )

    async def url(self, permit: Permit, *, fresh: bool = False) -> tuple[str, LinkSource]:
        link = None if fresh else self.consoles.cached_link(permit)
        if link is not None:
            return link.url.reveal(), LinkSource.LOCAL
        deadline = self.clock.monotonic() + 30
        queue_request = self.admit.queue_request(permit.principal, permit.call.operation)
        link, source = await self.consoles.obtain(
            permit, queue_request, deadline=deadline, fresh=fresh, headers=()
        )
        return link.url.reveal(), source


async def test_project_selects_the_account(clock: FakeClock) -> None:
    subject = Subject(clock)
    assert "a.example" in (await subject.url(a_permit("p1")))[0]
    assert "b.example" in (await subject.url(a_permit("p2")))[0]
    assert subject.a.requested == [("/v1/p1/physicalservers/s1/console", "p1", "4:corp:ann")]
    assert subject.b.requested == [("/v1/p2/physicalservers/s1/console", "p2", "4:corp:ann")]


async def test_call_has_the_deadline_of_its_request(clock: FakeClock) -> None:
    subject = Subject(clock)
    await subject.url(a_permit())
    assert subject.a.deadlines == [clock.monotonic() + 30]


async def test_project_without_account_is_forbidden(
    clock: FakeClock,
) -> None:
    with pytest.raises(NotPermitted):
        await Subject(clock).url(a_permit("p3"))


@pytest.mark.parametrize(
    ("reuse", "calls"), [(Reuse.SHARED, 1), (Reuse.CALLER, 2), (Reuse.NEVER, 4)]
)
async def test_reuse_setting_selects_who_shares_links(
    clock: FakeClock, reuse: Reuse, calls: int
) -> None:
    subject = Subject(clock, reuse)
    for person in ("ann", "bob", "ann", "bob"):
        await subject.url(a_permit(subject=person))
    assert len(subject.a.requested) == calls


async def test_link_is_issued_until_min_remaining(clock: FakeClock) -> None:
    subject = Subject(clock)
    first, _ = await subject.url(a_permit())
    await clock.advance(269.9)
    assert await subject.url(a_permit()) == (first, LinkSource.LOCAL)
    await clock.advance(0.2)
    second, source = await subject.url(a_permit())
    assert (second != first, source) == (True, LinkSource.UPSTREAM)


async def test_link_that_aged_in_redis_is_replaced(clock: FakeClock) -> None:
    subject = Subject(clock, links_max=1)
    first, _ = await subject.url(a_permit(server="s1"))
    await subject.url(a_permit(server="s2"))
    await clock.advance(269.9)
    subject.store.answers_after_s = 0.2
    requesting = asyncio.ensure_future(subject.url(a_permit(server="s1")))
    await clock.advance(5.0)
    second, source = await requesting
    assert (second != first, source) == (True, LinkSource.UPSTREAM)


async def test_link_with_too_short_lifetime_is_rejected(
    clock: FakeClock,
) -> None:
    subject = Subject(clock)
    subject.a.answer_s = 271.0
    deadline = clock.monotonic() + 500.0
    obtaining = subject.consoles.obtain(
        a_permit(), QueueRequest("ann"), deadline=deadline, fresh=False, headers=()
    )
    requesting = asyncio.ensure_future(obtaining)
    await clock.advance(400.0)
    with pytest.raises(UpstreamBroken):
        await requesting
    assert len(subject.a.requested) == 1


async def test_fresh_link_was_never_issued(clock: FakeClock) -> None:
    subject = Subject(clock)
    first, _ = await subject.url(a_permit())
    fresh, _ = await subject.url(a_permit(), fresh=True)
    assert fresh != first
    assert await subject.url(a_permit()) == (fresh, LinkSource.LOCAL)


async def test_invalid_link_is_not_cached(clock: FakeClock) -> None:
    subject = Subject(clock)
    subject.a.host = "evil.example"
    with pytest.raises(UpstreamBroken):
        await subject.url(a_permit())
    subject.a.host = "a.example"
    assert (await subject.url(a_permit()))[1] is LinkSource.UPSTREAM


async def test_cache_size_is_bounded(clock: FakeClock) -> None:
    subject = Subject(clock, links_max=5)
    for i in range(20):
        await subject.url(a_permit(server=f"s{i}"))
    assert subject.consoles.link_count == 5


async def test_heaviest_group_sets_the_weight(clock: FakeClock) -> None:
    subject = Subject(clock)
    await subject.url(a_permit("p1", "s1", "ann", "oncall", "staff", "others"))
    await subject.url(a_permit("p1", "s1", "bob", "others"))
    assert [queue_request.weight for queue_request in subject.a.queue_requests] == [4.0, 1.0]


async def test_hot_link_is_renewed_from_spare_budget(clock: FakeClock) -> None:
    subject = Subject(clock)
    first, _ = await subject.url(a_permit())
    subject.chance = 0.0
    await clock.advance(209.0)
    assert await subject.url(a_permit()) == (first, LinkSource.LOCAL)
    await settle()
    assert len(subject.a.requested) == 1, "it is not near its end yet"
    await clock.advance(2.0)
    for _ in range(5):
        assert await subject.url(a_permit()) == (first, LinkSource.LOCAL), "no request waits for it"
    await settle()
    assert len(subject.a.requested) == 2
    assert subject.a.queue_requests[-1] == QueueRequest("", priority=Priority.SPARE)
    second, source = await subject.url(a_permit())
    assert second != first
    assert source is LinkSource.LOCAL
    assert subject.telemetry.renewals == [("a", "ok")]


async def test_unused_link_is_not_renewed(clock: FakeClock) -> None:
    subject = Subject(clock)
    subject.chance = 0.0
    await subject.url(a_permit())
    await clock.advance(400.0)
    assert len(subject.a.requested) == 1


async def test_early_requests_rarely_start_renewals(clock: FakeClock) -> None:
    subject = Subject(clock)
    await subject.url(a_permit())
    await clock.advance(211.0)
    subject.chance = 0.1
    await subject.url(a_permit())
    await settle()
    assert len(subject.a.requested) == 1
    await clock.advance(50.0)
    await subject.url(a_permit())
    await settle()
    assert len(subject.a.requested) == 2


async def test_link_serves_to_its_end_without_renewal(clock: FakeClock) -> None:
    subject = Subject(clock)
    first, _ = await subject.url(a_permit())
    subject.chance = 0.0
    subject.a.refuses = BudgetExhausted("none to spare", retry_after_s=0.0)
    await clock.advance(250.0)
    for _ in range(5):
        assert await subject.url(a_permit()) == (first, LinkSource.LOCAL)
        await settle()
    assert len(subject.a.requested) == 2, "it is not tried again at once"
    assert subject.telemetry.renewals == [("a", "BudgetExhausted")]
    subject.a.refuses = None
    await clock.advance(21.0)
    assert (await subject.url(a_permit()))[0] != first


async def test_replicas_share_one_renewal(clock: FakeClock) -> None:
    subject, store = Subject(clock), FakeSharedStore(clock)
    replicas = []
    for _ in range(3):
        replica = Subject(clock)
        replica.a = subject.a
        replica.consoles = ConsoleLinks(
            {ProjectId("p1"): an_account("a", subject.a, Reuse.CALLER)},
            SingleFlight(store, clock),
            clock,
            links_max=10,
            jitter=lambda: 0.0,
            fingerprints=KeyedFingerprints(SEAL_KEY),
            override_ids=lambda *_: (),
            telemetry=subject.telemetry,
        )
        replicas.append(replica)
    for replica in replicas:
        await replica.url(a_permit())
    await clock.advance(215.0)
    for replica in replicas:
        await replica.url(a_permit())
    await settle()
    assert len(subject.a.requested) == 2
    assert len({(await replica.url(a_permit()))[0] for replica in replicas}) == 1


@pytest.mark.parametrize("reuse", [Reuse.CALLER, Reuse.NEVER])
async def test_personal_link_has_no_waiters(clock: FakeClock, reuse: Reuse) -> None:
    subject = Subject(clock, reuse)
    await subject.url(a_permit())
    assert subject.a.waiters == [None]


async def test_concurrent_requests_wait_for_shared_link(
    clock: FakeClock,
) -> None:
    subject = Subject(clock, Reuse.SHARED)
    subject.a.answer_s = 1.0
    requested = [
        asyncio.create_task(subject.url(a_permit(subject=name))) for name in ("ann", "bob", "ann")
    ]
    await settle()
    (waiters,) = subject.a.waiters
    assert waiters is not None
    assert [one.caller for one in waiters.all] == ["4:corp:ann", "4:corp:bob"]
    await clock.advance(1.0)
    await asyncio.gather(*requested)
    assert waiters.all == ()


async def hang_up(subject: Subject, permit: Permit, after_s: float) -> None:
    request = asyncio.ensure_future(subject.url(permit))
    await subject.clock.advance(after_s)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)


@pytest.mark.parametrize("is_redis_available", [True, False])
async def test_sent_call_is_cached_after_its_caller_left(
    clock: FakeClock, *, is_redis_available: bool
) -> None:
    subject = Subject(clock)
    subject.store.unavailable = not is_redis_available
    subject.a.answer_s = 1.0
    await hang_up(subject, a_permit(), 0.4)
    await clock.advance(1.5)
    _, source = await subject.url(a_permit())
    assert source is LinkSource.LOCAL
    assert len(subject.a.requested) == 1


async def test_next_caller_joins_the_call_that_was_sent(clock: FakeClock) -> None:
    subject = Subject(clock)
    subject.a.answer_s = 1.0
    await hang_up(subject, a_permit(), 0.4)
    request = asyncio.ensure_future(subject.url(a_permit()))
    await clock.advance(1.0)
    assert (await request)[1] is LinkSource.COALESCED
    assert len(subject.a.requested) == 1


async def test_place_in_the_queue_is_given_up_at_once(clock: FakeClock) -> None:
    subject = Subject(clock)
    subject.a.admit_s, subject.a.answer_s = 5.0, 1.0
    await hang_up(subject, a_permit(), 0.4)
    await clock.advance(20.0)
    assert subject.consoles.link_count == 0
    subject.a.admit_s = 0.0
    request = asyncio.ensure_future(subject.url(a_permit()))
    await clock.advance(2.0)
    assert (await request)[1] is LinkSource.UPSTREAM


async def test_failed_call_without_caller_is_not_repeated(clock: FakeClock) -> None:
    subject = Subject(clock)
    subject.a.answer_s = 1.0
    subject.a.refuses = UpstreamUnreachable("reset", retry_after_s=1.0)
    await hang_up(subject, a_permit(), 0.4)
    await clock.advance(10.0)
    assert len(subject.a.requested) == 1
    assert subject.consoles.link_count == 0
