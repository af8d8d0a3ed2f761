"""The attempts of one call to the cloud, and what is known of its effect, however it ends."""

from collections.abc import Callable

from gateway.domain.errors import UpstreamUnreachable
from gateway.domain.model import WriteOutcome
from gateway.domain.policy.policy import Permit
from gateway.domain.upstream.conversation import NotSent, StepOutcome
from gateway.domain.upstream.verdicts import Broken, CredentialStale, Throttled, Unavailable, Usable
from gateway.flow.shared_queue import EarlyEntry


class Attempts:
    """A call has any number of attempts, including none."""

    def __init__(self, permitted_now: Callable[[], Permit | None] = lambda: None) -> None:
        """`permitted_now` decides on the call again; it raises if the call is not permitted."""
        self.permitted_now = permitted_now
        self.last: StepOutcome = None
        """The outcome of the last attempt."""
        self.unsure: StepOutcome = None
        """The outcome of the last attempt after which the call may have had an effect."""
        self.is_in_flight = False
        self.entry: EarlyEntry | None = None
        """The entry of the first attempt in its queue, if the claim of the fetch may make it."""
        self._cancel: Callable[[], object] | None = None

    def begin(self) -> None:
        """Begin an attempt, after a wait of any length; raises what `permitted_now` raises."""
        self.permitted_now()
        self.is_in_flight = True

    def end(self, outcome: StepOutcome) -> None:
        self.is_in_flight = False
        self.last = outcome
        if _may_have_effect(outcome):
            self.unsure = outcome
        if self._cancel is not None:
            self._cancel()

    @property
    def has_succeeded(self) -> bool:
        return isinstance(self.last, Usable)

    def stop(self, cancel: Callable[[], object]) -> None:
        """Call `cancel` once no attempt is in flight, so its outcome is known."""
        if self.is_in_flight:
            self._cancel = cancel
        else:
            cancel()

    def result(self) -> tuple[WriteOutcome, int]:
        """Return the effect of the call, and the cloud's last HTTP status; 0: no response."""
        if self.is_in_flight:
            return WriteOutcome.UNKNOWN, 0
        match self.last:
            case None | NotSent() if self.unsure is None:
                return WriteOutcome.NOT_SENT, 0
            case Usable():
                return WriteOutcome.SUCCESS, self.last.response.status
            case _ if self.unsure is not None:
                return WriteOutcome.UNKNOWN, _status(self.unsure)
            case _:
                return WriteOutcome.FAILURE, _status(self.last)


def _may_have_effect(outcome: StepOutcome) -> bool:
    match outcome:
        case NotSent(error=UpstreamUnreachable() as error):
            return error.was_connected
        case Broken():
            return outcome.status >= 500
        case _:
            return isinstance(outcome, NotSent | Unavailable)


def _status(outcome: StepOutcome) -> int:
    match outcome:
        case Throttled():
            return 429
        case CredentialStale():
            return 401
        case NotSent() | Usable() | bool() | None:
            return 0
        case _:
            return outcome.status
