"""What is handed out has enough of its life left, however long it takes to put it on record."""

import asyncio

import pytest

from gateway.domain.errors import DeadlineExceeded
from gateway.domain.model import LinkSource
from tests.support.one_link import OneLink


async def test_a_link_that_is_good_enough_when_it_is_on_record_is_handed_out() -> None:
    scene = OneLink(left_s=35.0, record_s=4.0)
    answered = await scene.asks()
    assert (answered.link.fingerprint, answered.source) == ("held", LinkSource.LOCAL)
    assert answered.left_s == pytest.approx(31.0)
    assert scene.recorded == ["held"]


async def test_one_that_came_too_near_its_end_meanwhile_makes_room_for_another() -> None:
    scene = OneLink(left_s=30.001, record_s=0.005)
    answered = await scene.asks()
    assert (answered.link.fingerprint, answered.source) == ("new", LinkSource.UPSTREAM)
    assert scene.recorded == ["held", "new"]
    assert [one.detail for one in scene.records] == [
        "",
        "replaces link held, which became too old",
    ]


async def test_where_recording_takes_longer_than_links_live_nobody_tries_for_ever() -> None:
    scene = OneLink(left_s=30.001, record_s=2.0, new_left_s=31.0)
    with pytest.raises(DeadlineExceeded):
        await scene.asks()
    assert scene.recorded == ["held", "new"]


async def test_who_would_not_wait_is_told_at_its_deadline_also_while_a_record_is_written() -> None:
    scene = OneLink(deadline_s=0.05)
    scene.is_disk_hung = True
    asking = asyncio.ensure_future(scene.asks())
    async with asyncio.timeout(2):
        with pytest.raises(DeadlineExceeded):
            await asking
