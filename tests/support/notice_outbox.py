"""An in-memory NoticeOutbox; the contract suite compares it with Valkey."""

from collections.abc import Sequence

import msgspec

from gateway.domain.errors import StoreUnavailable
from gateway.domain.requests.notices import DeadNotice, Notice
from gateway.flow.requests.webhooks import ClaimedNotices


class FakeNoticeOutbox:
    def __init__(self) -> None:
        self.notices: dict[str, Notice] = {}
        """Those that wait, the scheduled ones included."""
        self.due: dict[str, float] = {}
        self.given_up: dict[str, DeadNotice] = {}
        self.is_unavailable = False

    def add(self, notices: Sequence[Notice]) -> None:
        for one in notices:
            self.notices[one.id], self.due[one.id] = one, one.at

    async def claim(self, now: float, *, lease_s: float, limit: int) -> ClaimedNotices:
        if self.is_unavailable:
            raise StoreUnavailable("unavailable")
        waiting = [one for one in self.notices.values() if one.at <= now]
        firsts = {one.lane: one.id for one in sorted(waiting, key=_order, reverse=True)}
        heads = [self.notices[one] for one in firsts.values() if self.due[one] <= now]
        claimed = sorted(heads, key=lambda one: self.due[one.id])[:limit]
        self.due |= {one.id: now + lease_s for one in claimed}
        return ClaimedNotices(claimed, len(waiting))

    async def remove(self, notice: Notice) -> None:
        self.notices.pop(notice.id, None)
        self.due.pop(notice.id, None)

    async def retry(self, notice: Notice, due_at: float) -> None:
        if notice.id in self.notices:
            self.notices[notice.id], self.due[notice.id] = notice, due_at

    async def give_up(self, notice: Notice, now: float) -> None:
        await self.remove(notice)
        self.given_up[notice.id] = DeadNotice(notice, now)

    async def dead(self) -> Sequence[DeadNotice]:
        if self.is_unavailable:
            raise StoreUnavailable("unavailable")
        return list(self.given_up.values())

    async def replay(self, notice: Notice) -> bool:
        if self.given_up.pop(notice.id, None) is None:
            return False
        self.add([msgspec.structs.replace(notice, attempts=0)])
        return True


def _order(notice: Notice) -> tuple[float, str]:
    return notice.at, notice.id
