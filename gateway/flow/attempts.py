"""How often a call went to the cloud and what came of it, which is known however the call ends."""

from collections.abc import Callable

from gateway.domain.errors import UpstreamUnreachable
from gateway.domain.model import WriteOutcome
from gateway.domain.policy.policy import Permit
from gateway.domain.upstream.conversation import NotSent, StepOutcome
from gateway.domain.upstream.verdicts import Broken, CredentialStale, Throttled, Unavailable, Usable


class Attempts:
    """Of one call, which may be sent several times, or never."""

    def __init__(self, permitted_now: Callable[[], Permit | None] = lambda: None) -> None:
        """`permitted_now` decides anew on the call, and raises where it is not permitted."""
        self.permitted_now = permitted_now
        self.last: StepOutcome = None
        """What came of the last one."""
        self.unsure: StepOutcome = None
        """What came of the last one that the cloud may have acted on."""
        self._is_under_way = False
        self._cancel: Callable[[], object] | None = None

    def begin(self) -> None:
        """Begin one, which may have waited long; raises what `permitted_now` raises."""
        self.permitted_now()
        self._is_under_way = True

    def end(self, outcome: StepOutcome) -> None:
        self._is_under_way = False
        self.last = outcome
        if _may_be_done(outcome):
            self.unsure = outcome
        if self._cancel is not None:
            self._cancel()

    def stop(self, cancel: Callable[[], object]) -> None:
        """Call `cancel` as soon as nothing is on its way, so that it is known what came of it."""
        if self._is_under_way:
            self._cancel = cancel
        else:
            cancel()

    def result(self) -> tuple[WriteOutcome, int]:
        """Return what became of the call, and the last status of the cloud; 0: it gave none."""
        if self._is_under_way:
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


def _may_be_done(outcome: StepOutcome) -> bool:
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
