"""The actions of the admin API on notices that their webhooks did not get."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from gateway.domain.errors import AccessRequestsUnavailable, BadRequest, StoreUnavailable
from gateway.domain.requests.notices import DeadNotice, Notice
from gateway.flow.admin.administration import ActionPlan, Administrator
from gateway.flow.admin.messages import (
    DeadNoticeEntry,
    DeadNoticesRequest,
    DeadNoticesResponse,
    ReplayedNoticesResponse,
    ReplayNoticesRequest,
    timestamp,
)

_RETRY_AFTER_S = 2.0
_T = TypeVar("_T")


class DeadNotices(Protocol):
    """Notices that are not tried again. Each method raises StoreUnavailable."""

    async def dead(self) -> Sequence[DeadNotice]: ...

    async def replay(self, notice: Notice) -> bool:
        """Make a dead notice due again; False: it is not dead any more."""


class WebhookActions:
    def __init__(self, notices: DeadNotices) -> None:
        self._notices = notices

    def list(self, request: DeadNoticesRequest, _: Administrator) -> ActionPlan:
        return ActionPlan(partial(self._list, request))

    def replay(self, request: ReplayNoticesRequest, _: Administrator) -> ActionPlan:
        return ActionPlan(partial(self._replay, request))

    async def _list(self, request: DeadNoticesRequest) -> DeadNoticesResponse:
        found = await _available(self._notices.dead)
        return DeadNoticesResponse(
            [_entry(one) for one in found if request.webhook in (None, one.notice.webhook)]
        )

    async def _replay(self, request: ReplayNoticesRequest) -> ReplayedNoticesResponse:
        found = [
            one.notice
            for one in await _available(self._notices.dead)
            if request.id in (None, one.notice.id) and request.webhook in (None, one.notice.webhook)
        ]
        replayed = [one.id for one in found if await _available(partial(self._notices.replay, one))]
        if not replayed:
            raise BadRequest("No dead notice matches. List them: `gateway admin webhooks`.")
        return ReplayedNoticesResponse(replayed)


async def _available(call: Callable[[], Awaitable[_T]]) -> _T:
    try:
        return await call()
    except StoreUnavailable as error:
        raise AccessRequestsUnavailable(str(error), retry_after_s=_RETRY_AFTER_S) from None


def _entry(dead: DeadNotice) -> DeadNoticeEntry:
    notice = dead.notice
    return DeadNoticeEntry(
        notice.id,
        notice.webhook,
        notice.event,
        notice.request.id,
        timestamp(notice.at),
        timestamp(dead.given_up_at),
        notice.attempts,
        notice.error,
    )
