"""The keys that one issuer signs with: loaded, refreshed, kept through an outage, chosen from.

All fetching is done by `run`, never by a request: a caller who hangs up harms nobody, and
however many ask for an unknown `kid`, they wait for one fetch per cooldown. A refresh that
fails changes nothing; keys that could not be confirmed for `keys_age_max_s` are dropped. A worker
that starts while the issuer is away has those of the workers before it, as old as they are.
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
from gateway.config.settings import DiscoveryKeys, Issuer, JwksKeys, SharedSecretKey, StaticKeys
from gateway.domain.errors import KeysUnavailable, NotAuthenticated, Rejection
from gateway.drivers.host.handover import Handover
from gateway.flow.ports import Clock, Telemetry

log = logging.getLogger("gateway.keys")

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0, connect=3.0)
_RETRY_S_MAX: Final = 30.0


class IssuerKeys:
    def __init__(  # noqa: PLR0913 - all that it is made of
        self,
        issuer: Issuer,
        *,
        http: aiohttp.ClientSession,
        clock: Clock,
        telemetry: Telemetry,
        on_rotation: Callable[[str], None],
        jitter: Random,
        handover: Handover,
    ) -> None:
        """`on_rotation` is called with the issuer's name when keys were changed or dropped."""
        self._issuer = issuer
        self._http = http
        self._clock = clock
        self._telemetry = telemetry
        self._on_rotation = on_rotation
        self._jitter = jitter
        self._keys: frozenset[IssuerKey] = frozenset()
        self._confirmed_at = clock.monotonic()
        self._due_at = clock.monotonic()
        self._failures = 0
        self._one_at_a_time = asyncio.Lock()
        self._ended = asyncio.Event()
        """Set when the refresh under way, or else the next one, has ended."""
        self._asked = asyncio.Event()
        self._may_ask_at = clock.monotonic()
        self._handover = handover
        if (left := handover.get(self._handover_name)) is not None:
            with suppress(UnusableKeys):  # by an issuer's settings that have changed since
                self._keys = self._keys_in(left.text)
                self._confirmed_at = left.at

    @property
    def issuer(self) -> str:
        """The issuer's name in our config."""
        return self._issuer.name

    @property
    def loaded(self) -> bool:
        """Whether there are keys, and not too old ones."""
        return bool(self._keys) and self._clock.monotonic() < self._lapse_at

    @property
    def age_s(self) -> float:
        """How long ago the keys were last loaded; infinity: never."""
        return self._clock.monotonic() - self._confirmed_at if self._keys else math.inf

    @property
    def age_max_s(self) -> float:
        return self._issuer.keys_age_max_s

    @property
    def _lapse_at(self) -> float:
        return self._confirmed_at + self._issuer.keys_age_max_s

    async def run(self) -> None:
        """Refresh on schedule and on demand, for ever."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._refresh_on_schedule())
            loops.create_task(self._refresh_on_demand())

    async def keys_for(self, algorithm: str, kid: str | None) -> tuple[Any, ...]:
        """Return the keys that may have made a signature; several only if their `kid` is the same.

        A token without `kid` is good only where exactly one key fits its algorithm; a key without
        one (a PEM file, a secret) answers for any, where it alone fits. An unknown `kid` waits for
        a refresh. Raises NotAuthenticated, KeysUnavailable.
        """
        found = self._choose(algorithm, kid)
        for _ in range(2):  # a refresh under way may have begun before the key was published
            if found or not self._refresh_is_coming():
                break
            await self._ended.wait()
            found = self._choose(algorithm, kid)
        if not found:
            raise NotAuthenticated(Rejection.KEY_UNKNOWN, "kid names no key of this issuer")
        return found

    async def refresh(self) -> None:
        """Load the keys now, one load at a time. Raises KeysUnavailable; the old keys stay."""
        async with self._one_at_a_time:
            try:
                keys = await self._load()
            except (UnusableKeys, aiohttp.ClientError, OSError, UnicodeError) as error:
                # UnicodeError: a published address whose host name no resolver can take.
                self._failed()
                raise self._unavailable(
                    f"not refreshed: {type(error).__name__}: {error}"
                ) from error
            else:
                self._take(keys)
            finally:
                ended, self._ended = self._ended, asyncio.Event()
                ended.set()

    async def try_refresh(self) -> None:
        """Load the keys now; that they could not be is logged."""
        try:
            await self.refresh()
        except KeysUnavailable as error:
            log.warning(
                "keys_refresh_failed",
                extra={"issuer": self._issuer.name, "error": str(error)},
            )

    def _refresh_is_coming(self) -> bool:
        """Ask for one unless one is under way or asked for; False while the cooldown lasts."""
        if self._one_at_a_time.locked() or self._asked.is_set():
            return True
        now = self._clock.monotonic()
        if now < self._may_ask_at:
            return False
        self._may_ask_at = now + self._issuer.unknown_kid_cooldown_s
        self._asked.set()
        return True

    async def _refresh_on_demand(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.try_refresh()

    async def _refresh_on_schedule(self) -> None:
        while True:
            while (wait_s := self._due_at - self._clock.monotonic()) > 0:
                await self._clock.sleep(wait_s)
            if self._keys and not self.loaded:
                # Tokens that were proved with them are forgotten also.
                log.error("keys_expired", extra={"issuer": self._issuer.name})
                self._keys = frozenset()
                self._on_rotation(self._issuer.name)
            await self.try_refresh()

    def _take(self, keys: frozenset[IssuerKey]) -> None:
        now = self._clock.monotonic()
        had, self._keys = self._keys, keys
        self._confirmed_at, self._failures = now, 0
        self._due_at = now + self._issuer.keys_refresh_s * self._jitter.uniform(0.9, 1.0)
        self._telemetry.keys_refreshed(self._issuer.name, "ok")
        if had != keys:
            log.info("keys_changed", extra={"issuer": self._issuer.name, "keys": len(keys)})
            self._on_rotation(self._issuer.name)

    def _failed(self) -> None:
        now = self._clock.monotonic()
        self._failures += 1
        back_off_s = min(2.0 ** min(self._failures, 10), _RETRY_S_MAX, self._issuer.keys_refresh_s)
        self._due_at = now + back_off_s * self._jitter.uniform(0.5, 1.0)
        if self.loaded:
            self._due_at = min(self._due_at, self._lapse_at)
        self._telemetry.keys_refreshed(self._issuer.name, "failed")

    def _unavailable(self, detail: str) -> KeysUnavailable:
        retry_after_s = max(1.0, self._due_at - self._clock.monotonic())
        return KeysUnavailable(
            f"keys of issuer {self._issuer.name} {detail}", retry_after_s=retry_after_s
        )

    def _choose(self, algorithm: str, kid: str | None) -> tuple[Any, ...]:
        if not self.loaded:
            raise self._unavailable("were never loaded, or are too old")
        fitting = [held for held in self._keys if algorithm in held.algorithms]
        if kid is None:
            if len(fitting) != 1:
                raise NotAuthenticated(Rejection.KEY_UNKNOWN, "no kid, and not one key that fits")
            return (fitting[0].key,)
        named = [held for held in self._keys if held.kid == kid]
        if named:
            keys = tuple(held.key for held in named if held in fitting)
            if not keys:
                raise NotAuthenticated(Rejection.ALGORITHM, "alg does not fit the key it names")
            return keys
        if len(fitting) == 1 and fitting[0].kid is None:
            return (fitting[0].key,)
        return ()

    async def _load(self) -> frozenset[IssuerKey]:
        source = self._issuer.keys
        if isinstance(source, SharedSecretKey):
            return keys_for_algorithms(
                [parse_shared_secret(source.secret)], self._issuer.algorithms
            )
        began_at = self._clock.monotonic()
        text = await self._published(source)
        keys = self._keys_in(text)
        await asyncio.to_thread(self._handover.put, self._handover_name, text, at=began_at)
        return keys

    @property
    def _handover_name(self) -> str:
        """Its source included: what another address published are not this one's keys."""
        return f"keys {self._issuer.name} {self._issuer.issuer} {self._issuer.keys!r}"

    def _keys_in(self, text: bytes) -> frozenset[IssuerKey]:
        is_file = isinstance(self._issuer.keys, StaticKeys)
        found = parse_key_file(text) if is_file else parse_key_set(parse_json(text))
        return keys_for_algorithms(found, self._issuer.algorithms)

    async def _published(self, source: DiscoveryKeys | JwksKeys | StaticKeys) -> bytes:
        match source:
            case DiscoveryKeys():
                base = source.discovery
                text = await self._fetch(f"{base}/.well-known/openid-configuration")
                document = parse_json(text)
                return await self._fetch(self._key_set_address(document, base))
            case JwksKeys():
                return await self._fetch(source.jwks)
            case StaticKeys():
                return await asyncio.to_thread(read_key_file, source.public_key_file)

    def _key_set_address(self, document: object, base: str) -> str:
        # OIDC Discovery 1.0, 4.3: a document that names another issuer is not this issuer's.
        if not isinstance(document, dict) or document.get("issuer") != self._issuer.issuer:
            raise UnusableKeys("the discovery document is not this issuer's")
        address = document.get("jwks_uri")
        schemes = ("https",) if base.startswith("https:") else ("https", "http")
        try:
            parts = urlsplit(address if isinstance(address, str) else "")
            if parts.scheme not in schemes or not parts.hostname or parts.username is not None:
                raise UnusableKeys("jwks_uri is not an address that we fetch")
        except ValueError as error:
            raise UnusableKeys("jwks_uri is not an address") from error
        return str(address)

    async def _fetch(self, address: str) -> bytes:
        """Get a document. No redirect is followed: only config says whom we trust."""
        async with self._http.get(
            address,
            allow_redirects=False,
            timeout=_TIMEOUT,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        ) as answer:
            if answer.status != 200:
                raise UnusableKeys(f"answered {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_chunked(65_536):
                body += chunk
                if len(body) > KEYS_BYTES_MAX:
                    raise UnusableKeys("the answer is too long")
        return bytes(body)


async def load_initial_keys(issuers: Iterable[IssuerKeys], *, within_s: float) -> None:
    """Wait for the keys that are not known yet, but not long: one that is away stops nobody."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await asyncio.gather(*(keys.try_refresh() for keys in issuers if not keys.loaded))
