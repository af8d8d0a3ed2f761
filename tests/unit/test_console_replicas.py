"""Live consoles over several replicas: moves, kills, and a store that goes away. Virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gateway.domain.consoles import ends
from gateway.domain.consoles.model import PersonRef, SessionMode
from gateway.domain.errors import ConsoleBusy, ConsoleStoreUnavailable, TicketRejected
from gateway.domain.model import CONSOLE_OPEN, CONSOLE_TAKEOVER, CONSOLE_VIEW
from gateway.domain.policy.policy import Policy
from gateway.flow.consoles.local_console_store import LocalConsoleStore
from tests.support import rfb
from tests.support.console_world import RULES, ConsoleWorld, a_rule
from tests.support.consoles import OTHER_TARGET
from tests.support.live_consoles import Page, Replica
from tests.support.virtual_time import run_virtually


def with_two_replicas(
    scenario: Callable[[Replica, Replica], Awaitable[None]],
) -> Callable[[], None]:
    """Return a test that runs the scenario in virtual time."""

    async def main() -> None:
        world = ConsoleWorld()
        first, second = Replica(world, "p1").start(), Replica(world, "p2").start()
        await scenario(first, second)
        await first.stop()
        await second.stop()
        assert world.failures == []

    def test() -> None:
        run_virtually(main())

    # Not functools.wraps: pytest would take the parameters for fixtures.
    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


def set_store(*replicas: Replica, is_down: bool) -> None:
    for replica in replicas:
        replica.outage.is_down = is_down


async def end_once(page: Page) -> None:
    """End the only session, and check that its end is recorded once."""
    page.send(type="end")
    await page.until_closed()
    await asyncio.sleep(120)
    assert page.replica.world.ends() == [("ada", "person")]


def lose_data(world: ConsoleWorld) -> None:
    redis = world.redis
    assert isinstance(redis, LocalConsoleStore)
    redis.__init__(world.clock)  # type: ignore[misc]


@with_two_replicas
async def test_another_replica_resumes_and_the_first_lets_go(
    first: Replica, second: Replica
) -> None:
    page = await first.live()
    again = page.resume(second)
    await again.until("live")
    assert await page.until_closed() == (4008, "replaced")
    assert not first.sessions.connections
    await end_once(again)


@with_two_replicas
async def test_replica_that_had_a_session_passes_the_command_to_end_it_on(
    first: Replica, second: Replica
) -> None:
    page = await first.live()
    again = page.resume(second)
    await again.until("live")
    assert await page.until_closed() == (4008, "replaced")
    assert await first.sessions.end(page.id, ends.OPERATOR)
    assert await again.until_closed(within_s=1) == (4001, "operator")


@with_two_replicas
async def test_ticket_is_redeemed_at_another_replica(first: Replica, second: Replica) -> None:
    new = await second.redeem(await first.ticket())
    page = Page(first, new, new.resume_key.reveal())
    await page.until("live")


@with_two_replicas
async def test_killed_replica_is_resumed_by_another(first: Replica, second: Replica) -> None:
    page = await first.live()
    await first.kill()
    again = page.resume(second)
    await again.until("live")
    await end_once(again)


@with_two_replicas
async def test_idle_time_goes_on_after_a_kill(first: Replica, second: Replica) -> None:
    page = await first.live()
    await page.shake_hands()
    for _ in range(6):
        await asyncio.sleep(300)
        page.channel.put(rfb.key(65))
    await asyncio.sleep(1_000)
    await first.kill()
    again = page.resume(second)
    await again.until("live")
    await asyncio.sleep(690)
    assert again.of_type("warning") == []
    # The last input was stored a minute late at most.
    assert await again.until_closed(within_s=125) == (4004, "idle")


@with_two_replicas
async def test_killed_replica_leaves_one_record_of_the_end(first: Replica, second: Replica) -> None:
    third = Replica(first.world, "p3").start()
    await first.live()
    await first.kill()
    await asyncio.sleep(44)
    assert first.world.ends() == []
    await asyncio.sleep(20)
    assert first.world.ends() == [("ada", "owner_lost")]
    await second.live("ben")
    await third.stop()


@with_two_replicas
async def test_end_reaches_the_owner_within_a_second(first: Replica, second: Replica) -> None:
    page = await first.live()
    assert await second.sessions.end(page.id, ends.OPERATOR, by=PersonRef("olga", ""))
    assert await page.until_closed() == (4001, "operator")
    assert first.world.ends() == [("ada", "operator")]


@with_two_replicas
async def test_take_over_at_another_replica_ends_the_first(first: Replica, second: Replica) -> None:
    first.world.policy = Policy([a_rule(CONSOLE_OPEN), a_rule(CONSOLE_TAKEOVER)], version="v2")
    page = await first.live()
    other = await second.live("tom", take_over=True)
    assert await page.until_closed() == (4006, "taken_over")
    assert other.is_live


@with_two_replicas
async def test_viewer_at_another_replica_is_reported(first: Replica, second: Replica) -> None:
    first.world.policy = Policy([a_rule(CONSOLE_OPEN), a_rule(CONSOLE_VIEW)], version="v2")
    page = await first.live()
    viewer = await second.live("eve", mode=SessionMode.VIEW)
    await asyncio.sleep(1)
    assert [one["subject"] for one in page.of_type("watchers")[-1]["watchers"]] == ["eve"]
    viewer.lose()
    await asyncio.sleep(1)
    assert page.of_type("watchers")[-1]["watchers"] == []


@with_two_replicas
async def test_sessions_run_on_without_the_store(first: Replica, second: Replica) -> None:
    page = await first.live()
    set_store(first, second, is_down=True)
    await asyncio.sleep(600)
    assert page.is_live
    page.lose()
    await page.task
    page = page.resume()  # at the process that knows it
    await page.until("live")
    set_store(first, second, is_down=False)
    await asyncio.sleep(120)
    assert page.is_live
    assert first.world.ends() == []
    again = page.resume(second)  # with the key that was made meanwhile
    await again.until("live")
    await end_once(again)


@with_two_replicas
async def test_page_retries_where_the_store_is_unavailable(first: Replica, second: Replica) -> None:
    page = await first.live()
    second.outage.is_down = True
    assert await page.resume(second).until_closed() == (4007, "move")
    assert page.is_live


@with_two_replicas
async def test_page_that_moved_there_and_back_is_not_refused_for_good(
    first: Replica, second: Replica
) -> None:
    """Without Redis, its first process has old keys: it cannot know which are the current ones."""
    page = await first.live()
    moved = page.resume(second)
    first.outage.is_down = True  # before it reads that the session is replaced
    await moved.until("live")
    back = moved.resume(first)
    assert await back.until_closed() == (4007, "move")
    first.outage.is_down = False
    assert await page.until_closed() == (4008, "replaced")
    again = moved.resume(first)
    await again.until("live")
    await end_once(again)


@with_two_replicas
async def test_session_end_without_the_store_is_recorded_once(
    first: Replica, second: Replica
) -> None:
    page = await first.live()
    set_store(first, second, is_down=True)
    await asyncio.sleep(100)
    page.send(type="end")
    await page.until_closed()
    set_store(first, second, is_down=False)
    await asyncio.sleep(200)
    assert first.world.ends() == [("ada", "person")]
    await second.live("ben")


@with_two_replicas
async def test_ticket_without_the_store_opens_one_session_at_its_process(
    first: Replica, second: Replica
) -> None:
    set_store(first, second, is_down=True)
    ticket = await first.ticket()
    with pytest.raises(ConsoleStoreUnavailable):
        await second.redeem(ticket)
    page = first.open_page(await first.redeem(ticket))
    await page.until("live")
    set_store(first, second, is_down=False)
    for replica in (first, second):
        with pytest.raises((TicketRejected, ConsoleStoreUnavailable)):
            await replica.redeem(ticket)
    await asyncio.sleep(10)
    (listed,) = await second.store.sessions()
    assert listed.session.id == page.id
    again = page.resume(second)
    await again.until("live")


@with_two_replicas
async def test_local_session_without_connection_is_recorded_as_abandoned(
    first: Replica, second: Replica
) -> None:
    set_store(first, second, is_down=True)
    new = await first.redeem(await first.ticket())
    await asyncio.sleep(29.9)
    set_store(first, second, is_down=False)
    # Dead before the first call that reaches the store again.
    first.local._sessions[new.session.id].resumable_until = 0
    await asyncio.sleep(120)
    assert first.world.ends() == [("ada", "abandoned")]


@with_two_replicas
async def test_local_ticket_is_redeemed_when_the_store_is_back(
    first: Replica, second: Replica
) -> None:
    first.outage.is_down = True
    ticket = await first.ticket()
    first.outage.is_down = False
    page = await second.live("ben")
    with pytest.raises(ConsoleBusy):
        await first.redeem(ticket)
    page.send(type="end")
    await page.until_closed()
    await first.redeem(ticket)
    with pytest.raises(TicketRejected):
        await first.redeem(ticket)
    assert len(await second.store.sessions()) == 1


@with_two_replicas
async def test_ticket_of_a_process_without_the_store_is_unavailable_where_the_store_is(
    first: Replica, second: Replica
) -> None:
    """Only the process that issued it knows whether it is spent: no other rejects it."""
    first.outage.is_down = True
    spent, expired = await first.ticket(), await first.ticket(first.world.person("ben"))
    for text in (spent, expired):
        with pytest.raises(ConsoleStoreUnavailable):
            await second.redemption.describe(text, second.context())
        with pytest.raises(ConsoleStoreUnavailable):
            await second.redeem(text)
    assert first.world.events("console_ticket_rejected") == []
    page = first.open_page(await first.redeem(spent))
    await page.until("live")
    await asyncio.sleep(61)
    for text in (spent, expired):
        with pytest.raises(TicketRejected):
            await first.redeem(text)
        with pytest.raises(ConsoleStoreUnavailable):
            await second.redeem(text)
    assert len(first.world.events("console_ticket_rejected")) == 2


@with_two_replicas
async def test_rejections_are_recorded_once_over_all_replicas(
    first: Replica, second: Replica
) -> None:
    ticket = await first.ticket()
    new = await first.redeem(ticket)
    for replica in (second, first, second):
        with pytest.raises(TicketRejected):
            await replica.redeem(ticket)
    page = first.open_page(new)
    await page.until("live")
    for replica in (second, first, second):
        stale = Page(replica, new, "copied-key")
        assert await stale.until_closed() == (4009, "stale_page")
    assert len(first.world.events("console_ticket_rejected")) == 1
    assert len(first.world.events("console_resume_rejected")) == 1
    assert page.is_live


@with_two_replicas
async def test_page_is_not_refused_for_good_before_its_session_is_registered(
    first: Replica, second: Replica
) -> None:
    first.outage.is_down = True
    page = await first.live()
    page.lose()
    await page.task
    assert await page.resume(second).until_closed() == (4007, "move")
    first.outage.is_down = False
    await asyncio.sleep(6)
    again = page.resume(second)
    await again.until("live")
    lose_data(first.world)
    again.lose()
    await again.task
    back = again.resume(first)
    assert await back.until_closed() == (4007, "move")
    assert first.world.events("console_resume_rejected") == []


@with_two_replicas
async def test_newest_key_is_not_refused_for_good_where_the_store_has_an_older_one(
    first: Replica, second: Replica
) -> None:
    page = await first.live()
    old_key = page.key
    first.outage.is_down = True
    await asyncio.sleep(4)
    page.lose()
    await page.task
    page = page.resume()
    await page.until("live")
    for key in (page.key, old_key, "copied-key"):
        if key != old_key:
            assert await Page(second, page.new, key).until_closed() == (4007, "move")
    assert page.is_live
    assert first.world.events("console_resume_rejected") == []
    first.outage.is_down = False
    await asyncio.sleep(1)
    assert await Page(second, page.new, old_key).until_closed() == (4009, "stale_page")
    assert page.is_live
    again = page.resume(second)
    await again.until("live")
    await end_once(again)


@with_two_replicas
async def test_session_that_is_lost_before_it_is_registered_has_its_newest_key(
    first: Replica, second: Replica
) -> None:
    page = await first.live()
    first.outage.is_down = True
    page.lose()
    await page.task
    page = page.resume()
    await page.until("live")
    first.outage.is_down = False  # and before its process looks again
    page.lose()
    await page.task
    again = page.resume(second)
    await again.until("live")
    await end_once(again)


def test_sessions_of_one_server_are_all_registered_again() -> None:
    """With `sessions_server_max: 2`."""

    async def scenario() -> None:
        world = ConsoleWorld(replace(RULES, server_max=2))
        replicas = [Replica(world, f"p{number}").start() for number in range(2)]
        pages = [await one.live(f"person-{at}") for at, one in enumerate(replicas)]
        lose_data(world)
        await asyncio.sleep(12)
        assert all(page.is_live for page in pages)
        assert len(await replicas[0].store.sessions()) == 2
        for replica in replicas:
            await replica.stop()
        assert world.ends() == []

    run_virtually(scenario())


@with_two_replicas
async def test_lost_answers_never_open_a_second_session(first: Replica, second: Replica) -> None:
    first.outage.loses_answers = True
    ticket = await first.ticket()
    first.outage.loses_answers = False
    await first.redeem(ticket)
    with pytest.raises(TicketRejected):
        await first.redeem(ticket)
    with pytest.raises(ConsoleStoreUnavailable):
        await second.redeem(ticket)
    assert len(await second.store.sessions()) == 1


@with_two_replicas
async def test_of_two_sessions_on_one_server_the_older_stays(
    first: Replica, second: Replica
) -> None:
    set_store(first, second, is_down=True)
    older = await first.live("ada")
    await asyncio.sleep(1)
    younger = await second.live("ben")
    second.outage.is_down = False
    await asyncio.sleep(10)
    assert older.is_live
    assert younger.is_live
    first.outage.is_down = False
    assert await younger.until_closed(within_s=10) == (4014, "limit")
    assert older.is_live
    assert first.world.ends() == [("ben", "limit")]


@with_two_replicas
async def test_owners_register_again_in_an_empty_store(first: Replica, second: Replica) -> None:
    page = await first.live()
    other = await second.live("ben", OTHER_TARGET)
    lose_data(first.world)
    await asyncio.sleep(6)
    assert len(await second.store.sessions()) == 2
    with pytest.raises(ConsoleBusy):
        await second.redeem(await second.ticket(first.world.person("cyd")))
    lose_data(first.world)
    page.send(type="end")
    other.send(type="end")
    await asyncio.sleep(120)
    assert sorted(first.world.ends()) == [("ada", "person"), ("ben", "person")]


@with_two_replicas
async def test_limits_apply_without_the_store(first: Replica, second: Replica) -> None:
    first.outage.is_down = True
    await first.live("ada")
    with pytest.raises(ConsoleBusy):
        await first.redeem(await first.ticket(first.world.person("ben")))


@with_two_replicas
async def test_drain_moves_no_faster_than_links_are_spare(first: Replica, second: Replica) -> None:
    world = first.world
    pages = []
    for number in range(10):
        server = type(OTHER_TARGET.server)(f"00000000-0000-4000-8000-0000000000{number:02}")
        target = type(OTHER_TARGET)(OTHER_TARGET.account, OTHER_TARGET.project, server)
        pages.append(await first.live(f"person-{number}", target))
    world.spare_s = None
    draining = asyncio.create_task(first.drain.run(within_s=300))
    await asyncio.sleep(5)
    assert all(page.is_live for page in pages)
    world.spare_s = 0.5
    moved_at = []
    for page in pages:
        assert await page.until_closed(within_s=1) == (4007, "move")
        moved_at.append(asyncio.get_running_loop().time())
        pages[len(moved_at) - 1] = page.resume(second)
    assert moved_at[-1] - moved_at[0] == pytest.approx(4.5, abs=0.2)
    await draining
    for page in pages:
        await page.until("live")
    assert world.ends() == []


@with_two_replicas
async def test_drain_moves_the_rest_at_its_end(first: Replica, second: Replica) -> None:
    page = await first.live()
    first.world.spare_s = None
    draining = asyncio.create_task(first.drain.run(within_s=20))
    assert await page.until_closed(within_s=21) == (4007, "move")
    await draining
    assert await page.resume(first).until_closed() == (4007, "move")
    await page.resume(second).until("live")


@with_two_replicas
async def test_replaced_worker_keeps_its_sessions_until_they_end(
    first: Replica, second: Replica
) -> None:
    page, stays = await first.live(), await first.live("ben", OTHER_TARGET)
    never = asyncio.Event()

    async def retire() -> None:
        await first.drain.keep(for_s=100, unless=never)
        await first.drain.run(within_s=10)

    retiring = asyncio.create_task(retire())
    await asyncio.sleep(50)
    assert page.is_live
    first.world.tokens.refuse("ada")
    assert await page.until_closed() == (4002, "right_ended")
    assert await stays.until_closed(within_s=60) == (4007, "move")
    await retiring


@with_two_replicas
async def test_stopping_gateway_interrupts_a_replaced_worker(
    first: Replica, second: Replica
) -> None:
    page, stops = await first.live(), asyncio.Event()
    keeping = asyncio.create_task(first.drain.keep(for_s=3_600, unless=stops))
    await asyncio.sleep(5)
    assert not keeping.done()
    stops.set()
    async with asyncio.timeout(1):
        await keeping
    assert page.is_live
    assert second.world.ends() == []


@with_two_replicas
async def test_one_session_of_many_ends_within_a_second(first: Replica, second: Replica) -> None:
    world = first.world
    third = Replica(world, "p3").start()
    pages = []
    for number in range(50):
        server = type(OTHER_TARGET.server)(f"00000000-0000-4000-8000-0000000001{number:02}")
        target = type(OTHER_TARGET)(OTHER_TARGET.account, OTHER_TARGET.project, server)
        replica = (first, second, third)[number % 3]
        pages.append(await replica.live(f"person-{number}", target))
    world.tokens.refuse("person-17")
    assert await pages[17].until_closed() == (4002, "right_ended")
    assert sum(page.is_live for page in pages) == 49
    await third.stop()


@with_two_replicas
async def test_session_left_without_the_store_is_not_recorded_and_resumed(
    first: Replica, second: Replica
) -> None:
    """Its page comes back at another process, after the first one would have given it up."""
    page = await first.live()
    await asyncio.sleep(4)  # near the next renewal: Redis keeps the lease for longest
    set_store(first, second, is_down=True)
    page.lose()
    await page.task
    await asyncio.sleep(34)
    assert first.world.ends() == []
    set_store(first, second, is_down=False)
    again = page.resume(second)
    await again.until("live")
    await end_once(again)


@with_two_replicas
async def test_displaced_session_without_connection_is_recorded(
    first: Replica, second: Replica
) -> None:
    older = await second.live("ben")
    first.outage.is_down = True
    await asyncio.sleep(1)
    await first.redeem(await first.ticket())
    first.outage.is_down = False
    await asyncio.sleep(10)
    assert first.world.ends() == [("ada", "limit")]
    assert older.is_live
