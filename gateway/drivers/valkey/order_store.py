"""The standing orders in Redis, sealed, so that who can write there cannot make one up."""

import logging
import secrets
from collections.abc import Callable, Sequence

from gateway.drivers.sealer import Sealer
from gateway.drivers.valkey.connection import Script, Valkey
from gateway.errors import StoreUnavailable
from gateway.ports import Clock, ToldOrders
from gateway.rules.orders import Order, order_from_text, order_to_text

log = logging.getLogger("gateway.orders")

_READ, _ADD = Script("read_orders"), Script("add_orders")
_MESSAGE = b"orders"
_LIFE_MIN_MS = 60_000


class ValkeyOrderStore:
    """Implements ports.OrderStore."""

    def __init__(self, valkey: Valkey, sealer: Sealer, clock: Clock) -> None:
        self._valkey = valkey
        self._sealer = sealer
        self._clock = clock
        self._names = [valkey.key("orders", tag="orders"), valkey.key("version", tag="orders")]

    async def read(self, known: str) -> ToldOrders | None:
        reply = await self._valkey.run_script(_READ, self._names, [known])
        match reply:
            case [bytes()]:
                return None
            case [bytes(version), list(values)]:
                opened = [self._opened(value) for value in values]
                return ToldOrders(version.decode(), [one for one in opened if one is not None])
            case _:
                raise StoreUnavailable("read_orders: an answer of another kind")

    async def add(self, orders: Sequence[Order], *, ended: Sequence[str]) -> None:
        life_s = max(order.until for order in orders) - self._clock.now()
        args: list[str | bytes | int] = [
            secrets.token_hex(8),
            max(_LIFE_MIN_MS, int(life_s * 1000)),
            self._valkey.channel,
            _MESSAGE,
            len(ended),
            *ended,
        ]
        for order in orders:
            sealed = self._sealer.seal(order_to_text(order), bound_to=self._names[0].encode())
            args += [order.id, sealed]
        await self._valkey.run_script(_ADD, self._names, args)

    def when_changed(self, call: Callable[[], None]) -> None:
        def hear(message: bytes) -> None:
            if message == _MESSAGE:
                call()

        self._valkey.when_message_comes(hear)
        self._valkey.when_available_changes(call)

    def _opened(self, sealed: bytes) -> Order | None:
        text = self._sealer.open(sealed, bound_to=self._names[0].encode())
        try:
            return order_from_text(text or b"")
        except ValueError:
            # Made up by who may write there, or sealed with a key that we do not hold.
            log.error("order_unreadable")  # noqa: TRY400
            return None
