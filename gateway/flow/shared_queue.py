"""Port of a budget's queue that all replicas share, and of an entry that a claim makes in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.domain.queue.fair_queue import BatchResult, BudgetLimit, QueueBatch, QueueState


@dataclass(frozen=True, slots=True)
class QueueUpdate:
    """The effect of another replica's batch on this replica."""

    granted: Mapping[str, float]
    refused: Mapping[str, float]
    paused_until: float
    next_at: float | None
    replicas_rejoin: bool
    """Replicas return from local queues; every live replica answers with a batch."""


class SharedQueue(Protocol):
    """One budget's queue, shared by all replicas (domain/queue/fair_queue.py has the rules)."""

    @property
    def available(self) -> bool: ...

    def set_limit(self, limit: BudgetLimit) -> None:
        """Apply another limit from the next batch on; it has as many windows."""

    @property
    def processes(self) -> int:
        """Number of live processes at the last contact with the store; 0: none yet."""

    def new_id(self) -> str:
        """Return an ID for an entry of this replica."""

    async def apply(self, batch: QueueBatch, state: QueueState) -> BatchResult:
        """Submit a batch and return its result, in one round trip; raises StoreUnavailable.

        `state` is this replica's view; it restores what the store may have lost.
        """

    def rejoin(self, processes: int) -> None:
        """Return from a local queue, as one of `processes`; all earlier entries are void."""

    def on_update(self, call: Callable[[QueueUpdate], None]) -> None:
        """Call `call` with each update."""

    def on_availability_change(self, call: Callable[[], None]) -> None:
        """Call `call` when the store becomes available or unavailable."""


@dataclass(slots=True)  # not frozen: made per call, and a frozen one takes ten times longer
class EntryBatch:
    """A batch with one entering call, and what it is submitted with."""

    queue: SharedQueue
    batch: QueueBatch
    state: QueueState


class EarlyEntry(Protocol):
    """A call's entry into its queue, made by the claim of its fetch in the same round trip.

    A call that need not wait has its slot together with the lease.
    """

    def begin(self) -> EntryBatch | None:
        """Return the batch that the store submits if the claim takes the lease.

        None: the call enters the queue later, by itself. The store reports what became of a batch
        by one of the next three methods, unless the claim is cancelled.
        """

    def made(self, result: BatchResult) -> None:
        """Accept the result of the batch: the claim has taken the lease."""

    def not_made(self) -> None:
        """Forget the batch: the claim has not taken the lease, so it was not submitted."""

    def lost(self) -> None:
        """Enter with the next batch: the store is unavailable, and this one may be lost."""

    def take(self) -> float | None:
        """Take the entry over if its slot can be used now, as `wait`; None: it cannot."""

    async def wait(self) -> float | None:
        """Take the entry over and wait for its slot, as `Budget.admit`; None: there is no entry."""

    def release(self) -> None:
        """Leave the queue, unless the entry was taken over."""
