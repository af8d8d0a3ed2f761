"""The records of browser sessions that end by a time limit."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import StoreUnavailable
from gateway.domain.login.model import BrowserSession
from gateway.domain.model import Principal
from gateway.flow.login.login_audit import LoginAudit
from gateway.flow.login.login_limits import LoginLimits
from gateway.flow.login.login_store import LapsedLogin, LapsedLogins
from tests.support.audit import assert_documented, fields_of
from tests.support.clock import FakeClock

NOTHING = LapsedLogins((), is_last=True)


def a_lapsed(name: str, limit: str) -> LapsedLogin:
    person = Principal("corp", name, frozenset({"operators"}), 10.0, 20.0, None)
    session = BrowserSession(name * 16, person, "sub", "sid", "csrf", 0.0, 0.0, "id", "token")
    return LapsedLogin(session, 1_800_000_000.5, limit)


@dataclass
class World:
    """A store with replies in order, the audit log and the metric."""

    replies: list[LapsedLogins | StoreUnavailable]
    clock: FakeClock = field(default_factory=FakeClock)
    records: list[AuditRecord] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)

    async def end_lapsed(self, *, limit: int) -> LapsedLogins:
        assert limit == 100
        reply = self.replies.pop(0) if self.replies else NOTHING
        if isinstance(reply, StoreUnavailable):
            raise reply
        return reply

    async def record(self, record: AuditRecord) -> None:
        self.records.append(record)

    def session_ended(self, by: str) -> None:
        self.counted.append(by)

    def start(self, session: BrowserSession) -> None:
        self.revoked.append(session.person.subject)

    async def run(self, *, for_s: float) -> None:
        anything: Any = self
        audit = LoginAudit(anything, anything, self.clock)
        limits = LoginLimits(anything, anything, audit, anything, self.clock)
        task = asyncio.create_task(limits.run())
        await self.clock.advance(for_s)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_each_end_by_a_limit_is_recorded_with_its_time() -> None:
    """Batches follow each other without a pause until no session is due."""
    world = World(
        [
            LapsedLogins((a_lapsed("a", "idle"),), is_last=False),
            LapsedLogins((), is_last=False),
            LapsedLogins((a_lapsed("b", "absolute"),), is_last=True),
        ]
    )
    await world.run(for_s=0)
    assert world.counted == ["idle", "absolute"]
    assert world.revoked == ["a", "b"]
    assert [(one.event, one.subject, one.detail) for one in world.records] == [
        ("logout", "a", "session aaaaaaaaaaaaaaaa, by idle at 2027-01-15T08:00:00.500000Z"),
        ("logout", "b", "session bbbbbbbbbbbbbbbb, by absolute at 2027-01-15T08:00:00.500000Z"),
    ]
    for one in world.records:
        assert_documented(fields_of(one))


async def test_ends_are_recorded_once_the_store_is_back() -> None:
    lapsed = LapsedLogins((a_lapsed("a", "idle"),), is_last=True)
    world = World([StoreUnavailable("lost"), NOTHING, lapsed])
    await world.run(for_s=9)
    assert world.records == []
    await world.run(for_s=0)
    assert len(world.records) == 1
