"""What rules may select servers by, as the cloud told it some time ago. Pure.

What the cloud does not tell of a server is unknown, and in doubt no right is wider for it: a
selector is asked once as the one in doubt who grants, and once as the one who denies.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.domain.model import ServerId


@dataclass(frozen=True, slots=True)
class Attributes:
    """One server's; "" is what the cloud does not tell."""

    tags: frozenset[tuple[str, str]] | None = None
    """None: the cloud does not tell; empty: it says that there are none."""
    dc: str = ""
    rack: str = ""
    unit: str = ""
    model: str = ""


class Inventory:
    """The servers of one project. It never changes."""

    __slots__ = ("_servers", "generation", "good_until", "taken_at")

    def __init__(
        self, servers: Mapping[ServerId, Attributes], *, taken_at: float, good_until: float
    ) -> None:
        """Both instants are in seconds since the epoch; from `good_until` on it tells nothing."""
        self._servers = servers
        self.taken_at = taken_at
        self.good_until = good_until
        self.generation = object()
        """Stands for this very inventory where something is remembered that outlives it."""

    def __len__(self) -> int:
        return len(self._servers)

    def attributes(self, server: ServerId | None, now: float) -> Attributes | None:
        """Return what is known; None: the server is unknown, or all of this is too old."""
        if server is None or now >= self.good_until:
            return None
        return self._servers.get(server)


NO_INVENTORY: Final = Inventory({}, taken_at=-math.inf, good_until=-math.inf)


@dataclass(frozen=True, slots=True)
class InventorySnapshot:
    """One walk through the cloud's list; its text is what replicas share and what a file keeps."""

    servers: Mapping[ServerId, Attributes]
    taken_at: float
    """When the walk began: seconds since the epoch, by the clock of whoever wrote this."""
    took_s: float

    def to_json(self) -> bytes:
        servers = {
            server: [
                None if known.tags is None else sorted(known.tags),
                *(known.dc, known.rack, known.unit, known.model),
            ]
            for server, known in self.servers.items()
        }
        written = {"taken_at": self.taken_at, "took_s": self.took_s, "servers": servers}
        return msgspec.json.encode(written)


class _StoredSnapshot(msgspec.Struct):
    taken_at: float
    took_s: float  # not in texts of older versions, where [] also stood for tags not told
    servers: dict[str, msgspec.Raw]


_SNAPSHOT: Final = msgspec.json.Decoder(_StoredSnapshot)
# One by one: the decoder holds the interpreter, and ten thousand at once are felt by all threads.
_STORED_SERVER: Final = msgspec.json.Decoder(
    tuple[list[tuple[str, str]] | None, str, str, str, str]
)


def parse_snapshot(text: bytes) -> InventorySnapshot:
    """Read what `as_text` wrote; raise ValueError for anything else."""
    try:
        read = _SNAPSHOT.decode(text)
        servers = {
            ServerId(server): Attributes(None if tags is None else frozenset(tags), *where)
            for server, raw in read.servers.items()
            for tags, *where in (_STORED_SERVER.decode(raw),)
        }
    except msgspec.DecodeError as error:
        raise ValueError("is no inventory") from error
    return InventorySnapshot(servers, read.taken_at, read.took_s)


def parse_inventory(text: bytes, *, now: float, age_max_s: float) -> Inventory:
    """Read what an earlier process kept; raise ValueError for anything else.

    Also for one from the future: a clock was set back, so how old it is nobody knows, and it
    would not get too old until that instant has come.
    """
    listed = parse_snapshot(text)
    if listed.taken_at > now:
        raise ValueError("is an inventory of unknown age")
    taken_at = listed.taken_at
    return Inventory(listed.servers, taken_at=taken_at, good_until=taken_at + age_max_s)


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
    tags: list[_ListedTag] | None = None
    location: _ListedLocation | None = None
    hardware_attributes: _ListedHardware | None = None


_LISTED_SERVER: Final = msgspec.json.Decoder(_ListedServer)


def parse_servers(entries: Iterable[Any]) -> dict[ServerId, Attributes]:
    """Return the attributes in entries of ListServers (dossier 1.5).

    An entry that cannot be read is left out: an unknown server is granted nothing by attributes.
    """
    found: dict[ServerId, Attributes] = {}
    for raw in entries:
        try:
            one = _LISTED_SERVER.decode(raw)
        except msgspec.DecodeError:
            continue
        where, hardware = (
            one.location or _ListedLocation(),
            one.hardware_attributes or _ListedHardware(),
        )
        found[ServerId(one.id.lower())] = Attributes(
            None if one.tags is None else frozenset((tag.key, tag.value) for tag in one.tags),
            where.dc or "",
            where.rack or "",
            where.unit or "",
            hardware.model or "",
        )
    return found


@dataclass(frozen=True, slots=True)
class Location:
    """Part of a location; "" is any."""

    dc: str = ""
    rack: str = ""
    unit: str = ""

    def contains(self, known: Attributes, *, if_unknown: bool) -> bool:
        return (
            _equals(self.dc, known.dc, if_unknown=if_unknown)
            and _equals(self.rack, known.rack, if_unknown=if_unknown)
            and _equals(self.unit, known.unit, if_unknown=if_unknown)
        )


def _equals(wanted: str, actual: str, *, if_unknown: bool) -> bool:
    return wanted in ("", actual) or (if_unknown and not actual)


@dataclass(frozen=True, slots=True)
class Selector:
    """Which servers a rule is about, by their attributes; what is empty is any."""

    tags: tuple[tuple[str, frozenset[str]], ...] = ()
    """By key, the values of which one must be there."""
    locations: tuple[Location, ...] = ()
    models: frozenset[str] = frozenset()
    excluded: "Selector | None" = None

    def matches(self, known: Attributes, *, if_unknown: bool) -> bool:
        """Tell whether it selects a server; `in_doubt`, where that depends on the unknown."""
        return (
            all(_has_tag(known, key, values, if_unknown=if_unknown) for key, values in self.tags)
            and (
                not self.locations
                or any(place.contains(known, if_unknown=if_unknown) for place in self.locations)
            )
            and (not self.models or self._matches_model(known, if_unknown=if_unknown))
            and not (
                self.excluded is not None
                and self.excluded.matches_any(known, if_unknown=not if_unknown)
            )
        )

    def matches_any(self, known: Attributes, *, if_unknown: bool) -> bool:
        """Tell whether any one tag, place or model that is named here fits."""
        return (
            any(_has_tag(known, key, values, if_unknown=if_unknown) for key, values in self.tags)
            or any(place.contains(known, if_unknown=if_unknown) for place in self.locations)
            or (bool(self.models) and self._matches_model(known, if_unknown=if_unknown))
        )

    def _matches_model(self, known: Attributes, *, if_unknown: bool) -> bool:
        return known.model in self.models if known.model else if_unknown


def _has_tag(known: Attributes, key: str, values: frozenset[str], *, if_unknown: bool) -> bool:
    if known.tags is None:
        return if_unknown
    return any((key, value) in known.tags for value in values)
