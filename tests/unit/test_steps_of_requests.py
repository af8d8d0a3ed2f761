"""Requests to the paths of access requests: odd bodies, and callers that leave."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import BadRequest, LoginRequired
from gateway.domain.model import Principal
from gateway.edge.requests.requests_handler import RequestsHandler
from tests.support.access_requests import LEA, NOW
from tests.support.clock import FakeClock, settle
from tests.support.request_world import RequestWorld


@pytest.mark.parametrize(
    ("step", "body", "is_allowed"),
    [("approve", '{{"hash":"{}"}}', True), ("end", "{{}}", False)],
    ids=["approve", "end"],
)
async def test_recorded_step_is_taken(
    monkeypatch: pytest.MonkeyPatch, *, step: str, body: str, is_allowed: bool
) -> None:
    """Otherwise the audit log would say that access has ended, and it would go on."""
    here = RequestWorld(FakeClock(NOW)).replica()
    made = await here.make()
    if step == "end":
        await here.approve(made, LEA)
    log, answers = here.world.audit_log, asyncio.Event()
    record = log.record

    async def record_slowly(one: AuditRecord) -> None:
        await answers.wait()
        await record(one)

    async def identify(*_: object) -> Principal:
        return LEA

    monkeypatch.setattr(log, "record", record_slowly)
    handler = RequestsHandler(here.requests, identify, here.world.clock)
    request = a_post(body.format(made.content_hash))
    action = next(
        methods["POST"] for path, methods in handler.paths if path.fullmatch(f"/{made.id}/{step}")
    )
    assert action.reply is not None
    sent = asyncio.create_task(action.reply(request, here.context(), made.id))  # type: ignore[arg-type]
    await settle()
    sent.cancel()
    await asyncio.wait([sent])
    assert sent.cancelled()
    assert here.is_allowed() is not is_allowed
    answers.set()
    await settle()
    assert here.is_allowed() is is_allowed


async def test_duration_that_is_no_float_is_refused() -> None:
    here = RequestWorld(FakeClock(NOW)).replica()

    async def identify(*_: object) -> Principal:
        return LEA

    handler = RequestsHandler(here.requests, identify, here.world.clock)
    (action,) = [methods["POST"] for path, methods in handler.paths if path.fullmatch("")]
    assert action.reply is not None
    request = a_post(f'{{"server_ids":[],"duration_s":1{"0" * 400}}}')
    with pytest.raises(BadRequest, match="duration_s"):
        await action.reply(request, here.context(), "")


async def test_browser_that_logs_out_before_its_body_arrives_takes_no_step() -> None:
    here = RequestWorld(FakeClock(NOW)).replica()
    made = await here.make()

    async def identify(*_: object) -> Principal:
        return LEA

    async def recheck() -> None:
        raise LoginRequired

    handler = RequestsHandler(here.requests, identify, here.world.clock)
    path = f"/{made.id}/approve"
    (action,) = [methods["POST"] for one, methods in handler.paths if one.fullmatch(path)]
    assert action.reply is not None
    context = here.context()
    context.recheck_session = recheck
    with pytest.raises(LoginRequired):
        await action.reply(a_post(f'{{"hash":"{made.content_hash}"}}'), context, made.id)
    assert not here.is_allowed()


def a_post(text: str) -> Any:
    async def body() -> AsyncIterator[bytes]:
        yield text.encode()

    async def send_continue() -> None:
        return

    return SimpleNamespace(
        method="POST",
        headers=CIMultiDict({"Content-Type": "application/json"}),
        body_exists=True,
        content_length=len(text),
        content=SimpleNamespace(iter_any=body),
        send_continue=send_continue,
    )
