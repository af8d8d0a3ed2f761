"""The servers of each account, for rules by attributes and for people who list their servers."""

import logging
from collections.abc import Mapping
from functools import partial

from gateway.config.accounts import Account
from gateway.domain.model import ProjectId
from gateway.drivers.files.policy_file import PolicyFile
from gateway.drivers.files.snapshot_file import AtomicSnapshotFile
from gateway.flow.console_links import ConsoleAccount
from gateway.flow.inventories import CachedInventories, InventoryAccount
from gateway.flow.single_flight import SingleFlight
from gateway.process.runtime import Runtime

log = logging.getLogger("gateway.inventory")

_DEFAULT_MODE = 0o666
"""The umask decides."""


def open_inventories(
    runtime: Runtime,
    accounts: Mapping[ProjectId, ConsoleAccount],
    policies: PolicyFile,
    single_flight: SingleFlight,
) -> CachedInventories:
    def is_needed() -> bool:
        return runtime.config.page.enabled or policies.current().selects_by_attributes

    gauge = runtime.metrics.gauge
    inventories = CachedInventories(
        [_inventory_account(account, accounts) for account in runtime.config.accounts],
        is_needed=is_needed,
        shared=single_flight,
        clock=runtime.clock,
        telemetry=runtime.metrics,
    )
    gauge("gateway_inventory_needed", is_needed)
    for account in runtime.config.accounts:
        name, age_max_s = account.name, account.inventory.age_max_s
        age_s = partial(inventories.age_s, name)
        runtime.tasks[f"inventory of {name}"] = partial(inventories.run, name)
        gauge("gateway_inventory_age_seconds", age_s, account=name)
        gauge("gateway_inventory_age_max_seconds", partial(float, age_max_s), account=name)
    return inventories


def _inventory_account(
    account: Account, accounts: Mapping[ProjectId, ConsoleAccount]
) -> InventoryAccount:
    return InventoryAccount(
        account.name,
        accounts[ProjectId(account.projects[0])].exchange,
        tuple(map(ProjectId, account.projects)),
        poll_s=account.inventory.poll_s,
        age_max_s=account.inventory.age_max_s,
        files={
            ProjectId(project): AtomicSnapshotFile(file, log, mode=_DEFAULT_MODE)
            for project in account.projects
            if (file := account.inventory.inventory_file(project)) is not None
        },
    )
