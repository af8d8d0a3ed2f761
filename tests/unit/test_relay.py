"""The relay between two channels in memory, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.domain.consoles.ends import CLOUD_CLOSED, CLOUD_UNAVAILABLE, PROTOCOL_ERROR
from gateway.domain.consoles.model import SessionMode
from gateway.domain.rfb.handshake import Side
from gateway.domain.rfb.power import PowerAction, PowerRequest
from gateway.domain.rfb.rules import RelayRules
from gateway.domain.rfb.violation import ViolationKind
from gateway.flow.consoles.frame_channel import ChannelClosed
from gateway.flow.consoles.relay import Relay, RelayEnd
from tests.support import rfb
from tests.support.frame_channel import LOST, MemoryChannel
from tests.support.virtual_time import run_virtually

FRAME = b"\0" * 4096


class Console:
    """A relay in a task, with both of its channels."""

    def __init__(self, rules: RelayRules, browser: MemoryChannel | None = None) -> None:
        self.browser = browser or MemoryChannel()
        self.cloud = MemoryChannel()
        self.inputs = 0
        self.texts: list[str] = []
        self.power: list[PowerRequest] = []
        self.on_power: Callable[[], bool] = lambda: True
        """Decides on a power operation after a second, as the audit log may take."""
        self.relay = Relay(
            self.browser,
            self.cloud,
            rules=rules,
            on_input=self._input,
            on_text=self._text,
            on_power=self._power,
        )
        self.run: asyncio.Task[RelayEnd] = asyncio.create_task(self.relay.run())

    def _input(self) -> None:
        self.inputs += 1

    async def _text(self, text: str) -> None:
        self.texts.append(text)

    async def _power(self, request: PowerRequest) -> bool:
        self.power.append(request)
        await asyncio.sleep(1)
        return self.on_power()

    async def shake_hands(self) -> None:
        for side, message in (
            (self.cloud, rfb.GREETING),
            (self.browser, rfb.GREETING),
            (self.cloud, rfb.NONE_OFFERED),
            (self.browser, b"\x01"),
            (self.cloud, bytes(4)),
            (self.browser, b"\x01"),
            (self.cloud, rfb.server_init()),
            (self.browser, rfb.set_encodings(*rfb.NOVNC_ENCODINGS)),
        ):
            side.put(message)
            await asyncio.sleep(0.01)
        self.browser.sent.clear()
        self.cloud.sent.clear()


@asynccontextmanager
async def live(
    rules: RelayRules = rfb.CONTROL, browser: MemoryChannel | None = None
) -> AsyncIterator[Console]:
    console = Console(rules, browser)
    await console.shake_hands()
    yield console
    console.run.cancel()
    await asyncio.gather(console.run, return_exceptions=True)
    assert console.cloud.closed, "the cloud's channel is closed at every end"
    assert console.browser.closed is None, "the caller closes the browser's channel"


def in_virtual_time(test):
    def run() -> None:
        run_virtually(test())

    run.__name__ = test.__name__
    return run


@in_virtual_time
async def test_frames_of_the_server_pass_untouched():
    async with live() as console:
        console.cloud.put(FRAME, b"\xff unknown")
        await asyncio.sleep(1)
        assert console.browser.sent == [FRAME, b"\xff unknown"]
        assert console.browser.sent[0] is FRAME


@in_virtual_time
async def test_messages_of_the_browser_are_filtered():
    async with live(rfb.VIEW) as console:
        console.browser.put(rfb.key(65), rfb.update_request())
        await asyncio.sleep(1)
        assert console.cloud.sent == [rfb.update_request()]


@in_virtual_time
async def test_inputs_and_texts_are_reported():
    async with live() as console:
        console.browser.put(rfb.update_request(), '{"type":"end"}')
        await asyncio.sleep(1)
        assert (console.inputs, console.texts) == (0, ['{"type":"end"}'])
        console.browser.put(rfb.key(65) + rfb.key(65, down=False), rfb.pointer(1, 1))
        await asyncio.sleep(1)
        assert console.inputs == 2, "once per frame with input"


@in_virtual_time
async def test_mode_changes_while_the_relay_runs():
    async with live() as console:
        console.browser.put(rfb.key(0xFFE3))
        await asyncio.sleep(1)
        await console.relay.become_view_only()
        console.browser.put(rfb.key(66), rfb.fence(b"\x04\x01\0\0\0\0\0B"))
        await asyncio.sleep(1)
        pressed, released = console.cloud.sent
        assert pressed == rfb.key(0xFFE3)
        assert released.startswith(rfb.key(0xFFE3, down=False) + b"\x02")


POWER = RelayRules(SessionMode.CONTROL, power=True)


@in_virtual_time
async def test_power_waits_for_its_record():
    async with live(POWER) as console:
        console.browser.put(rfb.xvp(3), rfb.key(65))
        await asyncio.sleep(0.9)
        assert (console.power, console.cloud.sent) == ([PowerRequest(PowerAction.REBOOT, True)], [])
        await asyncio.sleep(0.2)
        assert console.cloud.sent == [rfb.xvp(3), rfb.key(65)]


@pytest.mark.parametrize("cause", ["no record", "right ends", "view only"])
def test_power_does_not_pass_after_the_wait_for_its_record(cause):
    async def scenario() -> None:
        async with live(POWER) as console:
            console.on_power = lambda: cause != "no record"
            console.browser.put(rfb.xvp(4))
            await asyncio.sleep(0.5)
            if cause == "right ends":
                console.relay.forbid_power()
            if cause == "view only":
                await console.relay.become_view_only()
            console.browser.put(rfb.update_request())
            await asyncio.sleep(1)
            assert rfb.xvp(4) not in console.cloud.sent
            assert console.cloud.sent[-1] == rfb.update_request()

    run_virtually(scenario())


@pytest.mark.parametrize(
    ("side", "message", "end", "detail"),
    [
        (Side.BROWSER, LOST, None, "close code 1006"),
        (Side.BROWSER, ChannelClosed(1001, "bye"), None, "close code 1001"),
        (Side.BROWSER, b"\x63", PROTOCOL_ERROR, "client message type 99 is not allowed"),
        (Side.BROWSER, ChannelClosed(1009, violation="too long"), PROTOCOL_ERROR, "too long"),
        (Side.CLOUD, LOST, CLOUD_CLOSED, "close code 1006"),
        (Side.CLOUD, ChannelClosed(1000, "token=secret"), CLOUD_CLOSED, "close code 1000"),
        (Side.CLOUD, "text", PROTOCOL_ERROR, "the console sent a text message"),
        (Side.CLOUD, ChannelClosed(1009, violation="too long"), PROTOCOL_ERROR, "too long"),
    ],
)
def test_end_names_side_reason_and_detail(side, message, end, detail):
    async def run() -> None:
        async with live() as console:
            (console.browser if side is Side.BROWSER else console.cloud).put(message)
            ended = await console.run
            assert (ended.side, ended.end, ended.detail) == (side, end, detail)

    run_virtually(run())


@in_virtual_time
async def test_violation_of_the_parsed_server_ends_the_session():
    async with live(rfb.WITHOUT_CLIPBOARD) as console:
        console.cloud.put(rfb.server_cut_text(b"text"), b"\x02", b"\x04")
        end = await console.run
        detail, rule = "server message type 4 is not allowed", ViolationKind.MESSAGE_TYPE
        assert end == RelayEnd(Side.CLOUD, PROTOCOL_ERROR, detail, rule)
        assert console.browser.sent == [b"\x02"]


@in_virtual_time
async def test_rejected_password_reaches_the_browser_first():
    console = Console(rfb.CONTROL)
    refusal = b"\0\0\0\x01\0\0\0\x02no"
    for side, message in (
        (console.cloud, rfb.GREETING),
        (console.browser, rfb.GREETING),
        (console.cloud, b"\x01\x02"),
        (console.browser, b"\x02"),
        (console.cloud, bytes(16)),
        (console.browser, bytes(16)),
        (console.cloud, refusal),
    ):
        side.put(message)
        await asyncio.sleep(0.01)
    end = await console.run
    assert end == RelayEnd(Side.CLOUD, CLOUD_CLOSED, "the console rejected the password")
    assert console.browser.sent[-1] == refusal


@in_virtual_time
async def test_browser_that_does_not_read_stops_the_cloud():
    async with live(browser=MemoryChannel(capacity=10)) as console:
        console.browser.sent.clear()
        console.browser.reads.clear()
        console.cloud.put(*[FRAME] * 100)
        await asyncio.sleep(10)
        assert len(console.browser.sent) == 10
        assert console.cloud.waiting == 89, "one message is in the relay"
        console.browser.reads.set()
        await asyncio.sleep(1)
        assert len(console.browser.sent) == 100


@in_virtual_time
async def test_browser_that_never_reads_is_lost_within_45_seconds():
    async with live(browser=MemoryChannel(capacity=8)) as console:
        console.browser.sent.extend([b""] * 8)
        console.browser.reads.clear()
        started = asyncio.get_running_loop().time()
        console.cloud.put(FRAME)
        end = await console.run
        assert end == RelayEnd(Side.BROWSER, None, "took no data for 35 s")
        assert 35 <= asyncio.get_running_loop().time() - started <= 45


@in_virtual_time
async def test_slow_browser_is_not_lost():
    async with live(browser=MemoryChannel(capacity=8)) as console:
        console.browser.sent.extend([b""] * 8)
        console.cloud.put(*[FRAME] * 6)
        for _ in range(6):
            console.browser.reads.clear()
            await asyncio.sleep(25)
            console.browser.reads.set()
            await asyncio.sleep(0.001)
        assert not console.run.done()


@in_virtual_time
async def test_silent_console_ends_before_the_handshake():
    console = Console(rfb.CONTROL)
    started = asyncio.get_running_loop().time()
    end = await console.run
    detail = "the console did not answer within 30 s"
    assert end == RelayEnd(Side.CLOUD, CLOUD_UNAVAILABLE, detail)
    assert asyncio.get_running_loop().time() - started <= 45


@in_virtual_time
async def test_person_may_take_long_for_a_password():
    console = Console(rfb.CONTROL)
    for side, message in (
        (console.cloud, rfb.GREETING),
        (console.browser, rfb.GREETING),
        (console.cloud, b"\x01\x02"),
        (console.browser, b"\x02"),
        (console.cloud, bytes(16)),
    ):
        side.put(message)
        await asyncio.sleep(0.01)
    await asyncio.sleep(600)
    assert not console.run.done()
    console.run.cancel()
    await asyncio.gather(console.run, return_exceptions=True)


@in_virtual_time
async def test_idle_session_stays_open():
    async with live() as console:
        await asyncio.sleep(3600)
        assert not console.run.done()
