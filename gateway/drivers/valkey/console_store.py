"""Tickets and sessions of live consoles in Redis, shared by all replicas (port `ConsoleStore`).

Tickets, sessions and commands are sealed, each for its own ID. In the clear are hashes of people
and servers, which count in the limits, the names of processes, and times. All keys share one hash
tag, so that each step is atomic in a cluster, too: live consoles are few.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final, TypeVar

import msgspec

from gateway.domain.consoles import ends
from gateway.domain.consoles.model import (
    RESUME_WITHIN_S,
    ConsoleSession,
    ConsoleTarget,
    PersonRef,
    SessionLimits,
    Ticket,
)
from gateway.domain.errors import StoreUnavailable
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_store import (
    CALM_S,
    ENDED_REMEMBERED_S,
    IN_TOUCH_S,
    REJECTION_REMEMBERED_S,
    RENEW_EVERY_S,
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

log = logging.getLogger("gateway.console")

_STEPS = LuaScript("console_sessions")
_BATCH: Final = 500
"""IDs in one call, so that a call never blocks the server noticeably."""
_DISPLACED_TRIES: Final = 5
_DEAD_FOR_S: Final = 2 * RENEW_EVERY_S
"""How long a session must have been dead before it is claimed.

When the server's clock jumps ahead, all sessions seem dead until their owners renew the leases.
"""
_Stored = TypeVar("_Stored", Ticket, ConsoleSession, SessionCommand)


class ValkeyConsoleStore:
    def __init__(
        self,
        valkey: Valkey,
        sealer: Sealer,
        clock: Clock,
        *,
        resume_within_s: float = RESUME_WITHIN_S,
        dead_for_s: float = _DEAD_FOR_S,
    ) -> None:
        self._valkey = valkey
        self._sealer = sealer
        self._clock = clock
        self._resume_within_s = resume_within_s
        self._dead_for_s = dead_for_s
        self._in_touch_s = IN_TOUCH_S
        self._base = valkey.key("live", tag="console")
        self._dead_since: dict[bytes, float] = {}
        """Monotonic seconds, by the ID of a session that seems dead."""

    async def add_ticket(
        self, ticket_hash: bytes, ticket: Ticket, *, per_person_max: int, lifetime_s: float
    ) -> None:
        await self._step(
            "add_ticket", *self._ticket_words(ticket_hash, ticket, lifetime_s, per_person_max)
        )

    def _ticket_words(
        self, ticket_hash: bytes, ticket: Ticket, lifetime_s: float, per_person_max: int
    ) -> tuple[str | bytes | int, ...]:
        name = ticket_hash.hex()
        sealed = self._seal("ticket", name, ticket)
        person = _index("person", ticket.person.key)
        return name, sealed, person, _ms(lifetime_s), per_person_max

    async def find_ticket(self, ticket_hash: bytes) -> FoundTicket | None:
        return self._found(ticket_hash, await self._step("find_ticket", ticket_hash.hex()))

    def _found(self, ticket_hash: bytes, reply: object) -> FoundTicket | None:
        name = ticket_hash.hex()
        match reply:
            case [bytes(sealed), int(left_ms)]:
                ticket = self._open("ticket", name, sealed, Ticket)
                return None if ticket is None else FoundTicket(ticket, left_ms / 1000)
            case _:
                return None

    async def claim_rejection(self, name: str) -> bool:
        return bool(await self._step("claim_rejection", name, _ms(REJECTION_REMEMBERED_S)))

    async def replace_ticket(
        self,
        ticket_hash: bytes,
        new_hash: bytes,
        ticket: Ticket,
        *,
        per_person_max: int,
        lifetime_s: float,
    ) -> bool:
        new = self._ticket_words(new_hash, ticket, lifetime_s, per_person_max)
        return bool(await self._step("replace_ticket", ticket_hash.hex(), *new))

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
        by = PersonRef.of(session.person)
        reply = await self._displacing_step(
            SessionCommand("", CommandKind.END, ends.TAKEN_OVER.name, by),
            "redeem",
            ticket_hash.hex(),
            *_indexes(session),
            session.id,
            self._seal("session", session.id, session),
            session.cookie_hash.hex(),
            resume_hash.hex(),
            session.mode.value,
            repr(session.started_at),
            limits.person,
            limits.server,
            limits.viewers,
            limits.account,
            limits.total,
            take_over.value,
            " ".join(recorded),
            _ms(ENDED_REMEMBERED_S),
            _ms(self._resume_within_s),
        )
        match reply:
            case [b"redeemed", *replaced]:
                ended = [(one, record) for one, record, sent in replaced if sent == b"0"]
                commanded = [(one, record) for one, record, sent in replaced if sent == b"1"]
                return Redeemed(tuple(self._sessions(ended)), tuple(self._sessions(commanded)))
            case [b"would_end", *unrecorded]:
                sessions = tuple(self._sessions(unrecorded))
                if sessions:
                    return WouldEnd(sessions)
                # They cannot be read, and therefore not recorded.
                recorded |= {one.decode() for one, _ in unrecorded}
                return await self.redeem(
                    ticket_hash,
                    session,
                    resume_hash,
                    limits,
                    take_over=take_over,
                    recorded=recorded,
                )
            case [b"in_use", bytes(other), bytes(record)]:
                for found in self._sessions([(other, record)]):
                    return ConsoleInUse(found)
                raise StoreUnavailable("redeem: the session on the server cannot be read")
            case [b"limit", bytes(name)]:
                return LimitReached(SessionLimit(name.decode()))
            case _:
                return TicketGone()

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
        reply = await self._step(
            "attach",
            session_id,
            cookie_hash.hex(),
            resume_hash.hex(),
            next_resume_hash.hex(),
            owner,
            _ms(lease_s + self._resume_within_s),
            _ms(CALM_S),
            _ms(self._in_touch_s),
            int(is_settled),
            self._seal_command(SessionCommand(session_id, CommandKind.END, ends.REPLACED.name)),
        )
        match reply:
            case [b"attached", bytes(record), bytes(previous), int(attempt)]:
                session = self._open("session", session_id, record, ConsoleSession)
                if session is None:
                    return SessionGone()
                if session.cookie_hash != cookie_hash:
                    return StaleKey()  # the hash beside the sealed record was forged
                return Attached(session, previous.decode(), attempt)
            case [b"stale", bytes(record)]:
                session = self._open("session", session_id, record, ConsoleSession)
                is_genuine = session is not None and session.cookie_hash == cookie_hash
                return StaleKey(session if is_genuine else None)
            case [b"stale"]:
                return StaleKey()
            case [b"unknown"]:
                return SessionUnknown()
            case _:
                return SessionGone()

    async def confirm_key(self, session_id: str, resume_hash: bytes, *, owner: str) -> None:
        await self._step("confirm_key", session_id, owner, resume_hash.hex())

    async def renew(
        self, owner: str, session_ids: frozenset[str], *, lease_s: float
    ) -> RenewedLeases:
        lost: set[str] = set()
        missing: set[str] = set()
        commands: list[SessionCommand] = []
        until = _ms(lease_s + self._resume_within_s)
        for ids in _batches(session_ids) or ((),):
            reply = await self._step("renew", owner, until, *ids)
            lost.update(one.decode() for one in reply[0])
            missing.update(one.decode() for one in reply[1])
            commands += self._commands(reply[2])
        return RenewedLeases(frozenset(lost), frozenset(missing), tuple(commands))

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
        reply = await self._displacing_step(
            SessionCommand("", CommandKind.END, ends.LIMIT.name),
            "register",
            session.id,
            self._seal("session", session.id, session),
            session.cookie_hash.hex(),
            resume_hash.hex(),
            next_resume_hash.hex(),
            owner,
            session.mode.value,
            *_indexes(session),
            repr(session.started_at),
            _ms(lease_s + self._resume_within_s),
            server_max,
        )
        return {
            b"registered": Registered.REGISTERED,
            b"older": Registered.OLDER_SESSION,
        }.get(reply[0], Registered.ENDED)

    async def take_commands(self, owner: str) -> tuple[SessionCommand, ...]:
        return tuple(self._commands(await self._step("take_commands", owner)))

    async def command(self, command: SessionCommand) -> CommandResult:
        reply = await self._step(
            "command",
            command.session_id,
            int(command.kind is CommandKind.END),
            self._seal_command(command),
            _ms(ENDED_REMEMBERED_S),
        )
        match reply:
            case [b"ended", bytes(record)]:
                session = self._open("session", command.session_id, record, ConsoleSession)
                return CommandResult(is_found=True, ended=session)
            case [b"sent"]:
                return CommandResult(is_found=True)
            case _:
                return CommandResult(is_found=False)

    async def detach(self, session_id: str, *, owner: str) -> None:
        await self._step("detach", session_id, owner, _ms(self._resume_within_s))

    async def remove(self, session_id: str, *, owner: str) -> bool:
        return bool(await self._step("remove", session_id, owner, _ms(ENDED_REMEMBERED_S)))

    async def update(self, session: ConsoleSession, *, owner: str) -> bool:
        record = self._seal("session", session.id, session)
        return bool(await self._step("update", session.id, owner, record, session.mode.value))

    async def claim_dead(self) -> tuple[DeadSession, ...]:
        now = self._clock.monotonic()
        dead = await self._step("dead")
        self._dead_since = {one: self._dead_since.get(one, now) for one in dead}
        due = [one for one, since in self._dead_since.items() if now - since >= self._dead_for_s]
        if not due:
            return ()
        claimed = await self._step("claim_dead", _ms(ENDED_REMEMBERED_S), *due)
        found: list[DeadSession] = []
        for session_id, record, owner in claimed:
            end = ends.OWNER_LOST if owner else ends.ABANDONED
            found += (DeadSession(one, end.name) for one in self._sessions([(session_id, record)]))
        return tuple(found)

    async def sessions(
        self, *, person: str | None = None, target: ConsoleTarget | None = None
    ) -> tuple[ListedSession, ...]:
        index = ""
        if target is not None:
            index = _index("server", *_target(target))
        elif person is not None:
            index = _index("person", person)
        owners: dict[str, str] = {}
        records: list[tuple[bytes, bytes]] = []
        for session_id, record, owner in await self._step("sessions", index):
            owners[session_id.decode()] = owner.decode()
            records.append((session_id, record))
        found = [one for one in self._sessions(records) if person in (None, one.person.key)]
        found.sort(key=lambda one: (one.started_at, one.id))
        return tuple(ListedSession(one, owners[one.id]) for one in found)

    async def find(self, session_id: str) -> ListedSession | None:
        match await self._step("find", session_id):
            case [bytes(record), bytes(owner)]:
                session = self._open("session", session_id, record, ConsoleSession)
                return None if session is None else ListedSession(session, owner.decode())
            case _:
                return None

    async def _step(self, name: str, *args: str | bytes | int) -> Any:
        return await self._valkey.run_script(_STEPS, [self._base], [name, *args])

    async def _displacing_step(
        self, command: SessionCommand, name: str, *args: str | bytes | int
    ) -> Any:
        """Perform a step that may displace other sessions; `command` is for their owners.

        A command is sealed for one session. The step therefore changes nothing, and names the
        sessions, until it has a command for each of them.
        """
        sealed: dict[bytes, bytes] = {}
        for _ in range(_DISPLACED_TRIES):
            pairs = [part for one in sealed.items() for part in one]
            match await self._step(name, *args, *pairs):
                case [b"displaces", *ids]:
                    for one in ids:
                        theirs = replace(command, session_id=one.decode())
                        sealed[one] = self._seal_command(theirs)
                case reply:
                    return reply
        raise StoreUnavailable(f"{name}: the sessions on the server change too fast")

    def _seal(self, kind: str, name: str, value: Ticket | ConsoleSession) -> bytes:
        return self._sealer.seal(msgspec.json.encode(value), bound_to=self._binding(kind, name))

    def _seal_command(self, command: SessionCommand) -> bytes:
        bound_to = self._binding("command", command.session_id)
        return self._sealer.seal(msgspec.json.encode(command), bound_to=bound_to)

    def _open(self, kind: str, name: str, sealed: bytes, form: type[_Stored]) -> _Stored | None:
        plain = self._sealer.open(sealed, bound_to=self._binding(kind, name))
        try:
            return msgspec.json.decode(plain or b"", type=form)
        except msgspec.DecodeError:
            # Forged in Redis, sealed with a key that this process lacks, or of another version.
            log.error("console_entry_unreadable", extra={"kind": kind})  # noqa: TRY400
            return None

    def _commands(self, sent: Iterable[bytes]) -> Iterator[SessionCommand]:
        for one in sent:
            session_id, _, sealed = one.partition(b" ")
            command = self._open("command", session_id.decode(), sealed, SessionCommand)
            if command is not None:
                yield command

    def _sessions(self, records: Iterable[tuple[bytes, bytes]]) -> Iterator[ConsoleSession]:
        for session_id, record in records:
            session = self._open("session", session_id.decode(), record, ConsoleSession)
            if session is not None:
                yield session

    def _binding(self, kind: str, name: str) -> bytes:
        return f"{self._base}:{kind}:{name}".encode()


def _batches(ids: Iterable[str]) -> Sequence[Sequence[str]]:
    every = sorted(ids)
    return [every[at : at + _BATCH] for at in range(0, len(every), _BATCH)]


def _indexes(session: ConsoleSession) -> tuple[str, str, str]:
    """Return the indexes of a session: of its person, its server and its account."""
    target = session.target
    return (
        _index("person", session.person.key),
        _index("server", *_target(target)),
        _index("account", target.account),
    )


def _target(target: ConsoleTarget) -> tuple[str, str, str]:
    return target.account, target.project, target.server


def _index(kind: str, *names: str) -> str:
    """Return a name without the person or the server in the clear."""
    text = "".join(f"{len(one)}:{one}" for one in names)
    return f"{kind}-{sha256(text.encode()).hexdigest()[:32]}"


def _ms(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))
