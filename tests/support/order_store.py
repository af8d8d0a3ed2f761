"""An in-memory OrderStore; the contract suite holds it to what Valkey does."""

import itertools
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from gateway.domain.errors import StoreUnavailable
from gateway.domain.overrides import Order
from gateway.flow.ports import ToldOrders


class FakeOrderStore:
    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.unreadable: set[str] = set()
        self.under_an_older_key: set[str] = set()
        self.is_complete = False
        self.is_away = False
        self._version = ""
        self._versions = itertools.count(1)
        self._hear: list[Callable[[], None]] = []

    async def read(self, known: str, *, held: AbstractSet[str]) -> ToldOrders | None:
        self._be_there()
        if known and known == self._version:
            return None
        readable = self.orders.keys() - self.unreadable
        return ToldOrders(
            self._version,
            self.is_complete,
            [self.orders[one] for one in sorted(readable - held)],
            (self.orders.keys() & held) | (readable - self.under_an_older_key),
            len(self.unreadable - held),
        )

    async def add(self, orders: Sequence[Order], *, ended: Sequence[str], complete: bool) -> None:
        self._be_there()
        for order_id in ended:
            self.orders.pop(order_id, None)
        self.orders |= {order.id: order for order in orders}
        self.unreadable -= {order.id for order in orders}
        self.under_an_older_key -= {order.id for order in orders}
        if orders or (complete and not self.is_complete):
            self.is_complete = self.is_complete or complete
            self.touch()

    def when_changed(self, call: Callable[[], None]) -> None:
        self._hear.append(call)

    def forget(self) -> None:
        self.orders.clear()
        self.is_complete, self._version = False, ""

    def spoil(self, order_id: str) -> None:
        self.unreadable.add(order_id)
        self.touch()

    def go_back_to(self, version: str) -> None:
        """Fail over to a server that was told less."""
        self._version = version

    @property
    def version(self) -> str:
        return self._version

    def touch(self) -> None:
        self._version = str(next(self._versions))
        self.wake()

    def wake(self) -> None:
        for call in self._hear:
            call()

    def _be_there(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
