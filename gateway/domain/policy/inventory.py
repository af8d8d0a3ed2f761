"""Server attributes that rules select by or people see: the inventory and its stored form. Pure.

An attribute that the cloud did not report is unknown.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Any, Final

import msgspec

from gateway.domain.model import ServerId


class Attributes(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Attributes of one server; "" is unknown."""

    tags: frozenset[tuple[str, str]] | None = None
    """None: unknown; empty: the server has no tags."""
    dc: str = ""
    rack: str = ""
    unit: str = ""
    model: str = ""
    name: str = ""
    power: str = ""
    """`power_state` of the cloud; no rule selects by it. Nor by `health`."""
    health: str = ""
    """`health_state` of the cloud."""


# Sets in a fixed order: the same servers have the same JSON in every process.
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")
_ATTRIBUTES: Final = msgspec.json.Decoder(Attributes)

Facet = tuple[str, ...]
"""A tag (key, value), or another attribute ("", name, value), that servers are indexed by."""


_CANDIDATES_MAX: Final = 1_000


def place_facet(name: str, value: str) -> Facet:
    """Return the facet of `dc`, `rack` or `model`."""
    return "", name, value


def _facets_of(known: Attributes) -> list[Facet]:
    found: list[Facet] = [*(known.tags or ())]
    if known.dc:
        found.append(place_facet("dc", known.dc))
    if known.rack:
        found.append(place_facet("rack", known.rack))
    if known.model:
        found.append(place_facet("model", known.model))
    return found


class StoredServers(Mapping[ServerId, Attributes]):
    """Attributes of many servers, decoded when they are read.

    They take a third of the memory of separate objects. The garbage collector does not visit them,
    and freeing 100,000 takes milliseconds.
    """

    def __init__(
        self,
        encoded: Mapping[ServerId, bytes],
        by_facet: "ServersByFacet | None" = None,
        digest: bytes = b"",
    ) -> None:
        """Take the JSON of each server, as in a snapshot, and the servers that have a facet.

        `digest` is that of all servers; b"" if it is not known.
        """
        self.encoded = encoded
        self.by_facet = by_facet
        self.digest = digest
        self._last: tuple[ServerId | None, Attributes] = None, Attributes()
        """Several rules in turn read the same server."""

    def share(self, server: ServerId, encoded: bytes) -> bytes:
        """Return `encoded`, or the equal object here: two readings have most servers in common."""
        known = self.encoded.get(server)
        return known if known == encoded else encoded

    def __getitem__(self, server: ServerId) -> Attributes:
        last, known = self._last
        if server is not last:
            known = _ATTRIBUTES.decode(self.encoded[server])
            self._last = server, known
        return known

    def __iter__(self) -> Iterator[ServerId]:
        return iter(self.encoded)

    def __len__(self) -> int:
        return len(self.encoded)


ServersByFacet = Mapping[Facet, Sequence[ServerId]]
NO_SERVERS: Final = StoredServers({})


class Inventory:
    """Attributes of the servers of one project. Immutable."""

    __slots__ = ("_servers", "content", "generation", "good_until", "taken_at")

    def __init__(
        self,
        servers: Mapping[ServerId, Attributes],
        *,
        taken_at: float,
        good_until: float,
        content: object = None,
    ) -> None:
        """Instants are seconds since the epoch; from `good_until` on, every server is unknown."""
        self._servers = servers
        self.taken_at = taken_at
        self.good_until = good_until
        self.generation = object()
        """Identity of this inventory, for caches that must not keep the inventory itself alive."""
        digest = servers.digest if isinstance(servers, StoredServers) else b""
        self.content = content or digest or self.generation
        """Equal for inventories of the same servers, however old each is."""

    def __len__(self) -> int:
        return len(self._servers)

    def __iter__(self) -> Iterator[ServerId]:
        return iter(self._servers)

    def __contains__(self, server: ServerId) -> bool:
        return server in self._servers

    @property
    def stored(self) -> StoredServers:
        """The servers in their stored form, if they have it."""
        return self._servers if isinstance(self._servers, StoredServers) else NO_SERVERS

    def however_old(self) -> "Inventory":
        """Return the same attributes without expiry, for sessions that run already."""
        if self.good_until == math.inf:
            return self
        return Inventory(
            self._servers, taken_at=self.taken_at, good_until=math.inf, content=self.content
        )

    def with_facets(
        self, choices: Sequence[Sequence[Facet]], now: float
    ) -> Sequence[ServerId] | None:
        """Return at least the servers that have one facet of each choice; None: search them all."""
        if now >= self.good_until:
            return ()
        servers = self._servers
        if not choices or not isinstance(servers, StoredServers) or servers.by_facet is None:
            return None
        by_facet = servers.by_facet
        found = (
            [some for facet in facets if (some := by_facet.get(facet)) is not None]
            for facets in choices
        )
        least = min(found, key=lambda some: sum(map(len, some)))
        count = sum(map(len, least))
        if count > _CANDIDATES_MAX and 4 * count > len(servers):
            return None  # to visit them all in turn is as quick, and needs no copy
        return [server for one in least for server in one]

    def attributes(self, server: ServerId | None, now: float) -> Attributes | None:
        """Return the attributes; None if the server is unknown or the inventory has expired."""
        if server is None or now >= self.good_until:
            return None
        return self._servers.get(server)


NO_INVENTORY: Final = Inventory({}, taken_at=-math.inf, good_until=-math.inf)


@dataclass(frozen=True, slots=True)
class InventorySnapshot:
    """One complete reading of the cloud's list of servers.

    Replicas share its JSON form, and the inventory file contains it.
    """

    servers: Mapping[ServerId, Attributes]
    taken_at: float
    """Start of the reading: seconds since the epoch, by the writing host's clock."""
    took_s: float
    """Duration of the reading."""

    def to_json(self) -> bytes:
        return b"".join(self.lines())

    def lines(self) -> Iterator[bytes]:
        """Yield one line about the reading, then lines of some hundred servers each.

        To encode or decode all servers in one call would hold the interpreter's lock too long.
        """
        servers = self.servers
        if isinstance(servers, StoredServers):
            encoded: Iterator[tuple[str, bytes]] = iter(servers.encoded.items())
        else:
            encoded = ((server, _ENCODER.encode(known)) for server, known in servers.items())
        head = _SnapshotHead(self.taken_at, self.took_s, len(servers))
        yield _ENCODER.encode(head) + b"\n"
        while some := list(islice(encoded, _LINE_SERVERS)):
            members = (b"%b:%b" % (_ENCODER.encode(server), text) for server, text in some)
            yield b"{%b}\n" % b",".join(members)


class _SnapshotHead(msgspec.Struct):
    taken_at: float
    took_s: float
    count: int


_LINE_SERVERS: Final = 200
_HEAD: Final = msgspec.json.Decoder(_SnapshotHead)
_LINE: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse_snapshot(text: bytes, before: StoredServers = NO_SERVERS) -> InventorySnapshot:
    """Parse the result of `to_json`; raise ValueError if it is invalid.

    `before` has the servers of an earlier reading. If they are the same, nothing is parsed.
    """
    encoded: dict[ServerId, bytes] = {}
    by_facet: dict[Facet, list[ServerId]] = {}
    lines, names = BytesIO(text), iter(before.encoded)
    try:
        head = _HEAD.decode(lines.readline())
        digest = hashlib.blake2b(memoryview(text)[lines.tell() :], digest_size=16).digest()
        if digest == before.digest:
            return InventorySnapshot(before, head.taken_at, head.took_s)
        for line in lines:
            for name, raw in _LINE.decode(line).items():
                known = next(names, None)
                server = known if known == name else ServerId(name)
                encoded[server] = stored = before.share(server, bytes(raw))
                for facet in _facets_of(_ATTRIBUTES.decode(stored)):
                    by_facet.setdefault(facet, []).append(server)
    except msgspec.DecodeError as error:
        raise ValueError("is not an inventory") from error
    if len(encoded) != head.count:
        raise ValueError("is not an inventory")
    servers = StoredServers(encoded, by_facet, digest)
    return InventorySnapshot(servers, head.taken_at, head.took_s)


def parse_inventory(text: bytes, *, now: float, age_max_s: float) -> Inventory:
    """Parse an inventory file; raise ValueError if it is invalid or from the future.

    After a clock was set back, the age of a file from the future is unknown, and the inventory
    would not expire before that instant.
    """
    snapshot = parse_snapshot(text)
    taken_at = snapshot.taken_at
    if taken_at > now:
        raise ValueError("is an inventory of unknown age")
    return Inventory(snapshot.servers, taken_at=taken_at, good_until=taken_at + age_max_s)


class _ListedTag(msgspec.Struct):
    key: str = ""
    value: str = ""


class _ListedLocation(msgspec.Struct):
    dc: str | None = None
    rack: str | None = None
    unit: str | None = None


class _ListedHardware(msgspec.Struct):
    model: str | None = None


class _ListedServer(msgspec.Struct):
    id: str
    name: str | None = None
    tags: list[_ListedTag] | None = None
    location: _ListedLocation | None = None
    hardware_attributes: _ListedHardware | None = None
    # Any: an unexpected state must not make the server unknown to the rules.
    power_state: Any = None
    health_state: Any = None


_LISTED_SERVER: Final = msgspec.json.Decoder(_ListedServer)


def parse_servers(entries: Iterable[Any], before: StoredServers = NO_SERVERS) -> StoredServers:
    """Return the attributes in entries of ListServers (upstream-api.md#1.5).

    `before` has the servers of an earlier reading. Invalid entries are omitted: their servers are
    unknown, so no grant by attributes applies.
    """
    found: dict[ServerId, bytes] = {}
    for raw in entries:
        try:
            one = _LISTED_SERVER.decode(raw)
        except msgspec.DecodeError:
            continue
        location = one.location or _ListedLocation()
        hardware = one.hardware_attributes or _ListedHardware()
        known = Attributes(
            None if one.tags is None else frozenset((tag.key, tag.value) for tag in one.tags),
            location.dc or "",
            location.rack or "",
            location.unit or "",
            hardware.model or "",
            one.name or "",
            _text_of(one.power_state),
            _text_of(one.health_state),
        )
        server = ServerId(one.id.lower())
        found[server] = before.share(server, _ENCODER.encode(known))
    return StoredServers(found)


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""
