"""A person's servers in one account with two projects, without HTTP."""

import json
from collections.abc import Mapping
from typing import Any

from gateway.domain.consoles.model import ConsoleSession, ConsoleTarget, SessionMode
from gateway.domain.errors import StoreUnavailable
from gateway.domain.model import (
    Principal,
    ProjectId,
    RuleKind,
    RuleRef,
    ServerId,
    UpstreamRequest,
)
from gateway.domain.policy.inventory import NO_INVENTORY, Attributes, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.flow.consoles.console_store import ListedSession, SessionListing
from gateway.flow.inventories import ListingProblem
from gateway.flow.servers.console_presence import ConsolePresence
from gateway.flow.servers.power_readings import PowerReading, PowerReadings
from gateway.flow.servers.server_lists import ServerLists
from gateway.flow.servers.server_states import ServerStates
from gateway.flow.servers.visible_servers import ListedProject, VisibleServers
from tests.support.clock import FakeClock
from tests.support.exchange import FakeExchange, as_exchange
from tests.support.stages import FakeIdentify, FakePolicies

PROJECT, OTHER = ProjectId("p"), ProjectId("q")
SERVERS = [ServerId(f"{i:08x}-2222-4333-8444-555555555555") for i in range(3)]
ANN = Principal("corp", "ann", frozenset({"staff"}), 0.0, 9e9, None)
BOB = Principal("corp", "bob", frozenset({"staff"}), 0.0, 9e9, None)
WEB = Attributes(frozenset({("env", "prod")}), "dc-1", "r3", "u7", "B1", "web-01", "on", "OK")


def a_grant(*permissions: str, kind: RuleKind = RuleKind.GRANT, **on: Any) -> Rule:
    """Return a grant on the project to Ann."""
    return Rule(
        **{
            "ref": RuleRef(kind, "policy.yaml", 1, "a rule"),
            "permissions": frozenset(permissions),
            "issuer": None,
            "users": frozenset({"ann"}),
            "groups": frozenset(),
            "projects": frozenset({PROJECT}),
            "servers": frozenset(),
            **on,
        }
    )


def a_session(
    server: ServerId, person: Principal = BOB, *, project: ProjectId = PROJECT
) -> ListedSession:
    session = ConsoleSession(
        id=server.replace("-", ""),
        person=person,
        target=ConsoleTarget("prod", project, server),
        mode=SessionMode.CONTROL,
        started_at=1_800_000_000.0,
        cookie_hash=b"",
        client_address="",
        ticket_address="",
        request_id="",
    )
    return ListedSession(session, "worker-1")


class FakeReadingStore:
    """Implements `ReadingStore`."""

    def __init__(self) -> None:
        self.stored: dict[ServerId, PowerReading] = {}
        self.is_available = True
        self.reads = 0

    async def add(self, reading: PowerReading) -> None:
        self._require_available()
        self.stored[reading.server] = reading

    async def readings(self) -> tuple[PowerReading, ...]:
        self._require_available()
        self.reads += 1
        return tuple(self.stored.values())

    def _require_available(self) -> None:
        if not self.is_available:
            raise StoreUnavailable("fake")


class ServerWorld:
    """Implements `ListedInventories`, and counts what is read."""

    def __init__(self, clock: FakeClock, *rules: Rule) -> None:
        self.clock, self.identify = clock, FakeIdentify()
        self.policies = FakePolicies(Policy(list(rules), version="v"))
        self.inventories: dict[ProjectId, Inventory] = {}
        self.problems: dict[ProjectId, ListingProblem] = {}
        self.sessions: tuple[ListedSession, ...] = ()
        self.sessions_read = 0
        self.set_servers(dict.fromkeys(SERVERS, WEB))
        parts: Any = {"policies": self.policies, "inventories": self, "clock": clock}
        identify: Any = self.identify
        projects = [
            ListedProject(PROJECT, "web", "prod", "cn-east-3", "proxied"),
            ListedProject(OTHER, "q", "prod", None, "direct"),
        ]
        self.lists = ServerLists(VisibleServers(projects, **parts), identify, clock)
        presence = ConsolePresence(self._listing, clock)
        self.cloud = FakeExchange(self._show)
        self.store = FakeReadingStore()
        self.readings = PowerReadings({PROJECT: as_exchange(self.cloud)}, self.store, clock)
        self.states = ServerStates(self.lists, presence=presence, readings=self.readings, **parts)

    def set_policy(self, *rules: Rule) -> None:
        self.policies.policy = Policy(list(rules), version="w")

    def set_servers(self, servers: Mapping[ServerId, Attributes], **times: float) -> None:
        now = self.clock.now()
        times = {"taken_at": now, "good_until": now + 600, **times}
        self.inventories[PROJECT] = Inventory(servers, **times)

    def current(self, project: ProjectId) -> Inventory:
        return self.inventories.get(project, NO_INVENTORY)

    def last_known(self, project: ProjectId) -> Inventory:
        known = self.current(project)
        return known if known is NO_INVENTORY else known.however_old()

    def problem(self, project: ProjectId) -> ListingProblem | None:
        return self.problems.get(project)

    def _show(self, request: UpstreamRequest) -> bytes:
        """Answer as the cloud, in which all servers are off."""
        server = request.path.rpartition("/")[2]
        return json.dumps({"id": server, "power_state": "off", "health_state": "OK"}).encode()

    async def _listing(self) -> SessionListing:
        self.sessions_read += 1
        return SessionListing(self.sessions, is_complete=True)

    async def projects(self, person: Principal = ANN) -> list[dict[str, Any]]:
        shown = await self.lists.of(person, deadline=self.clock.monotonic() + 10)
        listed: list[dict[str, Any]] = json.loads(await shown.body.plain())["projects"]
        return listed

    async def ids(self, person: Principal = ANN) -> list[str]:
        return [one["id"] for project in await self.projects(person) for one in project["servers"]]

    async def etag(self, person: Principal = ANN) -> str:
        shown = await self.lists.of(person, deadline=self.clock.monotonic() + 10)
        return shown.body.etag

    async def state(self, person: Principal = ANN) -> dict[str, Any]:
        body = await self.states.of(person, deadline=self.clock.monotonic() + 10)
        state: dict[str, Any] = json.loads(await body.plain())
        return state
