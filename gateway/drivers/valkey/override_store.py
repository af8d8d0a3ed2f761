"""Overrides in Redis, sealed: write access to Redis is not enough to forge one."""

import logging
import secrets
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from gateway.domain.errors import StoreUnavailable
from gateway.domain.overrides import Override, decode_override, encode_override
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.active_overrides import StoredOverrides

log = logging.getLogger("gateway.overrides")

_LIST, _FETCH, _ADD = (
    LuaScript("list_overrides"),
    LuaScript("fetch_overrides"),
    LuaScript("add_overrides"),
)
_MESSAGE = b"overrides"
_RESERVED_FIELDS = frozenset({"version", "complete"})
_BATCH = 250
"""Overrides per script call: well within `store.timeout_s`, and decrypted in 5 ms."""

_Fetched = dict[str, tuple[Override | None, bool]]
"""Overrides by ID; None: unreadable. The flag: readable and sealed with the current key."""


class ValkeyOverrideStore:
    """Implements the port `OverrideStore`."""

    def __init__(self, valkey: Valkey, sealer: Sealer) -> None:
        self._valkey = valkey
        self._sealer = sealer
        self._key = valkey.key("overrides", tag="overrides")

    async def read(self, known: str, *, cached: AbstractSet[str]) -> StoredOverrides | None:
        match await self._valkey.run_script(_LIST, [self._key], [known]):
            case [bytes()]:
                return None
            case [bytes(version), int(is_complete), list(fields)]:
                ids = {field.decode(errors="replace") for field in fields} - _RESERVED_FIELDS
                fetched = await self._fetch(sorted(ids - cached))
                current = {one for one, (_, is_current) in fetched.items() if is_current}
                return StoredOverrides(
                    version=version.decode(),
                    is_complete=bool(is_complete),
                    overrides=[one for one, _ in fetched.values() if one is not None],
                    ids=(ids & cached) | current,
                    unreadable=_count_unreadable(fetched),
                )
            case _:
                raise StoreUnavailable("list_overrides: unexpected response")

    async def add(
        self, overrides: Sequence[Override], *, expired: Sequence[str], complete: bool
    ) -> None:
        batches = [overrides[at : at + _BATCH] for at in range(0, len(overrides), _BATCH)] or [()]
        for batch in batches:
            args: list[str | bytes | int] = [
                secrets.token_hex(8),
                int(complete and batch is batches[-1]),
                self._valkey.channel,
                _MESSAGE,
                len(expired),
                *expired,
            ]
            for override in batch:
                args += [override.id, self._seal(override)]
            await self._valkey.run_script(_ADD, [self._key], args)
            expired = ()

    def on_change(self, callback: Callable[[], None]) -> None:
        self._valkey.on_change(_MESSAGE, callback)

    async def _fetch(self, ids: Sequence[str]) -> _Fetched:
        fetched: _Fetched = {}
        for at in range(0, len(ids), _BATCH):
            batch = ids[at : at + _BATCH]
            values = await self._valkey.run_script(_FETCH, [self._key], batch)
            for override_id, sealed in zip(batch, values, strict=True):
                if sealed is not None:  # None: removed since it was listed
                    override = self._open(override_id, sealed)
                    is_current = override is not None and self._sealer.is_current(sealed)
                    fetched[override_id] = override, is_current
        return fetched

    def _seal(self, override: Override) -> bytes:
        return self._sealer.seal(encode_override(override), bound_to=self._binding(override.id))

    def _open(self, override_id: str, sealed: bytes) -> Override | None:
        text = self._sealer.open(sealed, bound_to=self._binding(override_id))
        try:
            return decode_override(text or b"")
        except ValueError:
            return None

    def _binding(self, override_id: str) -> bytes:
        return f"{self._key}:{override_id}".encode()


def _count_unreadable(fetched: _Fetched) -> int:
    count = sum(override is None for override, _ in fetched.values())
    if count:
        # Forged in Redis, or sealed with a key that this process does not have.
        log.error("overrides_unreadable", extra={"count": count})
    return count
