"""One pub/sub connection, which ends when its messages no longer arrive."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from gateway.drivers.valkey.call_timeout import PatientTimer
from gateway.drivers.valkey.store_errors import DescribedStoreError


class SubscriptionLost(DescribedStoreError):
    """The subscription has ended."""


class Subscription:
    """Subscribes to a channel, and to one of its own to which the heartbeat publishes.

    A proxy may acknowledge what it no longer delivers, so an open connection proves nothing. Each
    heartbeat's message must come back on this connection within the timeout of a call.
    """

    def __init__(
        self,
        channel: str,
        on_message: Callable[[bytes], None],
        *,
        timeout_s: float,
        connect_timeout_s: float,
    ) -> None:
        self.own_channel = f"{channel}:{secrets.token_hex(8)}"
        self._channels = (channel, self.own_channel)
        self._on_message = on_message
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._scope = asyncio.timeout(None)
        self._timer: PatientTimer | None = None
        self._running = False
        self._is_lost = False
        self._lost_because = ""
        self._sent = 0
        self.confirmed = False
        """Whether the server has confirmed the subscription."""
        self.received = 0
        """The last number that came back."""

    async def run(self, client: Any, on_subscribed: Callable[[], None]) -> None:
        """Subscribe and deliver messages until the subscription is lost.

        Raises SubscriptionLost or one of STORE_ERRORS.
        """
        try:
            async with self._scope:
                self._running = True
                if not self._is_lost:
                    await self._run(client, on_subscribed)
        except TimeoutError:
            if not self._is_lost:
                raise
        finally:
            self._running = self.confirmed = False
            if self._timer is not None:
                self._timer.cancel()
        raise SubscriptionLost(self._lost_because)

    async def _run(self, client: Any, on_subscribed: Callable[[], None]) -> None:
        async with client.pubsub() as pubsub:
            async with asyncio.timeout(self._connect_timeout_s):
                await pubsub.subscribe(*self._channels)
                unconfirmed = len(self._channels)
                while unconfirmed:
                    message = await _next_message(pubsub)
                    unconfirmed -= message["type"] == "subscribe"
                    self._deliver(message)
            self.confirmed = True
            on_subscribed()
            # redis-py may swallow the cancellation that ends the scope.
            while not self._is_lost:
                self._deliver(await _next_message(pubsub))

    def end(self, reason: str) -> None:
        if self._is_lost:
            return
        self._is_lost, self._lost_because = True, reason
        if self._running and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    def next_number(self) -> int:
        """Return the number that the next heartbeat publishes to the own channel."""
        self._sent += 1
        return self._sent

    def expect(self, number: int) -> None:
        """End the subscription unless the number, which was published, arrives in time."""
        if self.received >= number or self._timer is not None or not self._running:
            return
        due = asyncio.get_running_loop().time() + self._timeout_s
        self._timer = PatientTimer(due, lambda: self._check(number))

    def _check(self, number: int) -> None:
        self._timer = None
        if self.received < number:
            self.end("its own messages no longer arrive")

    def _deliver(self, message: dict[str, Any]) -> None:
        if message["type"] != "message":
            return
        data: bytes = message["data"]
        if message["channel"] != self.own_channel.encode():
            self._on_message(data)
        elif data.isdigit():
            self.received = max(self.received, int(data))


async def _next_message(pubsub: Any) -> dict[str, Any]:
    while True:
        message: dict[str, Any] | None = await pubsub.get_message(timeout=None)
        if message is not None:
            return message
