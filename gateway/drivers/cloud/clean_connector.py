"""A connection pool whose idle connections must have been silent."""

from typing import Final

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

_TRIES_MAX: Final = 8


class CleanConnector(aiohttp.TCPConnector):
    """Gives out no connection on which a response has arrived without a request.

    aiohttp would give it to the next request: the response to one caller would answer another. A
    load balancer, for example, sends 408 on an idle connection before it closes it.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - not seconds
    ) -> Connection:
        for _ in range(_TRIES_MAX):
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()
        raise aiohttp.ClientConnectionResetError("responses arrive before requests")
