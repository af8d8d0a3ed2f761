"""What is ordered: who is refused, until when, and that all replicas come to agree."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import permutations

import pytest

from gateway.errors import OrdersUnknown, StoreUnavailable
from gateway.flow.standing_orders import StandingOrders
from gateway.model import Principal
from gateway.ports import ToldOrders
from gateway.rules.orders import (
    NOTHING_KEPT,
    Ceiling,
    DroppedLinks,
    KeptOrders,
    Lifted,
    LogLevels,
    Order,
    Orders,
    RevokedBefore,
    RevokedSubject,
    RevokedToken,
    What,
    kept_from_text,
    kept_to_text,
    order_from_text,
    order_to_text,
)
from tests.support.clock import FakeClock, settle
from tests.support.kept_file import FakeKeptFile

NOW = 1_000.0


def an_order(name: str, what: What, *, at: float = NOW, until: float = NOW + 600) -> Order:
    return Order(name, at, until, "corp:ada", "", what)


def principal(subject: str = "olga", *, issued_at: float = NOW, token_id: str = "t") -> Principal:
    return Principal("corp", subject, frozenset(), issued_at, issued_at + 3600, token_id)


@pytest.mark.parametrize(
    ("what", "refused", "served"),
    [
        (RevokedToken("corp", "t"), principal(), principal(token_id="u")),
        (RevokedToken("partner", "t"), None, principal()),
        (RevokedSubject("corp", "olga", NOW), principal(), principal(issued_at=NOW + 1)),
        (RevokedSubject("corp", "olga", NOW), principal(issued_at=1), principal("olgA")),
        (RevokedBefore("corp", NOW), principal("anybody"), principal(issued_at=NOW + 0.5)),
        (RevokedBefore("partner", NOW), None, principal()),
    ],
)
def test_a_revocation_covers_what_it_names(
    what: What, refused: Principal | None, served: Principal
) -> None:
    orders = Orders([an_order("a", what)])
    assert refused is None or orders.revoke(refused)
    assert not orders.revoke(served)


def test_the_latest_instant_counts_whatever_the_order_they_came_in() -> None:
    three = [
        an_order("a", RevokedSubject("corp", "olga", 5.0)),
        an_order("b", RevokedSubject("corp", "olga", 9.0)),
        an_order("c", RevokedSubject("corp", "olga", 7.0)),
    ]
    for some in permutations(three):
        orders = Orders(some)
        assert orders.revoke(principal(issued_at=9.0))
        assert not orders.revoke(principal(issued_at=9.1))


def test_a_lifted_order_is_over_even_where_it_is_heard_of_later() -> None:
    lifted = an_order("b", Lifted("a"))
    orders = Orders([lifted]).with_more([an_order("a", RevokedToken("corp", "t"))], NOW)
    assert not orders.revoke(principal())
    assert orders.in_force == []


def test_orders_end_by_themselves() -> None:
    orders = Orders([an_order("a", RevokedToken("corp", "t"), until=NOW + 1)])
    assert orders.with_more((), NOW).revoke(principal())
    assert not orders.with_more((), NOW + 1).revoke(principal())


@pytest.mark.parametrize(
    ("what", "dropped", "kept"),
    [
        (DroppedLinks(), ("p", "s", "corp:olga"), None),
        (DroppedLinks(server="s"), ("p", "s", "x"), ("p", "other", "x")),
        (DroppedLinks(project="p", server="s"), ("p", "s", ""), ("q", "s", "")),
        (DroppedLinks(person="x"), ("p", "s", "x"), ("p", "s", "y")),
        # It may have been given to that person, too.
        (DroppedLinks(person="x"), ("p", "s", ""), ("p", "s", "y")),
    ],
)
def test_links_are_dropped_by_where_and_whose_they_are(
    what: DroppedLinks, dropped: tuple[str, str, str], kept: tuple[str, str, str] | None
) -> None:
    orders = Orders([an_order("a", what)])
    assert orders.dropping(*dropped) == ("a",)
    assert kept is None or orders.dropping(*kept) == ()


def test_of_two_ceilings_or_levels_the_later_counts() -> None:
    orders = Orders(
        [
            an_order("b", Ceiling("prod", "console", 5.0), at=2.0),
            an_order("a", Ceiling("prod", "console", 9.0), at=1.0),
            an_order("c", LogLevels({"gateway": "debug"}), at=3.0),
            an_order("d", LogLevels({"gateway": "error", "gateway.tls": "info"}), at=4.0),
        ]
    )
    assert orders.ceilings == {("prod", "console"): 5.0}
    assert orders.log_levels == {"gateway": "error", "gateway.tls": "info"}


def test_what_is_written_is_read_and_nothing_else() -> None:
    order = an_order("a", RevokedToken("corp", "t"))
    assert order_from_text(order_to_text(order)) == order
    for text in (b"", b"{}", b'{"id": "a"}', b'{"id":"a","at":0,"until":1,"what":{}}'):
        with pytest.raises(ValueError, match="is no order"):
            order_from_text(text)


def test_a_file_is_read_as_it_was_written_and_a_damaged_one_is_as_good_as_none() -> None:
    kept = KeptOrders(
        complete=True,
        orders=[
            an_order("a", RevokedToken("corp", "t")),
            an_order("b", LogLevels({"gateway": "debug"})),
        ],
    )
    text = kept_to_text(kept)
    assert kept_from_text(text) == kept
    for damaged in (None, b"", b"[]", text[:-1], text.replace(b'"complete":true,', b"")):
        assert kept_from_text(damaged) == NOTHING_KEPT


class Store:
    """Redis as the orders know it; it can be away, and forget."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.version = 0
        self.is_away = False
        self.hear: list[Callable[[], None]] = []

    async def read(self, known: str) -> ToldOrders | None:
        self._be_there()
        if known == str(self.version):
            return None
        return ToldOrders(str(self.version), list(self.orders.values()))

    async def add(self, orders: Sequence[Order], *, ended: Sequence[str]) -> None:
        self._be_there()
        self.orders |= {order.id: order for order in orders}
        for order in ended:
            self.orders.pop(order, None)
        self.version += 1
        for call in self.hear:
            call()

    def when_changed(self, call: Callable[[], None]) -> None:
        self.hear.append(call)

    def forget(self) -> None:
        self.orders.clear()
        self.version += 1

    def _be_there(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")


def replica(
    store: Store, file: FakeKeptFile | None = None, *, serve: bool = False
) -> StandingOrders:
    return StandingOrders(store, file, FakeClock(NOW), serve_unknown=serve)


REVOKED = an_order("a", RevokedToken("corp", "t"))


async def test_who_was_told_by_nobody_lets_nobody_in() -> None:
    store = Store()
    store.is_away = True
    orders = replica(store)
    with pytest.raises(StoreUnavailable):
        await orders.look()
    with pytest.raises(OrdersUnknown):
        orders.revoked(principal())
    assert not orders.revoke_known(principal())
    assert not replica(store, serve=True).revoked(principal())
    store.is_away = False
    await orders.look()
    assert not orders.revoked(principal())


async def test_a_file_tells_as_well_and_a_damaged_one_tells_nothing() -> None:
    store, file = Store(), FakeKeptFile()
    one = replica(store, file)
    await one.look()
    store.is_away = True
    assert await one.give(REVOKED) is False
    again = replica(store, file)
    assert again.known
    assert again.revoked(principal())
    assert file.text is not None
    assert not replica(store, FakeKeptFile(file.text[:-9])).known


async def test_what_is_given_to_who_does_not_know_outlives_it_and_does_not_pass_for_all() -> None:
    store, file = Store(), FakeKeptFile()
    store.is_away = True
    await replica(store, file).give(REVOKED)
    again = replica(store, file)
    assert not again.known
    with pytest.raises(OrdersUnknown):
        again.revoked(principal("mallory"))
    assert again.revoke_known(principal())
    store.is_away = False
    await again.look()
    assert store.orders == {"a": REVOKED}
    store.is_away = True
    assert replica(store, file).known


async def test_workers_of_one_host_keep_what_each_was_given() -> None:
    store, file = Store(), FakeKeptFile()
    one, other = replica(store, file), replica(store, file)
    await one.look()
    await other.look()
    store.is_away = True
    await one.give(REVOKED)
    await other.give(an_order("b", RevokedToken("corp", "u")))
    assert other.revoked(principal(token_id="t"))  # found beside what it had to keep itself
    again = replica(store, file)
    assert again.known
    assert again.revoked(principal(token_id="t"))
    assert again.revoked(principal(token_id="u"))


async def test_orders_given_at_once_are_all_kept_by_few_writes() -> None:
    class Counted(FakeKeptFile):
        writes = 0

        async def save(self, made_of: Callable[[bytes | None], bytes]) -> None:
            self.writes += 1
            await super().save(made_of)

    file = Counted()
    orders = replica(Store(), file)
    given = [an_order(str(n), RevokedToken("corp", str(n))) for n in range(50)]
    await asyncio.gather(*(orders.give(order) for order in given))
    assert {order.id for order in kept_from_text(file.text).orders} == {o.id for o in given}
    assert file.writes <= 3


async def test_that_nothing_was_ordered_is_kept_as_well() -> None:
    store, file = Store(), FakeKeptFile()
    await replica(store, file).look()
    store.is_away = True
    assert not replica(store, file).revoked(principal())


async def test_an_order_given_while_the_store_is_away_reaches_the_others_afterwards() -> None:
    store = Store()
    one, other = replica(store), replica(store)
    await one.look()
    await other.look()
    store.is_away = True
    assert await one.give(REVOKED) is False
    assert one.revoked(principal())
    store.is_away = False
    store.forget()
    await one.look()
    await other.look()
    assert other.revoked(principal())


async def test_a_store_that_forgot_is_told_by_who_remembers() -> None:
    store = Store()
    one = replica(store)
    assert await one.give(REVOKED) is True
    store.forget()
    await one.look()
    assert store.orders == {"a": REVOKED}


async def test_ended_orders_leave_the_store_and_change_nothing_any_more() -> None:
    store, clock = Store(), FakeClock(NOW)
    orders = StandingOrders(store, None, clock, serve_unknown=False)
    changes: list[bool] = []
    orders.when_changed(lambda: changes.append(orders.revoke_known(principal())))
    await orders.give(REVOKED)
    clock.step_wall(601)
    running = asyncio.create_task(orders.run())
    await settle()
    running.cancel()
    assert (changes[0], changes[1], changes[-1]) == (False, True, False)
    assert store.orders == {"a": REVOKED}  # until another is added: nobody is in its way
