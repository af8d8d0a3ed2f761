"""That all replicas come to agree on what is ordered, and who does not know it says so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.domain.errors import BadRequest, OrdersUnknown, StoreUnavailable
from gateway.domain.model import Principal
from gateway.domain.overrides import Lifted, Order, RevokedToken, What, kept_from_text
from gateway.flow import active_overrides
from gateway.flow.active_overrides import ORDERS_MAX, StandingOrders
from tests.support.clock import FakeClock, settle
from tests.support.order_store import FakeOrderStore
from tests.support.snapshot_file import FakeSnapshotFile

NOW = 1_000.0
HOUR_S = 3_600.0


def an_order(name: str, what: What, *, until: float = NOW + HOUR_S) -> Order:
    return Order(name, NOW, until, "corp:ada", "", what)


def principal(token_id: str = "t") -> Principal:
    return Principal("corp", "olga", frozenset(), NOW, NOW + 3600, token_id)


REVOKED = an_order("a", RevokedToken("corp", "t"))
ANOTHER = an_order("b", RevokedToken("corp", "u"))


def a_store(*orders: Order) -> FakeOrderStore:
    """Make one that was told all: these."""
    store = FakeOrderStore()
    store.orders = {order.id: order for order in orders}
    store.is_complete = True
    store.touch()
    return store


def replica(
    store: FakeOrderStore,
    file: FakeSnapshotFile | None = None,
    *,
    clock: FakeClock | None = None,
    serve_unknown: bool = False,
    none_given: bool = False,
) -> StandingOrders:
    return StandingOrders(
        store,
        file,
        clock or FakeClock(NOW),
        serve_unknown=serve_unknown,
        none_given=none_given,
    )


async def known(store: FakeOrderStore, file: FakeSnapshotFile | None = None) -> StandingOrders:
    """Return one that was told all by Redis, and whose file holds it."""
    orders = replica(store, file)
    await orders.look()
    assert orders.known
    if file is not None:
        async with running(orders):
            await until(lambda: kept_from_text(file.text).complete)
    return orders


@asynccontextmanager
async def running(orders: StandingOrders) -> AsyncIterator[None]:
    task = asyncio.create_task(orders.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - what is waited for happens in a thread
            await asyncio.sleep(0.001)


async def give(orders: StandingOrders, *given: Order) -> list[bool]:
    async with running(orders):
        return await asyncio.gather(*(orders.give(order) for order in given))


async def test_who_was_told_by_nobody_lets_nobody_in() -> None:
    store = a_store()
    store.is_away = True
    orders = replica(store)
    with pytest.raises(StoreUnavailable):
        await orders.look()
    with pytest.raises(OrdersUnknown):
        orders.revoked(principal())
    assert orders.state == "unknown"
    assert not orders.revoke_known(principal())
    assert not replica(store, serve_unknown=True).revoked(principal())
    store.is_away = False
    await orders.look()
    assert not orders.revoked(principal())
    assert orders.state == "ok"


async def test_where_none_can_be_given_none_is_unknown_and_what_is_told_is_obeyed() -> None:
    store, file = a_store(REVOKED), FakeSnapshotFile()
    store.is_away = True
    orders = replica(store, file, none_given=True)
    with pytest.raises(StoreUnavailable):
        await orders.look()
    assert not orders.revoked(principal())
    await give(orders, ANOTHER)
    # What the operator said may not hold for the next start.
    assert not replica(store, file).known
    store.is_away = False
    await orders.look()
    assert orders.revoked(principal())


async def test_a_file_tells_as_well_and_a_damaged_one_tells_nothing() -> None:
    store, file = a_store(), FakeSnapshotFile()
    one = await known(store, file)
    store.is_away = True
    assert await give(one, REVOKED) == [False]
    again = replica(store, file)
    assert again.known
    assert again.revoked(principal())
    assert file.text is not None
    assert not replica(store, FakeSnapshotFile(file.text[:-9])).known


async def test_that_nothing_was_ordered_is_kept_as_well() -> None:
    store, file = a_store(), FakeSnapshotFile()
    await known(store, file)
    store.is_away = True
    assert not replica(store, file).revoked(principal())


async def test_what_is_given_to_who_does_not_know_outlives_it_and_does_not_pass_for_all() -> None:
    store, file = a_store(), FakeSnapshotFile()
    store.is_away = True
    await give(replica(store, file), REVOKED)
    again = replica(store, file)
    assert not again.known
    with pytest.raises(OrdersUnknown):
        again.revoked(principal("mallory"))
    assert again.revoke_known(principal())
    store.is_away = False
    await again.look()
    assert store.orders == {"a": REVOKED}
    async with running(again):
        await until(lambda: kept_from_text(file.text).complete)
    store.is_away = True
    assert replica(store, file).known


async def test_workers_of_one_host_keep_what_each_was_given() -> None:
    store, file = a_store(), FakeSnapshotFile()
    one, other = await known(store, file), await known(store, file)
    store.is_away = True
    await give(one, REVOKED)
    await give(other, ANOTHER)
    assert other.revoked(principal("t"))  # found beside what it had to keep itself
    again = replica(store, file)
    assert again.known
    assert again.revoked(principal("t"))
    assert again.revoked(principal("u"))


async def test_orders_given_at_once_are_all_kept_by_few_writes() -> None:
    class Counted(FakeSnapshotFile):
        writes = 0

        async def save(self, made_of: Callable[[bytes | None], bytes]) -> None:
            self.writes += 1
            await super().save(made_of)

    file = Counted()
    orders = replica(a_store(), file)
    given = [an_order(str(n), RevokedToken("corp", str(n))) for n in range(50)]
    await give(orders, *given)
    assert {order.id for order in kept_from_text(file.text).orders} == {o.id for o in given}
    assert file.writes <= 3


async def test_a_disk_that_hangs_keeps_nobody_from_hearing_who_is_revoked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging(FakeSnapshotFile):
        async def save(self, made_of: Callable[[bytes | None], bytes]) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(active_overrides, "_KEPT_WITHIN_S", 0.05)
    store = a_store()
    orders = replica(store, Hanging())
    async with running(orders):
        await orders.give(ANOTHER)  # waits for the disk no longer than is bearable
        store.orders |= {REVOKED.id: REVOKED}
        store.touch()
        await until(lambda: orders.revoke_known(principal("t")))


@pytest.mark.parametrize("forgot", [True, False])
async def test_an_order_given_while_the_store_is_away_reaches_the_others_afterwards(
    *, forgot: bool
) -> None:
    store = a_store()
    one, other = await known(store), await known(store)
    store.is_away = True
    assert await one.give(REVOKED) is False
    assert one.revoked(principal())
    store.is_away = False
    if forgot:
        store.forget()
    await one.look()
    await other.look()
    assert other.revoked(principal())


async def test_a_store_that_forgot_is_told_by_who_remembers() -> None:
    store = a_store()
    one = await known(store)
    assert await one.give(REVOKED) is True
    store.forget()
    await one.look()
    assert store.orders == {"a": REVOKED}
    assert (await known(store)).revoked(principal())


async def test_a_failover_to_a_server_that_was_told_less_loses_nothing() -> None:
    store = a_store()
    one = await known(store)
    before = store.version
    await one.give(REVOKED)
    del store.orders["a"]
    store.go_back_to(before)
    await one.look()
    assert store.orders == {"a": REVOKED}


async def test_who_finds_a_store_that_forgot_waits_for_those_who_remember() -> None:
    store, clock = a_store(), FakeClock(NOW)
    remembers = await known(store)
    await remembers.give(REVOKED)
    store.forget()
    new = replica(store, clock=clock)
    await new.look()
    assert not new.known
    await new.give(ANOTHER)
    new_too = replica(store, clock=clock)
    await new_too.look()
    assert not new_too.known  # what the first was given is not all
    await remembers.look()
    for one in (new, new_too):
        await one.look()
        assert one.revoked(principal("t"))
        assert one.revoked(principal("u"))


async def test_where_nobody_remembers_there_is_nothing_to_wait_for() -> None:
    store, clock = FakeOrderStore(), FakeClock(NOW)
    first = replica(store, clock=clock)
    await first.look()
    await clock.advance(2.0)
    store.is_away = True
    with pytest.raises(StoreUnavailable):
        await first.look()
    store.is_away = False
    await first.look()
    await clock.advance(2.0)
    await first.look()
    assert not first.known  # who remembers may have been cut off as well
    await clock.advance(1.0)
    await first.look()
    assert first.known
    assert (await known(store)).known  # the next one finds that all is told


async def test_who_cannot_read_an_order_lets_nobody_in_unless_the_file_told_it() -> None:
    store, file, clock = a_store(REVOKED), FakeSnapshotFile(), FakeClock(NOW)
    told_by_file = await known(store, file)
    store.spoil("a")
    new = replica(store, clock=clock)
    await new.look()
    await clock.advance(10.0)
    await new.look()
    assert (new.known, new.state) == (False, "unreadable")
    with pytest.raises(OrdersUnknown):
        new.revoked(principal())
    again = replica(store, file)
    await again.look()  # and tells it anew
    await new.look()
    assert new.revoked(principal())
    assert told_by_file.state == "ok"


async def test_an_unreadable_order_that_is_removed_is_in_nobody_s_way() -> None:
    store, clock = a_store(REVOKED), FakeClock(NOW)
    store.spoil("a")
    new = replica(store, clock=clock)
    await new.look()
    store.forget()
    store.unreadable.clear()
    await new.look()
    await clock.advance(3.0)
    await new.look()
    assert new.state == "ok"


async def test_what_is_sealed_with_a_key_to_be_withdrawn_is_told_anew() -> None:
    store, clock = a_store(REVOKED), FakeClock(NOW)
    store.under_an_older_key.add("a")
    orders = replica(store, clock=clock)
    await orders.look()
    assert not store.under_an_older_key
    store.under_an_older_key.add("a")  # by one that does not seal with the new key yet
    await clock.advance(61.0)
    await orders.look()
    assert not store.under_an_older_key


async def test_an_order_that_fails_stops_no_other_and_is_told() -> None:
    store, errors, heard = a_store(), list[Exception](), list[bool]()
    orders = StandingOrders(store, None, FakeClock(NOW), serve_unknown=False, failed=errors.append)

    def fail() -> None:
        if ANOTHER in orders.current.in_force:
            raise OverflowError("no such ceiling")

    orders.when_changed(fail)
    orders.when_changed(lambda: heard.append(orders.revoke_known(principal("t"))))
    await orders.look()
    assert await orders.give(ANOTHER) is True
    assert len(errors) == 1
    store.orders |= {REVOKED.id: REVOKED}
    store.touch()
    await orders.look()
    assert heard == [False, False, True]
    orders.when_changed(fail)  # as at a start with such an order in the file
    assert len(errors) == 3
    await orders.give(an_order("c", Lifted(ANOTHER.id)))
    assert len(errors) == 3


async def test_no_more_orders_stand_than_are_quick_to_go_through_but_one_can_be_lifted() -> None:
    store = a_store(
        *(an_order(str(n), RevokedToken("corp", str(n))) for n in range(ORDERS_MAX - 1))
    )
    orders = await known(store)
    await orders.give(REVOKED)
    with pytest.raises(BadRequest):
        await orders.give(ANOTHER)
    assert ANOTHER.id not in store.orders
    await orders.give(an_order("c", Lifted(REVOKED.id)))
    assert not orders.revoked(principal())


async def test_an_order_ends_by_itself_and_leaves_the_store_when_it_has_ended_for_all() -> None:
    store, clock = a_store(), FakeClock(NOW)
    orders = replica(store, clock=clock)
    changes: list[bool] = []
    orders.when_changed(lambda: changes.append(orders.revoke_known(principal())))
    await orders.look()
    await orders.give(REVOKED)
    running = asyncio.create_task(orders.run())
    await settle()
    clock.step_wall(HOUR_S)
    await _woken(store)
    assert changes == [False, True, False]
    assert store.orders == {"a": REVOKED}  # for another replica's clock it may not have ended
    version = store.version
    clock.step_wall(301.0)
    await _woken(store)
    assert store.orders == {}
    assert store.version == version  # nobody need read anything for that
    running.cancel()


async def test_one_that_starts_later_removes_what_has_ended_as_well() -> None:
    store, clock = a_store(REVOKED, an_order("b", Lifted("a"), until=NOW + 2 * HOUR_S)), FakeClock()
    clock.step_wall(NOW + HOUR_S + 301.0 - clock.now())
    await replica(store, clock=clock).look()
    assert set(store.orders) == {"b"}


async def _woken(store: FakeOrderStore) -> None:
    """Let who listens to the store look once."""
    store.wake()
    await settle()
