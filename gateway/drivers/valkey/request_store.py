"""Access requests in Redis, sealed, each changed by compare-and-set."""

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from gateway.domain.errors import StoreUnavailable
from gateway.domain.requests.model import AccessRequest
from gateway.domain.requests.notices import Notice
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.notice_outbox import NOTICES_MAX, ValkeyNoticeOutbox
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.requests.active_requests import (
    Put,
    RequestSeal,
    Revisions,
    StoredRequests,
)

log = logging.getLogger("gateway.requests")

_LIST, _FETCH, _PUT, _REMOVE = (
    LuaScript("list_requests"),
    LuaScript("fetch_requests"),
    LuaScript("put_request"),
    LuaScript("remove_requests"),
)
_MESSAGE: Final = b"requests"
_VERSION: Final = "version"
_BATCH: Final = 250
"""Requests per script call: decrypted in some milliseconds."""


class ValkeyRequestStore:
    """Implements the port `RequestStore`."""

    def __init__(self, valkey: Valkey, seal: RequestSeal, outbox: ValkeyNoticeOutbox) -> None:
        self._valkey = valkey
        self._seal = seal
        self._outbox = outbox
        tag = "requests"
        self._keys = [valkey.key("requests", tag=tag), valkey.key("revisions", tag=tag)]

    async def read(self, known: str, revisions: Revisions) -> StoredRequests | None:
        match await self._valkey.run_script(_LIST, self._keys, [known]):
            case [bytes()]:
                return None
            case [bytes(version), list(fields)]:
                texts = [one.decode(errors="replace") for one in fields]
                found = dict(zip(texts[::2], texts[1::2], strict=True))
                found.pop(_VERSION, None)
                changed = [one for one, revision in found.items() if revisions.get(one) != revision]
                requests, rewrite = await self._fetch(changed)
                return StoredRequests(version.decode(), requests, found, rewrite)
            case _:
                raise StoreUnavailable("list_requests: unexpected response")

    async def put(
        self,
        request: AccessRequest,
        *,
        replaces: str,
        at_version: str,
        stored_max: int,
        notices: Sequence[Notice] = (),
    ) -> Put:
        revision = secrets.token_hex(8)
        result = await self._valkey.run_script(
            _PUT,
            [*self._keys, *self._outbox.keys],
            [
                request.id,
                replaces,
                at_version,
                revision,
                secrets.token_hex(8),
                self._seal.seal(request),
                stored_max,
                self._valkey.channel,
                _MESSAGE,
                NOTICES_MAX,
                str(notices[0].at if notices else 0.0),
                *self._outbox.entries(notices),
            ],
        )
        return Put(is_full=result == -1, revision=revision if result == 1 else "")

    async def remove(self, ids: Sequence[str]) -> None:
        for some in _batches(ids):
            await self._valkey.run_script(_REMOVE, self._keys, some)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._valkey.on_change(_MESSAGE, callback)

    async def _fetch(self, ids: Sequence[str]) -> tuple[list[AccessRequest], frozenset[str]]:
        """Return the requests, and the IDs of those that must be written again."""
        requests, rewrite, unreadable = list[AccessRequest](), set[str](), 0
        for some in _batches(ids):
            values = await self._valkey.run_script(_FETCH, self._keys, some)
            for request_id, sealed in zip(some, values, strict=True):
                if sealed is None:
                    continue  # removed since it was listed
                request = self._seal.open(request_id, sealed)
                if request is not None:
                    requests.append(request)
                else:
                    unreadable += 1
                if request is None or not self._seal.is_current(sealed):
                    rewrite.add(request_id)
        if unreadable:
            # Forged in Redis, or sealed with a key that this process does not have.
            log.error("access_requests_unreadable", extra={"count": unreadable})
        return requests, frozenset(rewrite)


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(ids), _BATCH):
        yield ids[at : at + _BATCH]
