"""The orders that stand: given on any replica, heard by all within a second, kept through a loss.

Redis carries them; each replica holds all of them, and tells a Redis that forgot. A process that
was never told by Redis, nor by its file, does not know who is revoked: it lets nobody in.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.errors import OrdersUnknown, StoreUnavailable
from gateway.model import Principal
from gateway.ports import Clock, KeptFile, OrderStore
from gateway.rules.orders import Order, Orders, orders_from_text, orders_to_text

_LOOK_EVERY_S = 0.4
_RETRY_AFTER_S = 2.0


class StandingOrders:
    def __init__(
        self,
        store: OrderStore,
        file: KeptFile | None,
        clock: Clock,
        *,
        serve_unknown: bool,
        known: bool = False,
    ) -> None:
        """`serve_unknown`: let callers in though it is not known yet who is revoked.

        `known`: there are none to be told of.
        """
        self._store = store
        self._file = file
        self._clock = clock
        self._serve_unknown = serve_unknown
        self._orders = Orders()
        self._version = ""
        self._wake = asyncio.Event()
        self._on_change: list[Callable[[], None]] = []
        self.known = known
        store.when_changed(self._wake.set)
        text = None if file is None else file.load()
        if text is not None:
            with suppress(ValueError):  # a damaged file is as good as none
                self._orders = Orders(orders_from_text(text))
                self.known = True

    @property
    def serve(self) -> bool:
        """Tell whether callers are let in."""
        return self.known or self._serve_unknown

    @property
    def current(self) -> Orders:
        return self._orders

    def when_changed(self, call: Callable[[], None]) -> None:
        """`call` hears now, and after each change, that there is something to look at."""
        self._on_change.append(call)
        call()

    def revoke_known(self, principal: Principal) -> bool:
        """Tell whether the token is revoked as far as is known here."""
        return self._orders.revoke(principal)

    def revoked(self, principal: Principal) -> bool:
        """Tell whether the token that proved this principal is revoked; raise OrdersUnknown."""
        if not self.serve:
            raise OrdersUnknown("no store and no file has told them", retry_after_s=_RETRY_AFTER_S)
        return self._orders.revoke(principal)

    def dropping(self, project: str, server: str, person: str) -> tuple[str, ...]:
        """Return the ids of the orders that drop such a link; `person` is "" of a shared one."""
        return self._orders.dropping(project, server, person)

    async def give(self, order: Order) -> bool:
        """Let it stand here at once; return whether all replicas are told by now.

        Those that are not hear of it once Redis is there again.
        """
        await self._take([order])
        try:
            await self._store.add([order], ended=())
        except StoreUnavailable:
            return False
        return True

    async def run(self) -> None:
        """Hear of new orders, for ever."""
        while True:
            self._wake.clear()
            with suppress(StoreUnavailable):
                await self.look()
            await self._drop_ended()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._wake.wait()

    async def look(self) -> None:
        """Ask the store once, and tell it what it lacks; raises StoreUnavailable."""
        told = await self._store.read(self._version)
        if told is not None:
            now = self._clock.now()
            await self._take([order for order in told.orders if order.until > now])
            stored = {order.id for order in told.orders}
            lacking = [order for order in self._orders if order.id not in stored]
            if lacking:
                ended = [order.id for order in told.orders if order.until <= now]
                await self._store.add(lacking, ended=ended)
            self._version = told.version
        if not self.known:
            self.known = True
            await self._keep()

    async def _take(self, orders: list[Order]) -> None:
        if any(order.id not in self._orders for order in orders):
            await self._change(self._orders.with_more(orders, self._clock.now()))

    async def _drop_ended(self) -> None:
        now, ends_at = self._clock.now(), self._orders.ends_at
        if ends_at is not None and ends_at <= now:
            await self._change(self._orders.with_more((), now))

    async def _change(self, orders: Orders) -> None:
        self._orders = orders
        for call in self._on_change:
            call()
        await self._keep()

    async def _keep(self) -> None:
        if self._file is not None:
            await self._file.save(orders_to_text(self._orders))
