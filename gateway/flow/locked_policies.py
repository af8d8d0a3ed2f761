"""The policy in force, with the locks on servers and projects that decide before its rules."""

from collections.abc import Callable

from gateway.domain.policy.policy import Policy
from gateway.domain.policy.target_locks import NO_LOCKS, TargetLocks
from gateway.flow.decide import Policies


class LockedPolicies:
    def __init__(self, policies: Policies, locks: Callable[[], TargetLocks]) -> None:
        """`locks` returns the locks in force: the same object until one is set or lifted."""
        self._policies = policies
        self._locks = locks
        self._seen: tuple[Policy | None, TargetLocks] = (None, NO_LOCKS)
        self._locked: Policy | None = None

    def current(self) -> Policy:
        """Return the policy in force; another object after each change of the policy or a lock."""
        policy, locks = self._policies.current(), self._locks()
        if locks is NO_LOCKS or not locks:  # the common case: each cache hit comes here twice
            return policy
        seen_policy, seen_locks = self._seen
        if self._locked is None or policy is not seen_policy or locks is not seen_locks:
            self._locked = policy.with_locks(locks)
            self._seen = policy, locks
        return self._locked
