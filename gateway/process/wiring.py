"""The composition root: opens what the gateway needs and wires the flow. It decides nothing."""

import asyncio
import logging
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random, SystemRandom

import aiohttp

from gateway.config.accounts import Account, KeyPairLogin, PasswordLogin, TokenFileLogin
from gateway.config.audit import AuditSettings
from gateway.config.environment import tracing_variable
from gateway.config.errors import ConfigError, InvalidConfig
from gateway.config.issuers import Issuer
from gateway.config.located_yaml import load, read
from gateway.config.settings import Settings, load_settings
from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.errors import StoreUnavailable
from gateway.domain.identity.claims import TokenRules
from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import PERMISSIONS, BudgetClass, Principal, ProjectId, ResponseKind
from gateway.domain.overrides import REVOCATION_TYPES
from gateway.domain.policy.policy import Policy
from gateway.domain.queue.fair_queue import BudgetLimit
from gateway.domain.queue.pacing import Pace
from gateway.domain.sampling import EvenSampler
from gateway.domain.upstream.breaker import Breaker, BreakerRules, BreakerState
from gateway.drivers.audit.file_store import ChainFiles, FileStore
from gateway.drivers.audit.group_commit import AuditStore, GroupCommitAuditLog
from gateway.drivers.audit.paths import make_directory
from gateway.drivers.audit.replay import lines_after
from gateway.drivers.audit.signing_keys import load_signer
from gateway.drivers.audit.stdout_store import StdoutStore
from gateway.drivers.audit.stream_store import AuditStream, StreamFollower, StreamStore
from gateway.drivers.cloud.credentials import (
    Credential,
    KeyPairCredential,
    PasswordCredential,
    TokenFileCredential,
)
from gateway.drivers.cloud.upstream import AioUpstream, open_session
from gateway.drivers.crypto.fingerprints import KeyedFingerprints
from gateway.drivers.crypto.issued_keys import SealedKeys
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.files.policy_file import PolicyFile
from gateway.drivers.files.snapshot_file import AtomicSnapshotFile
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.host.handover import Handover
from gateway.drivers.issuers.issuer_keys import IssuerKeys
from gateway.drivers.issuers.signatures import JwtSignatures, TrustedIssuer
from gateway.drivers.telemetry import log as logs
from gateway.drivers.telemetry.line_writer import LineWriter
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.telemetry.trace_propagation import PropagatedTracing
from gateway.drivers.valkey.caller_usage import ValkeyCallerUsage
from gateway.drivers.valkey.client import RedisClient
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.fair_queue import ValkeyFairQueue
from gateway.drivers.valkey.override_store import ValkeyOverrideStore
from gateway.drivers.valkey.replay_cache import ValkeyReplayCache
from gateway.drivers.valkey.replicas import ValkeyReplicas
from gateway.drivers.valkey.shared_store import ValkeySharedStore
from gateway.edge.admin.api import AdminApi
from gateway.edge.docs.pages import docs_pages
from gateway.edge.error_table import SERVER_FAILURES
from gateway.edge.public.federation import FederationHandler
from gateway.edge.public.handler import PublicHandler
from gateway.edge.public.request_log import RequestLog
from gateway.flow import context
from gateway.flow.active_overrides import ActiveOverrides
from gateway.flow.admin.actions import AdminActions
from gateway.flow.admin.administration import Administration
from gateway.flow.admin.cluster_query import ClusterQuery, ProcessView
from gateway.flow.audit_log import AuditLog
from gateway.flow.best_effort_audit_log import BestEffortAuditLog
from gateway.flow.caller_credentials import CallerCredentials
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.console_links import ConsoleAccount, ConsoleLinks
from gateway.flow.context import Tracing
from gateway.flow.exchange import Exchange
from gateway.flow.fair_budget import BudgetQueue, FairBudget
from gateway.flow.federation import Federation, Project
from gateway.flow.forwarding import Forwarding
from gateway.flow.identify import Identify
from gateway.flow.instances import Instances
from gateway.flow.inventories import CachedInventories, InventoryAccount
from gateway.flow.listings import ListBounds, Listings
from gateway.flow.pipeline import Gateway
from gateway.flow.request_audit import RequestAudit
from gateway.flow.single_flight import SingleFlight
from gateway.flow.telemetry import Telemetry
from gateway.flow.writes import Writes

_ADMINS_MAX = 1_000
_OWNER_ONLY_MODE, _DEFAULT_MODE = 0o600, 0o666

_BREAKER_GAUGE_VALUES = {
    BreakerState.CLOSED: 0.0,
    BreakerState.HALF_OPEN: 0.5,
    BreakerState.OPEN: 1.0,
}

BackgroundTask = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Components:
    """What the wiring made, as far as a worker needs it."""

    handler: PublicHandler
    loops: Mapping[str, BackgroundTask]
    policies: PolicyFile
    keys: tuple[IssuerKeys, ...]
    valkey: Valkey
    overrides: ActiveOverrides
    audit_log: GroupCommitAuditLog
    administration: AdminApi | None


def load_config(config_file: Path, *, workers: int) -> Settings:
    """Read the config for who serves by it: the directories that it writes in are there then.

    Raises InvalidConfig. Only who serves can know: `gateway check` may be run by another user, or
    on another machine.
    """
    config = load_settings(config_file, workers=workers)
    document = load(config_file)
    problems = [(one, _directory_problem(one.directory)) for one in config.writable_directories]
    if errors := [
        document.error(one.key, problem) for one, problem in problems if problem and one.is_required
    ]:
        raise InvalidConfig(errors)
    return config


def _directory_problem(directory: Path) -> str:
    try:
        make_directory(directory)
    except OSError as error:
        return f"{directory} cannot be made: {error.strerror}"
    return "" if os.access(directory, os.W_OK | os.X_OK) else f"{directory} cannot be written"


def load_policy(config_file: Path, config: Settings) -> Policy:
    """Return what the policy file holds now; raise InvalidConfig when that is no policy."""
    try:
        read(config.policy_file)
    except InvalidConfig as found:
        (unreadable,) = found.errors
        message = f"{unreadable.file} {unreadable.message}"
        raise InvalidConfig([load(config_file).error(("policy_file",), message)]) from None
    return open_policy(config, SystemClock(), Metrics(), Handover()).current()


def open_policy(
    config: Settings, clock: Clock, telemetry: Telemetry, handover: Handover
) -> PolicyFile:
    return PolicyFile(
        config.policy_file,
        issuers=[issuer.name for issuer in config.issuers],
        projects=[project for account in config.accounts for project in account.projects],
        clock=clock,
        telemetry=telemetry,
        handover=handover,
    )


@asynccontextmanager
async def open_components(
    config: Settings,
    client: RedisClient,
    clock: SystemClock,
    metrics: Metrics,
    lines: LineWriter,
    handover: Handover,
) -> AsyncIterator[Components]:
    """Open the drivers and wire the flow; close all in reverse order."""
    jitter = SystemRandom()
    async with AsyncExitStack() as stack:
        tracing = open_tracer(config, stack)
        valkey = Valkey(
            config.store,
            client,
            process_id=secrets.token_hex(8),
            clock=clock,
            telemetry=metrics,
        )
        stack.push_async_callback(valkey.close)
        await valkey.probe()
        flight = SingleFlight(ValkeySharedStore(valkey, Sealer(config.store.seal_keys)), clock)
        stack.push_async_callback(flight.close)
        budget, budget_loops = open_budget(config, valkey, clock, metrics, jitter)
        policies = open_policy(config, clock, metrics, handover)
        overrides = open_overrides(config, valkey, clock, metrics)
        with suppress(StoreUnavailable):
            await overrides.sync()
        identify, admins, keys = await open_identify(
            config, stack, clock, metrics, jitter, handover, overrides=overrides
        )
        loops: dict[str, BackgroundTask] = {
            "valkey heartbeat": valkey.run_heartbeat,
            "valkey listener": valkey.run_subscription,
            "policy": policies.run,
            "overrides": overrides.run,
            **budget_loops,
        }
        loops |= {f"keys of {one.issuer}": one.run for one in keys}
        tools = AccountDependencies(budget, flight, clock, metrics, jitter)
        accounts: dict[ProjectId, ConsoleAccount] = {}
        for account in config.accounts:
            opened = await open_account(account, stack, tools)
            loops |= opened.loops
            accounts |= {ProjectId(project): opened.console for project in account.projects}
        inventories = open_inventories(config, accounts, policies, flight, clock, metrics)
        loops |= {
            f"inventory of {account.name}": partial(inventories.run, account.name)
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
        consoles = ConsoleLinks(
            accounts,
            flight,
            clock,
            links_max=config.cache.links_max,
            group_weights=config.fairness.group_weights,
            jitter=jitter.random,
            fingerprints=KeyedFingerprints(config.store.seal_keys[0]),
            telemetry=metrics,
            override_ids=overrides.dropped_by,
        )
        exchanges = {project: account.exchange for project, account in accounts.items()}
        durable_log, audit_loops = await open_audit_log(
            config.audit, stack, valkey, clock, metrics, lines
        )
        loops |= audit_loops
        await policies.attach_audit_log(durable_log)
        best_effort = BestEffortAuditLog(durable_log, metrics)
        audit_log: AuditLog = best_effort if config.audit.on_unavailable == "allow" else durable_log
        issued_keys = SealedKeys(Sealer(config.store.seal_keys))
        credentials = CallerCredentials(
            issued_keys,
            ValkeyReplayCache(valkey),
            clock,
            metrics,
            skew_s=config.request.signature_skew_s,
        )
        request_audit = RequestAudit(audit_log, policies=policies, limits=limits, clock=clock)
        writes = Writes(request_audit, best_effort, clock)
        stack.push_async_callback(writes.close)
        gateway = Gateway(
            identify=identify,
            credentials=credentials,
            catalogue=Catalogue(config.catalogue),
            policies=policies,
            limits=limits,
            links=consoles,
            inventories=inventories,
            instances=Instances(exchanges, clock),
            forwarding=Forwarding(
                exchanges, Listings(exchanges, ListBounds(**config.lists.model_dump()), clock)
            ),
            group_weights=config.fairness.group_weights,
            request_audit=request_audit,
            writes=writes,
            clock=clock,
            telemetry=metrics,
        )
        federation = Federation(
            identify=identify,
            credentials=credentials,
            keys=issued_keys,
            limits=limits,
            request_audit=request_audit,
            projects=projects_of(config.accounts),
            may_anything=lambda principal, project: any(
                policies.current()
                .scope(principal, permission, project, clock.now(), inventories.current(project))
                .rule
                for permission in PERMISSIONS
            ),
            clock=clock,
            telemetry=metrics,
        )
        register_gauges(metrics, identify, consoles, flight, policies, keys)
        handler = PublicHandler(
            gateway,
            clock,
            deadline_s=config.request.deadline_s,
            request_log=RequestLog(
                clock,
                count_request=metrics.request_done,
                write_line=lines.write,
                hit_log_share=EvenSampler(config.log.hit_sample_ratio)
                if config.log.hit_sample_ratio < 1
                else None,
                count_unlogged=metrics.log_line_sampled_out,
            ),
            limits=limits,
            trusted_proxies=config.listen.trusted_proxies,
            federation=FederationHandler(federation, clock),
            pages=docs_pages(config.catalogue),
            tracing=tracing,
        )
        apply_overrides(overrides, consoles, budget, config, metrics)
        replicas = ValkeyReplicas(valkey, Sealer(config.store.seal_keys), clock)
        loops["cluster queries"] = replicas.run
        process = f"{socket.gethostname()}:{os.getpid()}"
        cluster_query = ClusterQuery(
            ProcessView(process, identify, consoles, budget, policies), replicas
        )
        administration = open_administration(
            config, admins, overrides, cluster_query, audit_log, clock, metrics
        )
        metrics.begin(
            accounts=[account.name for account in config.accounts],
            issuers=[issuer.name for issuer in config.issuers],
            links=[
                one.name for one in config.catalogue if one.response is ResponseKind.CONSOLE_LINK
            ],
            failures=SERVER_FAILURES,
            actions=[] if administration is None else administration.actions,
        )
        yield Components(
            handler, loops, policies, keys, valkey, overrides, durable_log, administration
        )


def open_overrides(
    config: Settings, valkey: Valkey, clock: Clock, metrics: Metrics
) -> ActiveOverrides:
    file = config.overrides.file

    log = logging.getLogger("gateway.overrides")

    def on_failure(error: Exception) -> None:
        log.error("override_failed", exc_info=error)
        metrics.override_failed()

    return ActiveOverrides(
        ValkeyOverrideStore(valkey, Sealer(config.store.seal_keys)),
        None if file is None else AtomicSnapshotFile(file, log, mode=_OWNER_ONLY_MODE),
        clock,
        allow_unloaded=config.overrides.on_unavailable == "allow",
        # Independent of this process's admin API: another replica may have one.
        enabled=config.overrides.enabled,
        on_failure=on_failure,
    )


def register_gauges(
    metrics: Metrics,
    identify: Identify,
    consoles: ConsoleLinks,
    flight: SingleFlight,
    policies: PolicyFile,
    keys: Sequence[IssuerKeys],
) -> None:
    """Let what the parts hold be read at each scrape."""
    metrics.gauge("gateway_tokens_cached", lambda: identify.remembered)
    metrics.gauge("gateway_links_cached", lambda: consoles.link_count)
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
    config: Settings,
    admins: Identify,
    overrides: ActiveOverrides,
    cluster_query: ClusterQuery,
    audit_log: AuditLog,
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
        overrides=overrides,
        cluster=cluster_query,
        clock=clock,
    )
    administration = Administration(
        actions.all,
        groups=api.groups,
        certificates=api.certificates,
        audit_log=audit_log,
        clock=clock,
    )
    return AdminApi(administration, admins, clock, metrics.admin_request)


def apply_overrides(
    overrides: ActiveOverrides,
    consoles: ConsoleLinks,
    budget: FairBudget,
    config: Settings,
    metrics: Metrics,
) -> None:
    """Let what is ordered take effect, now and at each change."""
    overrides.on_change(consoles.evict_dropped)
    overrides.on_change(lambda: budget.set_rate_ceilings(overrides.current.rate_ceilings))
    overrides.on_change(
        lambda: logs.set_levels({**config.log.levels, **overrides.current.log_levels})
    )
    metrics.gauge("gateway_overrides_loaded", lambda: overrides.loaded)
    for kind, what in REVOCATION_TYPES.items():
        metrics.gauge("gateway_revocations", partial(_count_in_force, overrides, what), kind=kind)


def _count_in_force(overrides: ActiveOverrides, kind: type[object]) -> int:
    return sum(isinstance(one.effect, kind) for one in overrides.current.in_force)


async def open_audit_log(
    audit: AuditSettings,
    stack: AsyncExitStack,
    valkey: Valkey,
    clock: Clock,
    metrics: Metrics,
    lines: LineWriter,
) -> tuple[GroupCommitAuditLog, dict[str, BackgroundTask]]:
    """Open the audit log; what closes it makes all durable that it was given."""
    signer = load_signer(audit.signing_key) if audit.signing_key is not None else None
    keep_s = audit.keep_days * 86_400
    loops: dict[str, BackgroundTask] = {}
    follow: list[Callable[[Sequence[bytes]], None]] = []
    stream = AuditStream(valkey, keep_s=keep_s, bytes_max=audit.stream_bytes_max)
    if audit.stream:
        loops["audit stream's bounds"] = partial(stream.keep_trimmed, clock)
        metrics.gauge("gateway_audit_stream_bytes", lambda: stream.bytes)
    store: AuditStore
    if audit.directory is not None:
        files = ChainFiles(
            audit.directory,
            clock=clock,
            signer=signer,
            checkpoint_s=audit.checkpoint_s,
            segment_bytes_max=audit.segment_bytes_max,
            keep_s=keep_s,
        )
        store = FileStore(files)
        metrics.gauge("gateway_audit_disk_free_ratio", lambda: files.disk_free)
        if audit.stream:
            follower = StreamFollower(stream, clock, partial(lines_after, audit.directory))
            stack.push_async_callback(follower.close)
            follow.append(follower.follow)
            loops["audit stream"] = follower.run
    elif audit.stream:
        store = StreamStore(stream, clock=clock, signer=signer, checkpoint_s=audit.checkpoint_s)
    else:
        store = StdoutStore(sys.stdout.fileno(), clock)
    if audit.stdout and (audit.stream or audit.directory is not None):
        follow.append(lines.write_all)
    durable_log = GroupCommitAuditLog(
        store, clock=clock, telemetry=metrics, checkpoint_s=audit.checkpoint_s, follow=follow
    )
    stack.push_async_callback(durable_log.close)
    await durable_log.open()
    metrics.gauge("gateway_audit_lag_seconds", lambda: durable_log.lag_s)
    metrics.gauge("gateway_audit_durable", lambda: float(durable_log.durable))
    return durable_log, {"audit": durable_log.run, **loops}


def require_tracing_packages(variable: str) -> None:
    """Raise InvalidConfig where a variable switches traces on and what makes them is not there."""
    try:
        if variable:
            import_module("gateway.drivers.telemetry.tracing")
    except ImportError:
        message = "switches traces on, which takes: pip install 'console-gateway[otel]'"
        raise InvalidConfig([ConfigError("environment", 0, variable, message)]) from None


def open_tracer(config: Settings, stack: AsyncExitStack) -> Tracing:
    if not tracing_variable():
        return PropagatedTracing()
    from gateway.drivers.telemetry.tracing import open_tracing  # noqa: PLC0415 - an extra, and only where on

    tracing = open_tracing(
        routes={row.name: "/v1/{project_id}" + row.path for row in config.catalogue},
        accounts={project: one.name for one in config.accounts for project in one.projects},
    )
    stack.push_async_callback(tracing.close)
    context.trace.set(tracing.background)  # requests have a trace of their own instead
    return tracing


def projects_of(accounts: Sequence[Account]) -> tuple[Project, ...]:
    return tuple(
        Project(ProjectId(project), account.project_name(project))
        for account in accounts
        for project in account.projects
    )


def open_inventories(
    config: Settings,
    accounts: Mapping[ProjectId, ConsoleAccount],
    policies: PolicyFile,
    flight: SingleFlight,
    clock: Clock,
    metrics: Metrics,
) -> CachedInventories:
    def is_inventory_needed() -> bool:
        return policies.current().selects_by_attributes

    inventory_log = logging.getLogger("gateway.inventory")
    inventories = CachedInventories(
        [
            InventoryAccount(
                account.name,
                accounts[ProjectId(account.projects[0])].exchange,
                tuple(map(ProjectId, account.projects)),
                poll_s=account.inventory.poll_s,
                age_max_s=account.inventory.age_max_s,
                files={
                    ProjectId(project): AtomicSnapshotFile(file, inventory_log, mode=_DEFAULT_MODE)
                    for project in account.projects
                    if (file := account.inventory.inventory_file(project)) is not None
                },
            )
            for account in config.accounts
        ],
        is_needed=is_inventory_needed,
        shared=flight,
        clock=clock,
        telemetry=metrics,
    )
    metrics.gauge("gateway_inventory_needed", is_inventory_needed)
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


async def open_identify(  # noqa: PLR0913 - it wires
    config: Settings,
    stack: AsyncExitStack,
    clock: Clock,
    telemetry: Telemetry,
    jitter: Random,
    handover: Handover,
    *,
    overrides: ActiveOverrides | None = None,
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
            issuer,
            http=http,
            clock=clock,
            telemetry=telemetry,
            on_rotation=forget,
            jitter=jitter,
            handover=handover,
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
        revoked=_never_revoked if overrides is None else overrides.is_revoked,
        tokens_max=config.cache.tokens_max,
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
        revoked=_never_revoked if overrides is None else overrides.is_known_revoked,
        tokens_max=_ADMINS_MAX,
    )
    known += [callers, admins]
    if overrides is not None:
        for identify in known:
            overrides.on_change(identify.drop_revoked)
    return callers, admins, keys


def _never_revoked(_: Principal) -> bool:
    return False


def _token_rules(issuer: Issuer) -> TokenRules:
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
    config: Settings, valkey: Valkey, clock: Clock, metrics: Metrics, jitter: Random
) -> tuple[FairBudget, dict[str, BackgroundTask]]:
    lines = [
        _open_budget_line(config, account, kind, valkey, clock, metrics, jitter)
        for account in config.accounts
        for kind in BudgetClass
    ]
    return FairBudget(lines), {
        f"budget of {line.account} {line.budget.value}": line.run for line in lines
    }


def _open_budget_line(  # noqa: PLR0913 - it wires
    config: Settings,
    account: Account,
    kind: BudgetClass,
    valkey: Valkey,
    clock: Clock,
    metrics: Metrics,
    jitter: Random,
) -> BudgetQueue:
    budget = account.budget
    rates = {BudgetClass.CONSOLE: budget.console, BudgetClass.IAM: budget.iam}[kind]
    # Nobody is served without the login, so it waits for its slot as long as it may take.
    wait_max_s = {BudgetClass.CONSOLE: budget.wait_max_s, BudgetClass.IAM: float("inf")}[kind]
    limit = BudgetLimit(
        windows=tuple(Pace(rate.requests, rate.per_s, rate.burst) for rate in rates),
        queue_max=budget.queue_max,
        caller_max=budget.queue_caller_max,
    )
    name = f"{account.name}:{kind.value}"
    line = BudgetQueue(
        account.name,
        kind,
        limit=limit,
        wait_max_s=wait_max_s,
        processes_max=config.store.processes_max,
        shared=ValkeyFairQueue(valkey, name, account=account.name, limit=limit, clock=clock),
        clock=clock,
        telemetry=metrics,
        jitter=jitter.random,
    )
    labels = {"account": account.name, "budget": kind.value}
    metrics.gauge("gateway_budget_rate_ceiling", lambda: line.limit.ceiling, **labels)
    metrics.gauge("gateway_budget_rate", lambda: line.rate, **labels)
    metrics.gauge("gateway_budget_pause_seconds", lambda: line.paused_s, **labels)
    metrics.gauge("gateway_budget_queue_length", lambda: line.queued, **labels)
    metrics.gauge("gateway_budget_local_fallback", lambda: line.is_local, **labels)
    return line


@dataclass(frozen=True, slots=True)
class OpenAccount:
    console: ConsoleAccount
    credentials: Mapping[str, Credential]
    loops: Mapping[str, BackgroundTask]

    async def log_in(self, deadline: float) -> str:
        """Get every credential once and say where from; raises ServiceLoginFailed."""
        sources = [await one.log_in(deadline=deadline) for one in self.credentials.values()]
        return "; ".join(dict.fromkeys(sources))


@dataclass(frozen=True, slots=True)
class AccountDependencies:
    """What all accounts share."""

    budget: FairBudget
    flight: SingleFlight
    clock: Clock
    metrics: Metrics
    jitter: Random


async def open_account(
    account: Account, stack: AsyncExitStack, tools: AccountDependencies
) -> OpenAccount:
    session = await stack.enter_async_context(open_session(account.timeouts))
    credentials, loops = await _open_credentials(account, stack, tools)
    breaker = Breaker(BreakerRules(**account.breaker.model_dump()), jitter=tools.jitter.random)
    tools.metrics.gauge(
        "gateway_breaker_open",
        lambda: _BREAKER_GAUGE_VALUES[breaker.state(tools.clock.monotonic())],
        account=account.name,
    )
    exchange = Exchange(
        account.name,
        upstream=AioUpstream(
            session, account.endpoint, response_bytes_max=account.response_bytes_max
        ),
        credentials=credentials,
        budget=tools.budget,
        breaker=breaker,
        clock=tools.clock,
        telemetry=tools.metrics,
        jitter=tools.jitter.random,
        timeout_s=account.timeouts.total_s,
        streams_max=account.streams_max,
    )
    usable_s = account.links.lifetime_s - account.links.min_remaining_s
    console = ConsoleAccount(
        name=account.name,
        exchange=exchange,
        lifetime_s=account.links.lifetime_s,
        min_remaining_s=account.links.min_remaining_s,
        renew_before_s=min(account.links.renew_before_s, usable_s / 2),
        reuse=account.links.reuse,
        addresses=ConsoleAddresses(tuple(host.lower() for host in account.links.console_hosts)),
    )
    return OpenAccount(console, credentials, loops)


async def _open_credentials(
    account: Account, stack: AsyncExitStack, tools: AccountDependencies
) -> tuple[Mapping[str, Credential], dict[str, BackgroundTask]]:
    match account.login:
        case KeyPairLogin() as login:
            pair = KeyPairCredential(login, account.endpoint, clock=tools.clock)
            return dict.fromkeys(account.projects, pair), {}
        case TokenFileLogin() as login:
            file = TokenFileCredential(
                account.name, login, clock=tools.clock, telemetry=tools.metrics
            )
            return dict.fromkeys(account.projects, file), {}
        case PasswordLogin() as login:
            session = await stack.enter_async_context(open_session(account.timeouts))
            iam = AioUpstream(
                session, login.iam_endpoint, response_bytes_max=account.response_bytes_max
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
            loops: dict[str, BackgroundTask] = {
                f"login of {account.name} {i}": credential.run
                for i, credential in enumerate(by_project.values())
            }
            return by_project, loops
