"""Tickets and sessions of this process alone: the store while Redis is unavailable."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from gateway.domain.consoles import ends
from gateway.domain.consoles.model import (
    RESUME_WITHIN_S,
    ConsoleSession,
    ConsoleTarget,
    PersonRef,
    SessionLimits,
    SessionMode,
    Ticket,
)
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_store import (
    CALM_S,
    ENDED_REMEMBERED_S,
    IN_TOUCH_S,
    REJECTION_REMEMBERED_S,
    Attached,
    CommandKind,
    CommandResult,
    ConsoleInUse,
    DeadSession,
    FoundTicket,
    LimitReached,
    ListedSession,
    Redeemed,
    Registered,
    RenewedLeases,
    SessionCommand,
    SessionGone,
    SessionLimit,
    SessionUnknown,
    StaleKey,
    TakeOver,
    TicketGone,
    WouldEnd,
)

_REMEMBERED_MAX: Final = 10_000
_Key = TypeVar("_Key")


@dataclass(slots=True)
class _StoredTicket:
    ticket: Ticket
    ends_at: float


@dataclass(slots=True)
class _StoredSession:
    session: ConsoleSession
    resume_hash: bytes = field(repr=False)
    resumable_until: float
    next_resume_hash: bytes = field(default=b"", repr=False)
    """Of a key that was offered and is not confirmed; b"" for none."""
    owner: str = ""
    attempt: int = -1
    """-1: no connection yet."""
    attached_at: float = 0.0
    is_ending: bool = False
    """Its owner has a command to end it."""
    last_owner: str = ""
    """The one that gave it up."""


class LocalConsoleStore:
    """Implements the port `ConsoleStore`, in memory. No method waits, so each is atomic."""

    def __init__(self, clock: Clock, *, resume_within_s: float = RESUME_WITHIN_S) -> None:
        self._clock = clock
        self._in_touch_s = IN_TOUCH_S
        self._resume_within_s = resume_within_s
        self._tickets: dict[bytes, _StoredTicket] = {}
        """In the order in which they were issued."""
        self._issued: dict[bytes, float] = {}
        """When the tickets that are remembered were issued, also if they are spent or expired."""
        self._rejected: dict[str, float] = {}
        """When the rejections that are remembered were recorded."""
        self._seen: dict[str, float] = {}
        """When each owner has called last."""
        self._sessions: dict[str, _StoredSession] = {}
        self._ended: dict[str, float] = {}
        """When the sessions that are remembered have ended."""
        self._dead: list[DeadSession] = []
        self._commands: defaultdict[str, list[SessionCommand]] = defaultdict(list)

    async def add_ticket(
        self, ticket_hash: bytes, ticket: Ticket, *, per_person_max: int, lifetime_s: float
    ) -> None:
        self._drop_expired()
        self._issued[ticket_hash] = self._now
        self._tickets[ticket_hash] = _StoredTicket(ticket, self._now + lifetime_s)
        person = ticket.person.key
        own = [one for one, it in self._tickets.items() if it.ticket.person.key == person]
        for lapsed in own[:-per_person_max]:
            del self._tickets[lapsed]

    async def find_ticket(self, ticket_hash: bytes) -> FoundTicket | None:
        found = self._tickets.get(ticket_hash)
        if found is None or found.ends_at <= self._now:
            return None
        return FoundTicket(found.ticket, found.ends_at - self._now)

    def has_issued(self, ticket_hash: bytes) -> bool:
        """Return whether the ticket was added here in the last hour, spent or not."""
        return ticket_hash in self._issued

    async def claim_rejection(self, name: str) -> bool:
        self._drop_expired()
        if name in self._rejected:
            return False
        self._rejected[name] = self._now
        return True

    async def replace_ticket(
        self,
        ticket_hash: bytes,
        new_hash: bytes,
        ticket: Ticket,
        *,
        per_person_max: int,
        lifetime_s: float,
    ) -> bool:
        if self.take_ticket(ticket_hash) is None:
            return False
        await self.add_ticket(
            new_hash, ticket, per_person_max=per_person_max, lifetime_s=lifetime_s
        )
        return True

    def take_ticket(self, ticket_hash: bytes) -> FoundTicket | None:
        """Return an unspent ticket and forget it."""
        found = self._tickets.pop(ticket_hash, None)
        if found is None or found.ends_at <= self._now:
            return None
        return FoundTicket(found.ticket, found.ends_at - self._now)

    def put_ticket(self, ticket_hash: bytes, found: FoundTicket) -> None:
        """Store a ticket that was taken."""
        self._tickets[ticket_hash] = _StoredTicket(found.ticket, self._now + found.left_s)

    async def redeem(
        self,
        ticket_hash: bytes,
        session: ConsoleSession,
        resume_hash: bytes,
        limits: SessionLimits,
        *,
        take_over: TakeOver,
        recorded: frozenset[str] = frozenset(),
    ) -> Redeemed | WouldEnd | TicketGone | ConsoleInUse | LimitReached:
        if await self.find_ticket(ticket_hash) is None:
            return TicketGone()
        replaced: list[_StoredSession] = []
        if session.mode is SessionMode.CONTROL:
            users = self._on_server(session)
            replaced = users[: max(0, len(users) - limits.server + 1)]
            others = any(one.session.person.key != session.person.key for one in replaced)
            if replaced and (take_over is TakeOver.NONE or (take_over is TakeOver.OWN and others)):
                return ConsoleInUse(users[0].session)
        limit = self._limit_reached(session, limits, replaced)
        if limit is not None:
            return LimitReached(limit)
        unrecorded = [one.session for one in replaced if one.session.id not in recorded]
        if unrecorded:
            return WouldEnd(tuple(unrecorded))
        del self._tickets[ticket_hash]
        self._sessions[session.id] = _StoredSession(
            session, resume_hash, self._now + self._resume_within_s
        )
        return self._take_over(replaced, PersonRef.of(session.person))

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
        stored = self._sessions.get(session_id)
        if stored is None:
            return SessionGone() if self._has_ended(session_id) else SessionUnknown()
        refusal = self._refusal(stored, cookie_hash, resume_hash, owner)
        if refusal is not None:
            return refusal
        if is_settled:
            self._seen[owner] = self._now
        previous = stored.owner
        if previous not in ("", owner):
            self._command(previous, session_id, ends.REPLACED)
        if previous != owner:  # it has come back before this process read that it was replaced
            queue = self._commands.pop(owner, [])
            self._commands[owner] = [one for one in queue if one.session_id != session_id]
        is_calm = stored.attempt > 0 and self._now - stored.attached_at >= CALM_S
        stored.attempt = 1 if is_calm else stored.attempt + 1
        stored.attached_at = self._now
        stored.resume_hash, stored.next_resume_hash = resume_hash, next_resume_hash
        stored.owner = owner
        stored.resumable_until = self._now + lease_s + self._resume_within_s
        return Attached(stored.session, previous, stored.attempt)

    def _refusal(
        self, stored: _StoredSession, cookie_hash: bytes, resume_hash: bytes, owner: str
    ) -> StaleKey | SessionGone | SessionUnknown | None:
        if stored.is_ending:
            return SessionGone()
        if not self._is_alive(stored):
            return SessionUnknown() if stored.owner else SessionGone()
        if stored.session.cookie_hash != cookie_hash:
            return StaleKey()
        if resume_hash in {stored.resume_hash, stored.next_resume_hash}:
            return None
        last = stored.owner or stored.last_owner
        is_known = last in ("", owner) or self._is_in_touch(last)
        return StaleKey(stored.session) if is_known else SessionUnknown()

    def adopt(
        self,
        attached: Attached,
        resume_hash: bytes,
        next_resume_hash: bytes,
        *,
        owner: str,
        lease_s: float,
    ) -> None:
        """Copy a session that this process has attached in the shared store."""
        self._sessions[attached.session.id] = _StoredSession(
            attached.session,
            resume_hash,
            self._now + lease_s + self._resume_within_s,
            next_resume_hash,
            owner,
            attached.attempt,
            self._now,
        )

    def state_of(self, session_id: str) -> tuple[ConsoleSession, bytes, bytes, bool] | None:
        """Return a session, the hashes of its resume keys, and whether it has an owner."""
        stored = self._alive(session_id)
        if stored is None:
            return None
        return stored.session, stored.resume_hash, stored.next_resume_hash, bool(stored.owner)

    def knows(self, session_id: str) -> bool:
        """Return whether the session is here, alive or dead and not claimed."""
        return session_id in self._sessions

    def forget(self, session_id: str) -> None:
        """Drop a session that goes on elsewhere."""
        self._sessions.pop(session_id, None)

    async def confirm_key(self, session_id: str, resume_hash: bytes, *, owner: str) -> None:
        stored = self._owned(session_id, owner)
        if stored is not None and stored.next_resume_hash == resume_hash:
            stored.resume_hash, stored.next_resume_hash = resume_hash, b""

    async def renew(
        self, owner: str, session_ids: frozenset[str], *, lease_s: float
    ) -> RenewedLeases:
        self._seen[owner] = self._now
        lost, missing = set(), set()
        for session_id in session_ids:
            stored = self._sessions.get(session_id)
            if stored is not None and stored.owner == owner:
                stored.resumable_until = self._now + lease_s + self._resume_within_s
            elif stored is not None or self._has_ended(session_id):
                lost.add(session_id)
            else:
                missing.add(session_id)
        return RenewedLeases(frozenset(lost), frozenset(missing), await self.take_commands(owner))

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
        stored = self._sessions.get(session.id)
        if self._has_ended(session.id) or (stored is not None and stored.owner not in ("", owner)):
            return Registered.ENDED
        if session.mode is SessionMode.CONTROL:
            others = [one for one in self._on_server(session) if one.session.id != session.id]
            older = sum(_age(one.session) < _age(session) for one in others)
            if older >= server_max:
                return Registered.OLDER_SESSION
            for other in others[server_max - 1 :]:
                self._displace(other)
        attempt = 0 if stored is None else stored.attempt
        self._sessions[session.id] = _StoredSession(
            session,
            resume_hash,
            self._now + lease_s + self._resume_within_s,
            next_resume_hash,
            owner,
            attempt,
            self._now,
        )
        return Registered.REGISTERED

    async def take_commands(self, owner: str) -> tuple[SessionCommand, ...]:
        self._seen[owner] = self._now
        return tuple(self._commands.pop(owner, ()))

    async def command(self, command: SessionCommand) -> CommandResult:
        stored = self._alive(command.session_id)
        if stored is None:
            return CommandResult(is_found=False)
        if stored.owner:
            stored.is_ending |= command.kind is CommandKind.END
            self._commands[stored.owner].append(command)
            return CommandResult(is_found=True)
        if command.kind is CommandKind.END:
            self._end(stored.session.id)
            return CommandResult(is_found=True, ended=stored.session)
        return CommandResult(is_found=True)

    async def detach(self, session_id: str, *, owner: str) -> None:
        stored = self._owned(session_id, owner)
        if stored is not None:
            stored.owner, stored.last_owner = "", owner
            stored.resumable_until = self._now + self._resume_within_s

    async def remove(self, session_id: str, *, owner: str) -> bool:
        if self._owned(session_id, owner) is None:
            return False
        self._end(session_id)
        return True

    async def update(self, session: ConsoleSession, *, owner: str) -> bool:
        stored = self._owned(session.id, owner)
        if stored is None:
            return False
        stored.session = session
        return True

    async def claim_dead(self) -> tuple[DeadSession, ...]:
        dead, self._dead = self._dead, []
        for stored in [one for one in self._sessions.values() if not self._is_alive(one)]:
            end = ends.OWNER_LOST if stored.owner else ends.ABANDONED
            self._end(stored.session.id)
            dead.append(DeadSession(stored.session, end.name))
        self._drop_expired()
        return tuple(dead)

    async def sessions(
        self, *, person: str | None = None, target: ConsoleTarget | None = None
    ) -> tuple[ListedSession, ...]:
        found = [
            one
            for one in self._sessions.values()
            if self._is_alive(one)
            and person in (None, one.session.person.key)
            and target in (None, one.session.target)
        ]
        found.sort(key=lambda one: _age(one.session))
        return tuple(ListedSession(one.session, one.owner) for one in found)

    async def find(self, session_id: str) -> ListedSession | None:
        stored = self._alive(session_id)
        return None if stored is None else ListedSession(stored.session, stored.owner)

    @property
    def _now(self) -> float:
        return self._clock.monotonic()

    def _is_alive(self, stored: _StoredSession) -> bool:
        return self._now < stored.resumable_until

    def _alive(self, session_id: str) -> _StoredSession | None:
        stored = self._sessions.get(session_id)
        return stored if stored is not None and self._is_alive(stored) else None

    def _is_in_touch(self, owner: str) -> bool:
        return self._now - self._seen.get(owner, -math.inf) < self._in_touch_s

    def _owned(self, session_id: str, owner: str) -> _StoredSession | None:
        stored = self._sessions.get(session_id)
        return stored if stored is not None and stored.owner == owner else None

    def _on_server(self, session: ConsoleSession) -> list[_StoredSession]:
        """Return the living sessions of this mode on this server, oldest first."""
        found = [
            one
            for one in self._sessions.values()
            if self._is_alive(one)
            and one.session.target == session.target
            and one.session.mode is session.mode
        ]
        return sorted(found, key=lambda one: _age(one.session))

    def _limit_reached(
        self, session: ConsoleSession, limits: SessionLimits, replaced: Iterable[_StoredSession]
    ) -> SessionLimit | None:
        gone = {one.session.id for one in replaced}
        others = [
            one.session
            for one in self._sessions.values()
            if self._is_alive(one) and one.session.id not in gone
        ]
        person, account = session.person.key, session.target.account
        if sum(one.person.key == person for one in others) >= limits.person:
            return SessionLimit.PERSON
        is_view = session.mode is SessionMode.VIEW
        if is_view and len(self._on_server(session)) >= limits.viewers:
            return SessionLimit.VIEWERS
        if sum(one.target.account == account for one in others) >= limits.account:
            return SessionLimit.ACCOUNT
        return SessionLimit.TOTAL if len(others) >= limits.total else None

    def _take_over(self, replaced: Iterable[_StoredSession], by: PersonRef) -> Redeemed:
        ended, commanded = [], []
        for one in replaced:
            if one.owner:
                one.is_ending = True
                self._command(one.owner, one.session.id, ends.TAKEN_OVER, by)
                commanded.append(one.session)
                continue
            self._end(one.session.id)
            ended.append(one.session)
        return Redeemed(tuple(ended), tuple(commanded))

    def _displace(self, stored: _StoredSession) -> None:
        if stored.owner:
            stored.is_ending = True
            self._command(stored.owner, stored.session.id, ends.LIMIT)
            return
        self._end(stored.session.id)
        self._dead.append(DeadSession(stored.session, ends.ABANDONED.name))

    def _command(
        self, owner: str, session_id: str, end: ends.SessionEnd, by: PersonRef | None = None
    ) -> None:
        command = SessionCommand(session_id, CommandKind.END, end.name, by)
        self._commands[owner].append(command)

    def _end(self, session_id: str) -> None:
        del self._sessions[session_id]
        self._ended[session_id] = self._now

    def _has_ended(self, session_id: str) -> bool:
        return self._now - self._ended.get(session_id, -ENDED_REMEMBERED_S) < ENDED_REMEMBERED_S

    def _drop_expired(self) -> None:
        now = self._now
        self._tickets = {one: it for one, it in self._tickets.items() if it.ends_at > now}
        self._ended = _newer(self._ended, now - ENDED_REMEMBERED_S)
        self._issued = _newer(self._issued, now - ENDED_REMEMBERED_S)
        self._rejected = _newer(self._rejected, now - REJECTION_REMEMBERED_S)


def _newer(times: dict[_Key, float], oldest: float) -> dict[_Key, float]:
    """Return the entries after `oldest`; of too many, the latest."""
    found = [(one, at) for one, at in times.items() if at > oldest]
    return dict(found[-_REMEMBERED_MAX:])


def _age(session: ConsoleSession) -> tuple[float, str]:
    return session.started_at, session.id
