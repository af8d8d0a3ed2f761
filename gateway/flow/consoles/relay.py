"""The relay: two pumps between the browser's WebSocket and the cloud's, with back-pressure.

Each pump receives one message, filters it, sends it, and only then receives the next. A peer that
does not read therefore stops the pump towards it, the channel stops reading from the other peer,
and TCP slows that peer down. What is stored meanwhile is bounded by the sizes of messages and by
the channels' own buffers: less than 2 MiB per connection, and as much in the kernel.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.domain.consoles.ends import (
    CLOUD_CLOSED,
    CLOUD_UNAVAILABLE,
    PROTOCOL_ERROR,
    SessionEnd,
)
from gateway.domain.rfb.client_messages import OnKey
from gateway.domain.rfb.handshake import ConsoleRejected, Side
from gateway.domain.rfb.power import PowerRequest
from gateway.domain.rfb.relay_filter import RelayFilter
from gateway.domain.rfb.rules import RelayRules
from gateway.domain.rfb.violation import RfbViolation, ViolationKind
from gateway.flow.consoles.frame_channel import ChannelClosed, FrameChannel

WATCH_INTERVAL_S: Final = 5.0
STALLED_AFTER_S: Final = 35.0
"""A peer that takes no message for this long is lost; found within 40 s. Heartbeats need 30 s for a
peer that is silent, but cannot see one that only does not read."""
HANDSHAKE_TURN_S: Final = 30.0
"""How long the cloud's console may take for each step of the handshake."""


@dataclass(frozen=True, slots=True)
class RelayEnd:
    """Why a relay ended."""

    side: Side
    """The side that caused it."""
    end: SessionEnd | None
    """None: the browser's connection is lost, and the session may be resumed."""
    detail: str
    """For log and audit record: numbers and names of the protocol, no text of a peer."""
    violation: ViolationKind | None = None
    """For the page: the rule of RFB that is broken."""


class _Ended(Exception):
    def __init__(
        self,
        side: Side,
        end: SessionEnd | None,
        detail: str,
        violation: ViolationKind | None = None,
    ) -> None:
        super().__init__()
        self.end = RelayEnd(side, end, detail, violation)


class _Leg:
    """The channel of one side, with the progress of what is sent to it."""

    __slots__ = ("_seen", "_stalled_s", "channel", "progress", "side")

    def __init__(self, side: Side, channel: FrameChannel) -> None:
        self.side = side
        self.channel = channel
        self.progress = 0
        """Odd while a message is being sent; changes with each message."""
        self._seen = 0
        self._stalled_s = 0.0

    async def send(self, data: bytes) -> None:
        self.progress += 1
        await self.channel.send(data)
        self.progress += 1

    def stalled_s(self) -> float:
        """Return how long one message has been in sending; called every `WATCH_INTERVAL_S`."""
        is_stalled = self.progress % 2 == 1 and self.progress == self._seen
        self._stalled_s = self._stalled_s + WATCH_INTERVAL_S if is_stalled else 0.0
        self._seen = self.progress
        return self._stalled_s


class Relay:
    """One connection of a browser and a console of the cloud."""

    def __init__(  # noqa: PLR0913 - two channels, the rules, and who follows what passes
        self,
        browser: FrameChannel,
        cloud: FrameChannel,
        *,
        rules: RelayRules,
        on_input: Callable[[], None],
        on_text: Callable[[str], Awaitable[None]],
        on_power: Callable[[PowerRequest], Awaitable[bool]],
        on_key: OnKey | None = None,
    ) -> None:
        """Take two open channels.

        `on_input` reports a key, pointer or clipboard message of the person. `on_text` receives
        each text message of the browser, one at a time. `on_power` decides on each power operation
        and records it; True: it passes. `on_key` receives each key that passes.
        """
        self._browser = _Leg(Side.BROWSER, browser)
        self._cloud = _Leg(Side.CLOUD, cloud)
        self._filter = RelayFilter(rules, on_key)
        self._on_input = on_input
        self._on_text = on_text
        self._on_power = on_power

    async def run(self) -> RelayEnd:
        """Relay until one side ends it, then close the cloud's channel.

        The browser's channel stays open for a last message; the caller closes it. Cancelling the
        task ends the relay as well.
        """
        end = None
        try:
            async with asyncio.TaskGroup() as group:
                for part in (self._from_browser(), self._from_cloud(), self._watch()):
                    _ = group.create_task(part)
        except* _Ended as ended:
            end = next(error.end for error in ended.exceptions if isinstance(error, _Ended))
        finally:
            await self._cloud.channel.close(1000, "")
        assert end is not None
        return end

    async def become_view_only(self) -> None:
        """Pass no more input, and release what is pressed on the server.

        The mode has changed before this method first waits.
        """
        messages = self._filter.become_view_only()
        if messages:
            await self._cloud.channel.send(messages)

    @property
    def passes_power(self) -> bool:
        """Whether power operations may pass now."""
        return self._filter.passes_power

    def forbid_power(self) -> bool:
        """Pass no more power operations: `server:power` has ended. Return whether they passed."""
        return self._filter.forbid_power()

    async def _from_browser(self) -> None:
        receive, inputs = self._browser.channel.receive, 0
        while True:
            message = await receive()
            if isinstance(message, bytes):
                passed = self._filtered(Side.BROWSER, message)
                if self._filter.inputs != inputs:
                    inputs = self._filter.inputs
                    self._on_input()
                if passed:
                    await self._cloud.send(passed)
                for request in self._filter.take_power_requests():
                    await self._pass_power(request)
            elif isinstance(message, str):
                await self._on_text(message)
            else:
                raise _closed(Side.BROWSER, message)

    async def _pass_power(self, request: PowerRequest) -> None:
        # The right or the mode may have changed while the record was written.
        if await self._on_power(request) and self._filter.passes_power:
            await self._cloud.send(request.action.message())

    async def _from_cloud(self) -> None:
        receive, browser = self._cloud.channel.receive, self._browser
        send, passes = browser.channel.send, False
        while True:
            message = await receive()
            if isinstance(message, bytes):
                if not passes:
                    message = await self._from_parsed_cloud(message)
                    passes = self._filter.passes_server
                if message:
                    # As `_Leg.send`, without a call: a frame costs only a few microseconds here.
                    browser.progress += 1
                    await send(message)
                    browser.progress += 1
            elif isinstance(message, str):
                raise _Ended(Side.CLOUD, PROTOCOL_ERROR, "the console sent a text message")
            else:
                raise _closed(Side.CLOUD, message)

    async def _from_parsed_cloud(self, message: bytes) -> bytes:
        try:
            return self._filtered(Side.CLOUD, message)
        except ConsoleRejected as rejected:
            await self._browser.send(self._filter.handshake.rejection())
            raise _Ended(Side.CLOUD, CLOUD_CLOSED, str(rejected)) from None

    def _filtered(self, side: Side, message: bytes) -> bytes:
        try:
            if side is Side.BROWSER:
                return self._filter.from_browser(message)
            return self._filter.from_server(message)
        except RfbViolation as violation:
            raise _Ended(side, PROTOCOL_ERROR, str(violation), violation.kind) from None

    async def _watch(self) -> None:
        """End the relay when a peer takes no data, or the cloud's console does not answer.

        The channels' heartbeats find a silent peer. They cannot report it to a pump that waits for
        the peer to read.
        """
        unanswered_s = 0.0
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            for leg in (self._browser, self._cloud):
                if leg.stalled_s() >= STALLED_AFTER_S:
                    raise _lost(leg.side, f"took no data for {STALLED_AFTER_S:.0f} s")
            unanswered_s += WATCH_INTERVAL_S
            if self._filter.handshake.turn is Side.BROWSER or self._filter.handshake.is_done:
                unanswered_s = 0.0
            if unanswered_s >= HANDSHAKE_TURN_S:
                detail = f"the console did not answer within {HANDSHAKE_TURN_S:.0f} s"
                raise _Ended(Side.CLOUD, CLOUD_UNAVAILABLE, detail)


def _closed(side: Side, closed: ChannelClosed) -> _Ended:
    if closed.violation is not None:
        return _Ended(side, PROTOCOL_ERROR, closed.violation)
    return _lost(side, f"close code {closed.code}")


def _lost(side: Side, detail: str) -> _Ended:
    return _Ended(side, None if side is Side.BROWSER else CLOUD_CLOSED, detail)
