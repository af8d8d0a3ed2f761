"""The trail as lines on a descriptor: each is written before its answer leaves, or refused."""

import asyncio
import json
import os

import pytest

from gateway.drivers.line_journal import LineJournal
from gateway.errors import JournalUnavailable
from gateway.ports import AuditRecord
from tests.support.telemetry import RecordingTelemetry


def record(subject: str) -> AuditRecord:
    return AuditRecord(event="console_link_issued", at=1.0, subject=subject)


async def test_records_of_one_turn_are_written_whole_and_in_order() -> None:
    reading, writing = os.pipe()
    journal = LineJournal(writing, RecordingTelemetry())
    await asyncio.gather(*(journal.record(record(f"p{i}")) for i in range(20)))
    os.close(writing)
    with os.fdopen(reading) as lines:
        subjects = [json.loads(line)["subject"] for line in lines]
    assert subjects == [f"p{i}" for i in range(20)]


async def test_what_cannot_be_written_is_refused_until_it_can() -> None:
    reading, writing = os.pipe()
    journal = LineJournal(writing, RecordingTelemetry())
    os.close(reading)
    outcomes = await asyncio.gather(
        *(journal.record(record(f"p{i}")) for i in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [JournalUnavailable] * 3
    assert not journal.durable
    again, other_end = os.pipe()
    os.dup2(other_end, writing)
    await journal.record(record("ann"))
    assert journal.durable
    for fd in (writing, other_end):
        os.close(fd)
    with os.fdopen(again) as lines:
        assert [json.loads(line)["subject"] for line in lines] == ["ann"]


async def test_a_caller_that_hung_up_keeps_nobody_from_being_told() -> None:
    reading, writing = os.pipe()
    journal = LineJournal(writing, RecordingTelemetry())
    gone = asyncio.ensure_future(journal.record(record("gone")))
    stays = asyncio.ensure_future(journal.record(record("stays")))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(stays, 5)
    with pytest.raises(asyncio.CancelledError):
        await gone
    os.close(writing)
    with os.fdopen(reading) as lines:
        assert [json.loads(line)["subject"] for line in lines] == ["gone", "stays"]
