"""The sessions whose page is connected to this process."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from gateway.domain.consoles import ends
from gateway.domain.consoles.ends import SessionEnd
from gateway.domain.consoles.model import ConsoleSession, ConsoleTarget, PersonRef, SessionMode
from gateway.domain.consoles.page_messages import (
    AttachMessage,
    PageMessageError,
    Watcher,
    parse_page_message,
)
from gateway.domain.consoles.ticket_text import secret_hash
from gateway.domain.errors import (
    NotAuthenticated,
    NotPermitted,
    RevocationsUnavailable,
    StoreUnavailable,
)
from gateway.domain.model import Principal, Secret
from gateway.flow.consoles.console_audit import ConsoleAudit
from gateway.flow.consoles.console_power import ConsolePower
from gateway.flow.consoles.console_store import (
    LEASE_S,
    Attached,
    CommandKind,
    ListedSession,
    SessionCommand,
    SessionGone,
    SessionListing,
    SessionUnknown,
    StaleKey,
)
from gateway.flow.consoles.console_telemetry import ConsoleTelemetry
from gateway.flow.consoles.fallback_console_store import FallbackConsoleStore
from gateway.flow.consoles.frame_channel import ChannelClosed, FrameChannel
from gateway.flow.consoles.live_session import (
    LOST,
    Ending,
    LiveSession,
    SessionCallbacks,
    SessionServices,
)
from gateway.flow.consoles.recorded_once import RecordedByOne
from gateway.flow.consoles.rejected_cookies import CookieRejection, RejectedCookies
from gateway.flow.consoles.session_page import SessionPage
from gateway.flow.shielded_tasks import ShieldedTasks

_ATTACH_WITHIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Refused:
    """A connection that is not attached."""

    end: SessionEnd
    may_be_right: bool = False
    """This process has looked at neither cookie nor resume key."""


class LiveSessions:
    def __init__(
        self,
        *,
        owner: str,
        store: FallbackConsoleStore,
        services: SessionServices,
        audit: ConsoleAudit,
        telemetry: ConsoleTelemetry,
        new_key: Callable[[], str],
    ) -> None:
        """`owner` names this process. `new_key` returns 32 random bytes as text."""
        self.owner = owner
        self.is_draining = False
        """New connections are sent to other processes."""
        self._store = store
        self._services = services
        self._audit = audit
        self._telemetry = telemetry
        self._new_key = new_key
        self._connections: dict[str, LiveSession] = {}
        self.rejected = RejectedCookies(store, audit, telemetry)
        self._power = ConsolePower(services.rights, services.links, audit, services.power_changed)
        self._stale = RecordedByOne(store)
        """IDs of the sessions whose rejected resume is recorded."""
        self._shielded = ShieldedTasks()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def connections(self) -> Mapping[str, LiveSession]:
        """The connections by session ID."""
        return self._connections

    def counts(self) -> Counter[str]:
        """Return the number of connections of each account."""
        return Counter(one.session.target.account for one in list(self._connections.values()))

    async def serve(
        self,
        session_id: str,
        cookie: str,
        channel: FrameChannel,
        *,
        client_address: str,
        on_accepted: Callable[[], object] = lambda: None,
    ) -> None:
        """Serve one WebSocket of a page, from its first message to its close.

        `on_accepted` is called unless cookie or resume key are wrong, or the session is unknown.
        """
        page = SessionPage(channel)
        key = await self._first_key(session_id, cookie, page, client_address)
        if key is None:
            return
        async with self._lock(session_id):
            connection = await self._attach(session_id, cookie, key, page, client_address)
            if isinstance(connection, LiveSession) or connection.may_be_right:
                on_accepted()
            if isinstance(connection, LiveSession):
                previous = self._connections.get(session_id)
                self._connections[session_id] = connection
                if previous is not None:
                    previous.end(ends.REPLACED)
                # A right may have ended since the attach decided; from now on the watch sees it.
                if self.judge(connection):
                    await self.mode_changed(connection)
        if not isinstance(connection, LiveSession):
            await page.end(connection.end)
            return
        await self._run(connection)

    async def _run(self, connection: LiveSession) -> None:
        """Serve an attached connection to its end."""
        session_id = connection.session.id
        ending, is_over = LOST, False
        try:
            await self._update_watchers(connection.session)
            ending = await connection.run()
        finally:
            is_over = await self._give_up(connection, ending)
        # Not before: a page that knows the end could attach again while the store has the session.
        async with asyncio.TaskGroup() as group:
            if is_over and ending.end is not None:
                session, by = connection.session, ending.by
                record = self.record_end(session, ending.end, by=by, detail=ending.detail)
                _ = group.create_task(record)
            _ = group.create_task(connection.report_end(ending))
        if session_id not in self._connections and ending.end is not ends.REPLACED:
            await self._update_watchers(connection.session)

    async def end(self, session_id: str, end: SessionEnd, *, by: PersonRef | None = None) -> bool:
        """End a session wherever it is; False: no such session. Raises StoreUnavailable."""
        connection = self._connections.get(session_id)
        if connection is not None:
            connection.end(end, by=by)
            return True
        command = SessionCommand(session_id, CommandKind.END, end.name, by)
        return await self._shielded.run(self._end_elsewhere(command, end))

    async def _end_elsewhere(self, command: SessionCommand, end: SessionEnd) -> bool:
        result = await self._store.command(command)
        if result.ended is not None:
            await self.record_end(result.ended, end, by=command.by)
        return result.is_found

    async def listed(
        self, *, person: str | None = None, target: ConsoleTarget | None = None
    ) -> SessionListing:
        """Return the sessions of all processes; without Redis, those of this process."""
        return await self._store.listing(person=person, target=target)

    async def watchers(self, target: ConsoleTarget) -> tuple[Watcher, ...]:
        """Return who watches a server; without Redis, in this process."""
        return _watchers((await self._store.listing(target=target)).sessions)

    async def find_by_cookie(self, session_id: str, cookie: str) -> ConsoleSession | None:
        """Return the session that a cookie belongs to; raise StoreUnavailable."""
        found = await self._store.find(session_id)
        if found is None or found.session.cookie_hash != secret_hash(cookie):
            return None
        return found.session

    async def renew(self, session_id: str, person: Principal) -> bool:
        """Let a session follow a newer token of its person; raise StoreUnavailable.

        False: the person has no such session, or its page is not connected.
        """
        found = await self._store.find(session_id)
        if found is None or found.session.person.key != person.key or not found.owner:
            return False
        command = SessionCommand(session_id, CommandKind.RENEW, person=person)
        if session_id in self._connections:
            await self.apply(command)
        else:
            await self._store.command(command)
        return True

    def end_other_accounts(self, accounts: frozenset[str]) -> None:
        """End the sessions on accounts that are not among these: they are removed."""
        for connection in list(self._connections.values()):
            if connection.session.target.account not in accounts:
                connection.end(ends.RIGHT_ENDED, detail="the account is removed")

    async def apply(self, command: SessionCommand) -> None:
        """Execute a command of another process."""
        connection = self._connections.get(command.session_id)
        if connection is None:
            return
        if command.kind is CommandKind.WATCHERS:
            await self._report_watchers(connection)
            return
        if command.person is not None:
            await connection.renew(command.person)
            return
        # Another release may have other ends.
        end = ends.ENDS_BY_NAME.get(command.end, ends.OPERATOR)
        connection.end(end, by=command.by)

    async def save(self, connection: LiveSession) -> None:
        """Store the mode and the person of a session after a change."""
        with suppress(StoreUnavailable):  # registered again when the store is back
            await self._store.update(connection.session, owner=self.owner)

    async def record_end(
        self,
        session: ConsoleSession,
        end: SessionEnd,
        *,
        by: PersonRef | None = None,
        detail: str = "",
    ) -> None:
        """Record and count the end of a session; its caller has ended it in the store."""
        self._telemetry.session_ended(session.target.account, end.name)
        await self._audit.session_ended(session, end, by=by, detail=detail)

    async def _first_key(
        self, session_id: str, cookie: str, page: SessionPage, client_address: str
    ) -> str | None:
        """Return the resume key of the first message; end the page with another one."""
        try:
            return await self._first_message(page)
        except PageMessageError as error:
            await page.end(ends.PROTOCOL_ERROR)
            reason = CookieRejection.FIRST_MESSAGE
            self.rejected.count(reason)
            await self.rejected.record(
                [(session_id, cookie)],
                reason,
                client_address=client_address,
                detail=f"first message: {error}",
            )
            return None

    async def _first_message(self, page: SessionPage) -> str | None:
        """Return the resume key of the first message; None: the page has closed.

        Raises PageMessageError.
        """
        try:
            async with asyncio.timeout(_ATTACH_WITHIN_S):
                first = await page.channel.receive()
        except TimeoutError:
            raise PageMessageError(f"none within {_ATTACH_WITHIN_S:.0f} s") from None
        if isinstance(first, ChannelClosed):
            if first.violation is not None:
                raise PageMessageError(first.violation)
            return None
        message = parse_page_message(first) if isinstance(first, str) else None
        if not isinstance(message, AttachMessage):
            raise PageMessageError("not `attach`")
        return message.resume_key

    async def _attach(
        self, session_id: str, cookie: str, key: str, page: SessionPage, client_address: str
    ) -> LiveSession | _Refused:
        if self.is_draining:
            return _Refused(ends.MOVE, may_be_right=True)
        next_key = Secret(self._new_key())
        try:
            attached = await self._store.attach(
                session_id,
                secret_hash(cookie),
                secret_hash(key),
                secret_hash(next_key.reveal()),
                owner=self.owner,
                lease_s=LEASE_S,
            )
        except StoreUnavailable:
            # Another process may know the session: the page tries again, with the same key.
            self._telemetry.session_resumed("unavailable")
            return _Refused(ends.MOVE, may_be_right=True)
        match attached:
            case SessionGone():
                self._telemetry.session_resumed("gone")
                return _Refused(ends.STALE_PAGE)
            case SessionUnknown():
                # Its owner may still register it: the page tries again for as long as it may.
                self._telemetry.session_resumed("unknown")
                return _Refused(ends.MOVE)
            case StaleKey():
                self._telemetry.session_resumed("stale")
                if attached.session is not None:
                    await self._record_rejected(attached.session, client_address)
                return _Refused(ends.STALE_PAGE)
            case Attached():
                await self._note_attached(attached, client_address)
                connection = LiveSession(
                    attached,
                    next_key,
                    page,
                    self._services,
                    SessionCallbacks(
                        self._person_changed,
                        self._confirm_key,
                        self._power.permit,
                        self._power.note_not_sent,
                        self._record_unrecorded,
                    ),
                )
                await self._check_again(connection, attached)
                return connection

    async def _note_attached(self, attached: Attached, client_address: str) -> None:
        if attached.attempt:
            self._telemetry.session_resumed("ok")
        if client_address != attached.session.client_address:
            await self._audit.address_changed(attached.session, client_address)

    async def _record_rejected(self, session: ConsoleSession, client_address: str) -> None:
        """Record a genuine cookie without the current key: once for each session."""
        if await self._stale.claim(f"resume {session.id}"):
            await self._audit.resume_rejected(session, client_address)

    async def _check_again(self, connection: LiveSession, attached: Attached) -> None:
        """Repeat the checks of the redemption: strictly at first, then as of a running session."""
        session, rights = attached.session, self._services.rights
        if session.target.account not in self._services.rules.accounts:
            connection.end(ends.RIGHT_ENDED, detail="the account is removed")
            return
        try:
            if not attached.attempt:
                rights.recheck(session.person, session.target, session.mode)
        except RevocationsUnavailable:
            pass  # the redemption has checked, seconds ago
        except (NotPermitted, NotAuthenticated):
            # A lower right may be left.
            standing = rights.standing(session)
            if standing.needs_old_inventory:
                connection.end(ends.RIGHT_ENDED, detail="the inventory is too old")
        if self.judge(connection):
            await self.mode_changed(connection)

    def judge(self, connection: LiveSession) -> bool:
        """End a session without a right, or lower its mode; return whether the mode changed."""
        standing = self._services.rights.standing(connection.session)
        connection.needs_old_inventory = standing.needs_old_inventory
        if standing.mode is None:
            connection.end(standing.end, detail=standing.detail)
            return False
        connection.recheck_power()
        is_changed = standing.mode is not connection.session.mode
        connection.set_mode(standing.mode)
        connection.set_right(standing.until)
        return is_changed

    async def _person_changed(self, connection: LiveSession) -> None:
        if self.judge(connection):
            await self.mode_changed(connection)
        else:
            await self.save(connection)

    async def _record_unrecorded(self, connection: LiveSession, detail: str) -> None:
        await self._audit.recording_failed(connection.session, detail)

    async def _confirm_key(self, connection: LiveSession) -> None:
        key_hash = secret_hash(connection.resume_key.reveal())
        with suppress(StoreUnavailable):  # then the key before stays good until this one is used
            await self._store.confirm_key(connection.session.id, key_hash, owner=self.owner)

    async def mode_changed(self, connection: LiveSession) -> None:
        """Store and record that a session has become view-only."""
        await self.save(connection)
        await self._audit.mode_changed(connection.session, "console:open has ended")

    async def _give_up(self, connection: LiveSession, ending: Ending) -> bool:
        """Detach the session, or end it in the store; return whether to record its end."""
        session = connection.session
        async with self._lock(session.id):
            if self._connections.get(session.id) is not connection:
                return False  # a newer connection of the page has the session
            del self._connections[session.id]
            if ending.end is ends.REPLACED:
                return False  # another process has the session
            with suppress(StoreUnavailable):
                if ending.end is None or not ending.end.is_final:
                    if connection.note_input():
                        await self.save(connection)
                    await self._store.detach(session.id, owner=self.owner)
                else:
                    return await self._store.remove(session.id, owner=self.owner)
        return False

    async def _update_watchers(self, session: ConsoleSession) -> None:
        """Report to the pages with the keyboard who watches the server."""
        if session.mode is SessionMode.CONTROL:
            connection = self._connections.get(session.id)
            if connection is not None:
                await self._report_watchers(connection)
            return
        with suppress(StoreUnavailable):
            for one in await self._store.sessions(target=session.target):
                if one.session.mode is SessionMode.CONTROL:
                    command = SessionCommand(one.session.id, CommandKind.WATCHERS)
                    if one.owner == self.owner:
                        await self.apply(command)
                    else:
                        await self._store.command(command)

    async def _report_watchers(self, connection: LiveSession) -> None:
        with suppress(StoreUnavailable):
            listed = await self._store.sessions(target=connection.session.target)
            connection.set_watchers(_watchers(listed))

    def _lock(self, session_id: str) -> asyncio.Lock:
        lock = self._locks.get(session_id)
        if lock is None:
            lock = self._locks[session_id] = asyncio.Lock()
        return lock


def _watchers(listed: Iterable[ListedSession]) -> tuple[Watcher, ...]:
    return tuple(
        Watcher(PersonRef.of(one.session.person), one.session.started_at)
        for one in listed
        if one.session.mode is SessionMode.VIEW and one.owner
    )
