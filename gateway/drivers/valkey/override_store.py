"""The standing orders in Redis, sealed, so that who can write there cannot make one up."""

import logging
import secrets
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from gateway.domain.errors import StoreUnavailable
from gateway.domain.overrides import Order, order_from_text, order_to_text
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.ports import ToldOrders

log = logging.getLogger("gateway.orders")

_READ, _FETCH, _ADD = LuaScript("read_orders"), LuaScript("fetch_orders"), LuaScript("add_orders")
_MESSAGE = b"orders"
_NO_ORDERS = frozenset({"version", "complete"})
_AT_ONCE = 250
"""Orders in one script: each is answered well within `store.timeout_s`, and opened in 5 ms."""


class ValkeyOrderStore:
    """Implements ports.OrderStore."""

    def __init__(self, valkey: Valkey, sealer: Sealer) -> None:
        self._valkey = valkey
        self._sealer = sealer
        self._name = valkey.key("orders", tag="orders")

    async def read(self, known: str, *, held: AbstractSet[str]) -> ToldOrders | None:
        match await self._valkey.run_script(_READ, [self._name], [known]):
            case [bytes()]:
                return None
            case [bytes(version), int(is_complete), list(names)]:
                ids = {name.decode(errors="replace") for name in names} - _NO_ORDERS
                told = await self._fetch(sorted(ids - held))
                return ToldOrders(
                    version=version.decode(),
                    is_complete=bool(is_complete),
                    orders=[order for order, _ in told.values() if order is not None],
                    ids=(ids & held) | {one for one, (_, is_well) in told.items() if is_well},
                    unreadable=_count_unreadable(told),
                )
            case _:
                raise StoreUnavailable("read_orders: an answer of another kind")

    async def add(self, orders: Sequence[Order], *, ended: Sequence[str], complete: bool) -> None:
        batches = [orders[at : at + _AT_ONCE] for at in range(0, len(orders), _AT_ONCE)] or [()]
        for batch in batches:
            args: list[str | bytes | int] = [
                secrets.token_hex(8),
                int(complete and batch is batches[-1]),
                self._valkey.channel,
                _MESSAGE,
                len(ended),
                *ended,
            ]
            for order in batch:
                args += [order.id, self._sealed(order)]
            await self._valkey.run_script(_ADD, [self._name], args)
            ended = ()

    def when_changed(self, call: Callable[[], None]) -> None:
        def hear(message: bytes) -> None:
            if message == _MESSAGE:
                call()

        self._valkey.on_message(hear)
        self._valkey.on_availability_change(call)

    async def _fetch(self, ids: Sequence[str]) -> dict[str, tuple[Order | None, bool]]:
        """Return the orders with these ids, and whether each lies there as we would seal it."""
        told: dict[str, tuple[Order | None, bool]] = {}
        for at in range(0, len(ids), _AT_ONCE):
            batch = ids[at : at + _AT_ONCE]
            values = await self._valkey.run_script(_FETCH, [self._name], batch)
            for order_id, sealed in zip(batch, values, strict=True):
                if sealed is not None:  # else it was forgotten meanwhile
                    order = self._opened(order_id, sealed)
                    told[order_id] = order, order is not None and self._sealer.is_current(sealed)
        return told

    def _sealed(self, order: Order) -> bytes:
        return self._sealer.seal(order_to_text(order), bound_to=self._bound_to(order.id))

    def _opened(self, order_id: str, sealed: bytes) -> Order | None:
        text = self._sealer.open(sealed, bound_to=self._bound_to(order_id))
        try:
            return order_from_text(text or b"")
        except ValueError:
            return None

    def _bound_to(self, order_id: str) -> bytes:
        return f"{self._name}:{order_id}".encode()


def _count_unreadable(told: dict[str, tuple[Order | None, bool]]) -> int:
    count = sum(order is None for order, _ in told.values())
    if count:
        # Made up by who may write there, or sealed with a key that we do not hold.
        log.error("orders_unreadable", extra={"count": count})
    return count
