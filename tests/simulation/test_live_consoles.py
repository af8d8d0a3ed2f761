"""Invariants 9, 10 and 11 under seeded schedules and faults, in virtual time.

`CONSOLE_SEEDS=5000 python -m pytest tests/simulation/test_live_consoles.py` runs more. `SEED=17`
runs that one alone. Each invariant is also broken on purpose, and the checks must find it.
"""

import asyncio
import base64
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest

from gateway.domain.audit.record import AuditRecord, ConsoleSessionFields, encode_record
from gateway.domain.consoles.model import RESUME_WITHIN_S, SessionMode, Ticket
from gateway.domain.consoles.page_messages import waiting
from gateway.domain.consoles.ticket_text import TicketTexts, is_local_ticket
from gateway.domain.errors import (
    ConsoleBusy,
    ConsoleStoreUnavailable,
    GatewayError,
    Rejection,
    StoreUnavailable,
    TicketRejected,
)
from gateway.domain.model import CONSOLE_OPEN, CONSOLE_TAKEOVER, CONSOLE_VIEW, Secret
from gateway.domain.policy.policy import Policy
from gateway.flow.consoles.console_store import Attached
from gateway.flow.consoles.fallback_console_store import FallbackConsoleStore
from gateway.flow.consoles.issue_ticket import TicketPipeline
from gateway.flow.consoles.live_session import LiveSession
from gateway.flow.consoles.live_sessions import LiveSessions
from gateway.flow.consoles.local_console_store import LocalConsoleStore
from gateway.flow.consoles.session_opening import NewSession
from gateway.flow.consoles.session_watch import SessionWatch
from gateway.flow.decide import DecisionVersion
from tests.support.console_world import KEYS, ConsoleWorld, a_rule
from tests.support.consoles import OTHER_TARGET, TARGET
from tests.support.live_consoles import Page, Replica
from tests.support.virtual_time import run_virtually

_SEEDS = int(os.environ.get("CONSOLE_SEEDS", "30"))
_BROKEN_SEEDS = 80
_PEOPLE = ("ada", "ben", "cyd", "dot")
_RUNS_S = 90.0
_SECRET = "token=secret"
_WITHIN_S = 1.0


class Fleet:
    """Replicas, people and what was seen of them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"consoles {seed}")
        self.world = ConsoleWorld()
        count = self.chance.choice([2, 3])
        self.replicas = [
            Replica(self.world, f"p{number}", processes=count).start() for number in range(count)
        ]
        self.pages: list[Page] = []
        self.faults: list[str] = []
        self.ends_at = self.world.clock.monotonic() + _RUNS_S
        self._forbidden_since: dict[int, float] = {}

    @property
    def alive(self) -> list[Replica]:
        return [one for one in self.replicas if not one.is_dead]

    @property
    def goes_on(self) -> bool:
        return self.world.clock.monotonic() < self.ends_at

    def any_replica(self) -> Replica:
        return self.chance.choice(self.alive)

    async def watch(self) -> None:
        """Check invariant 11, and the record before the first screen byte, all the time."""
        while True:
            self._check_now()
            await asyncio.sleep(0.05)

    def _check_now(self) -> None:
        started = _sessions(self.world, "console_session_started")
        now = self.world.clock.monotonic()
        for page in self.pages:
            if any(isinstance(one, bytes) for one in page.channel.sent):
                assert page.id in started, "a screen without a record"
            if self._is_right(page):
                self._forbidden_since.pop(id(page), None)
                continue
            since = self._forbidden_since.setdefault(id(page), now)
            assert now - since <= _WITHIN_S, f"{page.id} goes on without a right"

    def _is_right(self, page: Page) -> bool:
        """Decide without the code under test whether the page may be as it is."""
        if page.closed is not None or page.task.done() or page.replica.is_dead:
            return True
        connection = page.replica.sessions.connections.get(page.id)
        if connection is None or not page.is_live:
            return True
        person, target = connection.session.person, connection.session.target
        if person.subject in self.world.tokens.refused:
            return False
        if self.world.clock.now() >= person.expires_at + 3_600:
            return False
        rights = {
            permission: self.world.policy.decide(
                person, permission, target.project, target.server, self.world.clock.now()
            ).allowed
            for permission in (CONSOLE_OPEN, CONSOLE_VIEW)
        }
        if connection.session.mode is SessionMode.CONTROL:
            return rights[CONSOLE_OPEN]
        return any(rights.values())

    async def person(self, subject: str) -> None:
        while self.goes_on:
            await asyncio.sleep(self.chance.uniform(0.0, 4.0))
            with suppress(GatewayError):
                new = await self._open(subject)
                if new is not None:
                    await self._use(new)

    async def _open(self, subject: str) -> NewSession | None:
        """Get a ticket, and redeem it several times at once at several replicas."""
        person = self.world.person(subject, life_s=self.chance.choice([30.0, 36_000.0]))
        target = self.chance.choice([TARGET, OTHER_TARGET])
        issuer = self.any_replica()
        ticket = await issuer.ticket(person, target)
        await asyncio.sleep(self.chance.choice([0.0, 0.5, 58.0, 62.0]))
        tries = [
            asyncio.create_task(self._redeem(ticket, issuer))
            for _ in range(self.chance.choice([1, 1, 3]))
        ]
        results = [one for one in await asyncio.gather(*tries) if one is not None]
        return results[0] if results else None

    async def _redeem(self, ticket: str, issuer: Replica) -> NewSession | None:
        is_local = is_local_ticket(TicketTexts(KEYS).verify(ticket) or b"")
        mode = self.chance.choice([SessionMode.CONTROL, SessionMode.CONTROL, SessionMode.VIEW])
        for _ in range(40):  # as the page does, on a new connection
            replica = self.any_replica()
            try:
                return await replica.redeem(ticket, mode, take_over=self.chance.random() < 0.3)
            except TicketRejected:
                assert not is_local or replica is issuer, "rejected where it cannot be known"
                return None
            except (ConsoleStoreUnavailable, ConsoleBusy):
                await asyncio.sleep(2.0)
            except GatewayError:
                return None
        return None

    async def _use(self, new: NewSession) -> None:
        key, lost_at = new.resume_key.reveal(), self.world.clock.monotonic()
        for _ in range(8):
            page = self.any_replica().open_page(new, key)
            self.pages.append(page)
            await self._sit(page)
            key = page.key
            if page.of_type("attached"):
                lost_at = self.world.clock.monotonic()
            elif self.world.clock.monotonic() - lost_at < RESUME_WITHIN_S:
                self._check_not_locked_out(page)
            may_resume = page.closed is None or page.closed[0] == 4007
            if not may_resume or not self.goes_on:
                break
            await asyncio.sleep(self.chance.choice([0.0, 1.0, 10.0, 33.0]))
        if key != new.resume_key.reveal() and self.chance.random() < 0.5:  # of a copied tab
            stale = self.any_replica().open_page(new, new.resume_key.reveal())
            self.pages.append(stale)
            await asyncio.wait({stale.task}, timeout=30)
            # Until its owner has registered again, Redis may have the key before the current one.
            if not {"store_is_unavailable", "store_loses_answers"} & set(self.faults):
                assert not stale.is_live or stale.closed is not None

    def _check_not_locked_out(self, page: Page) -> None:
        """Whatever is lost between gateway and page, the newest key that the page has is good."""
        redis = self.world.redis
        assert isinstance(redis, LocalConsoleStore)
        if page.closed != (4009, "stale_page"):
            return
        if "store_loses_answers" not in self.faults:
            stored = redis._alive(page.id)
            assert stored is None or stored.is_ending, "a page is refused with its newest key"

    async def _sit(self, page: Page) -> None:
        await asyncio.wait({page.task}, timeout=self.chance.choice([0.5, 5.0, 20.0]))
        if page.task.done():
            return
        if self.chance.random() < 0.3:
            page.send(type="end")
        else:
            page.lose()
        await asyncio.wait({page.task}, timeout=60)
        assert page.task.done()


def _sessions(world: ConsoleWorld, event: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for record in world.events(event):
        assert isinstance(record.extra, ConsoleSessionFields)
        found[record.extra.session] += 1
    return found


Fault = Callable[[Fleet], Coroutine[Any, Any, None]]


async def no_fault(fleet: Fleet) -> None:
    del fleet


async def store_is_unavailable(fleet: Fleet) -> None:
    for _ in range(3):
        await asyncio.sleep(fleet.chance.uniform(1.0, 20.0))
        for replica in fleet.replicas:
            replica.outage.is_down = True
        await asyncio.sleep(fleet.chance.choice([1.0, 10.0, 40.0]))
        for replica in fleet.alive:
            replica.outage.is_down = False


async def one_replica_lacks_the_store(fleet: Fleet) -> None:
    for _ in range(3):
        replica = fleet.any_replica()
        await asyncio.sleep(fleet.chance.uniform(1.0, 15.0))
        replica.outage.is_down = True
        await asyncio.sleep(fleet.chance.choice([1.0, 10.0, 30.0]))
        replica.outage.is_down = replica.is_dead


async def store_loses_data(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(1.0, 60.0))
    redis = fleet.world.redis
    assert isinstance(redis, LocalConsoleStore)
    redis.__init__(fleet.world.clock)  # type: ignore[misc]


async def store_loses_answers(fleet: Fleet) -> None:
    for _ in range(8):
        replica = fleet.any_replica()
        await asyncio.sleep(fleet.chance.uniform(0.0, 4.0))
        replica.outage.loses_answers = True
        await asyncio.sleep(fleet.chance.uniform(0.0, 8.0))
        replica.outage.loses_answers = False


async def replica_is_killed(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(1.0, 60.0))
    await fleet.replicas[0].kill()


async def replica_is_killed_while_it_attaches(fleet: Fleet) -> None:
    """Kill one that has a page's next key in the store: the page never receives it."""
    replica = fleet.replicas[0]
    attach = replica.sessions._attach

    async def attach_and_die(*arguments: Any) -> Any:
        connection = await attach(*arguments)
        if isinstance(connection, LiveSession):
            replica.is_dead = replica.outage.is_down = True
            killing.set()
            await asyncio.sleep(3_600)  # until its task is cancelled
        return connection

    killing = asyncio.Event()
    await asyncio.sleep(fleet.chance.uniform(1.0, 30.0))
    replica.sessions._attach = attach_and_die  # type: ignore[method-assign]
    with suppress(TimeoutError):
        async with asyncio.timeout(_RUNS_S / 2):
            await killing.wait()
    await replica.kill()


async def clock_is_stepped(fleet: Fleet) -> None:
    for _ in range(3):
        await asyncio.sleep(fleet.chance.uniform(1.0, 20.0))
        fleet.world.clock.stepped_s += fleet.chance.choice([-500.0, -2.0, 2.0, 500.0, 5_000.0])


async def replica_is_drained(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(1.0, 60.0))
    await fleet.replicas[0].drain.run(within_s=20)


FAULTS: tuple[Fault, ...] = (
    no_fault,
    store_is_unavailable,
    one_replica_lacks_the_store,
    store_loses_data,
    store_loses_answers,
    replica_is_killed,
    replica_is_killed_while_it_attaches,
    clock_is_stepped,
    replica_is_drained,
)


async def rights_change(fleet: Fleet) -> None:
    """Change the policy, revoke and lock, and let grants end."""
    world, chance = fleet.world, fleet.chance
    while fleet.goes_on:
        await asyncio.sleep(chance.uniform(0.5, 12.0))
        if chance.random() < 0.2:
            world.tokens.refuse(
                chance.choice(_PEOPLE), chance.choice([Rejection.REVOKED, Rejection.LOCKED])
            )
            await asyncio.sleep(chance.uniform(1.0, 5.0))
            world.tokens.refused.clear()
            world.tokens.revocations_version += 1
            continue
        until = world.clock.now() + chance.uniform(1.0, 20.0)
        rules = [a_rule(CONSOLE_TAKEOVER, "dot")]
        for subject in _PEOPLE:
            for permission in (CONSOLE_OPEN, CONSOLE_VIEW):
                if chance.random() < 0.8:
                    ends = until if chance.random() < 0.3 else float("inf")
                    rules.append(a_rule(permission, subject, valid_until=ends))
        world.policy = Policy(rules, version=f"v{chance.random()}")


async def one_fleet(seed: int) -> Fleet:
    fleet = Fleet(seed)
    fleet.world.policy = Policy([a_rule(CONSOLE_OPEN), a_rule(CONSOLE_VIEW)], version="v1")
    fleet.world.cloud.queue_s = fleet.chance.choice([0.0, 0.2, 3.0])
    faults = fleet.chance.sample(FAULTS, fleet.chance.choice([1, 1, 2]))
    fleet.faults = [fault.__name__ for fault in faults]
    watching = asyncio.create_task(fleet.watch())
    work = [asyncio.create_task(one) for one in (rights_change(fleet), *(f(fleet) for f in faults))]
    people = [asyncio.create_task(fleet.person(one)) for one in _PEOPLE * 2]
    everything = asyncio.gather(*people, *work)
    done, _ = await asyncio.wait({watching, everything}, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    await everything
    for page in fleet.pages:
        if not page.task.done():
            page.lose()
    await asyncio.sleep(200.0)
    watching.cancel()
    for replica in fleet.replicas:
        await replica.stop()
    check_tickets(fleet)
    check_ends(fleet)
    check_secrets(fleet)
    assert fleet.world.failures == []
    return fleet


def _not_opened(world: ConsoleWorld) -> set[str]:
    """Return the sessions whose record is corrected: no one got them."""
    ends = (one for one in world.events("console_session_ended") if "not opened" in one.detail)
    return {one.extra.session for one in ends if isinstance(one.extra, ConsoleSessionFields)}


def check_tickets(fleet: Fleet) -> None:
    """Invariant 10: one session for a ticket, in time, for its server, person and mode."""
    world = fleet.world
    issued: dict[str, tuple[float, AuditRecord]] = {}
    not_opened = _not_opened(world)
    opened: Counter[str] = Counter()
    for at, record in zip(world.recorded_at, world.records, strict=True):
        if record.event == "console_ticket_issued":
            issued[record.link_fingerprint] = at, record
        if record.event == "console_session_started":
            assert isinstance(record.extra, ConsoleSessionFields)
            opened[record.link_fingerprint] += record.extra.session not in not_opened
            issued_at, ticket = issued[record.link_fingerprint]
            assert at - issued_at <= 60.5, "redeemed too late"
            assert (record.subject, record.servers) == (ticket.subject, ticket.servers)
            assert isinstance(record.extra, ConsoleSessionFields)
            assert isinstance(ticket.extra, ConsoleSessionFields)
            assert (ticket.extra.mode, record.extra.mode) != ("view", "control")
    assert max(opened.values(), default=0) <= 1, "a ticket has opened two sessions"


def check_ends(fleet: Fleet) -> None:
    """Each session has one record of its start, and one of its end."""
    started = _sessions(fleet.world, "console_session_started")
    ended = _sessions(fleet.world, "console_session_ended")
    # The store lost its answers: the gateway cannot know whether the session exists.
    ended.subtract(one for one in _not_opened(fleet.world) if ended[one] > 1)
    assert max(started.values(), default=0) <= 1
    # A killed process cannot report to Redis what it recorded while Redis was unavailable.
    if not {"replica_is_killed", "store_is_unavailable"} <= set(fleet.faults):
        twice = [one for one, count in ended.items() if count > 1]
        assert not twice, f"ended twice: {twice}"
    loses = {"store_loses_data", "replica_is_killed", "store_loses_answers"}
    if not loses & set(fleet.faults):
        assert started.keys() <= ended.keys(), "a session without a record of its end"


def check_secrets(fleet: Fleet) -> None:
    """Invariant 9: nothing that left the gateway or is stored has a console URL of the cloud."""
    written = b"\n".join(
        one.encode() if isinstance(one, str) else one
        for page in fleet.pages
        for one in page.channel.sent
    )
    written += b"".join(encode_record(one) for one in fleet.world.records)
    stores = [fleet.world.redis, *(one.local for one in fleet.replicas)]
    written += repr([vars(store) for store in stores]).encode()
    assert not find_secret(written), "the cloud's URL has left the gateway"


def find_secret(written: bytes) -> bool:
    raw = _SECRET.encode()
    forms = [raw, quote(_SECRET, safe="").encode(), raw.hex().encode()]
    for shift in range(3):  # base64 has three alignments
        encoded = base64.b64encode(b"x" * shift + raw)
        forms.append(encoded[4 if shift else 0 : len(encoded) // 4 * 4 - 4])
    return any(form in written for form in forms)


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.disable(logging.NOTSET)


def test_invariants_hold_for_live_consoles() -> None:
    seeds = [int(os.environ["SEED"])] if "SEED" in os.environ else range(_SEEDS)
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            fleet = run_virtually(one_fleet(seed))
        except Exception as error:
            raise AssertionError(f"SEED={seed}") from error
        seen += Counter(one.event for one in fleet.world.records)
        seen["urls"] += len(fleet.world.cloud.calls)
    if len(seeds) > 1:  # the schedules reach what the checks are about
        for event in ("session_started", "session_ended", "taken_over", "mode_changed"):
            assert seen[f"console_{event}"] > len(seeds) / 10, (event, seen)
        assert seen["urls"] > len(seeds)


def test_search_finds_a_planted_secret() -> None:
    url = f"https://console.example/vnc?{_SECRET}-1"
    for planted in (
        url.encode(),
        quote(url, safe="").encode(),
        url.encode().hex().encode(),
        *(base64.b64encode(b"y" * shift + url.encode()) for shift in range(3)),
    ):
        assert find_secret(b"before " + planted + b" after")
    assert not find_secret(b"https://console.example/vnc?token=other")


def sends_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = LiveSession._fetch_url

    async def leaks(self: LiveSession) -> Secret:
        url = await fetch(self)
        await self._page.send(waiting(0.0).replace("waiting", url.reveal()))
        return url

    monkeypatch.setattr(LiveSession, "_fetch_url", leaks)


def keeps_a_spent_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    redeem = LocalConsoleStore.redeem

    async def keeps(self: LocalConsoleStore, ticket_hash: bytes, *rest: Any, **more: Any) -> Any:
        ticket = self._tickets.get(ticket_hash)
        result = await redeem(self, ticket_hash, *rest, **more)
        if ticket is not None:
            self._tickets[ticket_hash] = ticket
        return result

    monkeypatch.setattr(LocalConsoleStore, "redeem", keeps)


def repeats_an_unclear_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    async def repeats(self: TicketPipeline, ticket: Ticket) -> Secret:
        text, hashed = self._addresses.new_ticket()
        arguments = (hashed, ticket)
        options = {"per_person_max": 10, "lifetime_s": 60.0}
        try:
            await self._store.add_ticket(*arguments, **options)  # type: ignore[arg-type]
        except StoreUnavailable:
            await self._store.local.add_ticket(*arguments, **options)  # type: ignore[arg-type]
        return text

    async def find(self: FallbackConsoleStore, ticket_hash: bytes) -> Any:
        found = await self.local.find_ticket(ticket_hash)
        return found or await self._shared.find_ticket(ticket_hash)

    async def redeem(
        self: FallbackConsoleStore, ticket_hash: bytes, *rest: Any, **more: Any
    ) -> Any:
        store = self.local if await self.local.find_ticket(ticket_hash) else self._shared
        return await store.redeem(ticket_hash, *rest, **more)

    monkeypatch.setattr(TicketPipeline, "_store_ticket", repeats)
    monkeypatch.setattr(FallbackConsoleStore, "find_ticket", find)
    monkeypatch.setattr(FallbackConsoleStore, "redeem", redeem)


def looks_for_local_tickets_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(self: FallbackConsoleStore, ticket_hash: bytes) -> Any:
        found = await self.local.find_ticket(ticket_hash)
        return found or await self._shared.find_ticket(ticket_hash)

    monkeypatch.setattr(FallbackConsoleStore, "find_ticket", find)


def accepts_the_next_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    attach = LocalConsoleStore.attach

    async def attaches(self: LocalConsoleStore, session_id: str, *rest: Any, **more: Any) -> Any:
        result = await attach(self, session_id, *rest, **more)
        if isinstance(result, Attached):
            stored = self._sessions[session_id]
            stored.resume_hash, stored.next_resume_hash = stored.next_resume_hash, b""
        return result

    monkeypatch.setattr(LocalConsoleStore, "attach", attaches)


def ignores_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionWatch, "_is_changed", lambda _: False)


def ignores_the_end_of_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_time(self: SessionWatch) -> bool:
        known = self._version
        return not isinstance(known, DecisionVersion) or self._rights.version[:2] != known[:2]

    monkeypatch.setattr(SessionWatch, "_is_changed", without_time)


def checks_nothing_on_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    async def checks_nothing(*_: object) -> None:
        return

    monkeypatch.setattr(LiveSessions, "_check_again", checks_nothing)
    monkeypatch.setattr(SessionWatch, "_is_changed", lambda _: False)


def forgets_what_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgets(self: FallbackConsoleStore, owner: str) -> None:
        self._ended.clear()

    monkeypatch.setattr(FallbackConsoleStore, "_finish_ended", forgets)


BROKEN = {
    sends_the_url: "the cloud's URL has left the gateway",
    keeps_a_spent_ticket: "a ticket has opened two sessions",
    repeats_an_unclear_ticket: "a ticket has opened two sessions",
    looks_for_local_tickets_in_the_store: "rejected where it cannot be known",
    accepts_the_next_key_only: "a page is refused with its newest key",
    ignores_changes: "goes on without a right",
    ignores_the_end_of_grants: "goes on without a right",
    checks_nothing_on_resume: "goes on without a right",
    forgets_what_ended: "ended twice",
}


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda one: one.__name__)
def test_broken_gateway_is_caught(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    for seed in range(_BROKEN_SEEDS):
        try:
            run_virtually(one_fleet(seed))
        except AssertionError as error:
            if BROKEN[break_it] in str(error):
                return
    pytest.fail("no check has found it")
