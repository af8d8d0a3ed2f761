"""The inventory of each project's servers, listed in the background, once for all replicas.

Listing uses spare budget only. Decisions do not wait for it: they use the current inventory, which
has a maximum age. Ages are measured by this process's monotonic clock and by the remaining TTL in
Redis. Wall clocks differ between replicas and can be set back, which would extend a permission.
"""

import asyncio
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from gateway.domain.catalogue.catalogue import encode_query
from gateway.domain.catalogue.listing import ListPageReader
from gateway.domain.errors import (
    BudgetExhausted,
    DeadlineExceeded,
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
    Inventory,
    InventorySnapshot,
    StoredServers,
    parse_inventory,
    parse_servers,
    parse_snapshot,
)
from gateway.flow.clock import Clock
from gateway.flow.exchange import Exchange
from gateway.flow.single_flight import Fetched, FetchResult, SingleFlight
from gateway.flow.snapshot_file import SnapshotFile
from gateway.flow.telemetry import Telemetry

_SPARE = QueueRequest("", priority=Priority.SPARE)
_PAGES_MAX = 200
_RETRY_AFTER_S = 0.5
_CHECK_EVERY_S = 1.0
_POLL_TIMEOUT_S = 120.0
_PAGE_TRIES_MAX = 3
_NOT_LISTED = InventorySnapshot({}, taken_at=-math.inf, took_s=0.0)
_TEMPORARY = (UpstreamBusy, UpstreamSlow, UpstreamSuspended, UpstreamUnreachable)
_BUSY = (BudgetExhausted, UpstreamBusy)


class ListingProblem(Enum):
    """The kind of error of the last try to list the servers of a project."""

    BUSY = "busy"
    """No spare budget, or the cloud limits requests."""
    UNAVAILABLE = "unavailable"
    """The cloud did not answer, or not in time."""
    REJECTED = "rejected"
    """The cloud refused, or its answer is not a list of servers."""


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
    """The state of one project's inventory. All times are monotonic seconds."""

    account: InventoryAccount
    inventory: Inventory = NO_INVENTORY
    taken_at: float = -math.inf
    """When the listing began, or earlier; no server was listed before."""
    value: bytes = b""
    """The shared value that this process has adopted; the next refresh requires another."""
    due_at: float = 0.0
    changed_at: float = -math.inf
    """The last change of attributes; a listing that began before it is outdated."""
    own: tuple[bytes, float] = (b"", -math.inf)
    """The last listing by this process, and when it began."""
    listed: InventorySnapshot = _NOT_LISTED
    """The content to be saved to the file."""
    save_due: asyncio.Event = field(default_factory=asyncio.Event)
    last_known: Inventory = NO_INVENTORY
    """`inventory` without its end."""
    problem: ListingProblem | None = None

    def adopt(self, inventory: Inventory, *, taken_at: float) -> None:
        self.inventory, self.taken_at = inventory, taken_at
        self.last_known = inventory.however_old()

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
        """`is_needed`: whether rules select by attributes, or people list their servers."""
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
        for project, state in self._projects.items():
            self._load(project, state)

    def current(self, project: ProjectId) -> Inventory:
        state = self._projects.get(project)
        if state is None or self._clock.monotonic() >= state.good_until:
            return NO_INVENTORY
        return state.inventory

    def last_known(self, project: ProjectId) -> Inventory:
        state = self._projects.get(project)
        return NO_INVENTORY if state is None else state.last_known

    def refresh_soon(self, project: ProjectId) -> None:
        state = self._projects.get(project)
        if state is not None:
            state.changed_at, state.due_at = self._clock.monotonic(), 0.0

    def problem(self, project: ProjectId) -> ListingProblem | None:
        """Return why the last try to list the servers failed; None: it did not."""
        state = self._projects.get(project)
        return None if state is None else state.problem

    def age_s(self, account: str) -> float:
        """Return the age of the account's oldest inventory; infinite if one is missing."""
        taken = [
            state.taken_at for state in self._projects.values() if state.account.name == account
        ]
        return self._clock.monotonic() - min(taken)

    async def run(self, account: str) -> None:
        """Refresh the inventories of one account, and save them beside that, until cancelled."""
        states = {p: state for p, state in self._projects.items() if state.account.name == account}
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._refresh_forever(states))
            for project, state in states.items():
                if (file := state.account.files.get(project)) is not None:
                    loops.create_task(self._save_forever(state, file))

    async def _refresh_forever(self, states: Mapping[ProjectId, _ProjectInventory]) -> None:
        while True:
            for project, state in states.items():
                if self._clock.monotonic() >= state.due_at and self._is_needed():
                    await self._refresh(project, state)
            await self._clock.sleep(_CHECK_EVERY_S)

    async def _save_forever(self, state: _ProjectInventory, file: SnapshotFile) -> None:
        while True:
            await state.save_due.wait()
            state.save_due.clear()
            await file.save(lambda _: state.listed.to_json())

    def _load(self, project: ProjectId, state: _ProjectInventory) -> None:
        file = state.account.files.get(project)
        text = None if file is None else file.load()
        if text is None:
            return
        now, age_max_s = self._clock.now(), state.account.age_max_s
        with suppress(ValueError):  # an unusable file is replaced by the next listing
            inventory = parse_inventory(text, now=now, age_max_s=age_max_s)
            taken_at = self._clock.monotonic() - (now - inventory.taken_at)
            state.adopt(inventory, taken_at=taken_at)

    async def _refresh(self, project: ProjectId, state: _ProjectInventory) -> None:
        account = state.account
        state.due_at = self._clock.monotonic() + account.poll_s
        try:
            result = await self._shared.obtain(
                # The number is the format version: incompatible gateway versions share no value.
                f"inventory-4:{account.name}:{project}",
                lambda: self._fetch(project, state),
                deadline=self._clock.monotonic() + _POLL_TIMEOUT_S,
                unusable=state.value or None,
            )
            await self._adopt(state, result)
        except GatewayError as error:
            self._telemetry.inventory_polled(account.name, type(error).__name__)
            state.due_at = self._clock.monotonic() + min(account.poll_s, 10 * _RETRY_AFTER_S)
            state.problem = _problem_of(error)
            return
        state.problem = None
        self._telemetry.inventory_polled(account.name, "ok")
        # The shared value expires for all replicas at once; the first one then lists for all.
        state.due_at = min(state.due_at, result.good_until + _RETRY_AFTER_S)
        if state.taken_at < state.changed_at:  # another replica listed before the change
            state.due_at = 0.0

    async def _adopt(self, state: _ProjectInventory, result: FetchResult) -> None:
        state.value = result.value
        try:
            listed = await asyncio.to_thread(_unpacked, result.value, state.inventory.stored)
        except (ValueError, zlib.error):
            raise UpstreamBroken("the shared value is not an inventory") from None
        monotonic, account = self._clock.monotonic(), state.account
        own_value, taken_at = state.own
        if result.value != own_value:
            ended_at = result.good_until - account.poll_s
            taken_at = min(ended_at - listed.took_s, monotonic)
        if taken_at < state.taken_at:
            return  # `taken_at` is never in the future, so any later listing is adopted
        listed = replace(listed, taken_at=self._clock.now() - (monotonic - taken_at))
        good_until = listed.taken_at + account.age_max_s
        inventory = Inventory(listed.servers, taken_at=listed.taken_at, good_until=good_until)
        state.adopt(inventory, taken_at=taken_at)
        state.listed = listed
        state.save_due.set()

    async def _fetch(self, project: ProjectId, state: _ProjectInventory) -> Fetched:
        account = state.account
        taken_at, began_at = self._clock.now(), self._clock.monotonic()
        servers: dict[ServerId, bytes] = {}
        markers: set[str] = set()
        marker = ""
        while marker not in markers and len(markers) < _PAGES_MAX:
            markers.add(marker)
            body = await self._page(project, account, marker, began_at + _POLL_TIMEOUT_S)
            # In a thread, here and below: ten thousand servers take tens of milliseconds.
            found, marker = await asyncio.to_thread(self._parsed, body, state.inventory.stored)
            servers |= found.encoded
            if not marker:
                ended_at = self._clock.monotonic()
                listed = InventorySnapshot(StoredServers(servers), taken_at, ended_at - began_at)
                value = await asyncio.to_thread(_packed, listed)
                state.own = value, began_at
                return Fetched(value, ended_at + account.poll_s)
        raise UpstreamBroken("the list of servers does not end")

    def _parsed(self, body: bytes, before: StoredServers) -> tuple[StoredServers, str]:
        page = self._read(body)
        return parse_servers(page.raws, before), page.next_marker

    async def _page(
        self, project: ProjectId, account: InventoryAccount, marker: str, deadline: float
    ) -> bytes:
        """Return one page; retry temporary errors, and wait for spare budget."""
        query: list[Any] = [("limit", "1000"), *([("marker", marker)] if marker else ())]
        tries_left = _PAGE_TRIES_MAX
        while True:
            try:
                response = await account.exchange.call(
                    UpstreamRequest("GET", f"/v1/{project}/physicalservers?{encode_query(query)}"),
                    project=project,
                    queue_request=_SPARE,
                    budget=BudgetClass.CONSOLE,
                    deadline=deadline,
                )
            except BudgetExhausted:
                wait_s = _RETRY_AFTER_S
                if self._clock.monotonic() + wait_s >= deadline:
                    raise
            except _TEMPORARY as error:
                tries_left -= 1
                retry_after_s = error.retry_after_s if isinstance(error, RetryLater) else 0.0
                wait_s = max(_RETRY_AFTER_S, retry_after_s)
                if not tries_left or self._clock.monotonic() + wait_s >= deadline:
                    raise
            else:
                return response.body
            await self._clock.sleep(wait_s)


def _problem_of(error: GatewayError) -> ListingProblem:
    if isinstance(error, _BUSY):
        return ListingProblem.BUSY
    if isinstance(error, (*_TEMPORARY, DeadlineExceeded)):
        return ListingProblem.UNAVAILABLE
    return ListingProblem.REJECTED


def _packed(listed: InventorySnapshot) -> bytes:
    packing = zlib.compressobj(6)
    return b"".join([*map(packing.compress, listed.lines()), packing.flush()])


def _unpacked(value: bytes, before: StoredServers) -> InventorySnapshot:
    return parse_snapshot(zlib.decompress(value), before)
