"""What rules may select servers by, as the cloud told it some time ago. Pure.

The text form is what replicas share, what is kept in a file, and what `explain` reads.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.model import ServerId


@dataclass(frozen=True, slots=True)
class Attributes:
    """One server's; "" where the cloud tells none."""

    tags: frozenset[tuple[str, str]] = frozenset()
    dc: str = ""
    rack: str = ""
    unit: str = ""
    model: str = ""


class Inventory:
    """The servers of one project. It never changes."""

    __slots__ = ("_servers", "good_until", "taken_at")

    def __init__(
        self, servers: Mapping[ServerId, Attributes], *, taken_at: float, good_until: float
    ) -> None:
        """Both instants are in seconds since the epoch; from `good_until` on it tells nothing."""
        self._servers = servers
        self.taken_at = taken_at
        self.good_until = good_until

    def __len__(self) -> int:
        return len(self._servers)

    def attributes(self, server: ServerId | None, now: float) -> Attributes | None:
        """Return what is known; None: the server is unknown, or all of this is too old."""
        if server is None or now >= self.good_until:
            return None
        return self._servers.get(server)

    def as_text(self) -> bytes:
        servers = {
            server: [sorted(known.tags), known.dc, known.rack, known.unit, known.model]
            for server, known in self._servers.items()
        }
        return msgspec.json.encode({"taken_at": self.taken_at, "servers": servers})


NO_INVENTORY: Final = Inventory({}, taken_at=-math.inf, good_until=-math.inf)


class _Text(msgspec.Struct):
    taken_at: float
    servers: dict[str, tuple[list[tuple[str, str]], str, str, str, str]]


_TEXT: Final = msgspec.json.Decoder(_Text)


def from_text(text: bytes, *, age_max_s: float) -> Inventory:
    """Read what `as_text` wrote; raise ValueError for anything else."""
    try:
        read = _TEXT.decode(text)
    except msgspec.DecodeError as error:
        raise ValueError("is no inventory") from error
    servers = {
        ServerId(server): Attributes(frozenset(tags), *where)
        for server, (tags, *where) in read.servers.items()
    }
    return Inventory(servers, taken_at=read.taken_at, good_until=read.taken_at + age_max_s)


class _Tag(msgspec.Struct):
    key: str = ""
    value: str = ""


class _Location(msgspec.Struct):
    dc: str | None = None
    rack: str | None = None
    unit: str | None = None


class _Hardware(msgspec.Struct):
    model: str | None = None


class _Described(msgspec.Struct):
    id: str
    tags: list[_Tag] | None = None
    location: _Location | None = None
    hardware_attributes: _Hardware | None = None


_DESCRIBED: Final = msgspec.json.Decoder(_Described)


def described(entries: Iterable[Any]) -> dict[ServerId, Attributes]:
    """Return the attributes in entries of ListServers (dossier 1.5).

    An entry that cannot be read is left out: an unknown server is granted nothing by attributes.
    """
    found: dict[ServerId, Attributes] = {}
    for raw in entries:
        try:
            one = _DESCRIBED.decode(raw)
        except msgspec.DecodeError:
            continue
        where, hardware = one.location or _Location(), one.hardware_attributes or _Hardware()
        found[ServerId(one.id.lower())] = Attributes(
            frozenset((tag.key, tag.value) for tag in one.tags or ()),
            where.dc or "",
            where.rack or "",
            where.unit or "",
            hardware.model or "",
        )
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Part of a location; "" is any."""

    dc: str = ""
    rack: str = ""
    unit: str = ""

    def holds(self, known: Attributes) -> bool:
        return (
            self.dc in ("", known.dc)
            and self.rack in ("", known.rack)
            and self.unit in ("", known.unit)
        )


@dataclass(frozen=True, slots=True)
class Selector:
    """Which servers a rule is about, by their attributes; what is empty is any."""

    tags: tuple[tuple[str, frozenset[str]], ...] = ()
    """By key, the values of which one must be there."""
    places: tuple[Place, ...] = ()
    models: frozenset[str] = frozenset()
    excluded: "Selector | None" = None

    def matches(self, known: Attributes) -> bool:
        return (
            all(any((key, value) in known.tags for value in values) for key, values in self.tags)
            and (not self.places or any(place.holds(known) for place in self.places))
            and (not self.models or known.model in self.models)
            and not (self.excluded is not None and self.excluded.touches(known))
        )

    def touches(self, known: Attributes) -> bool:
        """Tell whether any one tag, place or model that is named here fits."""
        return (
            any((key, value) in known.tags for key, values in self.tags for value in values)
            or any(place.holds(known) for place in self.places)
            or known.model in self.models
        )
