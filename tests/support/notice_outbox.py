"""An in-memory NoticeOutbox; the contract suite compares it with Valkey."""

from collections.abc import Sequence

from gateway.domain.errors import StoreUnavailable
from gateway.domain.requests.notices import Notice
from gateway.flow.requests.webhooks import ClaimedNotices


class FakeNoticeOutbox:
    def __init__(self) -> None:
        self.notices: dict[str, Notice] = {}
        self.due: dict[str, float] = {}
        self.is_unavailable = False

    def add(self, notices: Sequence[Notice]) -> None:
        for one in notices:
            self.notices[one.id], self.due[one.id] = one, one.at

    async def claim(self, now: float, *, lease_s: float, limit: int) -> ClaimedNotices:
        if self.is_unavailable:
            raise StoreUnavailable("unavailable")
        order = sorted(self.due, key=lambda one: self.due[one])[:limit]
        claimed = [self.notices[one] for one in order if self.due[one] <= now]
        self.due |= {one.id: now + lease_s for one in claimed}
        return ClaimedNotices(claimed, len(self.due))

    async def remove(self, notice: Notice) -> None:
        self.notices.pop(notice.id, None)
        self.due.pop(notice.id, None)

    async def retry(self, notice: Notice, due_at: float) -> None:
        self.notices[notice.id], self.due[notice.id] = notice, due_at
