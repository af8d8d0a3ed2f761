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
class Listed:
    """One walk through the cloud's list; its text is what replicas share and what a file keeps."""

    servers: Mapping[ServerId, Attributes]
    taken_at: float
    """When the walk began: seconds since the epoch, by the clock of whoever wrote this."""
    took_s: float

    def as_text(self) -> bytes:
        servers = {
            server: [
                None if known.tags is None else sorted(known.tags),
                *(known.dc, known.rack, known.unit, known.model),
            ]
            for server, known in self.servers.items()
        }
        written = {"taken_at": self.taken_at, "took_s": self.took_s, "servers": servers}
        return msgspec.json.encode(written)


class _Text(msgspec.Struct):
    taken_at: float
    took_s: float  # not in texts of older versions, where [] also stood for tags not told
    servers: dict[str, msgspec.Raw]


_TEXT: Final = msgspec.json.Decoder(_Text)
# One by one: the decoder holds the interpreter, and ten thousand at once are felt by all threads.
_SERVER: Final = msgspec.json.Decoder(tuple[list[tuple[str, str]] | None, str, str, str, str])


def from_text(text: bytes) -> Listed:
    """Read what `as_text` wrote; raise ValueError for anything else."""
    try:
        read = _TEXT.decode(text)
        servers = {
            ServerId(server): Attributes(None if tags is None else frozenset(tags), *where)
            for server, raw in read.servers.items()
            for tags, *where in (_SERVER.decode(raw),)
        }
    except msgspec.DecodeError as error:
        raise ValueError("is no inventory") from error
    return Listed(servers, read.taken_at, read.took_s)


def from_file(text: bytes, *, now: float, age_max_s: float) -> Inventory:
    """Read what an earlier process kept; raise ValueError for anything else.

    Also for one from the future: a clock was set back, so how old it is nobody knows, and it
    would not get too old until that instant has come.
    """
    listed = from_text(text)
    if listed.taken_at > now:
        raise ValueError("is an inventory of unknown age")
    taken_at = listed.taken_at
    return Inventory(listed.servers, taken_at=taken_at, good_until=taken_at + age_max_s)


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
            None if one.tags is None else frozenset((tag.key, tag.value) for tag in one.tags),
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

    def holds(self, known: Attributes, *, in_doubt: bool) -> bool:
        return (
            _fits(self.dc, known.dc, in_doubt=in_doubt)
            and _fits(self.rack, known.rack, in_doubt=in_doubt)
            and _fits(self.unit, known.unit, in_doubt=in_doubt)
        )


def _fits(named: str, told: str, *, in_doubt: bool) -> bool:
    return named in ("", told) or (in_doubt and not told)


@dataclass(frozen=True, slots=True)
class Selector:
    """Which servers a rule is about, by their attributes; what is empty is any."""

    tags: tuple[tuple[str, frozenset[str]], ...] = ()
    """By key, the values of which one must be there."""
    places: tuple[Place, ...] = ()
    models: frozenset[str] = frozenset()
    excluded: "Selector | None" = None

    def matches(self, known: Attributes, *, in_doubt: bool) -> bool:
        """Tell whether it selects a server; `in_doubt`, where that depends on the unknown."""
        return (
            all(_tagged(known, key, values, in_doubt=in_doubt) for key, values in self.tags)
            and (
                not self.places
                or any(place.holds(known, in_doubt=in_doubt) for place in self.places)
            )
            and (not self.models or self._is_model(known, in_doubt=in_doubt))
            and not (
                self.excluded is not None and self.excluded.touches(known, in_doubt=not in_doubt)
            )
        )

    def touches(self, known: Attributes, *, in_doubt: bool) -> bool:
        """Tell whether any one tag, place or model that is named here fits."""
        return (
            any(_tagged(known, key, values, in_doubt=in_doubt) for key, values in self.tags)
            or any(place.holds(known, in_doubt=in_doubt) for place in self.places)
            or (bool(self.models) and self._is_model(known, in_doubt=in_doubt))
        )

    def _is_model(self, known: Attributes, *, in_doubt: bool) -> bool:
        return known.model in self.models if known.model else in_doubt


def _tagged(known: Attributes, key: str, values: frozenset[str], *, in_doubt: bool) -> bool:
    if known.tags is None:
        return in_doubt
    return any((key, value) in known.tags for value in values)
