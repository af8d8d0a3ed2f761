"""The pipeline of the public listener: from a request to its response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.model import PERMISSIONS, Principal, ProjectId
from gateway.domain.queue.pacing import Pace
from gateway.domain.sampling import EvenSampler
from gateway.drivers.crypto.fingerprints import KeyedFingerprints
from gateway.drivers.crypto.issued_keys import SealedKeys
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.telemetry.line_writer import LineWriter
from gateway.drivers.telemetry.log import RequestLines
from gateway.drivers.valkey.caller_usage import ValkeyCallerUsage
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.replay_cache import ValkeyReplayCache
from gateway.edge.docs.pages import docs_pages
from gateway.edge.mount import Mount
from gateway.edge.public.federation import FederationHandler
from gateway.edge.public.handler import PublicHandler
from gateway.edge.public.request_log import RequestLog
from gateway.flow.active_overrides import ActiveOverrides
from gateway.flow.audit_log import BatchAuditLog
from gateway.flow.caller_credentials import CallerCredentials
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.console_links import ConsoleAccount, ConsoleLinks
from gateway.flow.consoles.issue_ticket import TicketPipeline
from gateway.flow.context import Tracing
from gateway.flow.decide import Policies
from gateway.flow.federation import Federation
from gateway.flow.forwarding import Forwarding
from gateway.flow.identify import Identify
from gateway.flow.instances import Instances
from gateway.flow.inventories import CachedInventories
from gateway.flow.listings import ListBounds, Listings
from gateway.flow.pipeline import Gateway, build_gateway
from gateway.flow.request_audit import RequestAudit
from gateway.flow.servers.power_readings import PowerChanged, PowerReadings, no_power_readings
from gateway.flow.single_flight import SingleFlight
from gateway.flow.writes import Writes
from gateway.process.runtime import Runtime
from gateway.process.wiring.accounts import configured_projects
from gateway.process.wiring.audit_log import OpenAuditLog
from gateway.process.wiring.cli_logins import cli_pages
from gateway.process.wiring.listeners import open_cors, trusted_proxies


@dataclass(frozen=True, slots=True)
class Stages:
    """Stages that every kind of request passes."""

    identify: Identify
    issued_keys: SealedKeys
    credentials: CallerCredentials
    policies: Policies
    inventories: CachedInventories
    limits: CallerLimits
    request_audit: RequestAudit
    audit_log: BatchAuditLog
    """The one of `request_audit`."""
    writes: Writes
    readings: PowerReadings | None
    """None if people do not list their servers."""

    @property
    def power_changed(self) -> PowerChanged:
        return no_power_readings if self.readings is None else self.readings.power_changed


def open_stages(  # noqa: PLR0913 - what the stages share
    runtime: Runtime,
    valkey: Valkey,
    identify: Identify,
    policies: Policies,
    inventories: CachedInventories,
    audit_log: OpenAuditLog,
    readings: PowerReadings | None,
) -> Stages:
    config, clock = runtime.config, runtime.clock
    limits = _open_caller_limits(runtime, valkey)
    issued_keys = SealedKeys(Sealer(config.store.seal_keys))
    credentials = CallerCredentials(
        issued_keys,
        ValkeyReplayCache(valkey),
        clock,
        runtime.metrics,
        skew_s=config.request.signature_skew_s,
    )
    request_audit = RequestAudit(
        audit_log.for_requests, policies=policies, limits=limits, clock=clock
    )
    writes = Writes(request_audit, audit_log.best_effort, clock)
    runtime.stack.push_async_callback(writes.close)
    return Stages(
        identify,
        issued_keys,
        credentials,
        policies,
        inventories,
        limits,
        request_audit,
        audit_log.for_requests,
        writes,
        readings,
    )


def _open_caller_limits(runtime: Runtime, valkey: Valkey) -> CallerLimits:
    configured = runtime.config.caller_limits
    pace = Pace(configured.requests, configured.per_s, configured.burst)
    limits = CallerLimits(pace, ValkeyCallerUsage(valkey), runtime.clock)
    runtime.tasks["caller limits"] = limits.run
    return limits


def open_console_links(
    runtime: Runtime,
    accounts: Mapping[ProjectId, ConsoleAccount],
    single_flight: SingleFlight,
    overrides: ActiveOverrides,
) -> ConsoleLinks:
    config = runtime.config
    console_links = ConsoleLinks(
        accounts,
        single_flight,
        runtime.clock,
        links_max=config.cache.links_max,
        jitter=runtime.random.random,
        fingerprints=KeyedFingerprints(config.store.seal_keys[0]),
        telemetry=runtime.metrics,
        override_ids=overrides.dropped_by,
    )
    runtime.metrics.gauge("gateway_links_cached", lambda: console_links.link_count)
    return console_links


def open_gateway(
    runtime: Runtime,
    stages: Stages,
    accounts: Mapping[ProjectId, ConsoleAccount],
    console_links: ConsoleLinks,
    tickets: TicketPipeline | None,
) -> Gateway:
    config, clock = runtime.config, runtime.clock
    exchanges = {project: account.exchange for project, account in accounts.items()}
    lists = config.lists
    bounds = ListBounds(lists.reuse_s, lists.pages_max, lists.bytes_max)
    listings = Listings(exchanges, bounds, clock)
    return build_gateway(
        identify=stages.identify,
        credentials=stages.credentials,
        catalogue=Catalogue(config.catalogue),
        policies=stages.policies,
        limits=stages.limits,
        links=console_links,
        inventories=stages.inventories,
        instances=Instances(exchanges, clock),
        forwarding=Forwarding(exchanges, listings),
        group_weights=config.fairness.group_weights,
        request_audit=stages.request_audit,
        writes=stages.writes,
        clock=clock,
        telemetry=runtime.metrics,
        tickets=tickets,
        audit_log=stages.audit_log,
        power_changed=stages.power_changed,
    )


def _open_federation(runtime: Runtime, stages: Stages) -> Federation:
    clock = runtime.clock

    def has_any_permission(principal: Principal, project: ProjectId) -> bool:
        policy, inventory = stages.policies.current(), stages.inventories.current(project)
        return any(
            policy.scope(principal, permission, project, clock.now(), inventory).rule
            for permission in PERMISSIONS
        )

    return Federation(
        identify=stages.identify,
        credentials=stages.credentials,
        keys=stages.issued_keys,
        limits=stages.limits,
        request_audit=stages.request_audit,
        projects=configured_projects(runtime.config),
        has_any_permission=has_any_permission,
        clock=clock,
        telemetry=runtime.metrics,
    )


def open_handler(
    runtime: Runtime,
    stages: Stages,
    gateway: Gateway,
    lines: LineWriter,
    tracing: Tracing,
    mounts: Sequence[Mount],
) -> PublicHandler:
    config, metrics = runtime.config, runtime.metrics
    ratio = config.log.hit_sample_ratio
    request_log = RequestLog(
        runtime.clock,
        count_request=metrics.request_done,
        lines=RequestLines(lines.write, config.log.format),
        hit_log_share=EvenSampler(ratio) if ratio < 1 else None,
        count_unlogged=metrics.log_line_sampled_out,
    )
    handler = PublicHandler(
        gateway,
        runtime.clock,
        deadline_s=config.request.deadline_s,
        request_log=request_log,
        limits=stages.limits,
        trusted_proxies=trusted_proxies(config.listen),
        federation=FederationHandler(_open_federation(runtime, stages), runtime.clock),
        pages={**docs_pages(config.catalogue), **cli_pages(config)},
        tracing=tracing,
        cors=open_cors(config.listen.cors, config.catalogue),
        compresses_lists=config.lists.gzip,
        help_url=None if config.contact is None else config.contact.url,
        mounts=mounts,
        link_stages=gateway.link_stages,
    )
    hit_path = handler.hit_path
    if hit_path is not None:
        metrics.counter("gateway_hit_path_requests_total", lambda: hit_path.begun_count)
    return handler
