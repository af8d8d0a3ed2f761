"""The orders that stand: given on any replica, heard by all within a second, kept through a loss.

Redis carries them; each replica holds all of them, and tells a Redis that forgot. A process that
was never told by Redis, nor by its file, does not know who is revoked: it lets nobody in. What it
is given meanwhile its file keeps, and does not pass for all.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.errors import OrdersUnknown, StoreUnavailable
from gateway.model import Principal
from gateway.ports import Clock, KeptFile, OrderStore
from gateway.rules.orders import KeptOrders, Order, Orders, kept_from_text, kept_to_text

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
        self._keeping = asyncio.Lock()
        self._kept: tuple[Orders, bool] | None = None
        """What is in the file, as far as this process put it there."""
        store.when_changed(self._wake.set)
        if file is not None:
            self._remember(kept_from_text(file.load()))

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
        self._take([order])
        try:
            await self._store.add([order], ended=())
        except StoreUnavailable:
            return False
        finally:
            await self._keep()
        return True

    async def run(self) -> None:
        """Hear of new orders, for ever."""
        while True:
            self._wake.clear()
            with suppress(StoreUnavailable):
                await self.look()
            self._drop_ended()
            await self._keep()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._wake.wait()

    async def look(self) -> None:
        """Ask the store once, and tell it what it lacks; raises StoreUnavailable."""
        told = await self._store.read(self._version)
        if told is not None:
            now = self._clock.now()
            self._take([order for order in told.orders if order.until > now])
            stored = {order.id for order in told.orders}
            lacking = [order for order in self._orders if order.id not in stored]
            if lacking:
                ended = [order.id for order in told.orders if order.until <= now]
                await self._store.add(lacking, ended=ended)
            self._version = told.version
        self.known = True
        await self._keep()

    def _take(self, orders: list[Order]) -> None:
        if any(order.id not in self._orders for order in orders):
            self._change(self._orders.with_more(orders, self._clock.now()))

    def _drop_ended(self) -> None:
        now, ends_at = self._clock.now(), self._orders.ends_at
        if ends_at is not None and ends_at <= now:
            self._change(self._orders.with_more((), now))

    def _change(self, orders: Orders) -> None:
        self._orders = orders
        for call in self._on_change:
            call()

    async def _keep(self) -> None:
        """Return when the file holds all that is known here, beside what others put there."""
        if self._file is None:
            return
        async with self._keeping:
            held = self._orders, self.known
            if held == self._kept:
                return  # whoever had the lock before kept this, too
            ours, now = KeptOrders(self.known, list(self._orders)), self._clock.now()
            found: list[KeptOrders] = []

            def made_of(text: bytes | None) -> bytes:
                # Another worker of this host may have been given what this one has not heard of.
                found.append(kept_from_text(text))
                return kept_to_text(found[0].with_more(ours, now))

            await self._file.save(made_of)
            self._kept = held
        for kept in found:
            self._remember(kept)

    def _remember(self, kept: KeptOrders) -> None:
        self.known = self.known or kept.complete
        self._take([order for order in kept.orders if order.until > self._clock.now()])
