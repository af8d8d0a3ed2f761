"""Replicas converge on the same overrides; a replica that has not loaded them rejects callers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.domain.errors import BadRequest, RevocationsUnavailable, StoreUnavailable
from gateway.domain.model import Principal
from gateway.domain.overrides import (
    UNTIL_LIFTED,
    ClearedOverride,
    Effect,
    Lock,
    Override,
    RevokedToken,
    decode_snapshot,
)
from gateway.flow import active_overrides
from gateway.flow.active_overrides import (
    LOCKS_MAX,
    OVERRIDES_MAX,
    ActiveOverrides,
    StoredOverrides,
)
from tests.support.clock import FakeClock, settle
from tests.support.override_store import FakeOverrideStore
from tests.support.snapshot_file import FakeSnapshotFile
from tests.support.virtual_time import run_virtually

NOW = 1_000.0
HOUR_S = 3_600.0


def an_override(name: str, effect: Effect, *, expires_at: float = NOW + HOUR_S) -> Override:
    return Override(name, NOW, expires_at, "corp:ada", "", effect)


def principal(token_id: str = "t") -> Principal:
    return Principal("corp", "olga", frozenset(), NOW, NOW + 3600, token_id)


REVOKED = an_override("a", RevokedToken("corp", "t"))
ANOTHER = an_override("b", RevokedToken("corp", "u"))


def a_store(*overrides: Override) -> FakeOverrideStore:
    """Return a store that is complete with these overrides."""
    store = FakeOverrideStore()
    store.overrides = {override.id: override for override in overrides}
    store.is_complete = True
    store.touch()
    return store


def replica(
    store: FakeOverrideStore,
    file: FakeSnapshotFile | None = None,
    *,
    clock: FakeClock | None = None,
    allow_unloaded: bool = False,
    enabled: bool = True,
    is_store_own: bool = False,
) -> ActiveOverrides:
    return ActiveOverrides(
        store,
        file,
        clock or FakeClock(NOW),
        allow_unloaded=allow_unloaded,
        enabled=enabled,
        is_store_own=is_store_own,
    )


async def loaded_replica(
    store: FakeOverrideStore, file: FakeSnapshotFile | None = None
) -> ActiveOverrides:
    """Return a replica that has loaded the store and saved its file."""
    overrides = replica(store, file)
    await overrides.sync()
    assert overrides.loaded
    if file is not None:
        async with running(overrides):
            await until(lambda: decode_snapshot(file.text).complete)
    return overrides


@asynccontextmanager
async def running(overrides: ActiveOverrides) -> AsyncIterator[None]:
    task = asyncio.create_task(overrides.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - what is waited for happens in a thread
            await asyncio.sleep(0.001)


async def add_all(overrides: ActiveOverrides, *overrides_to_add: Override) -> list[bool]:
    async with running(overrides):
        return await asyncio.gather(*(overrides.add(override) for override in overrides_to_add))


async def test_unloaded_replica_rejects_callers() -> None:
    store = a_store()
    store.is_unavailable = True
    overrides = replica(store)
    with pytest.raises(StoreUnavailable):
        await overrides.sync()
    with pytest.raises(RevocationsUnavailable):
        overrides.is_revoked(principal())
    assert overrides.state == "not_loaded"
    assert not overrides.is_known_revoked(principal())
    assert not replica(store, allow_unloaded=True).is_revoked(principal())
    store.is_unavailable = False
    await overrides.sync()
    assert not overrides.is_revoked(principal())
    assert overrides.state == "ok"


async def test_read_during_which_the_process_stood_still_is_not_trusted() -> None:
    """Other replicas may have restored the store since it was read."""
    store, clock = FakeOverrideStore(), FakeClock(NOW)
    overrides = replica(store, clock=clock)
    await overrides.sync()
    read = store.read

    async def read_slowly(version: str, *, cached: frozenset[str]) -> StoredOverrides | None:
        found = await read(version, cached=cached)
        await clock.advance(60.0)
        return found

    store.read = read_slowly  # type: ignore[method-assign]
    await overrides.sync()
    assert not overrides.loaded
    store.read = read  # type: ignore[method-assign]
    await overrides.sync()
    assert overrides.loaded


async def test_disabled_overrides_need_no_loading_but_still_apply() -> None:
    store, file = a_store(REVOKED), FakeSnapshotFile()
    store.is_unavailable = True
    overrides = replica(store, file, enabled=False)
    with pytest.raises(StoreUnavailable):
        await overrides.sync()
    assert not overrides.is_revoked(principal())
    await add_all(overrides, ANOTHER)
    # The next start may have overrides enabled.
    assert not replica(store, file).loaded
    store.is_unavailable = False
    await overrides.sync()
    assert overrides.is_revoked(principal())


async def test_snapshot_file_loads_overrides_unless_damaged() -> None:
    store, file = a_store(), FakeSnapshotFile()
    one = await loaded_replica(store, file)
    store.is_unavailable = True
    assert await add_all(one, REVOKED) == [False]
    again = replica(store, file)
    assert again.loaded
    assert again.is_revoked(principal())
    assert file.text is not None
    assert not replica(store, FakeSnapshotFile(file.text[:-9])).loaded


async def test_empty_complete_set_is_saved() -> None:
    store, file = a_store(), FakeSnapshotFile()
    await loaded_replica(store, file)
    store.is_unavailable = True
    assert not replica(store, file).is_revoked(principal())


async def test_unloaded_replica_saves_overrides_as_incomplete() -> None:
    store, file = a_store(), FakeSnapshotFile()
    store.is_unavailable = True
    await add_all(replica(store, file), REVOKED)
    again = replica(store, file)
    assert not again.loaded
    with pytest.raises(RevocationsUnavailable):
        again.is_revoked(principal("mallory"))
    assert again.is_known_revoked(principal())
    store.is_unavailable = False
    await again.sync()
    assert store.overrides == {"a": REVOKED}
    async with running(again):
        await until(lambda: decode_snapshot(file.text).complete)
    store.is_unavailable = True
    assert replica(store, file).loaded


async def test_workers_of_one_host_merge_their_files() -> None:
    store, file = a_store(), FakeSnapshotFile()
    one, other = await loaded_replica(store, file), await loaded_replica(store, file)
    store.is_unavailable = True
    await add_all(one, REVOKED)
    await add_all(other, ANOTHER)
    assert other.is_revoked(principal("t"))  # merged from the file
    again = replica(store, file)
    assert again.loaded
    assert again.is_revoked(principal("t"))
    assert again.is_revoked(principal("u"))


async def test_concurrent_overrides_share_few_file_writes() -> None:
    class Counted(FakeSnapshotFile):
        writes = 0

        async def save(self, update: Callable[[bytes | None], bytes]) -> None:
            self.writes += 1
            await super().save(update)

    file = Counted()
    overrides = replica(a_store(), file)
    overrides_to_add = [an_override(str(n), RevokedToken("corp", str(n))) for n in range(50)]
    await add_all(overrides, *overrides_to_add)
    assert {override.id for override in decode_snapshot(file.text).overrides} == {
        o.id for o in overrides_to_add
    }
    assert file.writes <= 3


async def test_hanging_disk_does_not_delay_revocations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging(FakeSnapshotFile):
        async def save(self, update: Callable[[bytes | None], bytes]) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(active_overrides, "_SAVED_WITHIN_S", 0.05)
    store = a_store()
    overrides = replica(store, Hanging())
    async with running(overrides):
        await overrides.add(ANOTHER)  # waits for the disk for a bounded time
        store.overrides |= {REVOKED.id: REVOKED}
        store.touch()
        await until(lambda: overrides.is_known_revoked(principal("t")))


@pytest.mark.parametrize("is_lost", [True, False])
async def test_override_added_during_an_outage_reaches_others_later(*, is_lost: bool) -> None:
    store = a_store()
    one, other = await loaded_replica(store), await loaded_replica(store)
    store.is_unavailable = True
    assert await one.add(REVOKED) is False
    assert one.is_revoked(principal())
    store.is_unavailable = False
    if is_lost:
        store.lose_data()
    await one.sync()
    await other.sync()
    assert other.is_revoked(principal())


def test_override_is_found_within_a_second_without_its_message() -> None:
    async def scenario() -> None:
        store = a_store()
        other = replica(store)
        async with running(other):
            await until(lambda: other.loaded)
            store.overrides[REVOKED.id] = REVOKED
            store.set_version("changed")  # without a message
            await asyncio.sleep(0.99)
            assert other.is_revoked(principal())

    run_virtually(scenario())


async def test_lost_store_is_restored_by_a_replica() -> None:
    store = a_store()
    one = await loaded_replica(store)
    assert await one.add(REVOKED) is True
    store.lose_data()
    await one.sync()
    assert store.overrides == {"a": REVOKED}
    assert (await loaded_replica(store)).is_revoked(principal())


async def test_failover_to_an_older_server_loses_nothing() -> None:
    store = a_store()
    one = await loaded_replica(store)
    before = store.version
    await one.add(REVOKED)
    del store.overrides["a"]
    store.set_version(before)
    await one.sync()
    assert store.overrides == {"a": REVOKED}


async def test_empty_store_of_its_own_is_complete_at_once() -> None:
    own = replica(FakeOverrideStore(), is_store_own=True)
    await own.sync()
    assert own.state == "ok"


async def test_replica_reports_that_it_waits_for_others() -> None:
    first = replica(FakeOverrideStore())
    await first.sync()
    assert first.state == "waiting_for_replicas"
    assert not first.allows_callers


async def test_start_with_lost_store_waits_for_replicas() -> None:
    store, clock = a_store(), FakeClock(NOW)
    complete_replica = await loaded_replica(store)
    await complete_replica.add(REVOKED)
    store.lose_data()
    new = replica(store, clock=clock)
    await new.sync()
    assert not new.loaded
    await new.add(ANOTHER)
    second_new = replica(store, clock=clock)
    await second_new.sync()
    assert not second_new.loaded  # the first replica's override does not make the store complete
    await complete_replica.sync()
    for one in (new, second_new):
        await one.sync()
        assert one.is_revoked(principal("t"))
        assert one.is_revoked(principal("u"))


async def test_start_with_a_lost_store_ends_waiting() -> None:
    store, clock = FakeOverrideStore(), FakeClock(NOW)
    first = replica(store, clock=clock)
    await first.sync()
    await clock.advance(2.0)
    store.is_unavailable = True
    with pytest.raises(StoreUnavailable):
        await first.sync()
    store.is_unavailable = False
    await first.sync()
    await clock.advance(2.0)
    await first.sync()
    assert not first.loaded  # the outage may have cut off a complete replica as well
    await clock.advance(1.0)
    await first.sync()
    assert first.loaded
    assert (await loaded_replica(store)).loaded  # the store is marked as complete


async def test_unreadable_override_prevents_loading_without_a_file() -> None:
    store, file, clock = a_store(REVOKED), FakeSnapshotFile(), FakeClock(NOW)
    saving_replica = await loaded_replica(store, file)
    store.make_unreadable("a")
    new = replica(store, clock=clock)
    await new.sync()
    await clock.advance(10.0)
    await new.sync()
    assert (new.loaded, new.state) == (False, "unreadable")
    with pytest.raises(RevocationsUnavailable):
        new.is_revoked(principal())
    again = replica(store, file)
    await again.sync()  # writes the override again
    await new.sync()
    assert new.is_revoked(principal())
    assert saving_replica.state == "ok"


async def test_removed_unreadable_override_allows_loading() -> None:
    store, clock = a_store(REVOKED), FakeClock(NOW)
    store.make_unreadable("a")
    new = replica(store, clock=clock)
    await new.sync()
    store.lose_data()
    store.unreadable.clear()
    await new.sync()
    await clock.advance(3.0)
    await new.sync()
    assert new.state == "ok"


async def test_overrides_under_an_old_key_are_sealed_again() -> None:
    store, clock = a_store(REVOKED), FakeClock(NOW)
    store.under_old_key.add("a")
    overrides = replica(store, clock=clock)
    await overrides.sync()
    assert not store.under_old_key
    store.under_old_key.add("a")  # by a replica that still seals with the old key
    await clock.advance(61.0)
    await overrides.sync()
    assert not store.under_old_key


async def test_failing_override_is_reported_and_stops_no_other() -> None:
    store, errors, calls = a_store(), list[Exception](), list[bool]()
    overrides = ActiveOverrides(
        store, None, FakeClock(NOW), allow_unloaded=False, on_failure=errors.append
    )

    def fail() -> None:
        if ANOTHER in overrides.current.in_force:
            raise OverflowError("no such ceiling")

    overrides.on_change(fail)
    overrides.on_change(lambda: calls.append(overrides.is_known_revoked(principal("t"))))
    await overrides.sync()
    assert await overrides.add(ANOTHER) is True
    assert len(errors) == 1
    store.overrides |= {REVOKED.id: REVOKED}
    store.touch()
    await overrides.sync()
    assert calls == [False, False, True]
    overrides.on_change(fail)  # as at a start with such an override in the file
    assert len(errors) == 3
    await overrides.add(an_override("c", ClearedOverride(ANOTHER.id)))
    assert len(errors) == 3


async def test_full_set_accepts_only_clearing() -> None:
    store = a_store(
        *(an_override(str(n), RevokedToken("corp", str(n))) for n in range(OVERRIDES_MAX - 1))
    )
    overrides = await loaded_replica(store)
    await overrides.add(REVOKED)
    with pytest.raises(BadRequest):
        await overrides.add(ANOTHER)
    assert ANOTHER.id not in store.overrides
    await overrides.add(an_override("c", ClearedOverride(REVOKED.id)))
    assert not overrides.is_revoked(principal())


async def test_flood_of_locks_leaves_room_for_revocations() -> None:
    def a_lock(name: str) -> Override:
        return an_override(name, Lock(subject=name), expires_at=UNTIL_LIFTED)

    overrides = await loaded_replica(a_store(*(a_lock(str(n)) for n in range(LOCKS_MAX - 2))))
    await overrides.add(a_lock("x"))
    await overrides.add(an_override("y", ClearedOverride("x")))
    with pytest.raises(BadRequest, match="a lifted lock and its lifting count for 30 days"):
        await overrides.add(a_lock("z"))
    assert "z" not in overrides.current
    await overrides.add(REVOKED)
    assert overrides.is_revoked(principal())
    await overrides.add(an_override("w", ClearedOverride("0")))  # a full set can still be cleared


async def test_flood_of_revocations_leaves_room_for_locks() -> None:
    store = a_store(
        *(an_override(str(n), RevokedToken("corp", str(n))) for n in range(OVERRIDES_MAX))
    )
    overrides = await loaded_replica(store)
    with pytest.raises(BadRequest, match="Limit of 10,000 overrides"):
        await overrides.add(ANOTHER)
    await overrides.add(an_override("x", Lock(subject="olga"), expires_at=UNTIL_LIFTED))
    assert overrides.find_lock(principal()) == "x"


async def test_lifted_lock_without_end_leaves_store_and_file() -> None:
    """It must not be in force again when its lifting, which has an end, is forgotten."""
    store, file, clock = a_store(), FakeSnapshotFile(), FakeClock(NOW)
    overrides = await _lock_and_lift(store, file, clock)
    found: list[str | None] = []
    overrides.on_change(lambda: found.append(overrides.find_lock(principal())))
    async with running(overrides):
        clock.step_wall(HOUR_S - 300.0)  # the lock ends
        store.wake()
        await until(lambda: "a" not in overrides.current)
        assert set(store.overrides) == {"a", "b"}  # a slow clock may be 300 s behind
        clock.step_wall(300.0)
        store.wake()
        await until(lambda: set(store.overrides) == {"b"})
        clock.step_wall(300.0)
        store.wake()
        await until(lambda: store.overrides == {})
        await until(lambda: decode_snapshot(file.text).overrides == [])
    assert set(found) == {None}


async def test_start_ignores_a_lock_that_was_lifted_long_ago() -> None:
    store, file, clock = a_store(), FakeSnapshotFile(), FakeClock(NOW)
    await _lock_and_lift(store, file, clock)
    clock.step_wall(2 * HOUR_S)
    for some_file in (None, file):
        overrides = replica(store, some_file, clock=clock)
        await overrides.sync()
        assert overrides.find_lock(principal()) is None
        assert store.overrides == {}


async def _lock_and_lift(
    store: FakeOverrideStore, file: FakeSnapshotFile, clock: FakeClock
) -> ActiveOverrides:
    """Lock olga without end; the lifting is kept for an hour."""
    overrides = replica(store, file, clock=clock)
    await overrides.sync()
    lock = an_override("a", Lock(subject="olga"), expires_at=UNTIL_LIFTED)
    lifted = an_override("b", ClearedOverride("a"), expires_at=NOW + HOUR_S)
    assert await add_all(overrides, lock, lifted) == [True, True]
    assert set(store.overrides) == {"a", "b"}
    assert {one.id for one in decode_snapshot(file.text).overrides} == {"a", "b"}
    return overrides


async def test_expired_override_leaves_the_store_after_clock_skew() -> None:
    store, clock = a_store(), FakeClock(NOW)
    overrides = replica(store, clock=clock)
    changes: list[bool] = []
    overrides.on_change(lambda: changes.append(overrides.is_known_revoked(principal())))
    await overrides.sync()
    await overrides.add(REVOKED)
    running = asyncio.create_task(overrides.run())
    await settle()
    clock.step_wall(HOUR_S)
    await _sync_once(store)
    assert changes == [False, True, False]
    assert store.overrides == {"a": REVOKED}  # by a slower clock it may not have expired
    version = store.version
    clock.step_wall(301.0)
    await _sync_once(store)
    assert store.overrides == {}
    assert store.version == version  # other replicas need not read
    running.cancel()


async def test_new_replica_removes_expired_overrides() -> None:
    store, clock = (
        a_store(REVOKED, an_override("b", ClearedOverride("a"), expires_at=NOW + 2 * HOUR_S)),
        FakeClock(),
    )
    clock.step_wall(NOW + HOUR_S + 301.0 - clock.now())
    await replica(store, clock=clock).sync()
    assert set(store.overrides) == {"b"}


async def _sync_once(store: FakeOverrideStore) -> None:
    """Wake the replica and let it sync once."""
    store.wake()
    await settle()
