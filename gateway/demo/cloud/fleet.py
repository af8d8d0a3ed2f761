"""The state behind the simulated physical-servers API: servers, instances, rooms and racks.

A project's initial state follows from its server IDs and their index, so tests can predict it:

- Of three servers, the first two have an instance (`in-use`); the third is idle (`ready`).
- The tag `tier` alternates between web and db; the model changes every two servers, the DC every
  three; every eighth server has the health state Warning.

Operations that are asynchronous in the real cloud take effect immediately.
"""

import uuid
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

REGION = "cn-east-3"
DCS = ("dc-1", "dc-2")
RACKS_PER_DC = 8
IMAGE = "8f1d3c52-0a57-4a6e-9d0b-6c2f1f6b7a10"
VPC = "3a0f4be1-6b1d-4c0f-8a52-52f9d0c7e6b4"
SUBNET = "c1d2e3f4-5a6b-4c7d-8e9f-0a1b2c3d4e5f"


@dataclass(slots=True)
class Server:
    id: str
    index: int
    """Index in its project's list, from 0."""
    name: str
    dc: str
    rack: str
    unit: str
    model: str
    tags: dict[str, str]
    manage_state: str = "ready"
    power_state: str = "on"
    operation_state: str = "power-on-succeed"
    health_state: str = "OK"

    @property
    def number(self) -> int:
        return int(self.id[:4], 16)

    @property
    def sn(self) -> str:
        return self.id[-12:]


@dataclass(slots=True)
class Instance:
    id: str
    server_id: str
    name: str
    image_id: str = IMAGE
    vpc_id: str = VPC
    networks: list[dict[str, str]] = field(default_factory=list)
    """Each has subnet_id and ipv4_address."""
    description: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    operation_state: str = "install-succeed"
    reinstalls: int = 0
    password_changes: int = 0


@dataclass(slots=True)
class Rack:
    id: str
    name: str
    dc: str
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Room:
    id: str
    name: str
    description: str = ""


@dataclass(slots=True)
class LogExport:
    """A log export of one server."""

    server_id: str
    created_at: float
    status_requests: int = 0
    """Number of requests for its status."""


class CloudProject:
    def __init__(self, project: str, servers: Iterable[str] = ()) -> None:
        self.id = project
        self.servers: dict[str, Server] = {}
        self.server_ids: list[str] = []
        """Sorted, so a page costs only its own entries."""
        self.instances: dict[str, Instance] = {}
        self.terminated: set[str] = set()
        """IDs of deleted instances; their status remains available."""
        self.exports: dict[str, LogExport] = {}
        self.rooms: dict[str, Room] = {}
        self.racks: dict[str, Rack] = {}
        self._next_index = 0
        for dc in DCS:
            room = Room(self._derive(dc), dc)
            self.rooms[room.id] = room
            for name in (f"r{i}" for i in range(RACKS_PER_DC)):
                rack = Rack(self._derive(f"{dc}/{name}"), name, dc)
                self.racks[rack.id] = rack
        for server_id in servers:
            self.add(server_id)

    def add(self, server_id: str) -> Server:
        """Add a server derived from its ID and index. Raises ValueError unless it is a new UUID."""
        if str(uuid.UUID(server_id)) != server_id:
            raise ValueError(f"{server_id!r} is not a canonical UUID")
        if server_id in self.servers:
            raise ValueError(f"{server_id} already exists")
        server = _make_server(server_id, self._next_index)
        self._next_index += 1
        self.servers[server_id] = server
        insort(self.server_ids, server_id)
        if server.index % 3 != 2:
            self.install(server, self._derive(f"instance/{server_id}"), f"vm-{server_id[:8]}")
        return server

    def remove(self, server_id: str) -> None:
        """Remove a server, its instance and its exports. Raises KeyError if it is unknown."""
        del self.servers[server_id]
        del self.server_ids[bisect_left(self.server_ids, server_id)]
        gone = [one.id for one in self.instances.values() if one.server_id == server_id]
        for instance_id in gone:
            del self.instances[instance_id]
        for export_id in [i for i, one in self.exports.items() if one.server_id == server_id]:
            del self.exports[export_id]

    def install(self, server: Server, instance_id: str, name: str) -> Instance:
        address = f"192.168.{server.index // 250 % 250}.{server.index % 250 + 2}"
        networks = [{"subnet_id": SUBNET, "ipv4_address": address}]
        instance = Instance(instance_id, server.id, name, networks=networks)
        self.instances[instance_id] = instance
        server.manage_state = "in-use"
        return instance

    def terminate(self, instance_id: str) -> None:
        instance = self.instances.pop(instance_id)
        self.terminated.add(instance_id)
        self.servers[instance.server_id].manage_state = "ready"

    def idle(self) -> list[Server]:
        """Return the servers without an instance."""
        return [server for server in self.servers.values() if server.manage_state == "ready"]

    def _derive(self, name: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.id}/{name}"))


def _make_server(server_id: str, index: int) -> Server:
    number = int(server_id[:4], 16)
    return Server(
        id=server_id,
        index=index,
        name=f"bms-{server_id[:8]}",
        dc=DCS[index // 3 % 2],
        rack=f"r{number % RACKS_PER_DC}",
        unit=f"u{number % 42 + 1}",
        model=("B1", "B2")[index // 2 % 2],
        tags={"env": "prod" if number % 2 else "test", "tier": ("web", "db")[index % 2]},
        health_state="Warning" if index % 8 == 7 else "OK",
    )
