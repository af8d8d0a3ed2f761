"""Server attributes that rules select by or people see: the inventory and its stored form. Pure.

An attribute that the cloud did not report is unknown.
"""

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


_ENCODER: Final = msgspec.json.Encoder()
_ATTRIBUTES: Final = msgspec.json.Decoder(Attributes)


class StoredServers(Mapping[ServerId, Attributes]):
    """Attributes of many servers, decoded when they are read.

    They take a third of the memory of separate objects. The garbage collector does not visit them,
    and freeing 100,000 takes milliseconds.
    """

    def __init__(
        self, encoded: Mapping[ServerId, bytes], by_tag: "ServersByTag | None" = None
    ) -> None:
        """Take the JSON of each server, as in a snapshot, and the servers that have a tag."""
        self.encoded = encoded
        self.by_tag = by_tag

    def __getitem__(self, server: ServerId) -> Attributes:
        return _ATTRIBUTES.decode(self.encoded[server])

    def __iter__(self) -> Iterator[ServerId]:
        return iter(self.encoded)

    def __len__(self) -> int:
        return len(self.encoded)


ServersByTag = Mapping[tuple[str, str], Sequence[ServerId]]


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

    def __iter__(self) -> Iterator[ServerId]:
        return iter(self._servers)

    def __contains__(self, server: ServerId) -> bool:
        return server in self._servers

    def however_old(self) -> "Inventory":
        """Return the same attributes without expiry, for sessions that run already."""
        if self.good_until == math.inf:
            return self
        return Inventory(self._servers, taken_at=self.taken_at, good_until=math.inf)

    def with_tags(
        self, tags: Sequence[tuple[str, frozenset[str]]], now: float
    ) -> Sequence[ServerId] | None:
        """Return at least the servers that have one value of each tag; None: search all servers."""
        if now >= self.good_until:
            return ()
        servers = self._servers
        if not tags or not isinstance(servers, StoredServers) or servers.by_tag is None:
            return None
        by_tag = servers.by_tag
        choices = (
            [found for value in values if (found := by_tag.get((key, value))) is not None]
            for key, values in tags
        )
        least = min(choices, key=lambda found: sum(map(len, found)))
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


def parse_snapshot(text: bytes) -> InventorySnapshot:
    """Parse the result of `to_json`; raise ValueError if it is invalid."""
    encoded: dict[ServerId, bytes] = {}
    by_tag: dict[tuple[str, str], list[ServerId]] = {}
    lines = BytesIO(text)
    try:
        head = _HEAD.decode(lines.readline())
        for line in lines:
            for name, raw in _LINE.decode(line).items():
                server, stored = ServerId(name), bytes(raw)
                encoded[server] = stored
                for tag in _ATTRIBUTES.decode(stored).tags or ():
                    by_tag.setdefault(tag, []).append(server)
    except msgspec.DecodeError as error:
        raise ValueError("is not an inventory") from error
    if len(encoded) != head.count:
        raise ValueError("is not an inventory")
    return InventorySnapshot(StoredServers(encoded, by_tag), head.taken_at, head.took_s)


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


def parse_servers(entries: Iterable[Any]) -> StoredServers:
    """Return the attributes in entries of ListServers (upstream-api.md#1.5).

    Invalid entries are omitted: their servers are unknown, so no grant by attributes applies.
    """
    found: dict[ServerId, bytes] = {}
    for raw in entries:
        try:
            one = _LISTED_SERVER.decode(raw)
        except msgspec.DecodeError:
            continue
        location = one.location or _ListedLocation()
        hardware = one.hardware_attributes or _ListedHardware()
        found[ServerId(one.id.lower())] = _ENCODER.encode(
            Attributes(
                None if one.tags is None else frozenset((tag.key, tag.value) for tag in one.tags),
                location.dc or "",
                location.rack or "",
                location.unit or "",
                hardware.model or "",
                one.name or "",
                _text_of(one.power_state),
                _text_of(one.health_state),
            )
        )
    return StoredServers(found)


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""
