"""The account's budget, one for all replicas (ports.Budget), and this process's share without."""

from collections.abc import Mapping

from gateway.drivers.valkey.connection import Script, Valkey
from gateway.errors import BudgetExhausted, StoreUnavailable
from gateway.model import BudgetClass
from gateway.ports import Clock, Telemetry
from gateway.rules.pacing import Pace, spend, wait_for

_RESERVE = Script("reserve")
_PAUSE_UNNAMED_S = 3.0
"""The vendor's advice is 2 to 5 s where it names no span (dossier 2.5)."""
_PAUSE_MAX_S = 300.0


class ValkeyBudget:
    def __init__(
        self,
        valkey: Valkey,
        paces: Mapping[tuple[str, BudgetClass], Pace],
        *,
        wait_max_s: Mapping[str, float],
        processes_max: int,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._valkey = valkey
        self._paces = paces
        self._wait_max_s = wait_max_s
        self._processes_max = processes_max
        self._clock = clock
        self._telemetry = telemetry
        self._own_tat: dict[tuple[str, BudgetClass], float] = {}

    async def admit(
        self,
        account: str,
        budget: BudgetClass,
        caller: str,  # noqa: ARG002 - the port's; fair shares by caller come with the queue
        *,
        deadline: float,
    ) -> None:
        longest_s = min(self._wait_max_s[account], max(0.0, deadline - self._clock.monotonic()))
        try:
            admitted, wait_s = await self._reserve(account, budget, longest_s)
        except StoreUnavailable:
            admitted, wait_s = self._reserve_own(account, budget, longest_s)
        if not admitted:
            self._telemetry.budget_refused(account, budget)
            # When a place is free within the longest wait, not when this call would have had it.
            raise BudgetExhausted(
                f"account {account}: next slot in {wait_s:.1f} s",
                retry_after_s=max(0.0, wait_s - longest_s),
            )
        self._telemetry.budget_wait(account, budget, wait_s)
        if wait_s > 0:
            await self._clock.sleep(wait_s)

    async def throttled(self, account: str, budget: BudgetClass, *, pause_s: float | None) -> None:
        pause_s = min(pause_s if pause_s is not None else _PAUSE_UNNAMED_S, _PAUSE_MAX_S)
        pace = self._paces[account, budget]
        now = self._clock.monotonic()
        own = self._own_tat.get((account, budget), now)
        self._own_tat[account, budget] = max(own, now + pause_s + pace.tolerance_s)
        try:
            await self._run(account, budget, longest_s=0.0, pause_s=pause_s)
        except StoreUnavailable:
            return  # our own pause above holds; the others learn it from their own 429

    async def _reserve(
        self, account: str, budget: BudgetClass, longest_s: float
    ) -> tuple[bool, float]:
        admitted, wait_us = await self._run(account, budget, longest_s=longest_s, pause_s=0.0)
        pace = self._paces[account, budget]
        now = self._clock.monotonic()
        # What this process goes on with if the store is lost now: it has just spent a slot.
        self._own_tat[account, budget] = now + wait_us / 1e6 + pace.interval_s
        return bool(admitted), wait_us / 1e6

    def _reserve_own(
        self, account: str, budget: BudgetClass, longest_s: float
    ) -> tuple[bool, float]:
        processes = max(self._valkey.processes, self._processes_max)
        pace = self._paces[account, budget].share(processes)
        now = self._clock.monotonic()
        tat = self._own_tat.get((account, budget), now + pace.interval_s)
        wait_s = wait_for(tat, now, pace)
        if wait_s > longest_s:
            return False, wait_s
        self._own_tat[account, budget] = spend(tat, now, pace)
        return True, wait_s

    async def _run(
        self, account: str, budget: BudgetClass, *, longest_s: float, pause_s: float
    ) -> tuple[int, int]:
        pace = self._paces[account, budget]
        key = self._valkey.key("budget", budget.value, tag=account)
        spans = (pace.interval_s, pace.tolerance_s, longest_s, pause_s)
        reply = await self._valkey.run_script(
            _RESERVE, [key], [round(span * 1e6) for span in spans]
        )
        return int(reply[0]), int(reply[1])
