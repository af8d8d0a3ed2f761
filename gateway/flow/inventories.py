"""What is known of each project's servers: listed now and then, once for all replicas.

Only spare budget pays for it. Nothing waits for it: who decides takes what is known, with its age.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gateway.errors import BudgetExhausted, GatewayError, UpstreamBroken
from gateway.flow.exchange import Exchange
from gateway.model import (
    BudgetClass,
    Demand,
    Listing,
    Paging,
    Priority,
    ProjectId,
    ServerId,
    UpstreamRequest,
)
from gateway.ports import Clock, Fetched, InventoryFile, Shared, Telemetry
from gateway.rules.catalogue import encoded
from gateway.rules.inventory import NO_INVENTORY, Attributes, Inventory, described, from_text
from gateway.rules.listing import PageReader

_SPARE = Demand("", priority=Priority.SPARE)
_PAGES_MAX = 200
_AGAIN_AFTER_S = 0.5
_LOOK_EVERY_S = 1.0
_POLL_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class InventoryAccount:
    name: str
    exchange: Exchange
    projects: tuple[ProjectId, ...]
    poll_s: float
    age_max_s: float
    files: Mapping[ProjectId, InventoryFile]


@dataclass(slots=True)
class _Kept:
    account: InventoryAccount
    due_at: float = 0.0
    """Monotonic seconds."""
    is_stale: bool = False
    """What replicas share was taken before something changed."""
    text: bytes = b""


class KeptInventories:
    """Implements ports.Inventories."""

    def __init__(
        self,
        accounts: Iterable[InventoryAccount],
        *,
        is_wanted: Callable[[], bool],
        shared: Shared,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """`is_wanted`: whether the policy in force has rules that go by attributes."""
        self._is_wanted = is_wanted
        self._shared = shared
        self._clock = clock
        self._telemetry = telemetry
        self._read = PageReader(Listing("servers", "id", Paging.MARKER))
        self._current: dict[ProjectId, Inventory] = {}
        self._kept = {
            project: _Kept(account) for account in accounts for project in account.projects
        }
        for project, kept in self._kept.items():
            file = kept.account.files.get(project)
            value = None if file is None else file.load()
            if value is not None:
                with suppress(UpstreamBroken):  # a file that is damaged is written anew soon
                    self._take_over(project, kept, value)

    def current(self, project: ProjectId) -> Inventory:
        return self._current.get(project, NO_INVENTORY)

    def refresh_soon(self, project: ProjectId) -> None:
        kept = self._kept.get(project)
        if kept is not None:
            kept.is_stale, kept.due_at = True, 0.0

    def age_s(self, account: str) -> float:
        """Return the age of the account's oldest inventory; not a number while one is missing."""
        taken = [
            self.current(project).taken_at
            for project, kept in self._kept.items()
            if kept.account.name == account
        ]
        oldest = min(taken, default=NO_INVENTORY.taken_at)
        return float("nan") if oldest == NO_INVENTORY.taken_at else self._clock.now() - oldest

    async def keep(self, account: str) -> None:
        """Look at what is due of one account, for ever."""
        while True:
            for project, kept in self._kept.items():
                is_due = self._clock.monotonic() >= kept.due_at and self._is_wanted()
                if is_due and kept.account.name == account:
                    await self._look(project, kept)
            await self._clock.sleep(_LOOK_EVERY_S)

    async def _look(self, project: ProjectId, kept: _Kept) -> None:
        account = kept.account
        kept.due_at = self._clock.monotonic() + account.poll_s
        unusable, kept.is_stale = (kept.text if kept.is_stale else None), False
        try:
            held = await self._shared.obtain(
                f"inventory:{account.name}:{project}",
                lambda: self._fetch(project, account),
                deadline=self._clock.monotonic() + _POLL_WITHIN_S,
                unusable=unusable,
            )
            self._take_over(project, kept, held.value)
        except GatewayError as error:
            self._telemetry.inventory_polled(account.name, type(error).__name__)
            kept.due_at = self._clock.monotonic() + min(account.poll_s, 10 * _AGAIN_AFTER_S)
            kept.is_stale = unusable is not None
        else:
            self._telemetry.inventory_polled(account.name, "ok")
            # Shared values end together: whoever looks first then lists for all.
            kept.due_at = min(kept.due_at, held.good_until + _AGAIN_AFTER_S)
            file = account.files.get(project)
            if file is not None:
                await file.save(held.value)

    def _take_over(self, project: ProjectId, kept: _Kept, value: bytes) -> None:
        try:
            inventory = from_text(zlib.decompress(value), age_max_s=kept.account.age_max_s)
        except (ValueError, zlib.error):
            raise UpstreamBroken("what was kept is no inventory") from None
        kept.text = value
        if inventory.taken_at >= self.current(project).taken_at:
            self._current[project] = inventory

    async def _fetch(self, project: ProjectId, account: InventoryAccount) -> Fetched:
        taken_at, began = self._clock.now(), self._clock.monotonic()
        servers: dict[ServerId, Attributes] = {}
        marker = ""
        for _ in range(_PAGES_MAX):
            page = self._read(await self._page(project, account, marker, began + _POLL_WITHIN_S))
            servers |= described(page.raws)
            marker = page.next_marker
            if not marker:
                inventory = Inventory(servers, taken_at=taken_at, good_until=0.0)
                text = await asyncio.to_thread(zlib.compress, inventory.as_text(), 6)
                return Fetched(text, self._clock.monotonic() + account.poll_s)
        raise UpstreamBroken("the list of servers has no end")

    async def _page(
        self, project: ProjectId, account: InventoryAccount, marker: str, deadline: float
    ) -> bytes:
        query: list[Any] = [("limit", "1000"), *([("marker", marker)] if marker else ())]
        while True:
            try:
                answer = await account.exchange.perform(
                    UpstreamRequest("GET", f"/v1/{project}/physicalservers?{encoded(query)}"),
                    project=project,
                    demand=_SPARE,
                    budget=BudgetClass.CONSOLE,
                    deadline=deadline,
                )
            except BudgetExhausted:
                if self._clock.monotonic() + _AGAIN_AFTER_S >= deadline:
                    raise
                await self._clock.sleep(_AGAIN_AFTER_S)
            else:
                return answer.body
