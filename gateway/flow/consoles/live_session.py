"""One connection of a session's page: from its attach to the end of the connection."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.consoles import ends, page_messages
from gateway.domain.consoles.ends import SessionEnd
from gateway.domain.consoles.model import ConsoleSession, PersonRef, SessionMode
from gateway.domain.consoles.page_messages import (
    AttachMessage,
    EndMessage,
    ErrorText,
    KeyReceivedMessage,
    PageMessageError,
    PageSettings,
    TokenMessage,
    Watcher,
    parse_page_message,
)
from gateway.domain.consoles.rules import SessionRules
from gateway.domain.errors import (
    CallerLimited,
    GatewayError,
    NotAuthenticated,
    NotPermitted,
    Rejection,
)
from gateway.domain.model import SERVER_POWER, Principal, Secret
from gateway.domain.recordings.model import RecordingDetails, RecordingPolicy
from gateway.domain.rfb.power import PowerRequest
from gateway.domain.rfb.rules import RelayRules
from gateway.flow.clock import Clock
from gateway.flow.consoles.connector import ConsoleConnector
from gateway.flow.consoles.console_rights import ConsoleRights, RightUntil
from gateway.flow.consoles.console_store import Attached
from gateway.flow.consoles.frame_channel import FrameChannel
from gateway.flow.consoles.fresh_links import FreshLinks
from gateway.flow.consoles.relay import Relay
from gateway.flow.consoles.session_page import SessionPage
from gateway.flow.consoles.session_timer import CLOCK_NOISE_S, SessionTimer
from gateway.flow.recordings.recorded_channel import RecordedChannel
from gateway.flow.recordings.recording_writer import RecordingFailed, RecordingWriter
from gateway.flow.servers.power_readings import PowerChanged, no_power_readings

_RESUME_WAIT_MAX_S: Final = 60.0
_REPORT_EVERY_S: Final = 1.0
_IDENTIFY_S: Final = 10.0
_NORMAL_CLOSURE: Final = 1000
_Work = Callable[[], Coroutine[object, object, None]]


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a connection ended."""

    end: SessionEnd | None
    """None: the page's connection is lost."""
    by: PersonRef | None = None
    detail: str = ""
    """For the audit record."""
    error: ErrorText | None = None


LOST: Final = Ending(None)


@dataclass(frozen=True, slots=True)
class SessionServices:
    """What each connection uses."""

    rights: ConsoleRights
    links: FreshLinks
    connector: ConsoleConnector
    rules: SessionRules
    identify: Callable[[str, float], Awaitable[Principal]]
    """Verifies a token by a deadline; raises a GatewayError."""
    error_text: Callable[[GatewayError], ErrorText]
    on_failure: Callable[[Exception], None]
    """Receives the error of a defect."""
    clock: Clock
    recordings: RecordingWriter | None = None
    """None: no account is recorded."""
    power_changed: PowerChanged = no_power_readings


@dataclass(frozen=True, slots=True)
class SessionCallbacks:
    on_person: Callable[["LiveSession"], Awaitable[None]]
    """Follows a newer token of the person."""
    on_key_received: Callable[["LiveSession"], Awaitable[None]]
    """The page has the next resume key."""
    on_power: Callable[[ConsoleSession, PowerRequest], Awaitable[None]]
    """Permits and records a power operation; raises a GatewayError if it must not pass."""
    on_power_not_sent: Callable[[ConsoleSession, PowerRequest], Awaitable[None]]
    """Records that an operation was recorded and did not pass."""
    on_unrecorded: Callable[["LiveSession", str], Awaitable[None]]
    """The session goes on without its recording; with the reason."""


class LiveSession:
    def __init__(
        self,
        attached: Attached,
        resume_key: Secret,
        page: SessionPage,
        services: SessionServices,
        callbacks: "SessionCallbacks",
    ) -> None:
        """`resume_key` is the next one."""
        self.session = attached.session
        self.resume_key = resume_key
        self.needs_old_inventory = False
        self._attempt = attached.attempt
        self._page = page
        self._services = services
        self._callbacks = callbacks
        self._recording: RecordedChannel | None = None
        self._relay: Relay | None = None
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_renewing = False
        self._watchers: tuple[Watcher, ...] = ()
        self._timer = SessionTimer(attached, services.rules, services.clock, self._send_soon)

    def end(self, end: SessionEnd, *, by: PersonRef | None = None, detail: str = "") -> None:
        """End the connection; only the first end counts."""
        self._end(Ending(end, by, detail))

    def set_mode(self, mode: SessionMode) -> None:
        """Change the mode of all further messages, and notify the page."""
        if mode is self.session.mode:
            return
        self.session = replace(self.session, mode=mode)
        self._timer.set_mode(mode)
        if self._recording is not None:
            self._recording.mark_mode(mode)
        if self._group is not None:
            self._spawn(lambda: self._apply_mode(mode))

    def set_right(self, until: RightUntil) -> None:
        """Note until when the rules let the session go on, and notify the page of a change."""
        self._timer.set_right(until)

    def recheck_power(self) -> None:
        """Forbid power once the right to it has ended; a later right needs a new connection."""
        if self._relay is None or self._has_power():
            return
        if self._relay.forbid_power():
            self._send_soon(page_messages.power_ended())

    def set_watchers(self, watchers: tuple[Watcher, ...]) -> None:
        """Report to the page who watches; at once, or after its first frame."""
        self._watchers = watchers
        if self._recording is not None:
            self._recording.mark_watchers(watchers)
        if self._group is not None:
            self._spawn(self._send_watchers)

    def tick(self, now: float, monotonic: float) -> None:
        """End the session if its time is over; warn before."""
        if self._group is None or self._timer.is_quiet(now, monotonic):
            return
        token_ends_at = self._services.rights.token_ends_at(self.session.person)
        end = self._timer.tick(now, monotonic, token_ends_at)
        if end is not None:
            self.end(end)

    def note_input(self, *, older_s: float = 0.0) -> bool:
        """Put the time of the last input into `session`; False if it is not `older_s` older."""
        input_at = self._timer.input_at
        if input_at is None:
            return False
        if input_at - self.session.input_at <= max(older_s, CLOCK_NOISE_S):
            return False
        self.session = replace(self.session, input_at=input_at)
        return True

    async def run(self) -> Ending:
        """Serve the connection to its end; then call `report_end`."""
        ending = LOST
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                if not self._ended.done():
                    self._spawn(self._work)
                ending = await self._ended
                for task in self._tasks:  # at once: no further key reaches the server
                    task.cancel()
                self._group = None
        finally:
            if self._recording is not None:
                name = "" if ending.end is None else ending.end.name
                self._recording.end(name, ending.detail)
        return ending

    async def report_end(self, ending: Ending) -> None:
        """Report to the page why its connection ended, and close it."""
        if ending.end is not None:
            await self._page.end(
                ending.end,
                by=ending.by,
                error=ending.error,
                request_id=self.session.request_id,
            )

    def _end(self, ending: Ending) -> None:
        if not self._ended.done():
            self._ended.set_result(ending)

    async def _work(self) -> None:
        self._end(await self._ending())

    async def _ending(self) -> Ending:
        try:
            return await self._connect_and_relay()
        except NotAuthenticated as refusal:
            is_expired = refusal.reason is Rejection.EXPIRED
            return Ending(ends.TOKEN if is_expired else ends.RIGHT_ENDED, detail=str(refusal))
        except NotPermitted as refusal:
            return Ending(ends.RIGHT_ENDED, detail=str(refusal))
        except RecordingFailed as failed:
            return Ending(ends.RECORDING_FAILED, detail=str(failed))
        except GatewayError as error:
            text = self._services.error_text(error)
            return Ending(ends.CLOUD_UNAVAILABLE, detail=str(error), error=text)

    async def _connect_and_relay(self) -> Ending:
        services, account = self._services, self.session.target.account
        rules = services.rules.accounts[account]
        clipboard = rules.clipboard
        power = self._has_power()
        await self._begin_recording()
        settings = PageSettings(
            clipboard,
            power,
            services.rules.idle(self.session.mode),
            self._timer.expected_end(),
            is_recorded=self._recording is not None,
            records_keys=self._recording is not None and rules.record_keys,
        )
        await self._page.send(page_messages.attached(self.session, self.resume_key, settings))
        if self._watchers:
            await self._send_watchers()
        reader = self._start(self._read_until_live)
        began = services.clock.monotonic()
        cloud = await self._connect()
        try:
            reader.cancel()
            await asyncio.wait({reader})  # a channel has one reader
            waited_s = services.clock.monotonic() - began
            self._timer.start_idle(self.session.mode, waited_s=waited_s)
            await self._page.send(page_messages.state("live"))
        except BaseException:
            await cloud.close(_NORMAL_CLOSURE, "")
            raise
        recording = self._recording
        self._relay = Relay(
            self._page.channel if recording is None else recording,
            cloud,
            # The right to power may have ended in the queue.
            rules=RelayRules(
                self.session.mode,
                clipboard,
                power and self._has_power(),
                is_recorded=recording is not None,
            ),
            on_input=self._on_input,
            on_text=self._on_text,
            on_power=self._on_power,
            on_key=recording.mark_key if recording is not None and rules.record_keys else None,
        )
        end = await self._relay.run()
        if recording is not None:
            await recording.flush()
        rule = end.violation
        error = None if rule is None else ErrorText(rule.name.lower(), rule.value)
        return Ending(end.end, detail=f"{end.side.value}: {end.detail}", error=error)

    async def _begin_recording(self) -> None:
        """Open the part of this connection; raise RecordingFailed where it is required."""
        services = self._services
        account = services.rules.accounts[self.session.target.account]
        if account.recording is RecordingPolicy.NEVER:
            return
        is_required = (
            account.recording is RecordingPolicy.REQUIRED
            or services.rights.is_by_break_glass(self.session)
        )
        details = RecordingDetails.of(
            self.session, account.recording, has_keystrokes=account.record_keys
        )
        assert services.recordings is not None, "the config requires a directory"
        try:
            part = await services.recordings.open_part(details, self._part_failed)
        except RecordingFailed as failed:
            if is_required:
                raise
            self._report_unrecorded(str(failed))
            return
        self._recording = RecordedChannel(
            self._page.channel,
            part,
            services.clock,
            is_required=is_required,
            on_failure=self._recording_failed,
        )
        self._recording.mark_mode(self.session.mode)
        if self._watchers:
            self._recording.mark_watchers(self._watchers)
        self._spawn(self._recording.run)

    def _part_failed(self, reason: str) -> None:
        if self._recording is not None:
            self._recording.fail(reason)

    def _recording_failed(self, reason: str) -> None:
        recording = self._recording
        if recording is None or recording.is_required:
            self.end(ends.RECORDING_FAILED, detail=reason)
        elif self._group is not None:
            self._send_soon(page_messages.recording_ended())
            self._report_unrecorded(reason)

    def _report_unrecorded(self, reason: str) -> None:
        async def report() -> None:
            await self._callbacks.on_unrecorded(self, reason)

        self._spawn(report)

    async def _connect(self) -> FrameChannel:
        await self._wait_to_resume()
        return await self._services.connector.connect(
            self._fetch_url,
            self.session.target.account,
            timeout_s=self._services.rules.connect_timeout_s,
        )

    async def _wait_to_resume(self) -> None:
        """Delay each further resume longer, because it costs a link; count it for the person."""
        if not self._attempt:
            return
        clock = self._services.clock
        wait_s = min(2.0 ** (self._attempt - 1), _RESUME_WAIT_MAX_S)
        while wait_s > 0:
            await self._page.send(page_messages.waiting(wait_s))
            await clock.sleep(wait_s)
            try:
                self._services.links.count_request(self.session)
            except CallerLimited as limited:
                wait_s = limited.retry_after_s
            else:
                return

    async def _fetch_url(self) -> Secret:
        reporter = self._start(self._report_wait)
        try:
            url = await self._services.links.fetch(self.session)
        finally:
            reporter.cancel()
        await self._page.send(page_messages.state("connecting"))
        return url

    async def _report_wait(self) -> None:
        while True:
            expected_wait_s = self._services.links.expected_wait_s(self.session)
            await self._page.send(page_messages.waiting(expected_wait_s))
            await self._services.clock.sleep(_REPORT_EVERY_S)

    async def _read_until_live(self) -> None:
        while True:
            message = await self._page.channel.receive()
            if isinstance(message, str):
                await self._on_text(message)
            elif isinstance(message, bytes):
                self.end(ends.PROTOCOL_ERROR, detail="browser: RFB before the console is live")
                return
            elif message.violation is not None:
                self.end(ends.PROTOCOL_ERROR, detail=f"browser: {message.violation}")
                return
            else:
                self._end(LOST)
                return

    async def _on_text(self, text: str) -> None:
        try:
            message = parse_page_message(text)
        except PageMessageError as error:
            self.end(ends.PROTOCOL_ERROR, detail=f"browser: text message: {error}")
            return
        match message:
            case KeyReceivedMessage():
                self._spawn(self._key_received)
            case EndMessage():
                self.end(ends.PERSON)
            case TokenMessage():
                if not self._is_renewing:  # one at a time: a page could send any number
                    self._is_renewing = True
                    self._spawn(lambda: self._renew_token(message.token))
            case AttachMessage():
                self.end(ends.PROTOCOL_ERROR, detail="browser: a second attach message")

    async def _key_received(self) -> None:
        await self._callbacks.on_key_received(self)

    async def _renew_token(self, token: Secret) -> None:
        deadline = self._services.clock.monotonic() + _IDENTIFY_S
        try:
            person = await self._services.identify(token.reveal(), deadline)
        except GatewayError:
            return  # the session goes on with the token that it has
        finally:
            self._is_renewing = False
        await self.renew(person)

    async def renew(self, person: Principal) -> None:
        """Follow a newer token of the same person, with its groups; ignore any other."""
        current = self.session.person
        if person.key == current.key and person.expires_at >= current.expires_at:
            self.session = replace(self.session, person=person)
            await self._callbacks.on_person(self)

    async def _apply_mode(self, mode: SessionMode) -> None:
        if self._relay is not None:
            await self._relay.become_view_only()
        await self._page.send(page_messages.mode_changed(mode))

    def _on_input(self) -> None:
        if self._recording is not None:
            self._recording.mark_input()
        self._timer.note_input()

    async def _on_power(self, request: PowerRequest) -> bool:
        """Decide on a power operation, and record it; say in the page why it does not pass."""
        try:
            await self._callbacks.on_power(self.session, request)
        except GatewayError as error:
            await self._page.send(page_messages.power_rejected(self._services.error_text(error)))
            return False
        # The right or the mode may have changed while the record was written.
        if self._relay is not None and self._relay.passes_power:
            return True
        await self._callbacks.on_power_not_sent(self.session, request)
        return False

    def _has_power(self) -> bool:
        return self._services.rights.has(self.session.person, self.session.target, SERVER_POWER)

    def _send_soon(self, message: str) -> None:
        if self._group is not None:
            self._spawn(lambda: self._page.send(message))

    async def _send_watchers(self) -> None:
        await self._page.send(page_messages.watchers(self._watchers))

    def _spawn(self, work: _Work) -> None:
        _ = self._start(work)

    def _start(self, work: _Work) -> asyncio.Task[None]:
        """Start work that ends with the connection."""
        assert self._group is not None
        task = self._group.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: _Work) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - a defect ends this session only
            self._services.on_failure(error)
            self._end(Ending(ends.CLOUD_UNAVAILABLE, detail="internal error"))
