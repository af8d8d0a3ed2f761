"""An issued link has enough of its lifetime left, however long its audit record takes."""

import asyncio

import pytest

from gateway.domain.errors import DeadlineExceeded
from gateway.domain.model import LinkSource
from tests.support.one_link import OneLink


async def test_link_usable_after_its_record_is_issued() -> None:
    scene = OneLink(left_s=35.0, record_s=4.0)
    answered = await scene.request_link()
    assert (answered.link.fingerprint, answered.source) == ("held", LinkSource.LOCAL)
    assert answered.left_s == pytest.approx(31.0)
    assert scene.recorded == ["held"]


async def test_link_that_aged_during_record_is_replaced() -> None:
    scene = OneLink(left_s=30.001, record_s=0.005)
    answered = await scene.request_link()
    assert (answered.link.fingerprint, answered.source) == ("new", LinkSource.UPSTREAM)
    assert scene.recorded == ["held", "new"]
    assert [one.detail for one in scene.records] == [
        "",
        "replaces link held, which became too old",
    ]


async def test_link_is_replaced_only_once() -> None:
    scene = OneLink(left_s=30.001, record_s=2.0, new_left_s=31.0)
    with pytest.raises(DeadlineExceeded):
        await scene.request_link()
    assert scene.recorded == ["held", "new"]


async def test_deadline_applies_while_record_is_written() -> None:
    scene = OneLink(deadline_s=0.05)
    scene.is_disk_hung = True
    requesting = asyncio.ensure_future(scene.request_link())
    async with asyncio.timeout(60):
        with pytest.raises(DeadlineExceeded):
            await requesting
