"""Logins and sessions of browsers in Redis (port `LoginStore`).

Attempts and sessions are sealed, each for its own key. In the clear are hashes of cookies and of
people, and times. Each listener has a store of its own: its name is part of every key, and of what
an entry is sealed for. So the cookie of one listener is unknown to the other, also where an entry
is copied in Redis.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, Final, TypeVar

import msgspec

from gateway.domain.login.model import BrowserSession, LoginAttempt
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.login.login_store import (
    SESSIONS_PER_PERSON_MAX,
    LapsedLogin,
    LapsedLogins,
    ListedLogin,
    LoginPage,
    SessionIndex,
)

log = logging.getLogger("gateway.login")

_STEPS: Final = LuaScript("login_sessions")
_STAY_S: Final = 86_400.0
"""How long a session waits after its limits for a gateway that records its end."""
_Sealed = TypeVar("_Sealed", LoginAttempt, BrowserSession)


class ValkeyLoginStore:
    def __init__(self, valkey: Valkey, sealer: Sealer, name: str = "login") -> None:
        """`name`: of the store."""
        self._valkey = valkey
        self._sealer = sealer
        self._base = valkey.key(name, tag=name)

    async def add_attempt(self, key: bytes, attempt: LoginAttempt, *, lifetime_s: float) -> None:
        name = key.hex()
        sealed = self._seal("attempt", name, attempt)
        await self._step("add_attempt", name, sealed, _ms(lifetime_s))

    async def take_attempt(self, key: bytes) -> LoginAttempt | None:
        name = key.hex()
        sealed = await self._step("take_attempt", name)
        return None if sealed is None else self._open("attempt", name, sealed, LoginAttempt)

    async def add_session(
        self, session: BrowserSession, *, lifetime_s: float, idle_s: float
    ) -> tuple[BrowserSession, ...]:
        issuer = session.person.issuer
        by_session: tuple[str, ...] = ()
        if session.provider_session:
            by_session = (_index(SessionIndex(issuer, session.provider_session)),)
        reply = await self._step(
            "add_session",
            session.id,
            self._seal("session", session.id, session),
            _ms(lifetime_s),
            _ms(_STAY_S),
            _ms(idle_s),
            SESSIONS_PER_PERSON_MAX,
            _index(SessionIndex(issuer, "", session.provider_subject)),
            _index(SessionIndex(issuer, subject=session.person.subject)),
            _index(SessionIndex(issuer, lineage=session.lineage)),
            *by_session,
        )
        return tuple(self._sessions(reply))

    async def find_session(self, session_id: str, *, is_activity: bool) -> BrowserSession | None:
        sealed = await self._step("find_session", session_id, int(is_activity))
        if sealed is None:
            return None
        return self._open("session", session_id, sealed, BrowserSession)

    async def replace_session(self, session: BrowserSession) -> bool:
        sealed = self._seal("session", session.id, session)
        return bool(await self._step("replace_session", session.id, sealed))

    async def end_session(self, session_id: str) -> BrowserSession | None:
        sealed = await self._step("end_session", session_id)
        if sealed is None:
            return None
        return self._open("session", session_id, sealed, BrowserSession)

    async def end_lapsed(self, *, limit: int) -> LapsedLogins:
        due, *rows = await self._step("end_lapsed", limit)
        columns = (rows[i::4] for i in range(4))
        found = [
            LapsedLogin(session, int(ends) / 1000, by.decode())
            for session_id, sealed, ends, by in zip(*columns, strict=True)
            if (session := self._open("session", session_id.decode(), sealed, BrowserSession))
        ]
        return LapsedLogins(tuple(found), is_last=due < limit)

    async def sessions(self, index: SessionIndex) -> tuple[BrowserSession, ...]:
        return tuple(self._sessions(await self._step("sessions", _index(index))))

    async def page(self, index: SessionIndex | None, *, before: str, limit: int) -> LoginPage:
        name = "" if index is None else _index(index)
        following, *rows = await self._step("page", name, before, limit)
        return LoginPage(tuple(self._listed(rows)), following.decode())

    async def lease_refresh(self, session_id: str, *, lease_s: float) -> bool:
        return bool(await self._step("lease_refresh", session_id, _ms(lease_s)))

    async def _step(self, name: str, *args: str | bytes | int) -> Any:
        return await self._valkey.run_script(_STEPS, [self._base], [name, *args])

    def _sessions(self, pairs: Sequence[bytes]) -> Iterator[BrowserSession]:
        for session_id, sealed in zip(pairs[::2], pairs[1::2], strict=True):
            session = self._open("session", session_id.decode(), sealed, BrowserSession)
            if session is not None:
                yield session

    def _listed(self, rows: Sequence[bytes]) -> Iterator[ListedLogin]:
        columns = (rows[i::4] for i in range(4))
        for session_id, sealed, used, idle in zip(*columns, strict=True):
            session = self._open("session", session_id.decode(), sealed, BrowserSession)
            if session is not None:
                used_ms = int(used)
                yield ListedLogin(session, used_ms / 1000, (used_ms + int(idle)) / 1000)

    def _seal(self, kind: str, name: str, value: LoginAttempt | BrowserSession) -> bytes:
        return self._sealer.seal(msgspec.json.encode(value), bound_to=self._binding(kind, name))

    def _open(self, kind: str, name: str, sealed: bytes, form: type[_Sealed]) -> _Sealed | None:
        plain = self._sealer.open(sealed, bound_to=self._binding(kind, name))
        try:
            return msgspec.json.decode(plain or b"", type=form)
        except msgspec.DecodeError:
            # Forged in Redis, sealed with a key that this process lacks, or of another version.
            log.error("login_entry_unreadable", extra={"kind": kind})  # noqa: TRY400
            return None

    def _binding(self, kind: str, name: str) -> bytes:
        return f"{self._base}:{kind}:{name}".encode()


def _index(index: SessionIndex) -> str:
    """Return a name without the person in the clear."""
    kind, value = "session", index.provider_session
    if not value:
        kind, value = "subject", index.provider_subject
    if not value:
        kind, value = "person", index.subject
    if not value:
        kind, value = "lineage", index.lineage
    text = f"{kind} {len(index.issuer)}:{index.issuer}:{value}"
    return sha256(text.encode()).hexdigest()[:32]


def _ms(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))
