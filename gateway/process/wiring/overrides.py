"""Revocations and the other overrides that administrators set at runtime."""

import logging
from contextlib import suppress
from functools import partial

from gateway.config.store import RedisEmbedded
from gateway.domain.errors import StoreUnavailable
from gateway.domain.overrides import LOCK_TARGETS, REVOCATION_TYPES, Lock
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.files.snapshot_file import AtomicSnapshotFile
from gateway.drivers.telemetry import log as logs
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.override_store import ValkeyOverrideStore
from gateway.flow.active_overrides import ActiveOverrides
from gateway.flow.budgets import FairBudget
from gateway.flow.console_links import ConsoleLinks
from gateway.process.runtime import Runtime

log = logging.getLogger("gateway.overrides")

_OWNER_ONLY_MODE = 0o600


async def open_overrides(runtime: Runtime, valkey: Valkey) -> ActiveOverrides:
    """Load the overrides; without Redis they load later, in the background."""
    config, metrics = runtime.config, runtime.metrics
    file = config.overrides.file

    def on_failure(error: Exception) -> None:
        log.error("override_failed", exc_info=error)
        metrics.override_failed()

    overrides = ActiveOverrides(
        ValkeyOverrideStore(valkey, Sealer(config.store.seal_keys)),
        None if file is None else AtomicSnapshotFile(file, log, mode=_OWNER_ONLY_MODE),
        runtime.clock,
        allow_unloaded=config.overrides.on_unavailable == "allow",
        # Independent of this process's admin API: another replica may have one.
        enabled=config.overrides.enabled,
        is_store_own=isinstance(config.store.redis, RedisEmbedded),
        on_failure=on_failure,
    )
    with suppress(StoreUnavailable):
        await overrides.sync()
    runtime.tasks["overrides"] = overrides.run
    metrics.gauge("gateway_overrides_loaded", lambda: overrides.loaded)
    for name, kind in REVOCATION_TYPES.items():
        count = partial(_count_in_force, overrides, kind)
        metrics.gauge("gateway_revocations", count, kind=name)
    for target in LOCK_TARGETS:
        metrics.gauge("gateway_locks", partial(_count_locks, overrides, target), target=target)
    return overrides


def _count_locks(overrides: ActiveOverrides, target: str) -> int:
    effects = (one.effect for one in overrides.current.in_force)
    return sum(isinstance(effect, Lock) and effect.target == target for effect in effects)


def _count_in_force(overrides: ActiveOverrides, kind: type[object]) -> int:
    return sum(isinstance(one.effect, kind) for one in overrides.current.in_force)


def apply_overrides(
    runtime: Runtime, overrides: ActiveOverrides, console_links: ConsoleLinks, budget: FairBudget
) -> None:
    """Apply dropped links, rate ceilings and log levels now and at each change."""
    levels = runtime.config.log.levels
    overrides.on_change(console_links.evict_dropped)
    overrides.on_change(lambda: budget.set_rate_ceilings(overrides.current.rate_ceilings))
    overrides.on_change(lambda: logs.set_levels({**levels, **overrides.current.log_levels}))
