"""The console URL of one connection: fetched for it and never stored."""

from collections.abc import Callable, Mapping

from gateway.domain.consoles.model import ConsoleSession
from gateway.domain.errors import NotPermitted
from gateway.domain.links.console_link import console_url
from gateway.domain.model import BudgetClass, ProjectId, QueueRequest, Secret, UpstreamRequest
from gateway.domain.queue.fair_queue import weight_of
from gateway.flow.attempts import Attempts
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.console_links import ConsoleAccount
from gateway.flow.consoles.console_rights import ConsoleCalls, ConsoleRights


class FreshLinks:
    def __init__(  # noqa: PLR0913 - its dependencies
        self,
        *,
        accounts: Mapping[ProjectId, ConsoleAccount],
        calls: ConsoleCalls,
        rights: ConsoleRights,
        limits: CallerLimits,
        group_weights: Mapping[str, float],
        expected_wait_s: Callable[[str, BudgetClass], float],
        clock: Clock,
        timeout_s: float,
    ) -> None:
        """`expected_wait_s`: how long a call of an account waits in the queue, as it looks now."""
        self._accounts = accounts
        self._calls = calls
        self._rights = rights
        self._limits = limits
        self._group_weights = group_weights
        self._expected_wait_s = expected_wait_s
        self._clock = clock
        self._timeout_s = timeout_s

    def expected_wait_s(self, session: ConsoleSession) -> float:
        operation = self._calls.of(session.target).operation
        return self._expected_wait_s(session.target.account, operation.budget)

    def count_request(self, session: ConsoleSession) -> None:
        """Count a resume or a power operation in the person's limit; raise CallerLimited."""
        self._limits.admit(session.person.key)

    async def fetch(self, session: ConsoleSession) -> Secret:
        """Return a URL that no one has seen, by a call of this person.

        Raises what Exchange.call raises, and NotPermitted if the right ends in the queue.
        """
        call, person = self._calls.of(session.target), session.person
        account = self._accounts.get(call.project)
        if account is None or account.name != session.target.account:
            raise NotPermitted("the account is removed")

        def permitted_now() -> None:
            standing = self._rights.standing(session)
            if standing.mode is None:
                raise NotPermitted(standing.detail)

        operation = call.operation
        weight = weight_of(person.groups, self._group_weights)
        response = await account.exchange.call(
            UpstreamRequest(operation.method, call.target),
            project=call.project,
            queue_request=QueueRequest(person.key, weight, operation.priority),
            budget=operation.budget,
            deadline=self._clock.monotonic() + self._timeout_s,
            attempts=Attempts(permitted_now),
        )
        return console_url(response, account.addresses)
