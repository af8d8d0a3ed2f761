"""No response depends on servers that are hidden from the caller.

Two worlds that differ only in hidden servers receive the same requests. Every response, error,
count, marker and validator must be equal, byte for byte.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.commands.exit_codes import CommandFailed
from gateway.commands.server_lookup import find_server
from gateway.config.operations import built_in_operations
from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.errors import GatewayError
from gateway.domain.model import (
    PERMISSIONS,
    Principal,
    ProjectId,
    RuleKind,
    RuleRef,
    ServerId,
    UpstreamRequest,
)
from gateway.domain.policy.inventory import Attributes, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rule_index import RuleIndex, compile_rules
from gateway.domain.policy.rules import Rule
from gateway.domain.policy.selectors import Selector
from gateway.domain.queue.pacing import Pace
from gateway.domain.requests.grants import grants_of
from gateway.edge.error_response import render_error
from gateway.edge.json_endpoint import find_endpoint
from gateway.edge.servers.servers_handler import PATH, ServersHandler
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.consoles.console_store import SessionListing
from gateway.flow.forwarding import Forwarding
from gateway.flow.instances import Instances
from gateway.flow.listings import ListBounds, Listings
from gateway.flow.pipeline import Gateway, build_gateway
from gateway.flow.request import ApiRequest
from gateway.flow.request_audit import RequestAudit
from gateway.flow.servers.console_presence import ConsolePresence
from gateway.flow.servers.power_readings import PowerReading, PowerReadings
from gateway.flow.servers.server_lists import ServerLists
from gateway.flow.servers.server_states import ServerStates
from gateway.flow.servers.visible_servers import ListedProject, VisibleServers
from gateway.flow.writes import Writes
from tests.support.access_requests import a_request_rule, an_access_request, changed
from tests.support.clock import FakeClock
from tests.support.exchange import FakeExchange, as_exchange
from tests.support.server_world import FakeReadingStore, a_session
from tests.support.small_cloud import SmallCloud, SmallServer
from tests.support.telemetry import RecordingTelemetry

PROJECT = ProjectId("0a1b2c3d4e5f60718293a4b5c6d7e8f9")
SERVERS = [ServerId(f"{i:08x}-2222-4333-8444-555555555555") for i in range(14)]
INSTANCES = [f"i-{i}" for i in range(len(SERVERS))]
ANN = Principal("corp", "ann", frozenset({"staff"}), 0.0, 9e9, None)
CATALOGUE = Catalogue(built_in_operations())
VALUES = ("a", "b", "c")
NAMES = ("web-01", "web-02")
USED = (
    *("server:read", "server:power", "console:open", "console:view"),
    *("instance:read", "instance:delete"),
)


class Fixed:
    """The parts of the pipeline that this is not about, each at its plainest."""

    def __init__(self, known: Policy | Inventory) -> None:
        self._known = known

    def current(self, _: object = None) -> Policy | Inventory:
        return self._known

    def unsigned_jwt(self, *_: object) -> str:
        return "jwt"

    revocations_version = 0

    def check(self, _: Principal) -> None:
        return None

    async def identify_by_deadline(self, _: str, deadline: float) -> Principal:
        return ANN

    async def record(self, _: object) -> None:
        return None

    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: bytes = b""


def a_gateway(policy: Policy | Fixed, cloud: SmallCloud) -> Gateway:
    clock, fixed = FakeClock(), policy if isinstance(policy, Fixed) else Fixed(policy)
    inventory = inventory_of(cloud.servers, clock.now())
    exchanges = {PROJECT: as_exchange(FakeExchange(cloud))}
    limits = CallerLimits(Pace(1e6, 1, 1_000_000), fixed, clock)
    every: Any = fixed
    request_audit = RequestAudit(every, policies=every, limits=limits, clock=clock)
    parts: Any = {
        "identify": fixed,
        "credentials": fixed,
        "policies": fixed,
        "inventories": Fixed(inventory),
        "links": fixed,
        "limits": limits,
        "request_audit": request_audit,
        "writes": Writes(request_audit, every, clock),
        "instances": Instances(exchanges, clock),
        "forwarding": Forwarding(
            exchanges, Listings(exchanges, ListBounds(5.0, 50, 10_000_000), clock)
        ),
        "telemetry": RecordingTelemetry(),
    }
    return build_gateway(catalogue=CATALOGUE, group_weights={}, clock=clock, **parts)


async def response_to(gateway: Gateway, request: Request) -> object:
    """Return all that a caller gets to see of an answer."""

    async def read_body(_: int) -> bytes:
        return request.body

    requested = ApiRequest(
        authorization=["Bearer token"],
        x_auth_token=[],
        method=request.method,
        target=f"/v1/{PROJECT}{request.path}",
        has_body=bool(request.body),
        read_body=read_body,
        fresh=False,
        request_id="r",
        client_address="",
        deadline=1e9,
        headers=(),
    )
    try:
        answer: Any = await gateway.handle(requested)
    except GatewayError as error:
        return render_error(error)
    return answer.status, answer.headers, answer.body


def send_all(policy: Policy, world: Mapping[str, SmallServer], requests: Sequence[Request]) -> Any:
    cloud = SmallCloud(world, page_max=10)

    async def run() -> list[object]:
        gateway = a_gateway(policy, cloud)
        return [await response_to(gateway, request) for request in requests]

    return asyncio.run(run()), cloud.done


_servers = st.builds(
    SmallServer,
    tags=st.fixed_dictionaries({"env": st.sampled_from(VALUES), "tier": st.sampled_from(VALUES)}),
    records=st.integers(0, 3),
    name=st.sampled_from(NAMES),
    power=st.sampled_from(["on", "off"]),
)


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, SmallServer]:
    chosen = [server for server in SERVERS if draw(st.booleans())]
    world: dict[str, SmallServer] = {}
    for server in chosen:
        one = draw(_servers)
        if draw(st.booleans()):
            one = replace(one, instance=INSTANCES[SERVERS.index(server)])
        world[server] = one
    return world


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    def rule(kind: RuleKind, line: int) -> Rule:
        return Rule(
            ref=RuleRef(kind, "policy.yaml", line, f"rule {line}"),
            permissions=frozenset(draw(st.sets(st.sampled_from(USED), min_size=1))),
            issuer=None,
            users=frozenset({"ann"}),
            groups=frozenset(),
            **draw(_on),
            selector=draw(st.none() | _selectors),
        )

    count = draw(st.integers(1, 4))
    rules = [rule(RuleKind.GRANT, i) for i in range(count)]
    rules += [rule(RuleKind.DENIAL, 10 + i) for i in range(draw(st.integers(0, 2)))]
    if draw(st.booleans()):
        return Policy(rules, version="v")
    # Access requests: a rule by which ann may request, and a request of hers in force.
    request_rule = a_request_rule(approvals=0, scope=rule(RuleKind.GRANT, 20))
    index = RuleIndex(compile_rules(rules, requests=[request_rule]))
    policy = Policy(index, version="v")
    servers = draw(st.sets(st.sampled_from(SERVERS[:4]), min_size=1))
    started = an_access_request(servers=tuple(sorted(servers)), project=PROJECT, started_at=0.0)
    started = changed(started, duration_s=1e10)
    request_rule = changed(request_rule, for_max_s=1e10)
    grants = grants_of([started], {request_rule.name: request_rule}, ())
    return policy.with_requested(grants)


_selectors = st.builds(
    Selector,
    tags=st.sets(st.sampled_from(["env", "tier"]), min_size=1).flatmap(
        lambda keys: st.tuples(
            *(
                st.tuples(st.just(key), st.frozensets(st.sampled_from(VALUES), min_size=1))
                for key in sorted(keys)
            )
        )
    ),
)
_on = st.one_of(
    st.just({"projects": frozenset(), "servers": frozenset()}),
    st.just({"projects": frozenset({PROJECT}), "servers": frozenset()}),
    (
        st.sets(st.sampled_from(SERVERS[:4]), min_size=1)
        | st.sets(st.sampled_from(SERVERS), min_size=1)
    ).map(lambda servers: {"projects": frozenset(), "servers": frozenset(servers)}),
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    # Few servers: calls often name visible and hidden ones together.
    server = draw(st.sampled_from(SERVERS[:4]))
    several = draw(st.lists(st.sampled_from(SERVERS[:4]), min_size=1, max_size=4, unique=True))
    instances = draw(st.lists(st.sampled_from(INSTANCES[:4]), min_size=1, max_size=4, unique=True))
    paging = draw(st.sampled_from(["", "?limit=10", f"?limit=10&marker={server}"]))
    offset = draw(st.sampled_from(["?limit=3", "?limit=3&offset=2"]))
    kind = draw(st.sampled_from(["alarms", "events"]))
    power = json.dumps({"action": "power off", "server_id_set": several}).encode()
    delete = json.dumps({"instance_id_set": instances}).encode()
    return draw(
        st.sampled_from(
            [
                Request("GET", f"/physicalservers{paging}"),
                Request("GET", f"/physicalservers/{server}"),
                Request("PUT", "/physicalservers/power-state", power),
                Request("GET", f"/physicalservers/{kind}{offset}"),
                Request("GET", f"/physicalservers/{kind}?resource_id={','.join(several)}"),
                Request("GET", f"/instances{paging}"),
                Request("GET", f"/instances?instance_id={','.join(instances)}"),
                Request("GET", f"/instances?server_id={server}"),
                Request("GET", f"/instances/{instances[0]}/status"),
                Request("POST", "/instances/batch-delete", delete),
                Request("GET", f"/permissions?server_id={','.join(several)}"),
            ]
        )
    )


def inventory_of(world: Mapping[str, SmallServer], now: float) -> Inventory:
    known = {
        ServerId(one): Attributes(frozenset(it.tags.items()), name=it.name, power=it.power)
        for one, it in world.items()
    }
    return Inventory(known, taken_at=now, good_until=now + 1e6)


def hidden_in(policy: Policy, world: Mapping[str, SmallServer]) -> set[str]:
    inventory = inventory_of(world, 0.0)
    return {
        one
        for one in SERVERS
        if not any(
            policy.decide(ANN, permission, PROJECT, one, 0.0, inventory).allowed
            for permission in PERMISSIONS
        )
    }


@settings(max_examples=400, deadline=None)
@given(policies(), worlds(), worlds(), st.lists(requests(), min_size=1, max_size=8))
def test_no_response_depends_on_hidden_servers(
    policy: Policy,
    world: dict[str, SmallServer],
    elsewhere: dict[str, SmallServer],
    requested: list[Request],
) -> None:
    hidden = hidden_in(policy, world)
    seen = {one: server for one, server in world.items() if one not in hidden}
    other = {
        one: it for one, it in elsewhere.items() if one in hidden & hidden_in(policy, elsewhere)
    }
    assume(seen != world or other)
    assert send_all(policy, world, requested) == send_all(policy, seen | other, requested)


class ServersPage:
    """What a person receives of `GET /servers`, `GET /servers/state` and `gateway console`."""

    def __init__(self, policy: Policy, world: Mapping[str, SmallServer]) -> None:
        self._world, self._clock = world, FakeClock()
        inventory: Any = Fixed(inventory_of(world, self._clock.now()))
        inventory.last_known = lambda project: inventory.current(project).however_old()
        inventory.problem = lambda project: None
        parts: Any = {
            "policies": Fixed(policy),
            "inventories": inventory,
            "clock": self._clock,
        }
        project = ListedProject(PROJECT, "web", "prod", None, "proxied")
        lists = ServerLists(VisibleServers([project], **parts), parts["policies"], self._clock)
        presence = ConsolePresence(self._sessions, self._clock)
        store = FakeReadingStore()
        store.stored = {
            one: PowerReading(PROJECT, one, "off", "OK", self._clock.now() + 1)
            for one in map(ServerId, world)
        }
        states = ServerStates(
            lists,
            presence=presence,
            readings=PowerReadings({}, store, self._clock),
            **parts,
        )
        self._handler = ServersHandler(lists, states, self._identify)

    async def _identify(self, *_: object) -> Principal:
        return ANN

    async def _sessions(self) -> SessionListing:
        found = (a_session(ServerId(one), project=PROJECT) for one in self._world)
        return SessionListing(tuple(found), is_complete=True)

    async def get(self, path: str, **headers: str) -> tuple[object, ...]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request: Any = SimpleNamespace(raw_path=PATH + path, headers=CIMultiDict(named))
        context: Any = SimpleNamespace(deadline=self._clock.monotonic() + 10)
        endpoint = find_endpoint(self._handler.paths, path.partition("?")[0], "GET")
        assert endpoint.action.reply is not None
        try:
            reply = await endpoint.action.reply(request, context, "")
        except GatewayError as error:
            return (render_error(error),)
        return reply.status, reply.headers, reply.body

    def resolve(self, text: str, body: bytes) -> object:
        """Return the server that `gateway console TEXT` finds, or its error."""
        gateway: Any = SimpleNamespace(request=lambda _: SimpleNamespace(data=json.loads(body)))
        try:
            return find_server(gateway, text)
        except CommandFailed as error:
            return str(error)

    async def everything(self) -> tuple[dict[str, Any], list[object]]:
        """Return the list, and all that is received with it."""
        received: list[object] = []
        for path in ("", "/state", "?name=web", "/state?server_id=x"):
            first = await self.get(path)
            received += [first, await self.get(path, Accept_Encoding="gzip")]
            if len(first) > 1:
                etag = dict(first[1])["ETag"]  # type: ignore[call-overload]
                received.append(await self.get(path, If_None_Match=etag))
        body: Any = received[0][2]  # type: ignore[index]
        received += [self.resolve(name, body) for name in (*NAMES, "db-01", *SERVERS)]
        return json.loads(body), received


def servers_page(
    policy: Policy, world: Mapping[str, SmallServer]
) -> tuple[dict[str, Any], list[object]]:
    return asyncio.run(ServersPage(policy, world).everything())


def unseen_in(policy: Policy, world: Mapping[str, SmallServer]) -> set[str]:
    """Return the servers that no permission shows which `GET /servers` goes by."""
    now = FakeClock().now()
    inventory = inventory_of(world, now)
    return {
        one
        for one in SERVERS
        if not any(
            policy.decide(ANN, permission, PROJECT, one, now, inventory).allowed
            for permission in ("server:read", "console:open", "console:view")
        )
    }


@settings(max_examples=120, deadline=None)
@given(policies(), worlds(), worlds())
def test_nothing_of_the_servers_page_depends_on_hidden_ones(
    policy: Policy, world: dict[str, SmallServer], elsewhere: dict[str, SmallServer]
) -> None:
    unseen = unseen_in(policy, world)
    seen = {one: server for one, server in world.items() if one not in unseen}
    other = {
        one: it for one, it in elsewhere.items() if one in unseen & unseen_in(policy, elsewhere)
    }
    assume(seen != world or other)
    # The cloud lists in the order of IDs.
    first, second = dict(sorted(world.items())), dict(sorted((seen | other).items()))
    listed, received = servers_page(policy, first)
    assert received == servers_page(policy, second)[1]
    ids = [one["id"] for it in listed["projects"] for one in it["servers"]]
    assert set(ids) == set(seen)


def a_policy_on(servers: Sequence[ServerId], *, projects: Sequence[ProjectId] = ()) -> Policy:
    rule = Rule(
        ref=RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant"),
        permissions=frozenset({"server:read"}),
        issuer=None,
        users=frozenset({"ann"}),
        groups=frozenset(),
        projects=frozenset(projects),
        servers=frozenset(servers),
    )
    return Policy([rule], version="v")


@pytest.mark.parametrize(
    "before", [a_policy_on(SERVERS[:2]), a_policy_on([], projects=[PROJECT])], ids=["some", "all"]
)
def test_server_revoked_during_a_list_is_not_shown(before: Policy) -> None:
    after = a_policy_on(SERVERS[1:2])
    world = {one: SmallServer({}) for one in SERVERS[:3]}

    class ChangingCloud(SmallCloud):
        def __call__(self, request: UpstreamRequest) -> bytes:
            policies._known = after
            return super().__call__(request)

    policies = Fixed(before)
    gateway = a_gateway(policies, ChangingCloud(world))
    answer: Any = asyncio.run(response_to(gateway, Request("GET", "/physicalservers")))
    assert [one["id"] for one in json.loads(answer[2])["servers"]] == SERVERS[1:2]


def test_refusal_hints_at_requests_whatever_the_server() -> None:
    """The hint of a 403 depends on person and rules only."""
    visible = a_policy_on(SERVERS[:1])
    rule = a_request_rule(scope=changed(visible.rules[0], permissions=frozenset({"server:power"})))
    policy = Policy(RuleIndex(compile_rules(visible.rules, requests=[rule])), version="v")
    world = {one: SmallServer({}) for one in SERVERS[:2]}

    def refusals(policy: Policy, permission: str) -> set[str]:
        requested = [
            Request(
                "PUT",
                "/physicalservers/power-state",
                json.dumps({"action": "power off", "server_id_set": [server]}).encode(),
            )
            if permission == "server:power"
            else Request("GET", f"/physicalservers/{server}")
            for server in SERVERS[1:3]  # one that exists, one that does not
        ]
        answers, _ = send_all(policy, world, requested)
        return {json.loads(one.body)["error_msg"] for one in answers}

    (hinted,) = refusals(policy, "server:power")
    assert "gateway requests rules" in hinted
    (plain,) = refusals(policy, "server:read")
    assert "gateway requests rules" not in plain
