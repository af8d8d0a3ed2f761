"""The policy in force, with the grants of the access requests that it allows."""

from bisect import bisect_right
from collections.abc import Callable
from math import inf

from gateway.domain.policy.policy import Policy
from gateway.domain.requests.grants import grants_of
from gateway.domain.requests.model import AccessRequest
from gateway.flow.clock import Clock
from gateway.flow.decide import Policies

_NO_IDS: frozenset[str] = frozenset()


class RequestedPolicies:
    def __init__(
        self,
        policies: Policies,
        started: Callable[[], tuple[AccessRequest, ...]],
        ended: Callable[[], frozenset[str] | None],
        clock: Clock,
    ) -> None:
        """Take `started`: it returns the requests whose access has begun.

        It returns the same object until a change. `ended` returns the IDs of requests that were
        ended; None: they are not known, so no request is a grant.
        """
        self._policies = policies
        self._started = started
        self._ended = ended
        self._clock = clock
        self._seen: tuple[Policy | None, tuple[AccessRequest, ...], frozenset[str]] = (
            None,
            (),
            _NO_IDS,
        )
        self._current: Policy | None = None
        self._until = -inf
        """When the next grant begins or ends."""

    def current(self) -> Policy:
        """Return the policy in force; another object after each change of it or of a grant.

        Also after a grant has begun or ended by itself: a decision made before holds no longer.
        """
        policy, started = self._policies.current(), self._started()
        if not started:  # before anything else: each cache hit comes here twice
            return policy
        ended = self._ended()
        if ended is None:
            return policy
        seen_policy, seen_started, seen_ended = self._seen
        is_seen = (
            policy is seen_policy
            and started is seen_started
            # To compare thousands of IDs would cost more than the rest of the decision.
            and (ended is seen_ended or ended == seen_ended)
        )
        if is_seen and ended is not seen_ended:
            self._seen = policy, started, ended
        if self._current is None or not is_seen or self._clock.now() >= self._until:
            self._current = self._with_grants(policy, started, ended)
            self._seen = policy, started, ended
        return self._current

    def _with_grants(
        self, policy: Policy, started: tuple[AccessRequest, ...], ended: frozenset[str]
    ) -> Policy:
        grants = grants_of(started, policy.request_rules, ended)
        after = bisect_right(grants.instants, self._clock.now())
        self._until = grants.instants[after] if after < len(grants.instants) else inf
        return policy.with_requested(grants) if grants else policy
