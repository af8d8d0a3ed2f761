"""Server attributes that rules select by: the inventory and its stored form. Pure.

An attribute that the cloud did not report is unknown.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.domain.model import ServerId


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of one server; "" is unknown."""

    tags: frozenset[tuple[str, str]] | None = None
    """None: unknown; empty: the server has no tags."""
    dc: str = ""
    rack: str = ""
    unit: str = ""
    model: str = ""
    name: str = ""


class Inventory:
    """Attributes of the servers of one project. Immutable."""

    __slots__ = ("_servers", "generation", "good_until", "taken_at")

    def __init__(
        self, servers: Mapping[ServerId, Attributes], *, taken_at: float, good_until: float
    ) -> None:
        """Instants are seconds since the epoch; from `good_until` on, every server is unknown."""
        self._servers = servers
        self.taken_at = taken_at
        self.good_until = good_until
        self.generation = object()
        """Identity of this inventory, for caches that must not keep the inventory itself alive."""

    def __len__(self) -> int:
        return len(self._servers)

    def however_old(self) -> "Inventory":
        """Return the same attributes, valid for ever: for what runs already."""
        if self.good_until == math.inf:
            return self
        return Inventory(self._servers, taken_at=self.taken_at, good_until=math.inf)

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
        servers = {
            server: [
                None if known.tags is None else sorted(known.tags),
                *(known.dc, known.rack, known.unit, known.model, known.name),
            ]
            for server, known in self.servers.items()
        }
        snapshot = {"taken_at": self.taken_at, "took_s": self.took_s, "servers": servers}
        return msgspec.json.encode(snapshot)


class _StoredSnapshot(msgspec.Struct):
    taken_at: float
    took_s: float  # absent in an older form, in which [] also meant unknown tags
    servers: dict[str, msgspec.Raw]


_SNAPSHOT: Final = msgspec.json.Decoder(_StoredSnapshot)
# One server at a time: decoding ten thousand at once would block all threads (GIL) noticeably.
_STORED_SERVER: Final = msgspec.json.Decoder(
    tuple[list[tuple[str, str]] | None, str, str, str, str, str]
)


def parse_snapshot(text: bytes) -> InventorySnapshot:
    """Parse the result of `to_json`; raise ValueError if it is invalid."""
    try:
        read = _SNAPSHOT.decode(text)
        servers = {
            ServerId(server): Attributes(None if tags is None else frozenset(tags), *texts)
            for server, raw in read.servers.items()
            for tags, *texts in (_STORED_SERVER.decode(raw),)
        }
    except msgspec.DecodeError as error:
        raise ValueError("is not an inventory") from error
    return InventorySnapshot(servers, read.taken_at, read.took_s)


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


_LISTED_SERVER: Final = msgspec.json.Decoder(_ListedServer)


def parse_servers(entries: Iterable[Any]) -> dict[ServerId, Attributes]:
    """Return the attributes in entries of ListServers (upstream-api.md#1.5).

    Invalid entries are omitted: their servers are unknown, so no grant by attributes applies.
    """
    found: dict[ServerId, Attributes] = {}
    for raw in entries:
        try:
            one = _LISTED_SERVER.decode(raw)
        except msgspec.DecodeError:
            continue
        location = one.location or _ListedLocation()
        hardware = one.hardware_attributes or _ListedHardware()
        found[ServerId(one.id.lower())] = Attributes(
            None if one.tags is None else frozenset((tag.key, tag.value) for tag in one.tags),
            location.dc or "",
            location.rack or "",
            location.unit or "",
            hardware.model or "",
            one.name or "",
        )
    return found
