"""An in-memory RequestStore; the contract suite compares it with Valkey."""

import itertools
from collections.abc import Callable, Sequence

from gateway.domain.errors import StoreUnavailable
from gateway.domain.requests.model import AccessRequest, decode_request, encode_request
from gateway.domain.requests.notices import Notice
from gateway.flow.requests.active_requests import NO_VERSION, Put, Revisions, StoredRequests


class FakeRequestStore:
    def __init__(self) -> None:
        self.requests: dict[str, bytes] = {}
        self.revisions: dict[str, str] = {}
        self.is_unavailable = False
        self.puts = 0
        self.notices: list[Notice] = []
        self.before_put: Callable[[], None] = lambda: None
        self._version = ""
        self._versions = itertools.count(1)
        self._callbacks: list[Callable[[], None]] = []

    async def read(self, known: str, revisions: Revisions) -> StoredRequests | None:
        self._require_available()
        if known and known == self._version:
            return None
        changed = [one for one, it in self.revisions.items() if revisions.get(one) != it]
        found, rewrite = list[AccessRequest](), set[str]()
        for one in changed:
            try:
                found.append(decode_request(self.requests[one]))
            except ValueError:
                rewrite.add(one)
        return StoredRequests(self._version, found, dict(self.revisions), frozenset(rewrite))

    async def put(
        self,
        request: AccessRequest,
        *,
        replaces: str,
        at_version: str,
        stored_max: int,
        notices: Sequence[Notice] = (),
    ) -> Put:
        self._require_available()
        before_put, self.before_put = self.before_put, lambda: None
        before_put()
        is_other = self.revisions.get(request.id, "") != replaces
        if is_other or at_version not in ("", self._version or NO_VERSION):
            return Put(is_full=False, revision="")
        if not replaces and len(self.requests) >= stored_max:
            return Put(is_full=True, revision="")
        self.puts += 1
        self.notices += notices
        self.set(request)
        return Put(is_full=False, revision=self.revisions[request.id])

    async def remove(self, ids: Sequence[str]) -> None:
        self._require_available()
        for one in ids:
            self.requests.pop(one, None)
            self.revisions.pop(one, None)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def set(self, request: AccessRequest, text: bytes | None = None) -> None:
        """Put a copy into the store, whatever is there."""
        self.requests[request.id] = encode_request(request) if text is None else text
        self.revisions[request.id] = str(next(self._versions))
        self._version = str(next(self._versions))
        for call in self._callbacks:
            call()

    def stored(self, request_id: str) -> AccessRequest:
        return decode_request(self.requests[request_id])

    def lose_data(self) -> None:
        self.requests.clear()
        self.revisions.clear()
        self._version = ""

    def _require_available(self) -> None:
        if self.is_unavailable:
            raise StoreUnavailable("unavailable")
