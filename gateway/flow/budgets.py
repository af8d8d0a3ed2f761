"""All budgets of all accounts (port `Budget`), and entries that a claim makes in their queues."""

from collections.abc import Callable, Iterable, Mapping

from gateway.domain.model import BudgetClass, QueueRequest
from gateway.domain.queue.fair_queue import BatchResult
from gateway.flow.fair_budget import BudgetQueue, WaitingCall
from gateway.flow.shared_queue import EntryBatch
from gateway.flow.waiters import Waiters


class ClaimedEntry:
    """Implements the port `EarlyEntry`."""

    def __init__(
        self,
        queue: BudgetQueue,
        request: QueueRequest,
        deadline: float,
        waiters: Waiters | None,
        may_enter: Callable[[], bool],
    ) -> None:
        """`may_enter` returns whether the call can be sent as soon as it has a slot."""
        self._queue = queue
        self._request = request
        self._deadline = deadline
        self._waiters = waiters
        self._may_enter = may_enter
        self._call: WaitingCall | None = None

    def begin(self) -> EntryBatch | None:
        if self._call is not None or not self._may_enter():
            return None
        begun = self._queue.begin_entry(
            self._request, deadline=self._deadline, waiters=self._waiters
        )
        if begun is None:
            return None
        self._call, batch = begun
        return batch

    def made(self, result: BatchResult) -> None:
        if self._call is not None:
            self._queue.entry_made(self._call, result)

    def not_made(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            self._queue.leave(call, was_made=False)

    def lost(self) -> None:
        if self._call is not None:
            self._queue.entry_lost(self._call)

    def take(self) -> float | None:
        if self._call is None:
            return None
        send_by = self._queue.take_slot(self._call)
        if send_by is not None:
            self._call = None
        return send_by

    async def wait(self) -> float | None:
        call, self._call = self._call, None
        return None if call is None else await self._queue.wait(call)

    def release(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            self._queue.leave(call)


class FairBudget:
    """All budgets of all accounts. Implements the port `Budget`."""

    def __init__(self, queues: Iterable[BudgetQueue]) -> None:
        self._queues = {(queue.account, queue.budget): queue for queue in queues}

    @property
    def queues(self) -> tuple[BudgetQueue, ...]:
        return tuple(self._queues.values())

    def expected_wait_s(self, account: str, budget: BudgetClass) -> float:
        return self._queues[account, budget].expected_wait_s

    def spare_interval_s(self, account: str, budget: BudgetClass) -> float | None:
        return self._queues[account, budget].spare_interval_s

    def set_rate_ceilings(self, per_s: Mapping[tuple[str, str], float]) -> None:
        """Apply rate ceilings by account and class; the config's where there is none."""
        for queue in self.queues:
            queue.set_rate_ceiling(per_s.get((queue.account, queue.budget.value)))

    def early_entry(
        self,
        account: str,
        budget: BudgetClass,
        request: QueueRequest,
        *,
        deadline: float,
        waiters: Waiters | None,
        may_enter: Callable[[], bool],
    ) -> ClaimedEntry:
        queue = self._queues[account, budget]
        return ClaimedEntry(queue, request, deadline, waiters, may_enter)

    async def admit(
        self,
        account: str,
        budget: BudgetClass,
        request: QueueRequest,
        *,
        deadline: float,
        requeued: bool = False,
        waiters: Waiters | None = None,
    ) -> float:
        queue = self._queues[account, budget]
        return await queue.admit(request, deadline=deadline, requeued=requeued, waiters=waiters)

    def throttled(
        self, account: str, budget: BudgetClass, *, pause_s: float | None, named_rate: float | None
    ) -> None:
        self._queues[account, budget].throttled(pause_s=pause_s, named_rate=named_rate)
