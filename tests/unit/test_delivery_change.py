"""A change of `console.delivery` drops cached links in every process, each time."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.domain.overrides import DroppedLinks
from gateway.flow import active_overrides
from gateway.flow.active_overrides import ActiveOverrides
from gateway.process.delivery_change import DeliveryChange
from tests.support.clock import FakeClock
from tests.support.override_store import FakeOverrideStore

NOW = 1_000.0


def config(**accounts: tuple[bool, float]) -> Any:
    """Return a config: whether each account is proxied, and the lifetime of its links."""
    return SimpleNamespace(
        accounts=[
            SimpleNamespace(
                projects=[f"project-{name}"],
                delivers_proxied=is_proxied,
                links=SimpleNamespace(lifetime_s=lifetime_s),
            )
            for name, (is_proxied, lifetime_s) in accounts.items()
        ]
    )


DIRECT, PROXIED = config(a=(False, 300), b=(False, 300)), config(a=(True, 300), b=(False, 300))


def a_replica(store: FakeOverrideStore, *, enabled: bool = True) -> ActiveOverrides:
    return ActiveOverrides(store, None, FakeClock(NOW), allow_unloaded=True, enabled=enabled)


def between(old: Any, new: Any) -> DeliveryChange:
    return DeliveryChange.between(old, new, now=NOW)


@pytest.mark.parametrize(
    ("old", "new", "projects"),
    [
        (DIRECT, PROXIED, {"project-a"}),
        (PROXIED, DIRECT, {"project-a"}),
        (PROXIED, PROXIED, set()),
        (DIRECT, DIRECT, set()),
        (None, PROXIED, {"project-a"}),
        (None, DIRECT, set()),
        (PROXIED, config(), {"project-a"}),
        (None, config(), set()),
    ],
)
def test_change_names_projects_with_another_delivery(old: Any, new: Any, projects: object) -> None:
    assert between(old, new).projects == projects


def test_links_are_dropped_for_their_longest_lifetime() -> None:
    assert between(DIRECT, PROXIED).until == NOW + 3_600
    longer = config(a=(False, 9_000))
    assert between(longer, PROXIED).until == NOW + 9_000
    assert between(PROXIED, longer).until == NOW + 9_000


@pytest.mark.parametrize("enabled", [True, False], ids=["enabled", "not_enabled"])
async def test_other_processes_drop_their_links_at_each_change(*, enabled: bool) -> None:
    """Also an old worker, which has the config of before; also where overrides are off."""
    store = FakeOverrideStore()
    old, new = a_replica(store, enabled=enabled), a_replica(store, enabled=enabled)
    seen = [old.dropped_by("project-a", "s", "ada")]
    for change in (between(DIRECT, PROXIED), between(PROXIED, DIRECT), between(DIRECT, PROXIED)):
        await change.drop_links(new, now=NOW)
        await change.drop_links(new, now=NOW)  # a worker that replaces a dead one
        await old.sync()
        seen.append(old.dropped_by("project-a", "s", "ada"))
        assert old.dropped_by("project-b", "s", "ada") == ()
    assert [len(ids) for ids in seen] == [0, 1, 2, 3]


async def test_full_set_has_room_for_dropped_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active_overrides, "OVERRIDES_MAX", 0)
    replica = a_replica(FakeOverrideStore())
    await between(DIRECT, PROXIED).drop_links(replica, now=NOW)
    (override,) = replica.current.in_force
    assert override.effect == DroppedLinks(project="project-a")


async def test_drop_without_redis_is_logged_and_published_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FakeOverrideStore()
    store.is_unavailable = True
    replica = a_replica(store)
    with caplog.at_level(logging.WARNING):
        await between(DIRECT, PROXIED).drop_links(replica, now=NOW)
    (record,) = caplog.records
    assert record.getMessage() == "dropped_links_not_published"
    assert vars(record)["projects"] == ["project-a"]
    assert replica.dropped_by("project-a", "s", "ada")
    store.is_unavailable = False
    await replica.sync()
    assert len(store.overrides) == 1


async def test_worker_that_starts_long_after_the_change_drops_nothing() -> None:
    replica = a_replica(FakeOverrideStore())
    await between(DIRECT, PROXIED).drop_links(replica, now=NOW + 3_600)
    assert replica.current.in_force == []
