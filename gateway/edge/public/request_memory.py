"""Request memory: what aiohttp parsed from the exact bytes of a request, for the same bytes again.

The same bytes have the same meaning, so a repeated request needs no second parsing. Only what
follows from the bytes is remembered: the hash of the token, the resolved call, and the addresses
in `X-Forwarded-For`. Nothing that depends on the policy, a revocation, a lock, an inventory or the
time is remembered; the stages decide on each request anew (hit_path.py).
"""

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from gateway.domain.audit.record import PreparedRecord
from gateway.domain.model import ConsoleLink, ResolvedCall
from gateway.domain.policy.policy import Permit
from gateway.flow.telemetry import HitCounts

REQUESTS_MAX: Final = 16_384
"""About 25 MB."""
_PREPARED_BYTES_MAX: Final = 2_048
PER_PERSON_MAX: Final = 64
_SEEN_ONCE_MAX: Final = 16_384
_KEY_BYTES: Final = 32


class PreparedHit:
    """What hits with the same permit, link and client address have in common, encoded once.

    It decides nothing: a hit uses it only if the stages have found exactly these.
    """

    __slots__ = ("body", "client_address", "counts", "line", "link", "permit", "record")

    def __init__(  # noqa: PLR0913 - what is encoded, and of what
        self,
        permit: Permit,
        link: ConsoleLink,
        client_address: str,
        record: PreparedRecord,
        line: bytes,
        body: bytes,
        counts: HitCounts,
    ) -> None:
        self.permit = permit
        self.link = link
        self.client_address = client_address
        self.record = record
        self.line = line
        """`RequestLog.prepare_hit`."""
        self.body = body
        """The body of the response. It contains the link."""
        self.counts = counts

    def fits(self, permit: Permit, link: ConsoleLink, client_address: str) -> bool:
        return self.permit is permit and self.link is link and self.client_address == client_address


@dataclass(slots=True)
class RememberedRequest:
    token_digest: bytes = field(repr=False)
    """`Identify.digest_of` the token."""
    person: str
    """`Principal.key` of the person who sent it, for the bound per person."""
    call: ResolvedCall
    forwarded_for: tuple[str, ...]
    """The values of X-Forwarded-For."""
    used_at: int = 0
    """The order of use."""
    prepared: PreparedHit | None = field(default=None, repr=False)

    def keep(self, prepared: PreparedHit) -> None:
        """Keep what is prepared for the next hit, unless it is long: of a person in many groups."""
        size = len(prepared.record) + len(prepared.line) + len(prepared.body)
        is_long = size > _PREPARED_BYTES_MAX
        self.prepared = None if is_long else prepared


class RequestMemory:
    """Bounded, in all and per person; the least recently used request is forgotten first."""

    def __init__(
        self, *, requests_max: int = REQUESTS_MAX, per_person_max: int = PER_PERSON_MAX
    ) -> None:
        self._requests_max = requests_max
        self._per_person_max = per_person_max
        # Keyed: a sender cannot compute two requests with one key, and a memory dump does not show
        # whether a given request was sent. `person` separates the two meanings of a header.
        secret = secrets.token_bytes(64)
        self._direct, self._proxied = (
            blake2b(key=secret, digest_size=_KEY_BYTES, person=peers)
            for peers in (b"public, direct", b"public, proxied")
        )
        self._requests: OrderedDict[bytes, RememberedRequest] = OrderedDict()
        self._by_person: dict[str, set[bytes]] = {}
        self._seen_once: OrderedDict[bytes, None] = OrderedDict()
        self._uses = 0

    def __len__(self) -> int:
        return len(self._requests)

    def key(self, data: bytes, *, from_proxy: bool) -> bytes:
        """Return the key of a request to the public listener.

        `from_proxy`: the peer is a trusted proxy, so its X-Forwarded-For counts.
        """
        keyed = (self._proxied if from_proxy else self._direct).copy()
        keyed.update(data)
        return keyed.digest()

    def find(self, key: bytes) -> RememberedRequest | None:
        found = self._requests.get(key)
        if found is not None:
            self._requests.move_to_end(key)
            self._uses = found.used_at = self._uses + 1
        return found

    def is_second_sight(self, key: bytes) -> bool:
        """Return whether the same bytes were seen before; most requests never come again."""
        if key in self._seen_once:
            del self._seen_once[key]
            return True
        self._seen_once[key] = None
        if len(self._seen_once) > _SEEN_ONCE_MAX:
            self._seen_once.popitem(last=False)
        return False

    def add(self, key: bytes, request: RememberedRequest) -> None:
        self.forget(key)
        of_person = self._by_person.setdefault(request.person, set())
        if len(of_person) >= self._per_person_max:
            self.forget(min(of_person, key=lambda one: self._requests[one].used_at))
            of_person = self._by_person.setdefault(request.person, set())
        elif len(self._requests) >= self._requests_max:
            self.forget(next(iter(self._requests)))
        self._uses = request.used_at = self._uses + 1
        self._requests[key] = request
        of_person.add(key)

    def forget(self, key: bytes) -> None:
        request = self._requests.pop(key, None)
        if request is None:
            return
        of_person = self._by_person[request.person]
        of_person.discard(key)
        if not of_person:
            del self._by_person[request.person]
