"""The admin API on dead notices: list and replay, also while Redis is unavailable."""

from typing import Any, cast

import msgspec
import pytest

from gateway.domain.admin_permissions import AdminPermission
from gateway.domain.errors import AccessRequestsUnavailable, BadRequest
from gateway.domain.requests.notices import Notice
from gateway.flow.admin.action_specs import ACTION_SPECS
from gateway.flow.admin.messages import DeadNoticesRequest, ReplayNoticesRequest
from gateway.flow.admin.webhook_actions import WebhookActions
from tests.support.access_requests import NOW, an_access_request
from tests.support.notice_outbox import FakeNoticeOutbox

ADMIN = cast(Any, None)


@pytest.fixture
async def outbox() -> FakeNoticeOutbox:
    outbox = FakeNoticeOutbox()
    for name, webhook in (("a", "security"), ("b", "security"), ("c", "chat")):
        notice = Notice(
            id=f"msg_{name}",
            webhook=webhook,
            event="requested",
            request=an_access_request(reason="canary-reason"),
            at=NOW,
            attempts=11,
            error="HTTP 500",
        )
        await outbox.give_up(notice, NOW + 60.0)
    return outbox


async def listed(outbox: FakeNoticeOutbox, webhook: str | None = None) -> Any:
    plan = WebhookActions(outbox).list(DeadNoticesRequest(webhook=webhook), ADMIN)
    return msgspec.to_builtins(await plan.perform())["notices"]


async def replayed(outbox: FakeNoticeOutbox, **which: str) -> list[str]:
    plan = WebhookActions(outbox).replay(ReplayNoticesRequest(**which), ADMIN)
    found: list[str] = msgspec.to_builtins(await plan.perform())["replayed"]
    return found


async def test_list_has_the_error_and_not_the_content(outbox: FakeNoticeOutbox) -> None:
    found = await listed(outbox)
    assert [one["id"] for one in found] == ["msg_a", "msg_b", "msg_c"]
    assert found[0] | {"at": "", "given_up_at": ""} == {
        "id": "msg_a",
        "webhook": "security",
        "event": "requested",
        "request": "0" * 32,
        "at": "",
        "given_up_at": "",
        "attempts": 11,
        "error": "HTTP 500",
    }
    assert [one["id"] for one in await listed(outbox, "chat")] == ["msg_c"]


async def test_replay_takes_one_notice_or_all_of_a_webhook(outbox: FakeNoticeOutbox) -> None:
    assert await replayed(outbox, id="msg_a") == ["msg_a"]
    assert await replayed(outbox, webhook="security") == ["msg_b"]
    assert set(outbox.notices) == {"msg_a", "msg_b"}
    with pytest.raises(BadRequest, match="No dead notice"):
        await replayed(outbox, id="msg_a")


@pytest.mark.parametrize("which", [{}, {"id": "a", "webhook": "b"}])
def test_replay_requires_exactly_one_selection(which: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        ReplayNoticesRequest(**which)


async def test_unavailable_redis_is_a_retry(outbox: FakeNoticeOutbox) -> None:
    outbox.is_unavailable = True
    with pytest.raises(AccessRequestsUnavailable):
        await listed(outbox)


@pytest.mark.parametrize(
    ("action", "permission"), [("ListDeadNotices", "read"), ("ReplayNotices", "requests")]
)
def test_reading_role_sees_and_cannot_replay(action: str, permission: AdminPermission) -> None:
    assert ACTION_SPECS[action].permissions == (permission,)
