"""The orders that stand: given on any replica, heard by all within a second, kept through a loss.

Redis carries them; each replica holds all of them, and tells a Redis that forgot. A process that
was never told by Redis, nor by its file, does not know who is revoked: it lets nobody in. What it
is given meanwhile its file keeps, and neither the file nor Redis passes that for all.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final, Literal

from gateway.domain.errors import BadRequest, OrdersUnknown, StoreUnavailable
from gateway.domain.model import Principal
from gateway.domain.overrides import KeptOrders, Lifted, Order, Orders, kept_from_text, kept_to_text
from gateway.flow.ports import Clock, OrderStore, SnapshotFile, ToldOrders

ORDERS_MAX: Final = 10_000
"""Each change goes through all of them, on the event loop."""
_LOOK_EVERY_S: Final = 0.4
_RETRY_AFTER_S: Final = 2.0
_RETOLD_WITHIN_S: Final = 2.5
"""Who lost a store finds it after 2 s at most (drivers/valkey/connection.py), and then looks."""
_CLOCKS_APART_S: Final = 300.0
"""An ended order leaves the store so much later: for another replica it may not have ended yet."""
_KEPT_WITHIN_S: Final = 3.0
"""Who gives an order waits so long for the file: that of a disk that hangs is in force, too."""
_READ_ALL_EVERY_S: Final = 60.0
"""Then what was spoiled, or is sealed with a key that is to be withdrawn, is told anew."""


class StandingOrders:
    def __init__(
        self,
        store: OrderStore,
        file: SnapshotFile | None,
        clock: Clock,
        *,
        serve_unknown: bool,
        none_given: bool = False,
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """`serve_unknown`: let callers in though it is not known yet who is revoked.

        `none_given`: there are none to be told of, since no process takes any. `failed` hears
        what kept an order from taking effect.
        """
        self._store = store
        self._file = file
        self._clock = clock
        self._serve_unknown = serve_unknown
        self._none_given = none_given
        self._orders = Orders()
        self._told_all = False
        self._wake = asyncio.Event()
        self._on_change: list[Callable[[], None]] = []
        self._failed = failed

        self._version = ""
        self._stored: dict[str, float] = {}
        """When the orders end that the store holds, by id."""
        self._stored_all = False
        self._unreadable = 0
        self._forgetful_since: float | None = None
        self._read_all_at = clock.monotonic()

        self._changed = asyncio.Event()
        """Set while the file lacks something."""
        self._kept = asyncio.Event()
        """Set when the next keeping to begin has ended."""
        store.when_changed(self._wake.set)
        if file is not None:
            self._remember(kept_from_text(file.load()))

    @property
    def known(self) -> bool:
        """Tell whether all that stand are known here."""
        return self._told_all or self._none_given

    @property
    def state(self) -> Literal["ok", "unknown", "unreadable"]:
        if self.known:
            return "ok"
        return "unreadable" if self._unreadable else "unknown"

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
        self._let_hear(call)

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

        Those that are not hear of it once Redis is there again. Raises BadRequest.
        """
        # Lifted orders stand as well, until they end; yet what was ordered can always be undone.
        if len(self._orders) >= ORDERS_MAX and not isinstance(order.what, Lifted):
            raise BadRequest(f"{ORDERS_MAX} orders stand already; wait until some have ended.")
        self._take([order])
        kept = self._kept
        try:
            await self._tell([order])
        except StoreUnavailable:
            return False
        finally:
            if self._file is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_KEPT_WITHIN_S):
                        await kept.wait()
        return True

    async def run(self) -> None:
        """Hear of new orders and keep them, for ever; hearing waits for no disk."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._hear_for_ever())
            if self._file is not None:
                loops.create_task(self._keep_for_ever(self._file))

    async def _hear_for_ever(self) -> None:
        while True:
            self._wake.clear()
            with suppress(StoreUnavailable):
                await self.look()
            self._drop_ended()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._wake.wait()

    async def _keep_for_ever(self, file: SnapshotFile) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            kept, self._kept = self._kept, asyncio.Event()
            await self._keep(file)
            kept.set()

    async def look(self) -> None:
        """Ask the store once, and tell it what it lacks; raises StoreUnavailable."""
        now = self._clock.monotonic()
        if now - self._read_all_at >= _READ_ALL_EVERY_S:
            self._read_all_at, self._version, self._stored = now, "", {}
        try:
            told = await self._store.read(self._version, held=frozenset(self._stored))
        except StoreUnavailable:
            self._forgetful_since = None
            raise
        if told is not None:
            self._hear(told)
        if not self._told_all and self._is_told_all():
            self._told_all = True
            self._changed.set()
        await self._tell_what_is_lacking()

    def _hear(self, told: ToldOrders) -> None:
        ends = self._stored | {o.id: o.until for o in chain(self._orders, told.orders)}
        self._stored = {one: ends[one] for one in told.ids if one in ends}
        self._version, self._stored_all = told.version, told.is_complete
        self._unreadable = told.unreadable
        self._take([order for order in told.orders if order.until > self._clock.now()])

    def _is_told_all(self) -> bool:
        """Tell whether the store, just asked, can be gone by.

        One that forgot is told anew by who remembers; if nobody has for a while, nobody does.
        """
        if self._unreadable:
            return False
        if self._stored_all:
            return True
        now = self._clock.monotonic()
        if self._forgetful_since is None:
            self._forgetful_since = now
        return now - self._forgetful_since >= _RETOLD_WITHIN_S

    async def _tell_what_is_lacking(self) -> None:
        now = self._clock.now()
        lacking = [order for order in self._orders if order.id not in self._stored]
        ended = [one for one, until in self._stored.items() if until + _CLOCKS_APART_S <= now]
        if lacking or ended or (self._told_all and not self._stored_all):
            await self._tell(lacking, ended)

    async def _tell(self, orders: Sequence[Order], ended: Sequence[str] = ()) -> None:
        # Whatever comes of it, ask again what is there: a failover may take it back.
        self._version = ""
        await self._store.add(orders, ended=ended, complete=self._told_all)
        self._stored |= {order.id: order.until for order in orders}
        for one in ended:
            self._stored.pop(one, None)

    def _take(self, orders: list[Order]) -> None:
        if any(order.id not in self._orders for order in orders):
            self._change(self._orders.with_more(orders, self._clock.now()))

    def _drop_ended(self) -> None:
        now, ends_at = self._clock.now(), self._orders.ends_at
        if ends_at is not None and ends_at <= now:
            self._change(self._orders.with_more((), now))

    def _change(self, orders: Orders) -> None:
        self._orders = orders
        self._changed.set()
        for call in self._on_change:
            self._let_hear(call)

    def _let_hear(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - one bad order must not stop the others
            self._failed(error)

    async def _keep(self, file: SnapshotFile) -> None:
        """Return when the file holds all that is known here, beside what others put there."""
        ours, now = KeptOrders(self._told_all, list(self._orders)), self._clock.now()
        found: list[KeptOrders] = []

        def made_of(text: bytes | None) -> bytes:
            # Another worker of this host may have been given what this one has not heard of.
            found.append(kept_from_text(text))
            return kept_to_text(found[0].with_more(ours, now))

        await file.save(made_of)
        for kept in found:
            self._remember(kept)

    def _remember(self, kept: KeptOrders) -> None:
        self._told_all = self._told_all or kept.complete
        self._take([order for order in kept.orders if order.until > self._clock.now()])
