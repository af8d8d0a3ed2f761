"""One login at a time for one IAM user or access key, over all projects and replicas.

Rejections are in a ledger that the replicas share. A rejection is published before the next login
starts, so concurrent failures cannot add up to a lock.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.domain.errors import DeadlineExceeded
from gateway.domain.upstream.login_ledger import (
    LoginLedger,
    LoginPause,
    LoginRejection,
    LoginSubject,
    decode_ledger,
)
from gateway.flow.clock import Clock
from gateway.flow.single_flight import Fetched, SingleFlight

_Result = TypeVar("_Result")
_EMPTY_TTL_S = 0.05
"""The lease needs a value to end; an empty ledger says nothing."""


class LoginRejected(Exception):
    """The cloud rejected the credential, or its use for one project."""

    def __init__(self, rejection: LoginRejection) -> None:
        super().__init__(rejection.reason)
        self.rejection = rejection


class LoginGate:
    """The logins of one user or access key in this process."""

    def __init__(self, user: str, *, shared: SingleFlight, clock: Clock) -> None:
        """`user` identifies whom IAM would lock."""
        self._key = f"logins:{fingerprint(user)}"
        self._shared = shared
        self._clock = clock
        self._ledger = LoginLedger()
        self._seen = self._ledger.encode(0.0)
        """The ledger as it was last read or published."""
        self._turn = asyncio.Lock()

    def pause(self, subject: LoginSubject) -> LoginPause | None:
        """Return why `subject` must not log in now, as far as this process knows."""
        return self._ledger.pause(subject, self._clock.monotonic())

    async def attempt(
        self, subject: LoginSubject, log_in: Callable[[], Awaitable[_Result]], *, deadline: float
    ) -> _Result | LoginPause:
        """Return the result of `log_in`, or the pause that prevents or follows it.

        The ledger records LoginRejected of `log_in`, and no other error. Raises DeadlineExceeded.
        """
        results: list[_Result] = []

        async def fetch() -> Fetched:
            try:
                results.append(await log_in())
            except LoginRejected as error:
                now = self._clock.monotonic()
                self._ledger = self._ledger.rejected(subject, error.rejection, now)
            else:
                self._ledger = self._ledger.succeeded(subject)
            return self._encode()

        await self._take_turn(deadline)
        try:
            while not results:
                if (pause := self.pause(subject)) is not None:
                    return pause
                seen = self._seen
                found = await self._shared.obtain(
                    self._key,
                    fetch,
                    deadline=deadline,
                    unusable=seen,
                    # IAM may count an abandoned login as a failure, so none is abandoned.
                    run_to_completion=True,
                )
                if found.value not in (seen, self._seen):
                    self._adopt(found.value)
        finally:
            self._turn.release()
        return results[0]

    async def _take_turn(self, deadline: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await self._turn.acquire()
        except TimeoutError:
            raise DeadlineExceeded("waiting for another login") from None

    def _encode(self) -> Fetched:
        now = self._clock.monotonic()
        self._seen = self._ledger.encode(self._clock.now() - now)
        until = now + _EMPTY_TTL_S if self._ledger.is_empty else self._ledger.needed_until
        return Fetched(self._seen, until)

    def _adopt(self, value: bytes) -> None:
        now = self._clock.monotonic()
        self._ledger = decode_ledger(value, now=now, epoch=self._clock.now() - now)
        self._seen = value


class LoginGates:
    """The gates of this process: accounts that use one user or key share its gate."""

    def __init__(self, shared: SingleFlight, clock: Clock) -> None:
        self._shared = shared
        self._clock = clock
        self._gates: dict[str, LoginGate] = {}

    def of(self, *user: str) -> LoginGate:
        name = "\0".join(user)
        if name not in self._gates:
            self._gates[name] = LoginGate(name, shared=self._shared, clock=self._clock)
        return self._gates[name]


def fingerprint(*texts: str) -> str:
    """Return an identifier of texts that may be secret."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
