"""The port ReadingStore: one suite for the fake and for Valkey."""

from dataclasses import replace

import pytest

from gateway.domain.model import ProjectId, ServerId
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey import reading_store
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.reading_store import ValkeyReadingStore
from gateway.flow.servers.power_readings import PowerReading, ReadingStore
from tests.contract.test_shared_store import a_seal_key
from tests.support.server_world import FakeReadingStore

READING = PowerReading(ProjectId("p"), ServerId("s-1"), "off", "OK", 1_800_000_000.5)


@pytest.fixture(params=["fake", "valkey"])
def store(request: pytest.FixtureRequest, valkey: Valkey) -> ReadingStore:
    if request.param == "fake":
        return FakeReadingStore()
    return ValkeyReadingStore(valkey, Sealer([a_seal_key()]))


async def test_newer_reading_replaces_that_of_the_same_server(store: ReadingStore) -> None:
    assert await store.readings() == ()
    other, newer = replace(READING, server=ServerId("s-2")), replace(READING, power="on")
    for one in (READING, other, newer):
        await store.add(one)
    assert set(await store.readings()) == {other, newer}


async def test_many_readings_are_bounded_and_opened_in_a_thread(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_store, "_READINGS_MAX", 10)
    monkeypatch.setattr(reading_store, "_OPENED_HERE_MAX", 5)
    store = ValkeyReadingStore(valkey, Sealer([a_seal_key()]))
    for number in range(10):
        await store.add(replace(READING, server=ServerId(f"s-{number}")))
    assert len(await store.readings()) == 10
    await store.add(replace(READING, server=ServerId("s-10")))
    assert [one.server for one in await store.readings()] == ["s-10"]


async def test_forged_reading_is_ignored(valkey: Valkey) -> None:
    """Redis stores readings, but does not vouch for them."""
    foreign = ValkeyReadingStore(valkey, Sealer([a_seal_key()]))
    await foreign.add(READING)
    assert await ValkeyReadingStore(valkey, Sealer([a_seal_key()])).readings() == ()
