"""Replicas with live consoles in virtual time: real flow, a store in memory, and a fake cloud."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from gateway.config.operations import built_in_operations
from gateway.domain.audit.record import AuditRecord
from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.consoles.model import ConsoleTarget, SessionMode
from gateway.domain.consoles.page_messages import ErrorText
from gateway.domain.consoles.ticket_text import TicketTexts
from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import (
    Principal,
    Reuse,
)
from gateway.domain.queue.pacing import Pace
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.console_links import ConsoleAccount
from gateway.flow.consoles.console_audit import ConsoleAudit
from gateway.flow.consoles.console_rights import ConsoleCalls, ConsoleRights
from gateway.flow.consoles.fallback_console_store import FallbackConsoleStore
from gateway.flow.consoles.frame_channel import ChannelClosed
from gateway.flow.consoles.fresh_links import FreshLinks
from gateway.flow.consoles.issue_ticket import TicketAddresses, TicketPipeline
from gateway.flow.consoles.live_session import SessionServices
from gateway.flow.consoles.live_sessions import LiveSessions
from gateway.flow.consoles.local_console_store import LocalConsoleStore
from gateway.flow.consoles.redemption import Redemption
from gateway.flow.consoles.session_drain import SessionDrain
from gateway.flow.consoles.session_leases import SessionLeases
from gateway.flow.consoles.session_opening import NewSession, SessionSecrets
from gateway.flow.consoles.session_watch import SessionWatch
from gateway.flow.decide import Decide
from gateway.flow.request import ApiRequest, RequestContext
from gateway.flow.request_audit import RequestAudit
from tests.support import rfb
from tests.support.console_world import KEYS, OUTLIVE_S, ConsoleWorld, StoreOutage
from tests.support.consoles import ACCOUNT, PROJECT, TARGET
from tests.support.frame_channel import MemoryChannel
from tests.support.telemetry import RecordingTelemetry

ADDRESS = "192.0.2.7"
"""Of each request and connection, unless a test names another."""


class Replica:
    """One process of the gateway."""

    def __init__(self, world: ConsoleWorld, name: str = "p1", *, processes: int = 2) -> None:
        clock: Any = world.clock
        self.world = world
        self.outage = StoreOutage(world.redis)
        shared: Any = self.outage
        self.is_dead = False
        self.local = LocalConsoleStore(clock)
        self.store = FallbackConsoleStore(
            shared,
            self.local,
            clock,
            processes=lambda: processes,
            server_max=world.rules.server_max,
        )
        anything: Any = world
        tokens: Any = world.tokens
        catalogue = Catalogue(built_in_operations())
        operation = next(one for one in built_in_operations() if one.name == "ShowRemoteConsole")
        calls = ConsoleCalls(catalogue, operation)
        inventories: Any = world.inventories
        decide = Decide(
            policies=world,
            inventories=inventories,
            identify=tokens,
            clock=clock,
            telemetry=RecordingTelemetry(),
        )
        self.rights = ConsoleRights(
            decide=decide,
            identify=tokens,
            policies=world,
            inventories=inventories,
            calls=calls,
            clock=clock,
            outlive_token_s=OUTLIVE_S,
        )
        limits = CallerLimits(Pace(1_000, 1, 1_000), anything, clock)
        self.limits = limits
        exchange: Any = world.cloud
        account = ConsoleAccount(
            ACCOUNT, exchange, 600, 30, 0, Reuse.NEVER, ConsoleAddresses(("console.example",))
        )
        links = FreshLinks(
            accounts={PROJECT: account},
            calls=calls,
            rights=self.rights,
            limits=limits,
            group_weights={},
            expected_wait_s=lambda *_: world.expected_wait_s,
            clock=clock,
            timeout_s=world.rules.link_timeout_s,
        )
        fingerprints: Any = SimpleNamespace(of=lambda secret: f"fp-{hash(secret) % 10**8}")
        audit = ConsoleAudit(self, self.best_effort, clock)
        texts = TicketTexts(KEYS)
        self.tickets = TicketPipeline(
            accounts={PROJECT: ACCOUNT},
            rights=self.rights,
            limits=limits,
            store=self.store,
            addresses=TicketAddresses(texts, "https://gw.example/x", self._random_bytes),
            fingerprints=fingerprints,
            request_audit=RequestAudit(self, policies=world, limits=limits, clock=clock),
            clock=clock,
            telemetry=RecordingTelemetry(),
        )
        self.redemption = Redemption(
            texts=texts,
            account_of=lambda project: ACCOUNT if project == PROJECT else None,
            rights=self.rights,
            store=self.store,
            rules=world.rules,
            new_secrets=SessionSecrets(self._random_text, lambda: f"{next(world.random):032x}"),
            fingerprints=fingerprints,
            audit=audit,
            clock=clock,
            telemetry=world.metrics,
        )
        services = SessionServices(
            rights=self.rights,
            links=links,
            connector=world.cloud,
            rules=world.rules,
            identify=world.tokens.identify,
            error_text=lambda error: ErrorText(type(error).__name__, str(error)),
            on_failure=world.failures.append,
            clock=clock,
            power_changed=lambda *changed: world.power_changes.append(changed),
        )
        self.sessions = LiveSessions(
            owner=name,
            store=self.store,
            services=services,
            audit=audit,
            telemetry=world.metrics,
            new_key=self._random_text,
        )
        self.watch = SessionWatch(self.sessions, self.rights, clock)
        self.leases = SessionLeases(self.sessions, self.store, clock)
        self.drain = SessionDrain(self.sessions, lambda _: world.spare_s, clock)
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def best_effort(self) -> Any:
        async def record(record: AuditRecord) -> None:
            if not self.is_dead:
                self.world.write(record)

        return SimpleNamespace(record=record)

    async def record(self, record: AuditRecord) -> None:
        if not self.is_dead:
            await self.world.record(record)

    def start(self) -> "Replica":
        for work in (self.watch.run(), self.leases.run()):
            self._tasks.append(asyncio.create_task(work))
        return self

    async def kill(self) -> None:
        """Stop as after SIGKILL: without a further write."""
        self.is_dead = self.outage.is_down = True
        await self.stop()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def request(self, person: Principal, *, fresh: bool = False) -> ApiRequest:
        async def read_body(limit: int) -> bytes:
            return b""

        return ApiRequest(
            authorization=[],
            x_auth_token=[],
            method="GET",
            target="",
            has_body=False,
            read_body=read_body,
            fresh=fresh,
            headers=(),
            principal=person,
            **self.context_fields(),
        )

    def context_fields(self) -> dict[str, Any]:
        return {
            "request_id": f"req-{next(self.world.random)}",
            "client_address": ADDRESS,
            "deadline": self.world.clock.monotonic() + 30,
        }

    def context(self) -> RequestContext:
        return RequestContext(**self.context_fields())

    async def ticket(
        self,
        person: Principal | None = None,
        target: ConsoleTarget = TARGET,
    ) -> str:
        """Issue a ticket as the API does; return its text."""
        person = person or self.world.person()
        request = self.request(person)
        path = f"/v1/{target.project}/physicalservers/{target.server}/remote-console-address"
        call = request.call = Catalogue(built_in_operations()).resolve("GET", path)
        issued = await self.tickets.issue(person, call, request)
        address, _, ticket = issued.link.url.reveal().partition("#")
        assert address == "https://gw.example/x/console"
        return ticket

    async def redeem(
        self, ticket: str, mode: SessionMode = SessionMode.CONTROL, *, take_over: bool = False
    ) -> NewSession:
        return await self.redemption.redeem(ticket, self.context(), mode=mode, take_over=take_over)

    def open_page(
        self, new: NewSession, key: str | None = None, *, address: str = ADDRESS
    ) -> "Page":
        key = new.resume_key.reveal() if key is None else key
        return Page(self, new, key, address=address)

    async def live(
        self,
        subject: str = "ada",
        target: ConsoleTarget = TARGET,
        *,
        mode: SessionMode = SessionMode.CONTROL,
        take_over: bool = False,
    ) -> "Page":
        """Return a page with a live console."""
        ticket = await self.ticket(self.world.person(subject), target)
        page = self.open_page(await self.redeem(ticket, mode, take_over=take_over))
        await page.until("live")
        return page

    def track(self, task: "asyncio.Task[None]") -> None:
        self._tasks.append(task)

    def _random_bytes(self, count: int) -> bytes:
        return next(self.world.random).to_bytes(count, "big")

    def _random_text(self) -> str:
        return f"random-{next(self.world.random)}"


class PageChannel(MemoryChannel):
    """The channel of a page that stores its next resume key and says so."""

    async def send_text(self, text: str) -> None:
        await super().send_text(text)
        if json.loads(text)["type"] == "attached":
            self.put(json.dumps({"type": "key_received"}))


class Page:
    """A page of a browser: one connection, and the newest resume key."""

    def __init__(
        self, replica: Replica, new: NewSession, key: str, *, address: str = ADDRESS
    ) -> None:
        self.replica = replica
        self.new = new
        self.id = new.session.id
        self.channel: MemoryChannel = PageChannel()
        self._first_key = key
        self.channel.put(json.dumps({"type": "attach", "resume_key": key}))
        self.task = asyncio.create_task(
            replica.sessions.serve(
                self.id, new.cookie.reveal(), self.channel, client_address=address
            )
        )
        replica.track(self.task)

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [json.loads(one) for one in self.channel.sent if isinstance(one, str)]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.frames if one["type"] == kind]

    @property
    def key(self) -> str:
        attached = self.of_type("attached")
        return attached[0]["resume_key"] if attached else self._first_key

    @property
    def is_live(self) -> bool:
        return self.closed is None and any(one.get("state") == "live" for one in self.frames)

    @property
    def closed(self) -> tuple[int, str] | None:
        return self.channel.closed

    def send(self, **message: Any) -> None:
        self.channel.put(json.dumps(message))

    def lose(self) -> None:
        """Lose the network, or close the tab."""
        self.channel.put(ChannelClosed(1006))

    def resume(self, replica: Replica | None = None, *, address: str = ADDRESS) -> "Page":
        """Connect again with the newest key."""
        return (replica or self.replica).open_page(self.new, self.key, address=address)

    async def shake_hands(self) -> MemoryChannel:
        """Take browser and cloud through the handshake of RFB; return the cloud's channel."""
        cloud = self.replica.world.cloud.channels[-1]
        for side, message in (
            (self.channel, rfb.GREETING),
            (cloud, rfb.NONE_OFFERED),
            (self.channel, b"\x01"),
            (cloud, bytes(4)),
            (self.channel, b"\x01"),
            (cloud, rfb.server_init()),
        ):
            side.put(message)
            await asyncio.sleep(0.01)
        cloud.sent.clear()
        return cloud

    async def until(self, state: str) -> None:
        async with asyncio.timeout(120):
            while not any(one.get("state") == state for one in self.frames):
                assert self.closed is None, (self.closed, self.frames)
                await asyncio.sleep(0.01)

    async def until_closed(self, within_s: float = 1.0) -> tuple[int, str]:
        """Return close code and reason."""
        async with asyncio.timeout(within_s):
            while self.channel.closed is None:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.01)
        await self.task
        return self.channel.closed
