"""The composition root: opens what the gateway needs, wires the flow, owns lifetimes and signals.

It decides nothing. One process is one `Worker`; `serve` puts a supervisor above them.
"""

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import aiohttp
from aiohttp import http_parser, web

from gateway import settings
from gateway.drivers import log as logs
from gateway.drivers.audit_file import ChainFiles, FileStore
from gateway.drivers.audit_keys import signer_of
from gateway.drivers.audit_replay import lines_after
from gateway.drivers.audit_trail import AuditStore, AuditTrail
from gateway.drivers.clock import SystemClock
from gateway.drivers.embedded_valkey import EmbeddedValkey
from gateway.drivers.fingerprints import KeyedFingerprints
from gateway.drivers.issued_keys import SealedKeys
from gateway.drivers.issuer_keys import IssuerKeys
from gateway.drivers.kept_file import FileOnDisk
from gateway.drivers.line_journal import LineStore
from gateway.drivers.lines import LineWriter
from gateway.drivers.listener_tls import ServedCertificate
from gateway.drivers.metrics import Metrics
from gateway.drivers.policy_file import PolicyFile
from gateway.drivers.sealer import Sealer
from gateway.drivers.service_login import (
    KeyPairCredential,
    PasswordCredential,
    TokenFileCredential,
)
from gateway.drivers.signatures import JwtSignatures, TrustedIssuer
from gateway.drivers.upstream import AioUpstream, open_session
from gateway.drivers.valkey.audit_stream import AuditStream, StreamFollower, StreamStore
from gateway.drivers.valkey.caller_usage import ValkeyCallerUsage
from gateway.drivers.valkey.connection import RedisClient, Valkey, make_client
from gateway.drivers.valkey.fair_queue import ValkeyFairQueue
from gateway.drivers.valkey.order_store import ValkeyOrderStore
from gateway.drivers.valkey.replicas import ValkeyReplicas
from gateway.drivers.valkey.shared_store import ValkeySharedStore
from gateway.drivers.valkey.used_once import ValkeyUsedOnce
from gateway.edge.admin import AdminApi, admin_app
from gateway.edge.docs import pages
from gateway.edge.federation import FederationHandler
from gateway.edge.passed_on import TracesPassedOn
from gateway.edge.public import PublicHandler, PublicServer
from gateway.edge.wire import FAILURES
from gateway.errors import KeysUnavailable, StoreUnavailable
from gateway.flow import under_way
from gateway.flow.admin_actions import AdminActions
from gateway.flow.administration import Administration
from gateway.flow.best_effort_journal import BestEffortJournal
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.console import ConsoleAccount, Consoles
from gateway.flow.credentials import CallerCredentials
from gateway.flow.every_process import EveryProcess, OwnView
from gateway.flow.exchange import Exchange
from gateway.flow.fair_budget import BudgetLine, FairBudget
from gateway.flow.federation import Federation, Project
from gateway.flow.forwarding import Forwarding
from gateway.flow.gateway import Gateway
from gateway.flow.identify import Identify
from gateway.flow.instances import Instances
from gateway.flow.inventories import InventoryAccount, KeptInventories
from gateway.flow.listings import ListBounds, Listings
from gateway.flow.shared_flight import SharedFlight
from gateway.flow.standing_orders import StandingOrders
from gateway.located_yaml import Mistake, MistakesFound
from gateway.model import PERMISSIONS, Answer, BudgetClass, Principal, ProjectId, UpstreamRequest
from gateway.ports import Clock, Journal, ServiceCredential, Telemetry, Tracing
from gateway.rules.breaker import Breaker, BreakerRules, BreakerState
from gateway.rules.catalogue import Catalogue
from gateway.rules.console_link import ConsoleAddresses
from gateway.rules.fair_queue import Limit
from gateway.rules.identity import TokenRules, good_until
from gateway.rules.orders import REVOCATION_KINDS
from gateway.rules.pacing import Pace
from gateway.rules.share import Share
from gateway.supervisor import RETIRE, TAKE_OVER, Supervisor, WorkerPlan

log = logging.getLogger("gateway.app")

_FIRST_KEYS_WITHIN_S = 3.0
_LAST_CONNECTIONS_S = 0.2
"""For how long a process that ends still accepts after nobody can begin to connect."""
_CANCELLED_WITHIN_S = 1.0
_HANDSHAKE_WITHIN_S = 10.0
_GOODBYE_WITHIN_S = 2.0
"""A client that only looks at its connection when it needs it never says goodbye in TLS."""
_RESTART_AFTER_S = 1.0
_LAG_EVERY_S = 0.5
_ADMINS_MAX = 1_000
_OURS_ALONE, _AS_UMASK_SAYS = 0o600, 0o666
_SWITCH_S = 0.001
"""For how long a thread, such as the one that makes a page of metrics, keeps the event loop off."""

_OPENNESS = {BreakerState.CLOSED: 0.0, BreakerState.HALF_OPEN: 0.5, BreakerState.OPEN: 1.0}

Loop = Callable[[], Awaitable[None]]


def serve(config_file: Path, *, workers: int) -> int:
    """Run the gateway until SIGTERM; raise MistakesFound when config or policy are not good."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        # CVE-2026-111750: the pure-Python parser can be led to smuggle requests.
        sys.stderr.write("aiohttp's C parser is missing; refusing to serve\n")
        return 1
    config = settings.load_settings(config_file)
    open_policy(config, SystemClock(), Metrics())
    raise_unless_traceable(settings.traces_wanted())
    logs.set_up(config.log.levels)
    with ExitStack() as stack:
        embedded_url = None
        if isinstance(config.store.redis, settings.RedisEmbedded):
            embedded_url = stack.enter_context(EmbeddedValkey()).url
        work = partial(run_worker, embedded_url=embedded_url)
        return Supervisor(config_file, work, workers=workers, config=config).run()


def run_worker(plan: WorkerPlan, *, embedded_url: str | None) -> int:
    """Be one worker until told to stop; return the exit code."""
    with (
        closing(LineWriter(sys.stdout.fileno())) as lines,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        logs.set_up(plan.config.log.levels, lines)
        runner.run(Worker(plan, lines, embedded_url=embedded_url).run())
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - there is none for every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


class Worker:
    """One serving process: opens, listens, drains, closes, in this order."""

    def __init__(self, plan: WorkerPlan, lines: LineWriter, *, embedded_url: str | None) -> None:
        self._plan = plan
        self._lines = lines
        self._embedded_url = embedded_url
        self._config = plan.config
        self._clock = SystemClock()
        self._metrics = Metrics(plan.config.metrics.teams)
        history = plan.history
        self._metrics.counter("gateway_config_rejections_total", lambda: history.config_rejections)
        self._metrics.gauge("gateway_config_rejected", lambda: history.is_config_rejected)
        self._metrics.counter("gateway_worker_deaths_total", lambda: history.worker_deaths)
        self._metrics.counter("gateway_log_lines_dropped_total", lambda: lines.dropped)
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()
        self._has_admin_port = asyncio.Event()
        self._draining = False
        self._replaced = False
        self._certificates = {
            listener: ServedCertificate(listener, tls, self._clock)
            for listener, tls in (
                ("public", self._config.listen.tls),
                ("admin", self._config.admin.tls),
            )
            if tls is not None
        }

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        loop.add_signal_handler(RETIRE, self._retire)
        loop.add_signal_handler(TAKE_OVER, self._has_admin_port.set)
        if not self._plan.takes_over:
            self._has_admin_port.set()
        loop.add_reader(self._plan.parent_fd, self._parent_is_gone)
        try:
            client = make_client(self._config.store, self._embedded_url)
            async with open_parts(
                self._config, client, self._clock, self._metrics, self._lines
            ) as parts:
                await self._run_loops(parts)
        finally:
            loop.remove_reader(self._plan.parent_fd)

    def _parent_is_gone(self) -> None:
        # The end of a pipe is readable for ever: leaving it in would keep the loop spinning.
        asyncio.get_running_loop().remove_reader(self._plan.parent_fd)
        self._end()

    def _retire(self) -> None:
        self._replaced = True
        self._end()

    def _end(self) -> None:
        self._stop.set()
        self._has_admin_port.set()

    async def _run_loops(self, parts: "Parts") -> None:
        loops: dict[str, Loop] = {
            **parts.loops,
            "reload": lambda: self._reload_on_hangup(parts),
            "loop lag": self._measure_lag,
        }
        for listener, certificate in self._certificates.items():
            loops[f"certificate of {listener}"] = certificate.run
            self._metrics.gauge(
                "gateway_certificate_expires_timestamp_seconds",
                partial(getattr, certificate, "expires_at"),
                listener=listener,
            )
        async with running(loops, self._clock, self._metrics):
            await self._serve(parts)

    async def _serve(self, parts: "Parts") -> None:
        await parts.first_keys(_FIRST_KEYS_WITHIN_S)
        server = PublicServer(
            parts.handler,
            access_log=None,  # one line per request is written by the handler
            max_line_size=8_190,
            max_field_size=self._config.request.header_bytes,
            max_headers=128,
            keepalive_timeout=75.0,
            auto_decompress=False,
        )
        public = web.ServerRunner(server, shutdown_timeout=_CANCELLED_WITHIN_S)
        admin = web.AppRunner(
            admin_app(
                self._metrics.exposition,
                lambda: self._readiness(parts),
                parts.administration,
                self._is_tls_in_force,
            ),
            access_log=None,
            shutdown_timeout=_CANCELLED_WITHIN_S,
            auto_decompress=False,
        )
        await public.setup()
        await admin.setup()
        accepting = await self._listen("public", self._plan.public, public)
        gc.collect()
        gc.freeze()  # what is here now stays: the collector need not look at it again
        gc.set_threshold(5_000, 20, 50)
        sys.setswitchinterval(_SWITCH_S)
        os.write(self._plan.ready_fd, b"1")
        os.close(self._plan.ready_fd)
        log.info("serving", extra={"worker": self._plan.index})
        await self._has_admin_port.wait()
        answering = await self._listen("admin", self._plan.admin, admin)
        await self._stop.wait()
        self._draining = True
        log.info("draining", extra={"worker": self._plan.index})
        server.tell_clients_to_leave()
        if self._replaced:  # by one that answers on the admin port now, and others accept
            answering.close()
            await admin.cleanup()
        else:
            await self._clock.sleep(self._config.request.drain_delay_s + _LAST_CONNECTIONS_S)
        accepting.close()
        await server.drain(self._clock, within_s=self._config.request.drain_s)
        await public.cleanup()
        answering.close()
        await admin.cleanup()

    def _is_tls_in_force(self, context: ssl.SSLContext) -> bool:
        served = self._certificates.get("admin")
        return served is not None and served.is_in_force(context)

    async def _listen(
        self, listener: str, bound: socket.socket, runner: web.BaseRunner
    ) -> asyncio.AbstractServer:
        if runner.server is None:
            raise RuntimeError("the runner is not set up")
        tls: dict[str, Any] = {}
        if (certificate := self._certificates.get(listener)) is not None:
            tls = {
                "ssl": certificate.context,
                "ssl_handshake_timeout": _HANDSHAKE_WITHIN_S,
                "ssl_shutdown_timeout": _GOODBYE_WITHIN_S,
            }
        loop = asyncio.get_running_loop()
        return await loop.create_server(runner.server, sock=bound, backlog=1024, **tls)

    async def _reload_on_hangup(self, parts: "Parts") -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            await parts.policies.reload()

    async def _measure_lag(self) -> None:
        while True:
            due_at = self._clock.monotonic() + _LAG_EVERY_S
            await self._clock.sleep(_LAG_EVERY_S)
            self._metrics.loop_late(max(0.0, self._clock.monotonic() - due_at))

    def _readiness(self, parts: "Parts") -> tuple[bool, Mapping[str, str]]:
        keys = {keys.issuer: keys.loaded for keys in parts.keys}
        state = {
            "serving": "draining" if self._draining else "ok",
            # Without Redis each process goes on with its share: slower, but there.
            "redis": "ok" if parts.valkey.available else "degraded",
            "orders": parts.orders.state,
            **{f"keys of {name}": "ok" if ok else "away" for name, ok in keys.items()},
        }
        return not self._draining and parts.orders.serve and any(keys.values()), state


@asynccontextmanager
async def running(loops: Mapping[str, Loop], clock: Clock, metrics: Metrics) -> AsyncIterator[None]:
    """Keep the loops going meanwhile."""
    metrics.begin_tasks(loops)
    async with asyncio.TaskGroup() as tasks:
        started = [
            tasks.create_task(supervise(name, loop, clock, metrics.task_restarted), name=name)
            for name, loop in loops.items()
        ]
        try:
            yield
        finally:
            await _end(started)


async def supervise(name: str, loop: Loop, clock: Clock, restarted: Callable[[str], None]) -> None:
    """Run a loop that should never end; when it does, say so, count it and start it again."""
    while True:
        try:
            await loop()
        except Exception:  # a loop that dies is a bug, but no reason to serve nobody
            log.exception("task_died", extra={"task": name})
        restarted(name)
        await clock.sleep(_RESTART_AFTER_S)


async def _end(tasks: list["asyncio.Task[None]"]) -> None:
    """Cancel until all have ended: redis-py swallows one that comes while it connects."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the wiring made, as far as a worker needs it."""

    handler: PublicHandler
    loops: Mapping[str, Loop]
    policies: PolicyFile
    keys: tuple[IssuerKeys, ...]
    valkey: Valkey
    orders: StandingOrders
    administration: AdminApi | None

    async def first_keys(self, within_s: float) -> None:
        """Wait for the issuers' keys, but not long: an issuer that is down must not stop us."""
        with suppress(TimeoutError, KeysUnavailable):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(keys.refresh() for keys in self.keys))


def open_policy(config: settings.Settings, clock: Clock, telemetry: Telemetry) -> PolicyFile:
    return PolicyFile(
        config.policy_file,
        issuers=[issuer.name for issuer in config.issuers],
        projects=[project for account in config.accounts for project in account.projects],
        clock=clock,
        telemetry=telemetry,
    )


@asynccontextmanager
async def open_parts(
    config: settings.Settings,
    client: RedisClient,
    clock: SystemClock,
    metrics: Metrics,
    lines: LineWriter,
) -> AsyncIterator[Parts]:
    """Open the drivers and wire the flow; close all in reverse order."""
    jitter = SystemRandom()
    async with AsyncExitStack() as stack:
        tracing = open_traces(config, stack)
        valkey = Valkey(
            config.store,
            client,
            process_id=secrets.token_hex(8),
            clock=clock,
            telemetry=metrics,
        )
        stack.push_async_callback(valkey.close)
        await valkey.probe()
        flight = SharedFlight(ValkeySharedStore(valkey, Sealer(config.store.seal_keys)), clock)
        stack.push_async_callback(flight.close)
        budget, budget_loops = open_budget(config, valkey, clock, metrics, jitter)
        policies = open_policy(config, clock, metrics)
        orders = open_orders(config, valkey, clock, metrics)
        with suppress(StoreUnavailable):
            await orders.look()
        identify, admins, keys = await open_identify(
            config, stack, clock, metrics, jitter, orders=orders
        )
        loops: dict[str, Loop] = {
            "valkey heartbeat": valkey.keep_heartbeat,
            "valkey listener": valkey.keep_listening,
            "policy": policies.run,
            "standing orders": orders.run,
            **budget_loops,
        }
        loops |= {f"keys of {one.issuer}": one.run for one in keys}
        tools = AccountTools(budget, flight, clock, metrics, jitter)
        accounts: dict[ProjectId, ConsoleAccount] = {}
        for account in config.accounts:
            opened = await open_account(account, stack, tools)
            loops |= opened.loops
            accounts |= {ProjectId(project): opened.console for project in account.projects}
        inventories = open_inventories(config, accounts, policies, flight, clock, metrics)
        loops |= {
            f"inventory of {account.name}": partial(inventories.keep, account.name)
            for account in config.accounts
        }
        limits = CallerLimits(
            Pace(
                config.caller_limits.requests,
                config.caller_limits.per_s,
                config.caller_limits.burst,
            ),
            ValkeyCallerUsage(valkey),
            clock,
        )
        loops["caller limits"] = limits.run
        consoles = Consoles(
            accounts,
            flight,
            clock,
            links_max=config.memory.links_max,
            group_weights=config.fairness.group_weights,
            jitter=jitter.random,
            fingerprints=KeyedFingerprints(config.store.seal_keys[0]),
            telemetry=metrics,
            dropping=orders.dropping,
        )
        exchanges = {project: account.exchange for project, account in accounts.items()}
        journal, journal_loops = await open_journal(
            config.audit, stack, valkey, clock, metrics, lines
        )
        loops |= journal_loops
        await policies.record_in(journal)
        if config.audit.when_unwritable == "serve":
            journal = BestEffortJournal(journal, metrics)
        issued_keys = SealedKeys(Sealer(config.store.seal_keys))
        credentials = CallerCredentials(
            issued_keys,
            ValkeyUsedOnce(valkey),
            clock,
            metrics,
            skew_s=config.request.signature_skew_s,
        )
        gateway = Gateway(
            identify=identify,
            credentials=credentials,
            catalogue=Catalogue(config.catalogue),
            policies=policies,
            limits=limits,
            consoles=consoles,
            inventories=inventories,
            instances=Instances(exchanges, clock),
            forwarding=Forwarding(
                exchanges, Listings(exchanges, ListBounds(**config.lists.model_dump()), clock)
            ),
            group_weights=config.fairness.group_weights,
            journal=journal,
            clock=clock,
            telemetry=metrics,
        )
        federation = Federation(
            identify=identify,
            credentials=credentials,
            keys=issued_keys,
            limits=limits,
            projects=projects_of(config.accounts),
            may_anything=lambda principal, project: any(
                policies.current()
                .reach(principal, permission, project, clock.now(), inventories.current(project))
                .rule
                for permission in PERMISSIONS
            ),
            clock=clock,
            telemetry=metrics,
        )
        expose(metrics, identify, consoles, flight, policies, keys)
        handler = PublicHandler(
            gateway,
            clock,
            deadline_s=config.request.deadline_s,
            request_done=metrics.request_done,
            write_line=lines.write,
            limits=limits,
            trusted_proxies=config.listen.trusted_proxies,
            federation=FederationHandler(federation, clock),
            pages=pages(config.catalogue),
            tracing=tracing,
            hit_lines=Share(config.log.hits_sampled) if config.log.hits_sampled < 1 else None,
            line_left_out=metrics.log_line_sampled_out,
        )
        obey(orders, consoles, budget, config, metrics)
        replicas = ValkeyReplicas(valkey, Sealer(config.store.seal_keys), clock)
        loops["questions"] = replicas.run
        process = f"{socket.gethostname()}:{os.getpid()}"
        everywhere = EveryProcess(OwnView(process, identify, consoles, budget, policies), replicas)
        administration = open_administration(
            config, admins, orders, everywhere, journal, clock, metrics
        )
        links = [one.name for one in config.catalogue if one.answer is Answer.CONSOLE_LINK]
        metrics.begin(
            accounts=[account.name for account in config.accounts],
            issuers=[issuer.name for issuer in config.issuers],
            links=links,
            failures=FAILURES,
            actions=[] if administration is None else administration.actions,
        )
        yield Parts(handler, loops, policies, keys, valkey, orders, administration)


def open_orders(
    config: settings.Settings, valkey: Valkey, clock: Clock, metrics: Metrics
) -> StandingOrders:
    file = config.orders.file

    def not_obeyed(error: Exception) -> None:
        log.error("order_not_obeyed", exc_info=error)
        metrics.order_not_obeyed()

    return StandingOrders(
        ValkeyOrderStore(valkey, Sealer(config.store.seal_keys)),
        None
        if file is None
        else FileOnDisk(
            file, logging.getLogger("gateway.orders"), failed="not_kept", mode=_OURS_ALONE
        ),
        clock,
        serve_unknown=config.orders.when_unknown == "serve",
        # Not so only because this process has no admin API: another replica may have one.
        none_given=config.orders.given == "nowhere",
        failed=not_obeyed,
    )


def expose(
    metrics: Metrics,
    identify: Identify,
    consoles: Consoles,
    flight: SharedFlight,
    policies: PolicyFile,
    keys: Sequence[IssuerKeys],
) -> None:
    """Let what the parts hold be read at each scrape."""
    metrics.gauge("gateway_tokens_held", lambda: identify.remembered)
    metrics.gauge("gateway_links_held", lambda: consoles.links_held)
    metrics.gauge("gateway_fetches_in_flight", lambda: flight.in_flight)
    loop = asyncio.get_running_loop()
    metrics.gauge("gateway_tasks", lambda: len(asyncio.all_tasks(loop)))
    metrics.gauge("gateway_policy_loaded_timestamp_seconds", lambda: policies.loaded_at)
    metrics.gauge("gateway_policy_version", lambda: int(policies.current().version[:8] or "0", 16))
    for one in keys:
        for name in ("age", "age_max"):
            read = partial(getattr, one, f"{name}_s")
            metrics.gauge(f"gateway_keys_{name}_seconds", read, issuer=one.issuer)


def open_administration(  # noqa: PLR0913 - what may be looked at and steered
    config: settings.Settings,
    admins: Identify,
    orders: StandingOrders,
    everywhere: EveryProcess,
    journal: Journal,
    clock: Clock,
    metrics: Metrics,
) -> AdminApi | None:
    api = config.admin.api
    if api is None:
        return None
    rules = {issuer.name: _token_rules(issuer) for issuer in config.issuers}
    actions = AdminActions(
        accounts=frozenset(account.name for account in config.accounts),
        projects=frozenset(project for account in config.accounts for project in account.projects),
        rules=rules,
        link_life_s=max(account.links.lifetime_s for account in config.accounts),
        orders=orders,
        everywhere=everywhere,
        clock=clock,
    )
    administration = Administration(
        actions.all,
        groups=api.groups,
        certificates=api.certificates,
        journal=journal,
        clock=clock,
    )
    return AdminApi(
        administration,
        admins,
        lambda principal: good_until(principal, rules[principal.issuer]),
        clock,
        metrics.admin_request,
    )


def obey(
    orders: StandingOrders,
    consoles: Consoles,
    budget: FairBudget,
    config: settings.Settings,
    metrics: Metrics,
) -> None:
    """Let what is ordered take effect, now and at each change."""
    orders.when_changed(consoles.forget_dropped)
    orders.when_changed(lambda: budget.use_ceilings(orders.current.ceilings))
    orders.when_changed(lambda: logs.set_levels({**config.log.levels, **orders.current.log_levels}))
    metrics.gauge("gateway_orders_known", lambda: orders.known)
    for kind, what in REVOCATION_KINDS.items():
        metrics.gauge("gateway_revocations", partial(_count_in_force, orders, what), kind=kind)


def _count_in_force(orders: StandingOrders, kind: type[object]) -> int:
    return sum(isinstance(order.what, kind) for order in orders.current.in_force)


async def open_journal(
    audit: settings.Audit,
    stack: AsyncExitStack,
    valkey: Valkey,
    clock: Clock,
    metrics: Metrics,
    lines: LineWriter,
) -> tuple[Journal, dict[str, Loop]]:
    """Open the audit trail; what closes it makes all durable that it was given."""
    signer = signer_of(audit.signing_key) if audit.signing_key is not None else None
    keep_s = audit.keep_days * 86_400
    loops: dict[str, Loop] = {}
    follow: list[Callable[[Sequence[bytes]], None]] = []
    stream = AuditStream(valkey, keep_s=keep_s, bytes_max=audit.stream_bytes_max)
    if audit.stream:
        loops["audit stream's bounds"] = partial(stream.keep_trimmed, clock)
        metrics.gauge("gateway_audit_stream_bytes", lambda: stream.bytes)
    store: AuditStore
    if audit.directory is not None:
        store = FileStore(
            ChainFiles(
                audit.directory,
                clock=clock,
                signer=signer,
                checkpoint_s=audit.checkpoint_s,
                segment_bytes_max=audit.segment_bytes_max,
                keep_s=keep_s,
            )
        )
        if audit.stream:
            follower = StreamFollower(stream, clock, partial(lines_after, audit.directory))
            stack.push_async_callback(follower.close)
            follow.append(follower.follow)
            loops["audit stream"] = follower.run
    elif audit.stream:
        store = StreamStore(stream, clock=clock, signer=signer, checkpoint_s=audit.checkpoint_s)
    else:
        store = LineStore(sys.stdout.fileno(), clock)
    if audit.stdout and (audit.stream or audit.directory is not None):
        follow.append(lines.write_all)
    trail = AuditTrail(
        store, clock=clock, telemetry=metrics, checkpoint_s=audit.checkpoint_s, follow=follow
    )
    stack.push_async_callback(trail.close)
    await trail.open()
    metrics.gauge("gateway_audit_lag_seconds", lambda: trail.lag_s)
    metrics.gauge("gateway_audit_durable", lambda: float(trail.durable))
    return trail, {"audit": trail.run, **loops}


def raise_unless_traceable(variable: str) -> None:
    """Raise MistakesFound where a variable switches traces on and what makes them is not there."""
    try:
        if variable:
            import_module("gateway.drivers.tracing")
    except ImportError:
        message = "switches traces on, which takes: pip install 'console-gateway[otel]'"
        raise MistakesFound([Mistake("environment", 0, variable, message)]) from None


def open_traces(config: settings.Settings, stack: AsyncExitStack) -> Tracing:
    if not settings.traces_wanted():
        return TracesPassedOn()
    from gateway.drivers.tracing import open_tracing  # noqa: PLC0415 - an extra, and only where on

    tracing = open_tracing(
        routes={row.name: "/v1/{project_id}" + row.path for row in config.catalogue},
        accounts={project: one.name for one in config.accounts for project in one.projects},
    )
    stack.push_async_callback(tracing.close)
    under_way.trace.set(tracing.background)  # requests have a trace of their own instead
    return tracing


def projects_of(accounts: Sequence[settings.Account]) -> tuple[Project, ...]:
    return tuple(
        Project(ProjectId(project), account.name_of(project))
        for account in accounts
        for project in account.projects
    )


def open_inventories(
    config: settings.Settings,
    accounts: Mapping[ProjectId, ConsoleAccount],
    policies: PolicyFile,
    flight: SharedFlight,
    clock: Clock,
    metrics: Metrics,
) -> KeptInventories:
    def are_needed() -> bool:
        return policies.current().selects_by_attributes

    inventory_log = logging.getLogger("gateway.inventory")
    inventories = KeptInventories(
        [
            InventoryAccount(
                account.name,
                accounts[ProjectId(account.projects[0])].exchange,
                tuple(map(ProjectId, account.projects)),
                poll_s=account.inventory.poll_s,
                age_max_s=account.inventory.age_max_s,
                files={
                    ProjectId(project): FileOnDisk(
                        file, inventory_log, failed="inventory_not_kept", mode=_AS_UMASK_SAYS
                    )
                    for project in account.projects
                    if (file := account.inventory.file_of(project)) is not None
                },
            )
            for account in config.accounts
        ],
        is_wanted=are_needed,
        shared=flight,
        clock=clock,
        telemetry=metrics,
    )
    metrics.gauge("gateway_inventory_needed", are_needed)
    for account in config.accounts:
        metrics.gauge(
            "gateway_inventory_age_seconds",
            partial(inventories.age_s, account.name),
            account=account.name,
        )
        metrics.gauge(
            "gateway_inventory_age_max_seconds",
            partial(getattr, account.inventory, "age_max_s"),
            account=account.name,
        )
    return inventories


async def open_identify(
    config: settings.Settings,
    stack: AsyncExitStack,
    clock: Clock,
    telemetry: Telemetry,
    jitter: Random,
    *,
    orders: StandingOrders | None = None,
) -> tuple[Identify, Identify, tuple[IssuerKeys, ...]]:
    """Return who knows callers, who knows administrators, and the keys of both."""
    http = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=8),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=True,
        )
    )
    known: list[Identify] = []

    def forget(issuer: str) -> None:
        for identify in known:
            identify.forget(issuer)

    keys = tuple(
        IssuerKeys(
            issuer, http=http, clock=clock, telemetry=telemetry, on_rotation=forget, jitter=jitter
        )
        for issuer in config.issuers
    )
    trusted = {
        issuer.name: TrustedIssuer(
            issuer.name, issuer.issuer, frozenset(issuer.algorithms), its_keys
        )
        for issuer, its_keys in zip(config.issuers, keys, strict=True)
    }
    make = partial(Identify, clock=clock, telemetry=telemetry)
    callers = make(
        signatures=JwtSignatures(trusted.values()),
        rules={issuer.name: _token_rules(issuer) for issuer in config.issuers},
        revoked=_nobody if orders is None else orders.revoked,
        tokens_max=config.memory.tokens_max,
    )
    api = config.admin.api
    audience = () if api is None else (api.audience,)
    admins = make(
        signatures=JwtSignatures(trusted[issuer.name] for issuer in config.admin_issuers),
        rules={
            issuer.name: replace(_token_rules(issuer), audiences=frozenset(audience))
            for issuer in config.admin_issuers
        },
        # Who may revoke must be let in by a process that does not know yet who is revoked.
        revoked=_nobody if orders is None else orders.revoke_known,
        tokens_max=_ADMINS_MAX,
    )
    known += [callers, admins]
    if orders is not None:
        for identify in known:
            orders.when_changed(identify.forget_revoked)
    return callers, admins, keys


def _nobody(_: Principal) -> bool:
    return False


def _token_rules(issuer: settings.Issuer) -> TokenRules:
    return TokenRules(
        issuer=issuer.name,
        iss=issuer.issuer,
        audiences=frozenset(issuer.audience),
        leeway_s=issuer.leeway_s,
        token_age_max_s=issuer.token_age_max_s,
        token_type=issuer.token_type,
        subject_claim=issuer.claims.subject,
        groups_claim=issuer.claims.groups,
    )


def open_budget(
    config: settings.Settings, valkey: Valkey, clock: Clock, metrics: Metrics, jitter: Random
) -> tuple[FairBudget, dict[str, Loop]]:
    lines = [
        _open_line(config, account, kind, valkey, clock, metrics, jitter)
        for account in config.accounts
        for kind in BudgetClass
    ]
    return FairBudget(lines), {
        f"budget of {line.account} {line.budget.value}": line.run for line in lines
    }


def _open_line(  # noqa: PLR0913 - it wires
    config: settings.Settings,
    account: settings.Account,
    kind: BudgetClass,
    valkey: Valkey,
    clock: Clock,
    metrics: Metrics,
    jitter: Random,
) -> BudgetLine:
    budget = account.budget
    rates = {BudgetClass.CONSOLE: budget.console, BudgetClass.IAM: budget.iam}[kind]
    limit = Limit(
        windows=tuple(Pace(rate.requests, rate.per_s, rate.burst) for rate in rates),
        queue_max=budget.queue_max,
        caller_max=budget.queue_caller_max,
    )
    name = f"{account.name}:{kind.value}"
    line = BudgetLine(
        account.name,
        kind,
        limit=limit,
        wait_max_s=budget.wait_max_s,
        processes_max=config.store.processes_max,
        shared=ValkeyFairQueue(valkey, name, account=account.name, limit=limit, clock=clock),
        clock=clock,
        telemetry=metrics,
        jitter=jitter.random,
    )
    labels = {"account": account.name, "budget": kind.value}
    metrics.gauge("gateway_budget_ceiling", lambda: line.limit.ceiling, **labels)
    metrics.gauge("gateway_budget_rate", lambda: line.rate, **labels)
    metrics.gauge("gateway_budget_pause_seconds", lambda: line.paused_s, **labels)
    metrics.gauge("gateway_budget_queue_length", lambda: line.queued, **labels)
    metrics.gauge("gateway_budget_alone", lambda: line.is_alone, **labels)
    return line


@dataclass(frozen=True, slots=True)
class OpenedAccount:
    console: ConsoleAccount
    credentials: Mapping[str, ServiceCredential]
    loops: Mapping[str, Loop]

    async def log_in(self, deadline: float) -> None:
        """Get every credential once; raises ServiceLoginFailed."""
        probe = UpstreamRequest("GET", "/")
        for credential in self.credentials.values():
            await credential.headers(probe, deadline=deadline)


@dataclass(frozen=True, slots=True)
class AccountTools:
    """What all accounts share."""

    budget: FairBudget
    flight: SharedFlight
    clock: Clock
    metrics: Metrics
    jitter: Random


async def open_account(
    account: settings.Account, stack: AsyncExitStack, tools: AccountTools
) -> OpenedAccount:
    session = await stack.enter_async_context(
        open_session(account.timeouts, connections_max=account.connections_max)
    )
    credentials, loops = await _open_credentials(account, stack, tools)
    breaker = Breaker(BreakerRules(**account.breaker.model_dump()), jitter=tools.jitter.random)
    tools.metrics.gauge(
        "gateway_breaker_open",
        lambda: _OPENNESS[breaker.state(tools.clock.monotonic())],
        account=account.name,
    )
    exchange = Exchange(
        account.name,
        upstream=AioUpstream(session, account.endpoint, answer_bytes_max=account.answer_bytes_max),
        credentials=credentials,
        budget=tools.budget,
        breaker=breaker,
        clock=tools.clock,
        telemetry=tools.metrics,
        jitter=tools.jitter.random,
        timeout_s=account.timeouts.total_s,
        streams_max=max(1, account.connections_max // 4),
    )
    usable_s = account.links.lifetime_s - account.links.min_remaining_s
    console = ConsoleAccount(
        name=account.name,
        exchange=exchange,
        lifetime_s=account.links.lifetime_s,
        min_remaining_s=account.links.min_remaining_s,
        renew_before_s=min(account.links.renew_before_s, usable_s / 2),
        reuse=account.links.reuse,
        addresses=ConsoleAddresses(
            tuple(account.links.console_schemes),
            tuple(host.lower() for host in account.links.console_hosts),
        ),
    )
    return OpenedAccount(console, credentials, loops)


async def _open_credentials(
    account: settings.Account, stack: AsyncExitStack, tools: AccountTools
) -> tuple[dict[str, ServiceCredential], dict[str, Loop]]:
    match account.login:
        case settings.KeyPairLogin() as login:
            pair = KeyPairCredential(login, account.endpoint, clock=tools.clock)
            return dict.fromkeys(account.projects, pair), {}
        case settings.TokenFileLogin() as login:
            file = TokenFileCredential(
                account.name, login, clock=tools.clock, telemetry=tools.metrics
            )
            return dict.fromkeys(account.projects, file), {}
        case settings.PasswordLogin() as login:
            session = await stack.enter_async_context(
                open_session(account.timeouts, connections_max=2)
            )
            iam = AioUpstream(
                session, login.iam_endpoint, answer_bytes_max=account.answer_bytes_max
            )
            by_project = {
                project: PasswordCredential(
                    account.name,
                    project,
                    login,
                    iam=iam,
                    shared=tools.flight,
                    budget=tools.budget,
                    clock=tools.clock,
                    telemetry=tools.metrics,
                    jitter=tools.jitter.random,
                )
                for project in account.projects
            }
            loops: dict[str, Loop] = {
                f"login of {account.name} {i}": credential.run
                for i, credential in enumerate(by_project.values())
            }
            return dict(by_project), loops
