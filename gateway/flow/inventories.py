"""What is known of each project's servers: listed now and then, once for all replicas.

Only spare budget pays for it. Nothing waits for it: who decides takes what is known, with its age.
Ages go by this process's monotonic clock and by how long Redis still keeps a value: the wall
clocks of replicas differ and are set back, and a right would outlive its limit by as much.
"""

import asyncio
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.domain.catalogue.catalogue import encode_query
from gateway.domain.catalogue.listing import ListPageReader
from gateway.domain.errors import (
    BudgetExhausted,
    GatewayError,
    RetryLater,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamSlow,
    UpstreamSuspended,
    UpstreamUnreachable,
)
from gateway.domain.model import (
    BudgetClass,
    Listing,
    Paging,
    Priority,
    ProjectId,
    QueueRequest,
    ServerId,
    UpstreamRequest,
)
from gateway.domain.policy.inventory import (
    NO_INVENTORY,
    Attributes,
    Inventory,
    InventorySnapshot,
    parse_inventory,
    parse_servers,
    parse_snapshot,
)
from gateway.flow.clock import Clock
from gateway.flow.exchange import Exchange
from gateway.flow.single_flight import Fetched, FlightResult, SingleFlight
from gateway.flow.snapshot_file import SnapshotFile
from gateway.flow.telemetry import Telemetry

_SPARE = QueueRequest("", priority=Priority.SPARE)
_PAGES_MAX = 200
_AGAIN_AFTER_S = 0.5
_LOOK_EVERY_S = 1.0
_POLL_WITHIN_S = 120.0
_PAGE_TRIES_MAX = 3
_NOT_LISTED = InventorySnapshot({}, taken_at=-math.inf, took_s=0.0)
_MAY_PASS = (UpstreamBusy, UpstreamSlow, UpstreamSuspended, UpstreamUnreachable)


@dataclass(frozen=True, slots=True)
class InventoryAccount:
    name: str
    exchange: Exchange
    projects: tuple[ProjectId, ...]
    poll_s: float
    age_max_s: float
    files: Mapping[ProjectId, SnapshotFile]


@dataclass(slots=True)
class _ProjectInventory:
    """All instants are monotonic seconds."""

    account: InventoryAccount
    inventory: Inventory = NO_INVENTORY
    taken_at: float = -math.inf
    """No server was listed before; it may be earlier than it was, but never later."""
    value: bytes = b""
    """As replicas share it; whoever looks wants another."""
    due_at: float = 0.0
    changed_at: float = -math.inf
    """Something changed then: what was taken before does not do."""
    own: tuple[bytes, float] = (b"", -math.inf)
    """What this process listed last, and when it began."""
    listed: InventorySnapshot = _NOT_LISTED
    """What the file is to hold."""
    listed_anew: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def good_until(self) -> float:
        return self.taken_at + self.account.age_max_s


class CachedInventories:
    """Implements the port `Inventories`."""

    def __init__(
        self,
        accounts: Iterable[InventoryAccount],
        *,
        is_needed: Callable[[], bool],
        shared: SingleFlight,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """`is_wanted`: whether the policy in force has rules that go by attributes."""
        self._is_needed = is_needed
        self._shared = shared
        self._clock = clock
        self._telemetry = telemetry
        self._read = ListPageReader(Listing("servers", "id", Paging.MARKER))
        self._projects = {
            project: _ProjectInventory(account)
            for account in accounts
            for project in account.projects
        }
        for project, kept in self._projects.items():
            self._load(project, kept)

    def current(self, project: ProjectId) -> Inventory:
        kept = self._projects.get(project)
        if kept is None or self._clock.monotonic() >= kept.good_until:
            return NO_INVENTORY
        return kept.inventory

    def refresh_soon(self, project: ProjectId) -> None:
        kept = self._projects.get(project)
        if kept is not None:
            kept.changed_at, kept.due_at = self._clock.monotonic(), 0.0

    def age_s(self, account: str) -> float:
        """Return the age of the account's oldest inventory; infinite while one is missing."""
        taken = [kept.taken_at for kept in self._projects.values() if kept.account.name == account]
        return self._clock.monotonic() - min(taken)

    async def run(self, account: str) -> None:
        """Look at what is due of one account, for ever; no look waits for a disk."""
        its = {p: kept for p, kept in self._projects.items() if kept.account.name == account}
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._refresh_forever(its))
            for project, kept in its.items():
                if (file := kept.account.files.get(project)) is not None:
                    loops.create_task(self._save_forever(kept, file))

    async def _refresh_forever(self, its: Mapping[ProjectId, _ProjectInventory]) -> None:
        while True:
            for project, kept in its.items():
                if self._clock.monotonic() >= kept.due_at and self._is_needed():
                    await self._refresh(project, kept)
            await self._clock.sleep(_LOOK_EVERY_S)

    async def _save_forever(self, kept: _ProjectInventory, file: SnapshotFile) -> None:
        while True:
            await kept.listed_anew.wait()
            kept.listed_anew.clear()
            await file.save(lambda _: kept.listed.to_json())

    def _load(self, project: ProjectId, kept: _ProjectInventory) -> None:
        file = kept.account.files.get(project)
        text = None if file is None else file.load()
        if text is None:
            return
        now, age_max_s = self._clock.now(), kept.account.age_max_s
        with suppress(ValueError):  # what cannot be used is written anew soon
            kept.inventory = parse_inventory(text, now=now, age_max_s=age_max_s)
            kept.taken_at = self._clock.monotonic() - (now - kept.inventory.taken_at)

    async def _refresh(self, project: ProjectId, kept: _ProjectInventory) -> None:
        account = kept.account
        kept.due_at = self._clock.monotonic() + account.poll_s
        try:
            held = await self._shared.obtain(
                # The number is the text's form: versions that do not read each other's share none.
                f"inventory-2:{account.name}:{project}",
                lambda: self._fetch(project, kept),
                deadline=self._clock.monotonic() + _POLL_WITHIN_S,
                unusable=kept.value or None,
            )
            await self._adopt(kept, held)
        except GatewayError as error:
            self._telemetry.inventory_polled(account.name, type(error).__name__)
            kept.due_at = self._clock.monotonic() + min(account.poll_s, 10 * _AGAIN_AFTER_S)
            return
        self._telemetry.inventory_polled(account.name, "ok")
        # Shared values end together: whoever looks first then lists for all.
        kept.due_at = min(kept.due_at, held.good_until + _AGAIN_AFTER_S)
        if kept.taken_at < kept.changed_at:  # another replica began to list before the change
            kept.due_at = 0.0

    async def _adopt(self, kept: _ProjectInventory, held: FlightResult) -> None:
        kept.value = held.value
        try:
            listed = await asyncio.to_thread(_unpacked, held.value)
        except (ValueError, zlib.error):
            raise UpstreamBroken("what is shared is no inventory") from None
        monotonic, account = self._clock.monotonic(), kept.account
        own_value, taken_at = kept.own
        if held.value != own_value:
            ended_at = held.good_until - account.poll_s
            taken_at = min(ended_at - listed.took_s, monotonic)
        if taken_at < kept.taken_at:
            return  # what we know never lies ahead of now, so whatever is listed from now on passes
        listed = replace(listed, taken_at=self._clock.now() - (monotonic - taken_at))
        kept.taken_at = taken_at
        kept.inventory = Inventory(
            listed.servers,
            taken_at=listed.taken_at,
            good_until=listed.taken_at + account.age_max_s,
        )
        kept.listed = listed
        kept.listed_anew.set()

    async def _fetch(self, project: ProjectId, kept: _ProjectInventory) -> Fetched:
        account = kept.account
        taken_at, began_at = self._clock.now(), self._clock.monotonic()
        servers: dict[ServerId, Attributes] = {}
        markers: set[str] = set()
        marker = ""
        while marker not in markers and len(markers) < _PAGES_MAX:
            markers.add(marker)
            body = await self._page(project, account, marker, began_at + _POLL_WITHIN_S)
            # Off the event loop, here and below: ten thousand servers are tens of milliseconds.
            found, marker = await asyncio.to_thread(self._parsed, body)
            servers |= found
            if not marker:
                ended_at = self._clock.monotonic()
                listed = InventorySnapshot(servers, taken_at, ended_at - began_at)
                value = await asyncio.to_thread(_packed, listed)
                kept.own = value, began_at
                return Fetched(value, ended_at + account.poll_s)
        raise UpstreamBroken("the list of servers has no end")

    def _parsed(self, body: bytes) -> tuple[dict[ServerId, Attributes], str]:
        page = self._read(body)
        return parse_servers(page.raws), page.next_marker

    async def _page(
        self, project: ProjectId, account: InventoryAccount, marker: str, deadline: float
    ) -> bytes:
        """Return one page; what may pass is tried again, and spare budget is waited for."""
        query: list[Any] = [("limit", "1000"), *([("marker", marker)] if marker else ())]
        tries_left = _PAGE_TRIES_MAX
        while True:
            try:
                answer = await account.exchange.call(
                    UpstreamRequest("GET", f"/v1/{project}/physicalservers?{encode_query(query)}"),
                    project=project,
                    queue_request=_SPARE,
                    budget=BudgetClass.CONSOLE,
                    deadline=deadline,
                )
            except BudgetExhausted:
                wait_s = _AGAIN_AFTER_S
                if self._clock.monotonic() + wait_s >= deadline:
                    raise
            except _MAY_PASS as error:
                tries_left -= 1
                told_s = error.retry_after_s if isinstance(error, RetryLater) else 0.0
                wait_s = max(_AGAIN_AFTER_S, told_s)
                if not tries_left or self._clock.monotonic() + wait_s >= deadline:
                    raise
            else:
                return answer.body
            await self._clock.sleep(wait_s)


def _packed(listed: InventorySnapshot) -> bytes:
    return zlib.compress(listed.to_json(), 6)


def _unpacked(value: bytes) -> InventorySnapshot:
    return parse_snapshot(zlib.decompress(value))
