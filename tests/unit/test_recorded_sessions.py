"""Live sessions with a recording: required, when possible, failing. In virtual time."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.domain.consoles.model import Clipboard, SessionMode
from gateway.domain.consoles.rules import AccountSessions
from gateway.domain.recordings.model import RecordingDetails, RecordingPolicy
from gateway.domain.recordings.records import Record, RecordKind
from gateway.domain.requests.grants import grants_of
from gateway.domain.requests.model import RequestPerson
from gateway.domain.rfb.rules import RelayRules
from gateway.domain.rfb.violation import RfbViolation
from gateway.flow.recordings.recording_writer import RecordingFailed
from tests.support import rfb
from tests.support.access_requests import (
    BREAK_GLASS,
    a_request_policy,
    a_request_rule,
    a_scope,
    an_access_request,
)
from tests.support.console_world import RULES, ConsoleWorld
from tests.support.consoles import ACCOUNT, TARGET
from tests.support.live_consoles import Page, Replica
from tests.support.virtual_time import run_virtually


class FakeRecordings:
    """A `RecordingWriter` in memory."""

    def __init__(self) -> None:
        self.error: RecordingFailed | None = None
        self.parts: list[MemoryPart] = []

    async def open_part(
        self, details: RecordingDetails, on_failure: Callable[[str], None]
    ) -> "MemoryPart":
        if self.error is not None:
            raise self.error
        self.parts.append(MemoryPart(details, on_failure, self))
        return self.parts[-1]


class MemoryPart:
    def __init__(
        self, details: RecordingDetails, on_failure: Callable[[str], None], owner: FakeRecordings
    ) -> None:
        self.details = details
        self.on_failure = on_failure
        self.records: list[Record] = []
        self.is_closed = False
        self._owner = owner

    async def append(self, records: Sequence[Record]) -> None:
        if self._owner.error is not None:
            raise self._owner.error
        self.records += records

    def close(self, records: Sequence[Record]) -> None:
        self.records += records
        self.is_closed = True

    def of(self, kind: RecordKind) -> list[bytes]:
        return [one.payload for one in self.records if one.kind is kind]


def run(
    scenario: Callable[[Replica, FakeRecordings], Awaitable[None]],
    policy: RecordingPolicy = RecordingPolicy.REQUIRED,
    *,
    record_keys: bool = False,
) -> None:
    async def main() -> None:
        account = AccountSessions(Clipboard.BOTH, 200, policy, record_keys)
        replica = Replica(ConsoleWorld(replace(RULES, accounts={ACCOUNT: account})))
        recordings = FakeRecordings()
        sessions: Any = replica.sessions
        sessions._services = replace(sessions._services, recordings=recordings)
        replica.start()
        await scenario(replica, recordings)
        await replica.stop()
        assert replica.world.failures == []

    run_virtually(main())


async def handshake(page: Page, replica: Replica) -> None:
    """Complete the RFB handshake, as noVNC does."""
    cloud = replica.world.cloud.channels[-1]
    for browser, server in (
        (rfb.GREETING, rfb.NONE_OFFERED),
        (b"\x01", bytes(4)),
        (b"\x01", rfb.server_init()),
        (rfb.set_pixel_format(), b""),
    ):
        page.channel.put(browser)
        await replica.world.clock.sleep(0.1)
        if server:
            cloud.put(server)
            await replica.world.clock.sleep(0.1)


def screen(page: Page) -> bytes:
    return b"".join(one for one in page.channel.sent if isinstance(one, bytes))


def test_what_the_browser_sees_is_recorded() -> None:
    async def scenario(replica: Replica, recordings: FakeRecordings) -> None:
        described = await replica.redemption.describe(await replica.ticket(), replica.context())
        assert (described.is_recorded, described.records_keys) == (True, False)
        page = await replica.live()
        assert page.frames[0]["recorded"] is True
        await handshake(page, replica)
        page.channel.put(rfb.key(0x61), rfb.update_request())
        replica.world.cloud.channels[0].put(rfb.update(rfb.rectangle(1, 1, 0, b"\1\2\3\4")))
        await replica.world.clock.sleep(0.1)
        page.send(type="end")
        await page.until_closed()
        (part,) = recordings.parts
        assert b"".join(part.of(RecordKind.SCREEN)) == screen(page) != b""
        assert part.details.person.subject == "ada"
        assert (part.of(RecordKind.MODE), part.of(RecordKind.INPUT)) == ([b"control"], [b""])
        assert part.of(RecordKind.KEY) == []
        assert part.of(RecordKind.END) == [b'{"end":"person","detail":""}']
        assert part.is_closed

    run(scenario)


def test_keys_are_recorded_only_where_configured() -> None:
    async def scenario(replica: Replica, recordings: FakeRecordings) -> None:
        page = await replica.live()
        await handshake(page, replica)
        page.channel.put(rfb.key(0x61), rfb.key(0x61, down=False))
        await replica.world.clock.sleep(0.1)
        (part,) = recordings.parts
        assert part.details.has_keystrokes
        # The person reads it before the session and while it is live.
        described = await replica.redemption.describe(await replica.ticket(), replica.context())
        assert described.records_keys
        assert page.frames[0]["keys_recorded"] is True
        assert part.of(RecordKind.KEY) == [b"\1\0\0\0a", b"\0\0\0\0a"]

    run(scenario, record_keys=True)


def test_required_recording_that_cannot_begin_opens_no_console() -> None:
    async def scenario(replica: Replica, recordings: FakeRecordings) -> None:
        recordings.error = RecordingFailed("start: No space left on device")
        page = replica.open_page(await replica.redeem(await replica.ticket()))
        assert await page.until_closed() == (4013, "recording_failed")
        assert replica.world.cloud.calls == []
        assert replica.world.ends() == [("ada", "recording_failed")]
        (record,) = replica.world.events("console_session_ended")
        assert record.detail == "start: No space left on device"

    run(scenario)


@pytest.mark.parametrize("is_write", [True, False])
def test_required_recording_that_fails_ends_the_session(is_write: bool) -> None:  # noqa: FBT001
    async def scenario(replica: Replica, recordings: FakeRecordings) -> None:
        page = await replica.live()
        await handshake(page, replica)
        seen = screen(page)
        if is_write:
            recordings.error = RecordingFailed("write: Input/output error")
            replica.world.cloud.channels[0].put(b"never seen")
        else:
            recordings.parts[0].on_failure("removed: the file was removed or replaced")
        began_at = replica.world.clock.monotonic()
        assert await page.until_closed() == (4013, "recording_failed")
        assert replica.world.clock.monotonic() - began_at < 1.0
        assert screen(page) == seen
        assert replica.world.ends() == [("ada", "recording_failed")]

    run(scenario)


def test_optional_recording_that_cannot_begin_is_reported() -> None:
    async def scenario(replica: Replica, recordings: FakeRecordings) -> None:
        recordings.error = RecordingFailed("start: Read-only file system")
        page = await replica.live()
        assert page.frames[0]["recorded"] is False
        (record,) = replica.world.events("console_recording_failed")
        assert (record.detail, record.subject) == ("start: Read-only file system", "ada")

    run(scenario, RecordingPolicy.WHEN_POSSIBLE)


def test_optional_recording_that_fails_is_reported_and_goes_on() -> None:
    async def scenario(replica: Replica, recordings: FakeRecordings) -> None:
        page = await replica.live()
        assert page.frames[0]["recorded"] is True
        await handshake(page, replica)
        recordings.error = RecordingFailed("write: No space left on device")
        replica.world.cloud.channels[0].put(b"seen without a recording")
        await replica.world.clock.sleep(0.1)
        assert page.of_type("recording") == [{"type": "recording", "recorded": False}]
        assert screen(page).endswith(b"seen without a recording")
        assert len(replica.world.events("console_recording_failed")) == 1
        assert page.closed is None

    run(scenario, RecordingPolicy.WHEN_POSSIBLE)


def test_break_glass_requires_the_recording_that_is_possible() -> None:
    async def scenario(replica: Replica, recordings: FakeRecordings) -> None:
        world = replica.world
        scope = a_scope(projects=frozenset({TARGET.project}), groups=frozenset({"ops"}))
        policy = a_request_policy(a_request_rule(scope=scope, break_glass=BREAK_GLASS))
        used = an_access_request(
            requester=RequestPerson("corp", "ada"),
            project=TARGET.project,
            servers=(TARGET.server,),
            broken_glass=True,
            started_at=world.clock.now(),
        )
        grants = grants_of([used], policy.request_rules, ())
        world.policy = policy.with_requested(grants)
        page = await replica.live()
        assert page.frames[0]["recorded"] is True
        await handshake(page, replica)
        recordings.error = RecordingFailed("write: No space left on device")
        world.cloud.channels[0].put(b"never seen")
        assert await page.until_closed() == (4013, "recording_failed")
        page = replica.open_page(await replica.redeem(await replica.ticket()))
        assert await page.until_closed() == (4013, "recording_failed")

    run(scenario, RecordingPolicy.WHEN_POSSIBLE)


def test_resumed_session_has_a_second_part() -> None:
    async def scenario(replica: Replica, recordings: FakeRecordings) -> None:
        page = await replica.live()
        page.lose()
        await page.task
        await page.resume().until("live")
        first, second = recordings.parts
        assert first.details == second.details
        assert first.of(RecordKind.END) == [b'{"end":"","detail":"browser: close code 1006"}']
        assert not second.is_closed

    run(scenario)


def test_account_that_is_never_recorded_opens_no_part() -> None:
    async def scenario(replica: Replica, recordings: FakeRecordings) -> None:
        page = await replica.live()
        assert page.frames[0]["recorded"] is False
        assert recordings.parts == []

    run(scenario, RecordingPolicy.NEVER)


RECORDED = RelayRules(SessionMode.CONTROL, is_recorded=True)


def test_recorded_session_has_the_format_of_the_player() -> None:
    relay_filter = rfb.connected(RECORDED)
    assert relay_filter.from_browser(rfb.set_pixel_format()) == rfb.set_pixel_format()
    assert relay_filter.from_browser(rfb.update_request()) == rfb.update_request()
    other = bytearray(rfb.TRUE_COLOUR)
    other[10:13] = 16, 8, 0
    with pytest.raises(RfbViolation, match="noVNC's format"):
        relay_filter.from_browser(rfb.set_pixel_format(bytes(other)))


@pytest.mark.parametrize("message", [rfb.update_request(), rfb.continuous_updates()])
def test_recorded_session_requests_no_update_before_its_format(message: bytes) -> None:
    with pytest.raises(RfbViolation, match="noVNC's format"):
        rfb.connected(RECORDED).from_browser(message)


def test_recorded_session_has_no_h264() -> None:
    passed = rfb.connected(RECORDED, announce=None).from_browser(rfb.set_encodings(7, 50, 0))
    assert passed == rfb.set_encodings(7, 0)
