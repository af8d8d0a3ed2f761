"""HTTP to the cloud: one pool per account, each option written out (ports.Upstream)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from gateway import __version__
from gateway.errors import UpstreamBroken, UpstreamSlow, UpstreamUnreachable
from gateway.model import UpstreamAnswer, UpstreamRequest
from gateway.settings import Timeouts

_HEADER_BYTES_MAX = 65_536  # tokens of the cloud's IAM have tens of kilobytes (dossier 3.1)
_CHUNK_BYTES = 65_536
_USER_AGENT = f"console-gateway/{__version__}"
_ROUND_UP_NEVER_S = 86_400.0
"""aiohttp rounds longer timeouts up to whole seconds, which is past a request's deadline."""


@asynccontextmanager
async def open_session(
    timeouts: Timeouts, *, connections_max: int
) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a client for one account; two accounts never share connections."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=connections_max,
            limit_per_host=connections_max,
            keepalive_timeout=30.0,
            ttl_dns_cache=60,
            timeout_ceil_threshold=_ROUND_UP_NEVER_S,
        ),
        timeout=aiohttp.ClientTimeout(
            total=timeouts.total_s,
            sock_connect=timeouts.connect_s,
            sock_read=timeouts.read_s,
            ceil_threshold=_ROUND_UP_NEVER_S,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),  # a cookie of one caller's answer is not another's
        headers={"User-Agent": _USER_AGENT, "Accept": "application/json"},
        skip_auto_headers={"Content-Type"},
        trust_env=False,
        auto_decompress=True,
        raise_for_status=False,
        max_line_size=_HEADER_BYTES_MAX,
        max_field_size=_HEADER_BYTES_MAX,
        requote_redirect_url=False,
        middlewares=(_send_once,),
    )
    async with session:
        yield session


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending again by itself: the copy would have no slot of the budget."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent, and aiohttp lets it pass
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _unreachable(f"the connection broke: {type(error).__name__}") from None


class AioUpstream:
    def __init__(
        self, session: aiohttp.ClientSession, endpoint: str, *, answer_bytes_max: int
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._answer_bytes_max = answer_bytes_max

    async def send(
        self,
        request: UpstreamRequest,
        *,
        credential: tuple[tuple[str, str], ...],
        timeout_s: float,
    ) -> UpstreamAnswer:
        configured = self._session.timeout
        timeout = aiohttp.ClientTimeout(
            total=min(timeout_s, configured.total or timeout_s),
            sock_connect=configured.sock_connect,
            sock_read=configured.sock_read,
            ceil_threshold=configured.ceil_threshold,
        )
        # The texts of aiohttp's errors hold addresses and header values: none goes on.
        try:
            async with self._session.request(
                request.method,
                URL(self._endpoint + request.path, encoded=True),
                headers=[*request.headers, *credential],
                data=request.body or None,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                body = await self._read(response)
                headers = {name.lower(): value for name, value in response.headers.items()}
                return UpstreamAnswer(response.status, headers, body)
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise _unreachable("no connection in time") from None
            raise UpstreamSlow("no answer in time") from None
        except (aiohttp.ClientConnectorError, ConnectionError) as error:
            raise _unreachable(f"no connection: {type(error).__name__}") from None
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise _unreachable(f"the connection broke: {type(error).__name__}") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise UpstreamBroken(f"no readable answer: {type(error).__name__}") from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > self._answer_bytes_max:
                response.close()
                raise UpstreamBroken("the answer is larger than answer_bytes_max")
        return bytes(body)


def _unreachable(detail: str) -> UpstreamUnreachable:
    return UpstreamUnreachable(detail, retry_after_s=2.0)
