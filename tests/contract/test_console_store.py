"""The port ConsoleStore: one suite for memory and for Valkey."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha1
from math import ceil
from typing import Any

import pytest

from gateway.domain.consoles.model import ConsoleSession, PersonRef, SessionLimits, SessionMode
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.valkey import console_store
from gateway.drivers.valkey.console_store import ValkeyConsoleStore
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.consoles.console_store import (
    Attached,
    CommandKind,
    CommandResult,
    ConsoleInUse,
    ConsoleStore,
    LimitReached,
    Redeemed,
    Registered,
    SessionCommand,
    SessionGone,
    SessionLimit,
    SessionUnknown,
    StaleKey,
    TakeOver,
    TicketGone,
    WouldEnd,
)
from gateway.flow.consoles.local_console_store import LocalConsoleStore
from tests.contract.test_shared_store import a_seal_key, a_valkey
from tests.support.clock import FakeClock
from tests.support.consoles import (
    LIMITS,
    OTHER_TARGET,
    TARGET,
    a_session,
    a_ticket,
    hash_of,
)
from tests.support.valkey import RealValkey

RESUME_S = 600.0
LEASE_S = 600.0


@dataclass
class Subject:
    store: ConsoleStore
    wait: Callable[[float], Awaitable[object]]
    lose_data: Callable[[], Awaitable[object]]


class ScriptTime:
    """The time that the script reads: a test sets it forward, however busy the machine is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_s = 0
        self._script = LuaScript("console_sessions")
        self._text = self._script.text
        monkeypatch.setattr(console_store, "_STEPS", self._script)

    async def elapse(self, seconds: float) -> None:
        """Wait for less than a second, which expiries of Redis need too; else set it forward."""
        if seconds < 1:
            await asyncio.sleep(seconds)
            return
        self._ahead_s += ceil(seconds)
        line = "local time = redis.call('TIME')\n"
        ahead = f"{line}time[1] = time[1] + {self._ahead_s}\n"
        assert line in self._text
        self._script.text = self._text.replace(line, ahead)
        self._script.digest = sha1(self._script.text.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture(params=["local", "valkey"])
async def subject(
    request: pytest.FixtureRequest,
    clock: FakeClock,
    shared_valkey: RealValkey,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Subject]:
    """Yield a store with sessions that can be resumed for RESUME_S."""
    if request.param == "local":
        store = LocalConsoleStore(clock, resume_within_s=RESUME_S)

        async def lose_data() -> None:
            store._tickets.clear()
            store._sessions.clear()
            store._ended.clear()

        yield Subject(store, clock.advance, lose_data)
        return
    valkey = a_valkey(shared_valkey)
    assert await valkey.probe()
    yield Subject(
        ValkeyConsoleStore(
            valkey, Sealer([a_seal_key()]), SystemClock(), resume_within_s=RESUME_S, dead_for_s=0.0
        ),
        ScriptTime(monkeypatch).elapse,
        partial(valkey._client.flushall),
    )
    await valkey.close()


async def issue(
    store: ConsoleStore, name: str, subject: str = "ada", *, life_s: float = 60
) -> None:
    ticket = a_ticket(subject)
    await store.add_ticket(hash_of(name), ticket, per_person_max=10, lifetime_s=life_s)


async def redeem(
    store: ConsoleStore,
    session: ConsoleSession,
    name: str,
    limits: SessionLimits = LIMITS,
    *,
    take_over: TakeOver = TakeOver.NONE,
) -> object:
    """Issue a ticket and redeem it for the session; the first key is `key NAME`.

    A take-over counts as recorded.
    """
    await issue(store, name, session.person.subject)
    key = hash_of(f"key {name}")
    result = await store.redeem(hash_of(name), session, key, limits, take_over=take_over)
    if isinstance(result, WouldEnd):
        recorded = frozenset(one.id for one in result.sessions)
        return await store.redeem(
            hash_of(name), session, key, limits, take_over=take_over, recorded=recorded
        )
    return result


async def attach(
    store: ConsoleStore,
    session: ConsoleSession,
    name: str,
    owner: str,
    *,
    key: str = "",
    then: str = "next",
) -> object:
    return await store.attach(
        session.id,
        hash_of(f"cookie {name}"),
        hash_of(key or f"key {name}"),
        hash_of(then),
        owner=owner,
        lease_s=LEASE_S,
    )


async def running(
    store: ConsoleStore,
    name: str,
    subject: str = "ada",
    *,
    owner: str = "p1",
    at: float = 0.0,
    limits: SessionLimits = LIMITS,
) -> ConsoleSession:
    session = a_session(name, subject)
    session = replace(session, started_at=session.started_at + at)
    assert await redeem(store, session, name, limits) == Redeemed()
    assert isinstance(await attach(store, session, name, owner), Attached)
    return session


def end(session: ConsoleSession, name: str, by: PersonRef | None = None) -> SessionCommand:
    return SessionCommand(session.id, CommandKind.END, name, by)


async def test_ticket_is_found_until_it_expires(subject: Subject) -> None:
    await issue(subject.store, "long", life_s=600)
    found = await subject.store.find_ticket(hash_of("long"))
    assert found is not None
    assert found.ticket == a_ticket()
    assert 500 < found.left_s <= 600
    assert await subject.store.find_ticket(hash_of("other")) is None
    await issue(subject.store, "t", life_s=0.2)
    await subject.wait(0.3)
    assert await subject.store.find_ticket(hash_of("t")) is None
    result = await subject.store.redeem(
        hash_of("t"), a_session("s"), hash_of("key s"), LIMITS, take_over=TakeOver.NONE
    )
    assert result == TicketGone()
    assert await subject.store.sessions() == ()


async def test_oldest_tickets_of_a_person_lapse(subject: Subject) -> None:
    for number in range(12):
        await issue(subject.store, f"t{number}")
    await issue(subject.store, "of-ben", "ben")
    found = [await subject.store.find_ticket(hash_of(f"t{number}")) for number in range(12)]
    assert [one is not None for one in found] == [False] * 2 + [True] * 10
    assert await subject.store.find_ticket(hash_of("of-ben")) is not None


async def test_spent_tickets_do_not_count(subject: Subject) -> None:
    await issue(subject.store, "kept")
    assert await redeem(subject.store, a_session("s"), "s") == Redeemed()
    for number in range(9):
        await issue(subject.store, f"t{number}")
    assert await subject.store.find_ticket(hash_of("kept")) is not None


async def test_ticket_is_redeemed_once_by_concurrent_calls(subject: Subject) -> None:
    await issue(subject.store, "t")
    limits = replace(LIMITS, server=50, person=50)
    results = await asyncio.gather(
        *(
            subject.store.redeem(
                hash_of("t"), a_session(f"s{one}"), hash_of("k"), limits, take_over=TakeOver.NONE
            )
            for one in range(20)
        )
    )
    assert sum(isinstance(one, Redeemed) for one in results) == 1
    assert sum(isinstance(one, TicketGone) for one in results) == 19
    assert len(await subject.store.sessions()) == 1


async def test_ticket_is_replaced_once_by_concurrent_calls(subject: Subject) -> None:
    for number in range(10):
        await issue(subject.store, f"t{number}", life_s=600)
    results = await asyncio.gather(
        *(
            subject.store.replace_ticket(
                hash_of("t0"), hash_of(f"new{one}"), a_ticket(), per_person_max=10, lifetime_s=60
            )
            for one in range(5)
        )
    )
    assert sorted(results) == [False] * 4 + [True]
    assert await subject.store.find_ticket(hash_of("t0")) is None
    found = [await subject.store.find_ticket(hash_of(f"new{one}")) for one in range(5)]
    assert [one is not None for one in found] == results
    assert all(5 < one.left_s <= 60 for one in found if one is not None)
    # It takes the place of the one that it replaces.
    assert await subject.store.find_ticket(hash_of("t1")) is not None


async def test_console_in_use_keeps_the_ticket(subject: Subject) -> None:
    first = await running(subject.store, "a")
    result = await redeem(subject.store, a_session("b", "ben"), "b")
    assert result == ConsoleInUse(first)
    assert await subject.store.find_ticket(hash_of("b")) is not None
    assert len(await subject.store.sessions()) == 1


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (replace(LIMITS, person=1), SessionLimit.PERSON),
        (replace(LIMITS, account=1), SessionLimit.ACCOUNT),
        (replace(LIMITS, total=1), SessionLimit.TOTAL),
    ],
)
async def test_limits_forbid_one_more_session(
    subject: Subject, limits: SessionLimits, limit: SessionLimit
) -> None:
    await running(subject.store, "a")
    second = a_session("b", target=OTHER_TARGET)
    assert await redeem(subject.store, second, "b", limits) == LimitReached(limit)
    assert await subject.store.find_ticket(hash_of("b")) is not None
    assert await redeem(subject.store, second, "b2", LIMITS) == Redeemed()


async def test_viewers_have_a_limit_of_their_own(subject: Subject) -> None:
    await running(subject.store, "a")
    limits = replace(LIMITS, viewers=1)
    viewer = a_session("v", "ben", mode=SessionMode.VIEW)
    assert await redeem(subject.store, viewer, "v", limits) == Redeemed()
    second = a_session("w", "cyd", mode=SessionMode.VIEW)
    result = await redeem(subject.store, second, "w", limits)
    assert result == LimitReached(SessionLimit.VIEWERS)


async def test_take_over_commands_the_owner(subject: Subject) -> None:
    first = await running(subject.store, "a")
    limits = replace(LIMITS, total=1, account=1)
    result = await redeem(subject.store, a_session("b", "ben"), "b", limits, take_over=TakeOver.ANY)
    assert result == Redeemed(commanded=(first,))
    expected = end(first, "taken_over", PersonRef("ben", "corp"))
    assert await subject.store.take_commands("p1") == (expected,)
    assert await subject.store.take_commands("p1") == ()
    assert await subject.store.remove(first.id, owner="p1")


async def test_take_over_of_own_sessions_ends_no_other_persons(subject: Subject) -> None:
    """Between the check of the right and this step another person may have come."""
    await running(subject.store, "a", "ada")
    other = await redeem(subject.store, a_session("b", "ben"), "b", take_over=TakeOver.OWN)
    assert isinstance(other, ConsoleInUse)
    own = await redeem(subject.store, a_session("c", "ada"), "c", take_over=TakeOver.OWN)
    assert isinstance(own, Redeemed)
    assert len(own.commanded) == 1


async def test_take_over_ends_only_recorded_sessions(subject: Subject) -> None:
    store = subject.store
    first = await running(store, "a")
    await issue(store, "t", "ben")
    arguments = hash_of("t"), a_session("b", "ben"), hash_of("key b"), LIMITS
    for recorded in (frozenset[str](), frozenset({"0" * 32})):
        result = await store.redeem(*arguments, take_over=TakeOver.ANY, recorded=recorded)
        assert result == WouldEnd((first,))
    assert await store.take_commands("p1") == ()
    assert await store.find_ticket(hash_of("t")) is not None
    assert [one.session for one in await store.sessions()] == [first]
    result = await store.redeem(
        *arguments, take_over=TakeOver.ANY, recorded=frozenset({"0" * 32, first.id})
    )
    assert result == Redeemed(commanded=(first,))


async def test_take_over_ends_only_as_many_as_needed(subject: Subject) -> None:
    store = subject.store
    limits = replace(LIMITS, server=2)
    first = await running(store, "a", "ada", limits=limits)
    by_ben = a_session("b", "ben", started_at=first.started_at + 1)
    assert await redeem(store, by_ben, "b", limits, take_over=TakeOver.ANY) == Redeemed()
    by_cyd = a_session("c", "cyd", started_at=first.started_at + 2)
    result = await redeem(store, by_cyd, "c", limits, take_over=TakeOver.ANY)
    assert result == Redeemed(commanded=(first,))
    assert await store.remove(first.id, owner="p1")
    by_ada = a_session("d", "ada", started_at=first.started_at + 3)
    assert await redeem(store, by_ada, "d", limits, take_over=TakeOver.OWN) == ConsoleInUse(by_ben)
    again = a_session("e", "ben", started_at=first.started_at + 3)
    result = await redeem(store, again, "e", limits, take_over=TakeOver.OWN)
    assert result == Redeemed(ended=(by_ben,))


async def test_take_over_ends_a_session_without_owner(subject: Subject) -> None:
    first = a_session("a")
    await redeem(subject.store, first, "a")
    result = await redeem(subject.store, a_session("b", "ben"), "b", take_over=TakeOver.ANY)
    assert result == Redeemed(ended=(first,))
    assert await attach(subject.store, first, "a", "p1") == SessionGone()
    assert await subject.store.claim_dead() == ()


async def test_resume_key_is_good_once(subject: Subject) -> None:
    session = a_session("a")
    await redeem(subject.store, session, "a")
    assert await attach(subject.store, session, "a", "p1", then="k2") == Attached(session, "", 0)
    await subject.store.confirm_key(session.id, hash_of("k2"), owner="p1")
    assert await attach(subject.store, session, "a", "p2") == StaleKey(session)
    result = await attach(subject.store, session, "a", "p2", key="k2", then="k3")
    assert result == Attached(session, "p1", 1)
    assert await subject.store.take_commands("p1") == (end(session, "replaced"),)
    assert not await subject.store.remove(session.id, owner="p1")


async def test_resume_key_is_good_until_the_page_has_the_next(subject: Subject) -> None:
    session = a_session("a")
    await redeem(subject.store, session, "a")
    assert isinstance(await attach(subject.store, session, "a", "p1", then="lost"), Attached)
    # The connection is lost before the page receives the next key; the gateway sees it alive.
    assert isinstance(await attach(subject.store, session, "a", "p2", then="k2"), Attached)
    await subject.store.confirm_key(session.id, hash_of("lost"), owner="p2")
    await subject.store.confirm_key(session.id, hash_of("k2"), owner="p1")
    assert await attach(subject.store, session, "a", "p3", key="lost") == StaleKey(session)
    # Used, the next key needs no confirmation.
    assert isinstance(await attach(subject.store, session, "a", "p2", key="k2"), Attached)
    assert await attach(subject.store, session, "a", "p3") == StaleKey(session)


async def test_stale_key_or_cookie_changes_nothing(subject: Subject) -> None:
    session = await running(subject.store, "a")
    assert await attach(subject.store, session, "a", "p2", key="wrong") == StaleKey(session)
    assert await attach(subject.store, session, "b", "p2", key="next") == StaleKey()
    assert await subject.store.take_commands("p1") == ()
    assert (await subject.store.sessions())[0].owner == "p1"
    assert isinstance(await attach(subject.store, session, "a", "p1", key="next"), Attached)


async def test_of_concurrent_resumes_with_one_key_one_stays(subject: Subject) -> None:
    session = await running(subject.store, "a")
    results = await asyncio.gather(
        *(
            attach(subject.store, session, "a", f"p{one}", key="next", then=f"k{one}")
            for one in range(10)
        )
    )
    previous = [one.previous_owner for one in results if isinstance(one, Attached)]
    (listed,) = await subject.store.sessions()
    assert sorted([*previous, listed.owner]) == sorted(["p1", *(f"p{one}" for one in range(10))])
    for owner in set(previous) - {listed.owner}:
        assert end(session, "replaced") in await subject.store.take_commands(owner)


async def test_attach_of_the_same_owner_sends_no_command(subject: Subject) -> None:
    session = await running(subject.store, "a")
    result = await attach(subject.store, session, "a", "p1", key="next")
    assert result == Attached(session, "p1", 1)
    assert await subject.store.take_commands("p1") == ()


async def test_session_that_comes_back_is_not_replaced_by_its_own_past(subject: Subject) -> None:
    session, other = await running(subject.store, "a"), a_session("b", "ben", target=OTHER_TARGET)
    await redeem(subject.store, other, "b")
    await attach(subject.store, other, "b", "p1")
    await subject.store.command(end(other, "operator"))
    assert isinstance(await attach(subject.store, session, "a", "p2", key="next"), Attached)
    back = await attach(subject.store, session, "a", "p1", key="next")
    assert isinstance(back, Attached)
    assert await subject.store.take_commands("p1") == (end(other, "operator"),)
    assert await subject.store.take_commands("p2") == (end(session, "replaced"),)


async def test_detached_session_is_resumable_for_its_time(subject: Subject) -> None:
    first = await running(subject.store, "a")
    await subject.store.detach(first.id, owner="other")
    assert (await subject.store.sessions())[0].owner == "p1"
    await subject.store.detach(first.id, owner="p1")
    assert (await subject.store.sessions())[0].owner == ""
    await subject.wait(RESUME_S / 2)
    assert isinstance(await attach(subject.store, first, "a", "p2", key="next"), Attached)
    await subject.store.detach(first.id, owner="p2")
    await subject.wait(RESUME_S * 1.2)
    assert await attach(subject.store, first, "a", "p2", key="next") == SessionGone()
    assert await subject.store.sessions() == ()
    (dead,) = await subject.store.claim_dead()
    assert (dead.session, dead.end) == (first, "abandoned")
    assert await subject.store.claim_dead() == ()


async def test_redeemed_session_without_connection_is_abandoned(subject: Subject) -> None:
    session = a_session("a")
    await redeem(subject.store, session, "a")
    await subject.wait(RESUME_S * 1.2)
    assert await redeem(subject.store, a_session("b", "ben"), "b") == Redeemed()
    assert [one.end for one in await subject.store.claim_dead()] == ["abandoned"]


async def test_ended_lease_is_resumable_and_then_claimed_once(subject: Subject) -> None:
    session = await running(subject.store, "a")
    await subject.wait(LEASE_S * 1.2)
    assert await subject.store.claim_dead() == ()
    await subject.wait(RESUME_S)
    claims = await asyncio.gather(*(subject.store.claim_dead() for _ in range(5)))
    assert [(one.session, one.end) for dead in claims for one in dead] == [(session, "owner_lost")]
    renewed = await subject.store.renew("p1", frozenset({session.id}), lease_s=LEASE_S)
    assert renewed.lost == {session.id}
    result = await subject.store.register(
        session, hash_of("k"), owner="p1", lease_s=LEASE_S, server_max=1
    )
    assert result is Registered.ENDED


async def test_renewed_lease_keeps_the_session(subject: Subject) -> None:
    session = await running(subject.store, "a")
    for _ in range(5):
        await subject.wait(LEASE_S / 2)
        renewed = await subject.store.renew("p1", frozenset({session.id}), lease_s=LEASE_S)
        assert (renewed.lost, renewed.missing, renewed.commands) == (frozenset(), frozenset(), ())
    assert await subject.store.claim_dead() == ()
    assert len(await subject.store.sessions()) == 1


async def test_renew_reports_sessions_of_other_owners(subject: Subject) -> None:
    session = await running(subject.store, "a")
    await attach(subject.store, session, "a", "p2", key="next")
    renewed = await subject.store.renew("p1", frozenset({session.id}), lease_s=LEASE_S)
    assert renewed.lost == {session.id}
    assert renewed.commands == (end(session, "replaced"),)


async def test_command_reaches_the_owner_once(subject: Subject) -> None:
    session = await running(subject.store, "a")
    command = end(session, "operator", PersonRef("olga", ""))
    result = await subject.store.command(command)
    assert (result.is_found, result.ended) == (True, None)
    renewed = await subject.store.renew("p1", frozenset({session.id}), lease_s=LEASE_S)
    assert renewed.commands == (command,)
    assert await subject.store.take_commands("p1") == ()


async def test_command_ends_a_session_without_owner(subject: Subject) -> None:
    session = await running(subject.store, "a")
    await subject.store.detach(session.id, owner="p1")
    watchers = SessionCommand(session.id, CommandKind.WATCHERS)
    assert (await subject.store.command(watchers)).ended is None
    result = await subject.store.command(end(session, "operator"))
    assert result.ended == session
    assert not (await subject.store.command(end(session, "operator"))).is_found
    assert await attach(subject.store, session, "a", "p1", key="next") == SessionGone()


async def test_remove_ends_a_session_once(subject: Subject) -> None:
    session = await running(subject.store, "a")
    assert not await subject.store.remove(session.id, owner="p2")
    assert await subject.store.remove(session.id, owner="p1")
    assert not await subject.store.remove(session.id, owner="p1")
    assert await redeem(subject.store, a_session("b", "ben"), "b") == Redeemed()


async def test_update_replaces_mode_and_person(subject: Subject) -> None:
    session = await running(subject.store, "a")
    changed = replace(session, mode=SessionMode.VIEW)
    assert not await subject.store.update(changed, owner="p2")
    assert await subject.store.update(changed, owner="p1")
    (listed,) = await subject.store.sessions()
    assert listed.session == changed
    assert await redeem(subject.store, a_session("b", "ben"), "b") == Redeemed()


async def test_sessions_are_listed_by_person_and_server(subject: Subject) -> None:
    first = await running(subject.store, "a")
    viewer = a_session("v", "ben", mode=SessionMode.VIEW, started_at=first.started_at + 1)
    await redeem(subject.store, viewer, "v")
    other = a_session("o", "ben", target=OTHER_TARGET, started_at=first.started_at + 2)
    await redeem(subject.store, other, "o")

    def names(listed: object) -> list[str]:
        return [one.session.id for one in listed]  # type: ignore[attr-defined]

    assert names(await subject.store.sessions()) == [first.id, viewer.id, other.id]
    assert names(await subject.store.sessions(person=viewer.person.key)) == [viewer.id, other.id]
    assert names(await subject.store.sessions(target=TARGET)) == [first.id, viewer.id]
    assert names(await subject.store.sessions(person=first.person.key, target=OTHER_TARGET)) == []


async def test_lost_sessions_are_registered_again(subject: Subject) -> None:
    session = await running(subject.store, "a")
    await subject.lose_data()
    renewed = await subject.store.renew("p1", frozenset({session.id}), lease_s=LEASE_S)
    assert renewed.missing == {session.id}
    result = await subject.store.register(
        session,
        hash_of("k8"),
        next_resume_hash=hash_of("k9"),
        owner="p1",
        lease_s=LEASE_S,
        server_max=1,
    )
    assert result is Registered.REGISTERED
    result2 = await attach(subject.store, session, "a", "p2", key="k9")
    assert isinstance(result2, Attached)
    assert result2.previous_owner == "p1"


async def test_of_two_registered_sessions_the_older_stays(subject: Subject) -> None:
    younger = await running(subject.store, "b", "ben", owner="p2", at=5)
    older = a_session("a")
    result = await subject.store.register(
        older, hash_of("k"), owner="p1", lease_s=LEASE_S, server_max=1
    )
    assert result is Registered.REGISTERED
    assert await subject.store.take_commands("p2") == (end(younger, "limit"),)
    await subject.store.remove(younger.id, owner="p2")
    late = a_session("c", "cyd", started_at=older.started_at + 9)
    result = await subject.store.register(
        late, hash_of("k"), owner="p3", lease_s=LEASE_S, server_max=1
    )
    assert result is Registered.OLDER_SESSION
    assert [one.session.id for one in await subject.store.sessions()] == [older.id]


async def test_as_many_registered_sessions_stay_as_a_server_may_have(subject: Subject) -> None:
    """After the store lost its data, the sessions come back in any order."""
    limits, found = replace(LIMITS, server=5), []
    for at, name in enumerate("abcde"):
        found.append(await running(subject.store, name, owner=f"p{at}", at=at, limits=limits))
    await subject.lose_data()

    async def register(at: int) -> Registered:
        session, key = found[at], hash_of("k")
        return await subject.store.register(
            session, key, owner=f"p{at}", lease_s=LEASE_S, server_max=3
        )

    for at in (4, 2, 3):
        assert await register(at) is Registered.REGISTERED
    assert await subject.store.take_commands("p4") == ()
    assert await register(0) is Registered.REGISTERED
    assert await subject.store.take_commands("p4") == (end(found[4], "limit"),)
    assert await subject.store.remove(found[4].id, owner="p4")
    assert await register(1) is Registered.REGISTERED
    assert await subject.store.take_commands("p3") == (end(found[3], "limit"),)
    assert await subject.store.remove(found[3].id, owner="p3")
    assert await register(3) is Registered.ENDED
    listed = [one.session for one in await subject.store.sessions()]
    assert listed == found[:3]
    late = a_session("f", started_at=found[4].started_at + 1)
    result = await subject.store.register(
        late, hash_of("k"), owner="p5", lease_s=LEASE_S, server_max=3
    )
    assert result is Registered.OLDER_SESSION


async def test_rejection_is_claimed_once(subject: Subject) -> None:
    claims = await asyncio.gather(*(subject.store.claim_rejection("ticket 1") for _ in range(9)))
    assert sorted(claims) == [False] * 8 + [True]
    assert await subject.store.claim_rejection("ticket 2")


async def test_session_that_the_store_has_lost_is_unknown(subject: Subject) -> None:
    """Its owner may register it again: no page may be refused for good."""
    session = await running(subject.store, "a")
    await subject.lose_data()
    assert await attach(subject.store, session, "a", "p2", key="next") == SessionUnknown()
    assert await attach(subject.store, session, "b", "p2", key="wrong") == SessionUnknown()
    assert await subject.store.sessions() == ()
    await subject.store.register(
        session, hash_of("next"), owner="p1", lease_s=LEASE_S, server_max=1
    )
    assert isinstance(await attach(subject.store, session, "a", "p2", key="next"), Attached)


async def test_session_with_an_ended_lease_is_unknown_until_it_is_claimed(subject: Subject) -> None:
    """Its owner may have lost the store only, and serve the page with a newer key."""
    session = await running(subject.store, "a")
    await subject.wait(LEASE_S + RESUME_S + 0.1)
    assert await attach(subject.store, session, "a", "p2", key="next") == SessionUnknown()
    assert len(await subject.store.claim_dead()) == 1
    assert await attach(subject.store, session, "a", "p2", key="next") == SessionGone()


async def test_key_is_refused_for_good_only_if_the_owner_is_in_touch(subject: Subject) -> None:
    """An owner that has lost the store may have given the page a newer key."""
    store: Any = subject.store
    session = await running(store, "a")
    store._in_touch_s = 0.1
    await subject.wait(0.2)
    assert await attach(store, session, "a", "p2", key="newer") == SessionUnknown()
    assert await attach(store, session, "b", "p2", key="newer") == StaleKey()
    assert await attach(store, session, "a", "p1", key="newer") == StaleKey(session)
    assert (await store.sessions())[0].owner == "p1"
    store._in_touch_s = 60.0
    for call in (
        store.take_commands("p1"),
        store.renew("p1", frozenset({session.id}), lease_s=LEASE_S),
    ):
        await call
        assert await attach(store, session, "a", "p2", key="newer") == StaleKey(session)


async def test_owner_with_sessions_to_register_is_not_in_touch(subject: Subject) -> None:
    store: Any = subject.store
    session = a_session("a")
    await redeem(store, session, "a")
    attached = await store.attach(
        session.id,
        hash_of("cookie a"),
        hash_of("key a"),
        hash_of("next"),
        owner="p1",
        lease_s=LEASE_S,
        is_settled=False,
    )
    assert isinstance(attached, Attached)
    assert await attach(store, session, "a", "p2", key="newer") == SessionUnknown()


async def test_each_displaced_session_has_a_command_of_its_own(subject: Subject) -> None:
    """Several sessions with keyboard on one server, at several owners and without one."""
    limits = replace(LIMITS, server=3)
    found = [
        await running(subject.store, name, "ben", owner=owner, at=at, limits=limits)
        for name, owner, at in (("b", "p2", 1), ("c", "p3", 2), ("d", "p2", 3))
    ]
    await subject.store.detach(found[2].id, owner="p2")
    redeemed = await redeem(subject.store, a_session("a"), "a", take_over=TakeOver.ANY)
    assert redeemed == Redeemed((found[2],), (found[0], found[1]))
    by = PersonRef.of(a_session("a").person)
    assert await subject.store.take_commands("p2") == (end(found[0], "taken_over", by),)
    assert await subject.store.take_commands("p3") == (end(found[1], "taken_over", by),)


async def test_registering_ends_a_younger_session_without_owner(subject: Subject) -> None:
    younger = await running(subject.store, "b", "ben", owner="p2", at=5)
    await subject.store.detach(younger.id, owner="p2")
    older = a_session("a")
    result = await subject.store.register(
        older, hash_of("k"), owner="p1", lease_s=LEASE_S, server_max=1
    )
    assert result is Registered.REGISTERED
    assert [(one.session, one.end) for one in await subject.store.claim_dead()] == [
        (younger, "abandoned")
    ]


async def test_register_replaces_the_resume_key_of_the_owner(subject: Subject) -> None:
    session = await running(subject.store, "a")
    changed = replace(session, mode=SessionMode.VIEW)
    result = await subject.store.register(
        changed, hash_of("new"), owner="p1", lease_s=LEASE_S, server_max=1
    )
    assert result is Registered.REGISTERED
    assert await attach(subject.store, session, "a", "p1", key="next") == StaleKey(changed)
    attached = await attach(subject.store, session, "a", "p1", key="new")
    assert attached == Attached(changed, "p1", 1)
    result = await subject.store.register(
        session, hash_of("x"), owner="p2", lease_s=LEASE_S, server_max=1
    )
    assert result is Registered.ENDED


async def test_session_is_found_by_its_id_while_it_lives(subject: Subject) -> None:
    session = await running(subject.store, "s")
    found = await subject.store.find(session.id)
    assert found is not None
    assert (found.session, found.owner) == (session, "p1")
    assert await subject.store.find("0" * 32) is None
    assert await subject.store.remove(session.id, owner="p1")
    assert await subject.store.find(session.id) is None


async def test_command_carries_the_person_of_a_newer_token(subject: Subject) -> None:
    session = await running(subject.store, "s")
    command = SessionCommand(session.id, CommandKind.RENEW, person=session.person)
    assert (await subject.store.command(command)).is_found
    assert await subject.store.take_commands("p1") == (command,)


async def test_session_that_its_owner_must_end_is_attached_no_more(subject: Subject) -> None:
    session = await running(subject.store, "a")
    assert await subject.store.command(end(session, "operator")) == CommandResult(is_found=True)
    assert await attach(subject.store, session, "a", "p2", key="next") == SessionGone()
    assert await subject.store.take_commands("p1") == (end(session, "operator"),)
    assert await subject.store.remove(session.id, owner="p1")


async def test_session_that_is_taken_over_is_attached_no_more(subject: Subject) -> None:
    first = await running(subject.store, "a")
    await redeem(subject.store, a_session("b", "ben"), "b", take_over=TakeOver.ANY)
    assert await attach(subject.store, first, "a", "p2", key="next") == SessionGone()
