"""Connections to the cloud's console WebSockets (port `ConsoleConnector`).

The console URL comes from the cloud, so its host is checked twice: by name against
`links.console_hosts`, and by address against private networks. The connection goes to an address
that was checked, not to a second resolution of the name.
"""

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway import __version__
from gateway.domain.consoles.shapes import ConsoleShape
from gateway.domain.consoles.socket_address import (
    Network,
    SocketAddress,
    SocketAddressError,
    address_problem,
    socket_address,
)
from gateway.domain.errors import ConsoleUnavailable
from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import Secret
from gateway.drivers.network.connection_errors import describe_error
from gateway.drivers.network.egress import EgressRoute
from gateway.drivers.network.websocket_channel import WebSocketChannel, cloud_websocket_options
from gateway.flow.consoles.connector import FetchUrl
from gateway.flow.consoles.frame_channel import FrameChannel

_GREETING: Final = b"RFB "
_HEADERS: Final = {"User-Agent": f"console-gateway/{__version__}"}


class ShapeMemory(Protocol):
    """The shape that worked last for an account, shared by replicas; it may be lost at any time."""

    async def recall(self, account: str) -> str:
        """Return the shape's text, or "" if none is known."""

    async def remember(self, account: str, shape: str) -> None:
        """Store the shape's text; "" forgets it."""


@dataclass(frozen=True, slots=True)
class ConsoleRoute:
    """How the consoles of one account are reached."""

    session: aiohttp.ClientSession
    addresses: ConsoleAddresses
    shapes: tuple[ConsoleShape, ...]
    """In the order in which to try them."""
    egress: EgressRoute
    resolver: "CheckedResolver"


@asynccontextmanager
async def open_console_route(
    addresses: ConsoleAddresses,
    shapes: tuple[ConsoleShape, ...],
    egress: EgressRoute,
    private_networks: Sequence[Network],
) -> AsyncIterator[ConsoleRoute]:
    """Open the client for the consoles of one account; its end closes all its WebSockets."""
    resolver = CheckedResolver(private_networks)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=resolver, use_dns_cache=False, force_close=True, limit=0, limit_per_host=0
        ),
        timeout=aiohttp.ClientTimeout(total=None),  # `connect_console` has its own
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        trust_env=False,
        middlewares=(_connect_once,),
    )
    async with session:
        yield ConsoleRoute(session, addresses, shapes, egress, resolver)


class CloudConsoles:
    """The consoles of all accounts."""

    def __init__(self, routes: Mapping[str, ConsoleRoute], shapes: ShapeMemory) -> None:
        """`routes`: by the account's name."""
        self._routes = routes
        self._shapes = shapes
        self._silent: defaultdict[str, list[ConsoleShape]] = defaultdict(list)
        """By account: the shapes that the cloud did not answer, the latest one last."""

    async def connect(self, fetch_url: FetchUrl, account: str, *, timeout_s: float) -> FrameChannel:
        route = self._routes[account]
        if len(route.shapes) == 1:
            return await connect_console(await fetch_url(), route, route.shapes[0], timeout_s)
        worked = await self._shapes.recall(account)
        refused = ConsoleUnavailable("no shape is configured")
        for shape in self._in_order(account, worked):
            url = await fetch_url()
            try:
                channel = await connect_console(url, route, shape, timeout_s)
            except ConsoleUnavailable as error:
                if not error.was_reached or not await self._goes_on(account, shape, worked, error):
                    raise
                refused = error
            else:
                self._silent[account].clear()
                if str(shape) != worked:
                    await self._shapes.remember(account, str(shape))
                return channel
        raise refused

    async def _goes_on(
        self, account: str, shape: ConsoleShape, worked: str, error: ConsoleUnavailable
    ) -> bool:
        """Note that a shape did not work; return whether to try another with the same console.

        Not after silence, which costs a whole time-out: the next connection tries another first.
        """
        if str(shape) == worked:
            await self._shapes.remember(account, "")
        if error.was_silent:
            others = [one for one in self._silent[account] if one != shape]
            self._silent[account] = [*others, shape]
        return not error.was_silent

    def _in_order(self, account: str, worked: str) -> list[ConsoleShape]:
        """Return the shapes: first the one that worked last, at the end those that were silent."""
        silent = self._silent[account]
        return sorted(
            self._routes[account].shapes,
            key=lambda one: (str(one) != worked, silent.index(one) if one in silent else -1),
        )


async def connect_console(
    url: Secret, route: ConsoleRoute, shape: ConsoleShape, timeout_s: float
) -> FrameChannel:
    """Connect to the console of a fresh URL and wait for the greeting of RFB.

    Raises ConsoleUnavailable; its text holds neither the URL nor its token.
    """
    try:
        address = socket_address(url, shape.address_template, route.addresses)
    except SocketAddressError as error:
        raise ConsoleUnavailable(str(error)) from None
    try:
        async with asyncio.timeout(timeout_s):
            with _translated(shape):
                return await _greeted(await _upgrade(url, address, route, shape), shape)
    except TimeoutError:
        detail = f"{shape}: no greeting of RFB in time"
        raise ConsoleUnavailable(detail, was_reached=True, was_silent=True) from None


async def _upgrade(
    url: Secret, address: SocketAddress, route: ConsoleRoute, shape: ConsoleShape
) -> aiohttp.ClientWebSocketResponse:
    options = route.egress.options(f"https://{address.host}:{address.port}")
    if "proxy" in options:
        # The proxy resolves the name, so the allow-list of hosts decides alone. The proxy's own
        # address comes from the config.
        route.resolver.trust(URL(options["proxy"]).host or "")
    else:
        route.resolver.check_literal(address.host)
    connected: aiohttp.ClientWebSocketResponse = await route.session.ws_connect(
        URL(address.url.reveal(), encoded=True),
        protocols=(shape.subprotocol,) if shape.subprotocol else (),
        # Consoles such as nova's refuse the origin of another page.
        origin=_origin(url),
        **cloud_websocket_options(),
        **options,
    )
    return connected


async def _greeted(
    socket: aiohttp.ClientWebSocketResponse, shape: ConsoleShape
) -> WebSocketChannel:
    """Return the channel once the server's greeting has arrived.

    websockify answers 101 before it knows whether the token is valid, then it closes.
    """
    channel, received = WebSocketChannel(socket), b""
    try:
        while len(received) < len(_GREETING):
            message = await channel.receive()
            if not isinstance(message, bytes):
                break
            received += message
    except BaseException:
        await channel.close(aiohttp.WSCloseCode.OK, "")
        raise
    if received.startswith(_GREETING):
        return WebSocketChannel(socket, first=received)
    await channel.close(aiohttp.WSCloseCode.OK, "")
    raise _refused(f"{shape}: the cloud closed the WebSocket, or it speaks no RFB")


class CheckedResolver(AbstractResolver):
    """Resolves names once per connection and refuses addresses that the config does not allow.

    If one of several addresses is refused, all are: a name that also leads into a private network
    is not trusted.
    """

    def __init__(self, private_networks: Sequence[Network]) -> None:
        self._resolver = aiohttp.ThreadedResolver()
        self._private_networks = tuple(private_networks)
        self._trusted: set[str] = set()

    def trust(self, host: str) -> None:
        """Resolve this host, a proxy of the config, without a check of its addresses."""
        self._trusted.add(host)

    def check_literal(self, host: str) -> None:
        """Check a host that is an address, which aiohttp does not resolve.

        Raises ConsoleUnavailable.
        """
        try:
            address = ip_address(host)
        except ValueError:
            return
        if problem := address_problem(address, self._private_networks):
            raise ConsoleUnavailable(f"console: {problem}")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if host not in self._trusted:
            for one in found:
                self.check_literal(one["host"].partition("%")[0])
        return found

    async def close(self) -> None:
        await self._resolver.close()


async def _connect_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Refuse redirects, and prevent aiohttp's automatic retry: a URL may be good for one use."""
    try:
        response = await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent; aiohttp does not retry it
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise _refused("the cloud closed the connection") from None
    if HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST:
        response.close()
        raise _refused(f"the cloud redirects the WebSocket ({response.status})")
    return response


@contextmanager
def _translated(shape: ConsoleShape) -> Iterator[None]:
    """Translate aiohttp's errors; their text holds the URL."""
    try:
        yield
    except aiohttp.WSServerHandshakeError as error:
        raise _refused(f"{shape}: the cloud answered {error.status}") from None
    except aiohttp.ClientProxyConnectionError as error:
        reason = describe_error(error.os_error)
        raise ConsoleUnavailable(f"no connection to the proxy: {reason}") from None
    except aiohttp.ClientConnectorError as error:
        raise ConsoleUnavailable(f"no connection: {describe_error(error.os_error)}") from None
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise ConsoleUnavailable(f"no connection: {type(error).__name__}") from None


def _refused(detail: str) -> ConsoleUnavailable:
    return ConsoleUnavailable(detail, was_reached=True)


def _origin(url: Secret) -> str:
    return str(URL(url.reveal(), encoded=True).origin())
