"""The JSON of a project and of its servers, as a person may see them."""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.domain.model import SERVER_READ, ServerId
from gateway.domain.policy.inventory import Attributes


class ProjectEntry(msgspec.Struct, gc=False):
    project_id: str
    project_name: str
    account: str
    region: str | None
    delivery: str
    servers: tuple[()] = ()


class _Tag(msgspec.Struct, gc=False):
    key: str
    value: str


class _Place(msgspec.Struct, gc=False):
    dc: str | None
    rack: str | None
    unit: str | None


class _NamedServer(msgspec.Struct, gc=False):
    """A server that the person may open, but not read."""

    id: str
    name: str | None
    permissions: Sequence[str]


class _ReadableServer(msgspec.Struct, gc=False):
    id: str
    name: str | None
    location: _Place
    model: str | None
    power_state: str | None
    health_state: str | None
    tags: list[_Tag] | None
    permissions: Sequence[str]


ServerEntry = _NamedServer | _ReadableServer

_ENCODER: Final = msgspec.json.Encoder()


def server_entry(server: ServerId, known: Attributes, permissions: Sequence[str]) -> ServerEntry:
    """Return what a person with these permissions may see of a server."""
    if SERVER_READ not in permissions:
        return _NamedServer(server, known.name or None, permissions)
    return _ReadableServer(
        server,
        known.name or None,
        _Place(known.dc or None, known.rack or None, known.unit or None),
        known.model or None,
        known.power or None,
        known.health or None,
        None if known.tags is None else [_Tag(*tag) for tag in sorted(known.tags)],
        permissions,
    )


def encode_servers(entries: Sequence[ServerEntry]) -> bytes:
    """Return the members of a JSON array, without its brackets."""
    return _ENCODER.encode(entries)[1:-1]


def encode_project(entry: ProjectEntry) -> tuple[bytes, bytes]:
    """Return the JSON before the project's servers, and after them."""
    encoded = _ENCODER.encode(entry)
    return encoded[:-2], encoded[-2:]
