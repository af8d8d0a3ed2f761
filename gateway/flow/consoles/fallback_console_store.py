"""The store of live consoles that goes on without Redis, for what this process knows.

A ticket that was issued without Redis is redeemed by this process only; its text says so, and the
others are unavailable for it, also if they have Redis. Sessions of this process run on; they are
registered again when Redis is back. Invariant 10 holds before availability: what may be in Redis is
never repeated here.

Known limit: a page that resumed here without Redis has a newer key than Redis. For the moment until
the session is registered again, another process accepts the older key, with the session's cookie.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable

from gateway.domain.consoles import ends
from gateway.domain.consoles.model import (
    RESUME_WITHIN_S,
    ConsoleSession,
    ConsoleTarget,
    SessionLimits,
    Ticket,
)
from gateway.domain.consoles.ticket_text import is_local_ticket
from gateway.domain.errors import StoreUnavailable
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_store import (
    LEASE_S,
    Attached,
    CommandKind,
    CommandResult,
    ConsoleInUse,
    ConsoleStore,
    DeadSession,
    FoundTicket,
    LimitReached,
    ListedSession,
    Redeemed,
    Registered,
    RenewedLeases,
    SessionCommand,
    SessionGone,
    SessionListing,
    SessionUnknown,
    StaleKey,
    TakeOver,
    TicketGone,
    WouldEnd,
)
from gateway.flow.consoles.local_console_store import LocalConsoleStore

_SETTLED_AFTER_S = LEASE_S + RESUME_WITHIN_S
"""After Redis was unavailable, every owner has registered again by then, or is dead."""
_RedeemResult = Redeemed | WouldEnd | TicketGone | ConsoleInUse | LimitReached
_Redeem = Callable[[ConsoleStore, bytes, SessionLimits], Awaitable[_RedeemResult]]


class FallbackConsoleStore:
    """Implements the port `ConsoleStore`. `local` has this process's sessions, always."""

    def __init__(
        self,
        shared: ConsoleStore,
        local: LocalConsoleStore,
        clock: Clock,
        *,
        processes: Callable[[], int],
        server_max: int,
    ) -> None:
        """Share the limits between this number of `processes` while Redis is unavailable.

        `server_max`: sessions with keyboard that may be registered again on one server.
        """
        self.local = local
        self._shared = shared
        self._clock = clock
        self._processes = processes
        self._server_max = server_max
        self._local_only: set[str] = set()
        """Sessions that `shared` does not have, or whose state there is outdated."""
        self._unshared: set[str] = set()
        """Those of `_local_only` that began here and that `shared` never had."""
        self._ended: set[str] = set()
        """Sessions that ended here; `shared` still has them."""
        self._detached: set[str] = set()
        """Sessions that lost their connection here; `shared` does not know it yet."""
        self._refused: list[DeadSession] = []
        """Sessions without a connection that an older one on the server has displaced."""
        self._unread: tuple[SessionCommand, ...] = ()
        """Commands that `shared` has handed over with another answer."""
        self._available_since = clock.monotonic()
        self._is_available = True

    @property
    def is_available(self) -> bool:
        return self._is_available

    async def add_ticket(
        self, ticket_hash: bytes, ticket: Ticket, *, per_person_max: int, lifetime_s: float
    ) -> None:
        """Store a ticket in Redis; on StoreUnavailable issue another text in `local`."""
        with _Watch(self):
            await self._shared.add_ticket(
                ticket_hash, ticket, per_person_max=per_person_max, lifetime_s=lifetime_s
            )

    async def find_ticket(self, ticket_hash: bytes) -> FoundTicket | None:
        if is_local_ticket(ticket_hash):
            found = await self.local.find_ticket(ticket_hash)
            if found is None:
                self._require_issued_here(ticket_hash)
            return found
        with _Watch(self):
            return await self._shared.find_ticket(ticket_hash)

    async def claim_rejection(self, name: str) -> bool:
        with _Watch(self):
            return await self._shared.claim_rejection(name)

    def _take_local(self, ticket_hash: bytes) -> FoundTicket | None:
        found = self.local.take_ticket(ticket_hash)
        if found is None:
            self._require_issued_here(ticket_hash)
        return found

    def _require_issued_here(self, ticket_hash: bytes) -> None:
        """Raise StoreUnavailable unless this process knows that the ticket is spent or expired."""
        if not self.local.has_issued(ticket_hash):
            raise StoreUnavailable("another process has the ticket in its memory")

    async def replace_ticket(
        self,
        ticket_hash: bytes,
        new_hash: bytes,
        ticket: Ticket,
        *,
        per_person_max: int,
        lifetime_s: float,
    ) -> bool:
        if not is_local_ticket(ticket_hash):
            with _Watch(self):
                return await self._shared.replace_ticket(
                    ticket_hash,
                    new_hash,
                    ticket,
                    per_person_max=per_person_max,
                    lifetime_s=lifetime_s,
                )
        found = self._take_local(ticket_hash)
        if found is None:
            return False
        try:
            await self.add_ticket(
                new_hash, ticket, per_person_max=per_person_max, lifetime_s=lifetime_s
            )
        except StoreUnavailable:
            self.local.put_ticket(ticket_hash, found)
            raise
        return True

    async def redeem(
        self,
        ticket_hash: bytes,
        session: ConsoleSession,
        resume_hash: bytes,
        limits: SessionLimits,
        *,
        take_over: TakeOver,
        recorded: frozenset[str] = frozenset(),
    ) -> _RedeemResult:
        def redeem(
            store: ConsoleStore, name: bytes, limits: SessionLimits
        ) -> Awaitable[_RedeemResult]:
            return store.redeem(
                name, session, resume_hash, limits, take_over=take_over, recorded=recorded
            )

        if not is_local_ticket(ticket_hash):
            with _Watch(self):
                return await redeem(self._shared, ticket_hash, limits)
        found = self._take_local(ticket_hash)
        if found is None:
            return TicketGone()
        result = await self._redeem_local(found, session.id, limits, redeem)
        if not isinstance(result, Redeemed):
            self.local.put_ticket(ticket_hash, found)
        return result

    async def _redeem_local(
        self, found: FoundTicket, session_id: str, limits: SessionLimits, redeem: _Redeem
    ) -> _RedeemResult:
        # Under a hash that no other process can know: an unclear result repeats no ticket.
        ticket_hash = secrets.token_bytes(32)
        try:
            with _Watch(self):
                await self._shared.add_ticket(
                    ticket_hash, found.ticket, per_person_max=1_000, lifetime_s=found.left_s
                )
                return await redeem(self._shared, ticket_hash, limits)
        except StoreUnavailable:
            self.local.put_ticket(ticket_hash, found)
            result = await redeem(self.local, ticket_hash, limits.share(self._processes()))
            self.local.take_ticket(ticket_hash)
            if isinstance(result, Redeemed):
                self._local_only.add(session_id)
                self._unshared.add(session_id)
            return result

    async def attach(  # noqa: PLR0913 - the session, its keys, and the owner
        self,
        session_id: str,
        cookie_hash: bytes,
        resume_hash: bytes,
        next_resume_hash: bytes,
        *,
        owner: str,
        lease_s: float,
        is_settled: bool = True,
    ) -> Attached | StaleKey | SessionGone | SessionUnknown:
        arguments = (session_id, cookie_hash, resume_hash, next_resume_hash)
        try:
            with _Watch(self):
                if session_id in self._local_only:
                    await self._register(session_id, owner)
                is_settled = is_settled and not self._local_only
                result = await self._shared.attach(
                    *arguments, owner=owner, lease_s=lease_s, is_settled=is_settled
                )
        except StoreUnavailable:
            result = await self.local.attach(*arguments, owner=owner, lease_s=lease_s)
            if isinstance(result, SessionGone | SessionUnknown):
                raise  # another process may know it
            if isinstance(result, StaleKey) and session_id not in self._unshared:
                raise  # it may have been elsewhere meanwhile, with newer keys
            self._local_only.add(session_id)
            return result
        if isinstance(result, Attached):
            keys = (resume_hash, next_resume_hash)
            self.local.adopt(result, *keys, owner=owner, lease_s=lease_s)
        return result

    async def confirm_key(self, session_id: str, resume_hash: bytes, *, owner: str) -> None:
        await self.local.confirm_key(session_id, resume_hash, owner=owner)
        try:
            with _Watch(self):
                await self._shared.confirm_key(session_id, resume_hash, owner=owner)
        except StoreUnavailable:
            self._local_only.add(session_id)

    async def renew(
        self, owner: str, session_ids: frozenset[str], *, lease_s: float
    ) -> RenewedLeases:
        local = await self.local.renew(owner, session_ids, lease_s=lease_s)
        commands, lost = list(local.commands), set[str]()
        try:
            with _Watch(self):
                await self._finish_ended(owner)
                # First: from the next call on, Redis trusts the keys that it has of this owner.
                changed = frozenset(self._local_only)
                lost |= await self._register_all(changed, owner, commands)
                shared = await self._shared.renew(owner, session_ids, lease_s=lease_s)
                commands += self._read(shared.commands)
                lost |= shared.lost
                lost |= await self._register_all(shared.missing - changed, owner, commands)
        except StoreUnavailable:
            return RenewedLeases(frozenset(), frozenset(), tuple(commands))
        return RenewedLeases(frozenset(lost) & session_ids, frozenset(), tuple(commands))

    async def register(
        self,
        session: ConsoleSession,
        resume_hash: bytes,
        *,
        next_resume_hash: bytes = b"",
        owner: str,
        lease_s: float,
        server_max: int,
    ) -> Registered:
        with _Watch(self):
            return await self._shared.register(
                session,
                resume_hash,
                next_resume_hash=next_resume_hash,
                owner=owner,
                lease_s=lease_s,
                server_max=server_max,
            )

    async def take_commands(self, owner: str) -> tuple[SessionCommand, ...]:
        if not self._is_available or self._local_only or self._ended or self._detached:
            owned = frozenset(one.session.id for one in await self.local.sessions())
            return (await self.renew(owner, owned, lease_s=LEASE_S)).commands
        local = await self.local.take_commands(owner)
        try:
            with _Watch(self):
                return local + self._read(await self._shared.take_commands(owner))
        except StoreUnavailable:
            return local

    def _read(self, commands: tuple[SessionCommand, ...]) -> tuple[SessionCommand, ...]:
        commands, self._unread = self._unread + commands, ()
        for one in commands:
            if one.end == ends.REPLACED.name:  # another process has it: what is here is outdated
                self.local.forget(one.session_id)
        return commands

    async def command(self, command: SessionCommand) -> CommandResult:
        local = await self.local.command(command)
        if local.is_found:
            if local.ended is not None:
                self._ended.add(command.session_id)
            return local
        with _Watch(self):
            return await self._shared.command(command)

    async def detach(self, session_id: str, *, owner: str) -> None:
        try:
            with _Watch(self):
                if session_id in self._local_only:
                    await self.local.detach(session_id, owner=owner)
                    await self._register(session_id, owner)
                else:
                    await self._shared.detach(session_id, owner=owner)
                    self.local.forget(session_id)
        except StoreUnavailable:
            await self.local.detach(session_id, owner=owner)
            self._local_only.add(session_id)

    async def remove(self, session_id: str, *, owner: str) -> bool:
        is_local = await self.local.remove(session_id, owner=owner)
        is_unshared = session_id in self._unshared
        self._local_only.discard(session_id)
        self._unshared.discard(session_id)
        try:
            with _Watch(self):
                if await self._shared.remove(session_id, owner=owner):
                    return True
                # As `renew` does: Redis then trusts the keys that it has of this owner.
                commands = list[SessionCommand]()
                await self._register_all(frozenset(self._local_only), owner, commands)
                one = frozenset({session_id})
                renewed = await self._shared.renew(owner, one, lease_s=LEASE_S)
                self._unread += (*commands, *renewed.commands)
        except StoreUnavailable:
            self._ended.add(session_id)
            return is_local
        # Unknown to Redis, which lost its data or never had it: then this is the only end.
        return is_local and (is_unshared or session_id in renewed.missing)

    async def update(self, session: ConsoleSession, *, owner: str) -> bool:
        is_local = await self.local.update(session, owner=owner)
        try:
            with _Watch(self):
                return await self._shared.update(session, owner=owner) or is_local
        except StoreUnavailable:
            self._local_only.add(session.id)
            return is_local

    async def claim_dead(self) -> tuple[DeadSession, ...]:
        """Claim the dead sessions; after Redis was unavailable, owners register again first."""
        self._refused, dead = [], tuple(self._refused)
        for one in await self.local.claim_dead():
            session_id = one.session.id
            self._local_only.discard(session_id)
            if session_id in self._unshared:
                self._unshared.discard(session_id)
                self._ended.add(session_id)
                dead += (one,)
            else:
                # Its page may resume it elsewhere when Redis is back; else it is claimed there.
                self._detached.add(session_id)
        since = self._clock.monotonic() - self._available_since
        if not self._is_available or since < _SETTLED_AFTER_S:
            return dead
        try:
            with _Watch(self):
                return dead + await self._shared.claim_dead()
        except StoreUnavailable:
            return dead

    async def sessions(
        self, *, person: str | None = None, target: ConsoleTarget | None = None
    ) -> tuple[ListedSession, ...]:
        """Return the sessions; without Redis, those of this process."""
        return (await self.listing(person=person, target=target)).sessions

    async def listing(
        self, *, person: str | None = None, target: ConsoleTarget | None = None
    ) -> SessionListing:
        """Return the sessions, and whether those of other processes are among them."""
        local = await self.local.sessions(person=person, target=target)
        try:
            with _Watch(self):
                shared = await self._shared.sessions(person=person, target=target)
        except StoreUnavailable:
            return SessionListing(local, is_complete=False)
        known = {one.session.id for one in shared}
        unknown = tuple(
            one
            for one in local
            if one.session.id in self._local_only and one.session.id not in known
        )
        return SessionListing(shared + unknown, is_complete=True)

    async def find(self, session_id: str) -> ListedSession | None:
        local = await self.local.find(session_id)
        if local is not None and session_id in self._local_only:
            return local
        try:
            with _Watch(self):
                return await self._shared.find(session_id)
        except StoreUnavailable:
            if local is None:
                raise  # another process may know it
            return local

    async def _register_all(
        self, session_ids: Iterable[str], owner: str, commands: list[SessionCommand]
    ) -> set[str]:
        """Register sessions, add to `commands` the end of those too many; return the lost ones."""
        lost = set()
        for session_id in session_ids:
            match await self._register(session_id, owner):
                case Registered.ENDED:
                    lost.add(session_id)
                case Registered.OLDER_SESSION:
                    commands.append(SessionCommand(session_id, CommandKind.END, ends.LIMIT.name))
                case Registered.REGISTERED:
                    pass
        return lost

    async def _register(self, session_id: str, owner: str) -> Registered:
        """Bring the state of a session here to Redis."""
        known = self.local.state_of(session_id)
        if known is None:
            if not self.local.knows(session_id):
                self._local_only.discard(session_id)
            return Registered.ENDED  # if it is dead, `claim_dead` returns it
        session, resume_hash, next_resume_hash, has_owner = known
        result = await self._shared.register(
            session,
            resume_hash,
            next_resume_hash=next_resume_hash,
            owner=owner,
            lease_s=LEASE_S,
            server_max=self._server_max,
        )
        self._unshared.discard(session_id)
        if not has_owner:
            if result is Registered.REGISTERED:
                await self._shared.detach(session_id, owner=owner)
            if result is Registered.OLDER_SESSION:
                self._refused.append(DeadSession(session, ends.LIMIT.name))
            self.local.forget(session_id)
        self._local_only.discard(session_id)
        return result

    async def _finish_ended(self, owner: str) -> None:
        for session_id in list(self._ended):
            if not await self._shared.remove(session_id, owner=owner):
                # Redis may have it after all, if an answer was lost.
                found = await self._shared.find(session_id)
                if found is not None and not found.owner:
                    end = SessionCommand(session_id, CommandKind.END, ends.ABANDONED.name)
                    await self._shared.command(end)
            self._ended.discard(session_id)
        for session_id in list(self._detached):
            await self._shared.detach(session_id, owner=owner)
            self._detached.discard(session_id)

    def note(self, *, available: bool) -> None:
        """Note whether the last call reached Redis."""
        if available and not self._is_available:
            self._available_since = self._clock.monotonic()
        self._is_available = available


class _Watch:
    """Notes whether the calls in its block reach Redis."""

    __slots__ = ("_store",)

    def __init__(self, store: FallbackConsoleStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._store.note(available=True)
        elif issubclass(kind, StoreUnavailable):
            self._store.note(available=False)
