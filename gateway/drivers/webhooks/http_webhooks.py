"""Sends webhooks over HTTPS (port `WebhookSender`): no redirects, addresses checked."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from gateway.config.egress import EgressSettings
from gateway.domain.consoles.socket_address import Network
from gateway.domain.errors import ConsoleUnavailable
from gateway.domain.model import Headers, Secret
from gateway.drivers.cloud.console_connector import CheckedResolver
from gateway.drivers.network.connection_errors import describe_error
from gateway.drivers.network.egress import EgressRoute
from gateway.flow.requests.webhooks import Delivery

_TIMEOUT_S: Final = 15.0


class HttpWebhooks:
    def __init__(
        self, session: aiohttp.ClientSession, resolver: CheckedResolver, route: EgressRoute
    ) -> None:
        self._session = session
        self._resolver = resolver
        self._route = route

    async def send(self, url: Secret, headers: Headers, body: bytes) -> Delivery:
        address = url.reveal()
        try:
            options = self._route.options(address)
            if "proxy" in options:
                self._resolver.trust(urlsplit(options["proxy"]).hostname or "")
            self._resolver.check_literal(urlsplit(address).hostname or "")
            async with self._session.post(
                address,
                data=body,
                headers={"Content-Type": "application/json", **dict(headers)},
                allow_redirects=False,
                **options,
            ) as response:
                return Delivery(response.status, _retry_after_s(response.headers))
        except ConsoleUnavailable as refused:
            return Delivery(0, error=refused.detail)
        except OSError as error:  # most of aiohttp's errors are such; their texts have the address
            return Delivery(0, error=describe_error(error))
        except aiohttp.ClientError as error:
            return Delivery(0, error=type(error).__name__)


@asynccontextmanager
async def open_webhooks(
    egress: EgressSettings, private_networks: Sequence[Network]
) -> AsyncIterator[HttpWebhooks]:
    resolver = CheckedResolver(private_networks)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, limit=20),
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )
    route = EgressRoute(egress, proxy=None, ca_file=None, certificate=None)
    async with session:
        yield HttpWebhooks(session, resolver, route)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 9 else 0.0
