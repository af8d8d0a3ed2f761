"""Implements the port `ServiceCredential` with temporary keys of the ECS metadata endpoint.

The gateway runs on a server with an agency; the endpoint of that server issues its keys.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime

import orjson

from gateway.domain.errors import GatewayError
from gateway.domain.model import Headers, Secret, UpstreamRequest
from gateway.drivers.cloud.login_endpoint import LoginEndpoint
from gateway.drivers.cloud.request_signer import RequestSigner
from gateway.drivers.cloud.service_token import expiry_margin_s, issued_at
from gateway.flow.clock import Clock

_KEYS_PATH = "/openstack/latest/securitykey"
_TOKEN_PATH = "/meta-data/latest/api/token"  # noqa: S105 - a path
_TOKEN_TTL_S = 21_600
_RENEW_EVERY_S = 600.0
_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class TemporaryKeys:
    access_key: Secret
    secret_key: Secret
    security_token: Secret
    expires_at: float
    lifetime_s: float


class MetadataKeys:
    """The keys of this server, fetched by one request at a time and renewed in time."""

    def __init__(self, address: str, endpoint: LoginEndpoint, clock: Clock) -> None:
        self.address = address
        self._endpoint = endpoint
        self._clock = clock
        self._keys: TemporaryKeys | None = None
        self._fetching = asyncio.Lock()

    async def current(self) -> TemporaryKeys:
        """Return valid keys. Raises ServiceLoginFailed."""
        keys = self._keys
        if keys is None or self._expire_too_soon(keys):
            keys = await self.replace(keys)
        return keys

    @property
    def are_current(self) -> bool:
        return self._keys is not None and not self._expire_too_soon(self._keys)

    async def replace(self, old: TemporaryKeys | None) -> TemporaryKeys:
        """Fetch keys unless another request has replaced `old` meanwhile."""
        async with self._fetching:
            if self._keys is None or self._keys is old:
                self._keys = await self._fetch()
            return self._keys

    async def run(self) -> None:
        """Fetch new keys before these expire, until cancelled."""
        while True:
            try:
                keys = await self.replace(self._keys)
                await self._clock.sleep(min(_RENEW_EVERY_S, max(1.0, self._remaining_s(keys) / 2)))
            except GatewayError:
                await self._clock.sleep(_RETRY_S)

    async def _fetch(self) -> TemporaryKeys:
        now = self._clock.now()
        found = await self._endpoint.send(UpstreamRequest("GET", _KEYS_PATH))
        if found.status == 401:  # the server's metadata requires a session token
            headers = (("X-Metadata-Token-Ttl-Seconds", str(_TOKEN_TTL_S)),)
            token = await self._endpoint.send(UpstreamRequest("PUT", _TOKEN_PATH, headers))
            text = token.response.body.decode("ascii", "replace").strip()
            credential = (("X-Metadata-Token", text),)
            found = await self._endpoint.send(
                UpstreamRequest("GET", _KEYS_PATH), credential=credential
            )
        try:
            one = orjson.loads(found.response.body)["credential"]
            expires_at = datetime.fromisoformat(one["expires_at"]).timestamp()
            texts = [str(one[name]) for name in ("access", "secret", "securitytoken")]
        except (ValueError, TypeError, KeyError):
            raise self._endpoint.unavailable(
                str(found.status), f"{found.status} without keys; has the server an agency?"
            ) from None
        # On this machine's clock: that of the endpoint may differ.
        lifetime_s = expires_at - issued_at(one, found.response, now)
        if found.status != 200 or lifetime_s <= 0 or not all(map(_is_header_text, texts)):
            raise self._endpoint.unavailable(str(found.status), "the keys are not valid")
        self._endpoint.reset_backoff()
        access, secret, security = map(Secret, texts)
        return TemporaryKeys(access, secret, security, now + lifetime_s, lifetime_s)

    def _expire_too_soon(self, keys: TemporaryKeys) -> bool:
        return self._remaining_s(keys) < expiry_margin_s(keys.lifetime_s)

    def _remaining_s(self, keys: TemporaryKeys) -> float:
        return keys.expires_at - self._clock.now()


class MetadataCredential:
    """Signs each request for one project with the keys of this server."""

    def __init__(self, project: str, keys: MetadataKeys, endpoint: str, *, clock: Clock) -> None:
        self._keys = keys
        self._signer = RequestSigner(project, endpoint, clock)
        self._sent: TemporaryKeys | None = None

    async def log_in(self, *, deadline: float) -> str:
        del deadline
        await self._keys.current()
        return f"{self._keys.address} issued keys"

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        del deadline
        keys = self._sent = await self._keys.current()
        return self._signer.headers(request, keys.access_key, keys.secret_key, keys.security_token)

    async def renew(self, refused: Headers, *, is_certain: bool, deadline: float) -> bool:
        del is_certain, deadline
        keys = await self._keys.replace(self._sent)
        return dict(refused).get("X-Security-Token") != keys.security_token.reveal()

    @property
    def is_ready(self) -> bool:
        return self._keys.are_current

    def report(self, sent: Headers, *, accepted: bool) -> None:
        pass


def _is_header_text(text: str) -> bool:
    return text.isascii() and text.isprintable() and text != "" and " " not in text
