"""The verification keys of one issuer, refreshed in the background.

Only `run` fetches keys, never a request. A caller that disconnects therefore cancels no fetch, and
all requests with an unknown `kid` wait for one fetch per cooldown. A failed refresh leaves the keys
unchanged; keys that were not refreshed for `keys_age_max_s` expire. A worker that starts while the
issuer is unavailable uses the keys that earlier workers loaded, with their age.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from gateway.config.issuers import DiscoveryKeys, Issuer, JwksKeys, SharedSecretKey, StaticKeys
from gateway.config.key_material import (
    KEYS_BYTES_MAX,
    IssuerKey,
    UnusableKeys,
    keys_for_algorithms,
    parse_json,
    parse_key_file,
    parse_key_set,
    parse_shared_secret,
    read_key_file,
)
from gateway.config.values import discovery_document, is_exposed
from gateway.domain.errors import KeysUnavailable, NotAuthenticated, Rejection
from gateway.domain.quoted import quoted
from gateway.drivers.host.handover import Handover
from gateway.drivers.network.connection_errors import describe_error
from gateway.drivers.network.egress import EgressRoute
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.keys")

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0, connect=3.0)
_RETRY_S_MAX: Final = 30.0
_TRIED_MAX: Final = 10
"""Issuers publish two to ten keys."""


class IssuerKeys:
    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        issuer: Issuer,
        *,
        http: aiohttp.ClientSession,
        clock: Clock,
        telemetry: Telemetry,
        on_rotation: Callable[[str], None],
        jitter: Random,
        handover: Handover,
        route: EgressRoute | None = None,
    ) -> None:
        """Use the keys of earlier workers, if any.

        `on_rotation` is called with the issuer's name when keys have changed or expired.
        """
        self._issuer = issuer
        self._route = route
        self._http = http
        self._clock = clock
        self._telemetry = telemetry
        self._on_rotation = on_rotation
        self._jitter = jitter
        self._keys: tuple[IssuerKey, ...] = ()
        self._ignored: list[str] = []
        self._confirmed_at = clock.monotonic()
        self._due_at = clock.monotonic()
        self._failures = 0
        self._refresh_lock = asyncio.Lock()
        self._refreshed = asyncio.Event()
        """Set when the current refresh ends, or the next one if none is running."""
        self._requested = asyncio.Event()
        self._next_request_at = clock.monotonic()
        self._handover = handover
        if (earlier := handover.get(self._handover_name)) is not None:
            with suppress(UnusableKeys):  # the issuer's settings have changed since
                self._keys = self._parse(earlier.text)
                self._confirmed_at = earlier.at

    @property
    def issuer(self) -> str:
        """The issuer's name in the config."""
        return self._issuer.name

    @property
    def loaded(self) -> bool:
        """Return whether there are keys that have not expired."""
        return bool(self._keys) and self._clock.monotonic() < self._expires_at

    @property
    def summary(self) -> str:
        """Return the number of keys, and which published keys are ignored."""
        count = len(self._keys)
        text = f"{count} key{'s' if count != 1 else ''}"
        return "; ignored: ".join([text, *(["; ".join(self._ignored)] if self._ignored else [])])

    @property
    def age_s(self) -> float:
        """Return the seconds since the keys were last loaded; infinity before the first load."""
        return self._clock.monotonic() - self._confirmed_at if self._keys else math.inf

    @property
    def age_max_s(self) -> float:
        return self._issuer.keys_age_max_s

    @property
    def _expires_at(self) -> float:
        return self._confirmed_at + self._issuer.keys_age_max_s

    async def run(self) -> None:
        """Refresh on schedule and on demand, until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._refresh_on_schedule())
            loops.create_task(self._refresh_on_demand())

    async def keys_for(self, algorithm: str, kid: str | None) -> tuple[Any, ...]:
        """Return the keys that a signature may be from: at most _TRIED_MAX of one algorithm.

        A token without `kid` may be signed with any key of its algorithm. Keys without `kid` (a PEM
        file, a secret) fit any `kid` if no key of the algorithm has one. If no key fits, the
        request waits for a refresh. Raises NotAuthenticated, KeysUnavailable.
        """
        found = await self._search(algorithm, kid)
        if found:
            return found
        if self._has_kid(kid):
            raise NotAuthenticated(Rejection.ALGORITHM, "alg does not match the key named by kid")
        if self._failures:
            # The key may be a new one: only the issuer knows.
            raise self._unavailable("lack the token's kid, and were not refreshed")
        detail = "no kid, and no key for alg" if kid is None else "kid is not a key of this issuer"
        raise NotAuthenticated(Rejection.KEY_UNKNOWN, detail)

    async def keys_after_mismatch(
        self, algorithm: str, kid: str | None, tried: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Return the keys without those that were `tried`, after a refresh if there are none.

        An issuer may replace a key under its `kid`. Raises NotAuthenticated, KeysUnavailable.
        """
        found = await self._search(algorithm, kid, tried)
        if not found:
            raise NotAuthenticated(Rejection.SIGNATURE, "the signature matches no key")
        return found

    async def _search(
        self, algorithm: str, kid: str | None, tried: tuple[Any, ...] = ()
    ) -> tuple[Any, ...]:
        """Return fitting keys, at most two refreshes later; empty if there are none."""
        found = self._choose(algorithm, kid, tried)
        for _ in range(2):  # the running refresh may have started before the key was published
            if found or not self._request_refresh():
                break
            await self._refreshed.wait()
            found = self._choose(algorithm, kid, tried)
        return found

    async def refresh(self) -> None:
        """Load the keys now, one load at a time. Raises KeysUnavailable and keeps the old keys."""
        async with self._refresh_lock:
            try:
                keys = await self._load()
            except (UnusableKeys, aiohttp.ClientError, OSError, UnicodeError) as error:
                # UnicodeError: the host name of a published address is not encodable.
                self._failed()
                raise self._unavailable(f"were not refreshed: {describe_failure(error)}") from error
            else:
                self._accept(keys)
            finally:
                ended, self._refreshed = self._refreshed, asyncio.Event()
                ended.set()

    async def try_refresh(self) -> None:
        """Load the keys now; log a failure."""
        try:
            await self.refresh()
        except KeysUnavailable as error:
            log.warning(
                "keys_refresh_failed",
                extra={"issuer": self._issuer.name, "error": str(error)},
            )

    def _request_refresh(self) -> bool:
        """Request a refresh unless one is running or due.

        Return False during the cooldown, and after a failed refresh: its retry is scheduled.
        """
        if self._refresh_lock.locked() or self._requested.is_set():
            return True
        now = self._clock.monotonic()
        if now < self._next_request_at or self._failures:
            return False
        self._next_request_at = now + self._issuer.unknown_kid_cooldown_s
        self._requested.set()
        return True

    async def _refresh_on_demand(self) -> None:
        while True:
            await self._requested.wait()
            self._requested.clear()
            await self.try_refresh()
            while self._failures:  # the other loop may sleep until the regular refresh
                await self._refresh_when_due()

    async def _refresh_on_schedule(self) -> None:
        while True:
            await self._refresh_when_due()

    async def _refresh_when_due(self) -> None:
        """Wait once, and refresh if it is due then; both loops may run this at once."""
        await self._clock.sleep(self._due_at - self._clock.monotonic())
        if self._refresh_lock.locked():
            await self._refreshed.wait()
        elif self._clock.monotonic() >= self._due_at:
            self._drop_expired_keys()
            await self.try_refresh()

    def _drop_expired_keys(self) -> None:
        if self._keys and not self.loaded:
            # on_rotation drops the cached tokens that were verified with these keys.
            log.error("keys_expired", extra={"issuer": self._issuer.name})
            self._keys = ()
            self._on_rotation(self._issuer.name)

    def _accept(self, keys: tuple[IssuerKey, ...]) -> None:
        now = self._clock.monotonic()
        previous, self._keys = self._keys, keys
        self._confirmed_at, self._failures = now, 0
        self._due_at = now + self._issuer.keys_refresh_s * self._jitter.uniform(0.9, 1.0)
        self._telemetry.keys_refreshed(self._issuer.name, "ok")
        if set(previous) != set(keys):
            log.info("keys_changed", extra={"issuer": self._issuer.name, "keys": len(keys)})
            self._on_rotation(self._issuer.name)

    def _failed(self) -> None:
        now = self._clock.monotonic()
        self._failures += 1
        back_off_s = min(2.0 ** min(self._failures, 10), _RETRY_S_MAX, self._issuer.keys_refresh_s)
        self._due_at = now + back_off_s * self._jitter.uniform(0.5, 1.0)
        if self.loaded:
            self._due_at = min(self._due_at, self._expires_at)
        self._telemetry.keys_refreshed(self._issuer.name, "failed")

    def _unavailable(self, detail: str) -> KeysUnavailable:
        retry_after_s = max(1.0, self._due_at - self._clock.monotonic())
        return KeysUnavailable(
            f"keys of issuer {self._issuer.name} {detail}", retry_after_s=retry_after_s
        )

    def _choose(self, algorithm: str, kid: str | None, tried: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the keys that a signature may be from, without those that were `tried`."""
        if not self.loaded:
            raise self._unavailable("were never loaded or have expired")
        fitting = [one for one in self._keys if algorithm in one.algorithms]
        if kid is not None and (self._has_kid(kid) or any(one.kid is not None for one in fitting)):
            fitting = [one for one in fitting if one.kid == kid]
        # Each key costs a verification, also for a forged token.
        return tuple(one.key for one in fitting[:_TRIED_MAX] if one.key not in tried)

    def _has_kid(self, kid: str | None) -> bool:
        return kid is not None and any(one.kid == kid for one in self._keys)

    async def _load(self) -> tuple[IssuerKey, ...]:
        source = self._issuer.keys
        if isinstance(source, SharedSecretKey):
            return keys_for_algorithms(
                [parse_shared_secret(source.secret, source.encoding)], self._issuer.algorithms
            )
        started_at = self._clock.monotonic()
        text = await self._fetch_source(source)
        keys = self._parse(text)
        await asyncio.to_thread(self._handover.put, self._handover_name, text, at=started_at)
        return keys

    @property
    def _handover_name(self) -> str:
        """Include the source: keys from another address must not be used."""
        return f"keys {self._issuer.name} {self._issuer.issuer} {self._issuer.keys!r}"

    def _parse(self, text: bytes) -> tuple[IssuerKey, ...]:
        ignored: list[str] = []
        if isinstance(self._issuer.keys, StaticKeys):
            found = parse_key_file(text, ignored.append)
        else:
            found = parse_key_set(parse_json(text), ignored.append)
        keys = keys_for_algorithms(found, self._issuer.algorithms, ignored.append)
        if ignored != self._ignored:
            self._ignored = ignored
            log.info("keys_ignored", extra={"issuer": self._issuer.name, "keys": ignored[:20]})
        return keys

    async def _fetch_source(self, source: DiscoveryKeys | JwksKeys | StaticKeys) -> bytes:
        match source:
            case DiscoveryKeys():
                text = await self._fetch(discovery_document(source.discovery))
                return await self._fetch(self._key_set_address(parse_json(text), source))
            case JwksKeys():
                return await self._fetch(source.jwks)
            case StaticKeys():
                return await asyncio.to_thread(read_key_file, source.public_key_file)

    def _key_set_address(self, document: object, source: DiscoveryKeys) -> str:
        if not isinstance(document, dict):
            raise UnusableKeys("the discovery document is not a JSON object")
        # OIDC Discovery 1.0, 4.3: the document must name the issuer that it was fetched for.
        if (named := document.get("issuer")) != self._issuer.issuer:
            raise UnusableKeys(
                f"the discovery document names another issuer: {quoted(named)}, and"
                f" `issuers[].issuer` is {quoted(self._issuer.issuer)}"
            )
        address = document.get("jwks_uri")
        try:
            parts = urlsplit(address if isinstance(address, str) else "")
            is_url = parts.scheme in ("https", "http") and parts.hostname
            if not is_url or parts.username is not None:
                raise UnusableKeys("jwks_uri must be an http or https URL without credentials")
            is_weaker = parts.scheme == "http" and source.discovery.startswith("https:")
            if is_weaker or (is_exposed(str(address)) and not source.insecure_http):
                raise UnusableKeys(
                    f"jwks_uri must be https, and its host is {quoted(parts.netloc)}"
                )
        except ValueError as error:
            raise UnusableKeys("jwks_uri is not a URL") from error
        return str(address)

    async def _fetch(self, address: str) -> bytes:
        """Return a document; every error names its address.

        Redirects are not followed: only the config names trusted hosts.
        """
        try:
            return await self._get(address)
        except (UnusableKeys, aiohttp.ClientError, OSError, UnicodeError) as error:
            shown = address.partition("?")[0]
            raise UnusableKeys(f"{shown}: {describe_failure(error)}") from error

    async def _get(self, address: str) -> bytes:
        async with self._http.get(
            _url(address),
            allow_redirects=False,
            timeout=_TIMEOUT,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            **(self._route.options(address) if self._route is not None else {}),
        ) as response:
            if response.status != 200:
                raise UnusableKeys(f"HTTP status {response.status}{_redirect_of(response)}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(65_536):
                body += chunk
                if len(body) > KEYS_BYTES_MAX:
                    raise UnusableKeys(f"the response is larger than {KEYS_BYTES_MAX} bytes")
        return bytes(body)


def _url(address: str) -> URL:
    """Parse an address; one that is encoded already is kept byte for byte."""
    try:
        parsed = URL(address)
    except ValueError as error:
        raise UnusableKeys("not a usable address") from error
    is_encoded = address.isascii() and address.isprintable() and " " not in address
    return URL(address, encoded=True) if is_encoded else parsed


def _redirect_of(response: aiohttp.ClientResponse) -> str:
    """Return where a redirect leads, without path and query."""
    if response.status // 100 != 3 or "Location" not in response.headers:
        return ""
    try:
        target = response.url.join(URL(response.headers["Location"])).origin()
    except ValueError:
        return ""
    return f", a redirect to {quoted(str(target))}; name the final address"


def describe_failure(error: Exception) -> str:
    """Return the reason in plain words; a library's own text would not name it."""
    match error:
        case UnusableKeys():
            return str(error)
        case aiohttp.ClientConnectorError() | aiohttp.ClientConnectorCertificateError():
            return _describe_connection(error)
        case aiohttp.ClientHttpProxyError():
            return f"the proxy rejects the connection: {error.status}"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection"
        case OSError():
            return describe_error(error)
        case aiohttp.InvalidURL() | UnicodeError():
            return "not a usable address"
        case _:
            return f"not a valid HTTP response ({type(error).__name__})"


def _describe_connection(
    error: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError,
) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=OSError() as cause):
            return f"no connection: {describe_error(cause)}"
        case aiohttp.ClientProxyConnectionError():
            return f"no connection to the proxy: {describe_error(error.os_error)}"
        case aiohttp.ClientConnectorError():
            return f"no connection: {describe_error(error.os_error)}"
        case _:
            return "no connection: the server's certificate is not trusted"


async def load_initial_keys(issuers: Iterable[IssuerKeys], *, within_s: float) -> None:
    """Load the missing keys, for at most `within_s`: a start does not wait for an issuer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await asyncio.gather(*(keys.try_refresh() for keys in issuers if not keys.loaded))
