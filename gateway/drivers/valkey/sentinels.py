"""Discovery of the primary by Sentinels."""

import asyncio
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

Address = tuple[str, int]

_LATER_RESPONSES_S = 0.05
"""How long the others may respond after the first: they may know a newer configuration."""


class SentinelsUnavailable(RedisConnectionError):
    """No Sentinel responds; the cause is the error of one of them."""


class Sentinels(Sentinel):
    """Queries all Sentinels at once: an unreachable one delays nothing.

    A Sentinel that was separated from the others may still name the former primary. The response
    with the highest configuration epoch is therefore used.
    """

    async def discover_master(self, service_name: str) -> Address:
        responses = _Responses()
        with suppress(TimeoutError):
            async with responses.deadline, asyncio.TaskGroup() as queries:
                for sentinel in self.sentinels:
                    queries.create_task(self._query(sentinel, service_name, responses))
        if responses.found:
            return max(responses.found)[1]
        if len(responses.errors) == len(self.sentinels):
            raise SentinelsUnavailable from responses.errors[0]
        raise MasterNotFoundError(f"no Sentinel knows a primary of {service_name}")

    async def _query(self, sentinel: Redis, service: str, responses: "_Responses") -> None:
        try:
            states: Any = await sentinel.sentinel_masters()
        except (RedisError, OSError) as error:
            responses.errors.append(error)
            return
        state: dict[str, Any] | None = states.get(service)
        if state is not None and self.check_master_state(state, service):
            responses.add(int(state.get("config-epoch", 0)), (str(state["ip"]), int(state["port"])))


class _Responses:
    def __init__(self) -> None:
        self.deadline = asyncio.timeout(None)
        self.found: list[tuple[int, Address]] = []
        """Configuration epoch and address of the primary."""
        self.errors: list[RedisError | OSError] = []

    def add(self, epoch: int, address: Address) -> None:
        if not self.found:
            self.deadline.reschedule(asyncio.get_running_loop().time() + _LATER_RESPONSES_S)
        self.found.append((epoch, address))
