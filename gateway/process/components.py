"""The composition root: opens the drivers and connects the flow to them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway.config.settings import Settings
from gateway.domain.model import ResponseKind
from gateway.drivers.audit.group_commit import GroupCommitAuditLog
from gateway.drivers.files.policy_file import PolicyFile
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.host.handover import Handovers
from gateway.drivers.issuers.issuer_keys import IssuerKeys
from gateway.drivers.telemetry.line_writer import LineWriter
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.valkey.client import ClientFactory
from gateway.drivers.valkey.connection import Valkey
from gateway.edge.admin.api import AdminApi
from gateway.edge.admin.ui import AdminUi
from gateway.edge.error_table import SERVER_FAILURES
from gateway.edge.mount import Mount
from gateway.edge.people.ui_mount import UiMount
from gateway.edge.public.handler import PublicHandler
from gateway.flow.active_overrides import ActiveOverrides
from gateway.flow.admin.cluster_query import ProcessView
from gateway.flow.consoles.issue_ticket import TicketPipeline
from gateway.flow.consoles.live_sessions import LiveSessions
from gateway.process.runtime import Runtime
from gateway.process.tasks import BackgroundTask
from gateway.process.wiring.access_requests import (
    OpenAccessRequests,
    open_access_requests,
    open_requests,
)
from gateway.process.wiring.accounts import open_accounts
from gateway.process.wiring.admin_pages import open_admin_login, open_admin_pages
from gateway.process.wiring.administration import (
    open_administration,
    open_cluster_query,
    process_name,
)
from gateway.process.wiring.audit_log import open_audit_log
from gateway.process.wiring.budget import open_budget
from gateway.process.wiring.consoles import OpenConsoles, open_consoles
from gateway.process.wiring.identity import open_identity
from gateway.process.wiring.inventories import open_inventories
from gateway.process.wiring.login import OpenLogin, open_login
from gateway.process.wiring.overrides import apply_overrides, open_overrides
from gateway.process.wiring.policy import open_policy
from gateway.process.wiring.recordings import open_recordings
from gateway.process.wiring.requests import (
    open_console_links,
    open_gateway,
    open_handler,
    open_stages,
)
from gateway.process.wiring.servers import OpenServers, open_power_readings, open_servers
from gateway.process.wiring.store import open_single_flight, open_valkey
from gateway.process.wiring.tracing import open_tracing


@dataclass(frozen=True, slots=True)
class Components:
    """The parts of a running gateway that a worker uses."""

    handler: PublicHandler
    tasks: Mapping[str, BackgroundTask]
    policies: PolicyFile
    keys: tuple[IssuerKeys, ...]
    valkey: Valkey
    overrides: ActiveOverrides
    audit_log: GroupCommitAuditLog
    administration: AdminApi | None
    admin_ui: AdminUi | None
    """None: no pages of the admin listener."""
    consoles: OpenConsoles | None
    """None: no account delivers live consoles."""


@asynccontextmanager
async def open_components(
    config: Settings,
    new_client: ClientFactory,
    clock: SystemClock,
    metrics: Metrics,
    lines: LineWriter,
    handovers: Handovers,
) -> AsyncIterator[Components]:
    """Open everything that serves requests; close it in reverse order."""
    async with AsyncExitStack() as stack:
        runtime = Runtime(config, stack, clock, metrics)
        tracing = open_tracing(runtime)
        valkey = await open_valkey(runtime, new_client)
        single_flight = open_single_flight(runtime, valkey)
        budget = open_budget(runtime, valkey)
        policies = open_policy(runtime, handovers.policies)
        overrides = await open_overrides(runtime, valkey)
        identity = await open_identity(runtime, handovers.keys, policies, overrides)
        accounts = await open_accounts(runtime, budget, single_flight)
        inventories = open_inventories(runtime, accounts, policies, single_flight)
        console_links = open_console_links(runtime, accounts, single_flight, overrides)
        audit_log = await open_audit_log(runtime, valkey, lines)
        await policies.attach_audit_log(audit_log.durable)
        opened = open_requests(runtime, valkey, policies, overrides)
        stages = open_stages(
            *(runtime, valkey, identity.callers, opened.policies, inventories, audit_log),
            open_power_readings(runtime, valkey, accounts),
        )
        recordings = open_recordings(runtime, valkey)
        login = await open_login(runtime, valkey, identity, stages, audit_log)
        consoles = await open_consoles(
            runtime,
            valkey=valkey,
            stages=stages,
            accounts=accounts,
            budget=budget,
            overrides=overrides,
            audit_log=audit_log,
            recordings=recordings,
            login=login,
        )
        tickets, live = _parts_of(consoles)
        requests = await open_access_requests(runtime, opened, stages, overrides, login)
        gateway = open_gateway(runtime, stages, accounts, console_links, tickets)
        servers = open_servers(runtime, stages, live, gateway, login)
        mounts = _mounts_of(consoles, login, requests, servers)
        handler = open_handler(runtime, stages, gateway, lines, tracing, mounts)
        apply_overrides(runtime, overrides, console_links, budget)
        view = ProcessView(process_name(), identity.callers, console_links, budget, policies)
        cluster = open_cluster_query(runtime, valkey, view)
        admin_login = await open_admin_login(runtime, valkey, identity, stages, audit_log)
        api = open_administration(
            *(runtime, identity, stages, policies, overrides, cluster),
            *(live, login, admin_login, requests.steps, requests.outbox),
        )
        admin_ui = open_admin_pages(runtime, admin_login, api)
        _begin_metrics(runtime, api)
        yield Components(
            *(handler, runtime.tasks, policies, identity.keys, valkey, overrides),
            *(audit_log.durable, api, admin_ui, consoles),
        )


def _parts_of(
    consoles: OpenConsoles | None,
) -> tuple[TicketPipeline | None, LiveSessions | None]:
    if consoles is None:
        return None, None
    return consoles.tickets, consoles.sessions


def _mounts_of(
    consoles: OpenConsoles | None,
    login: OpenLogin | None,
    requests: OpenAccessRequests,
    servers: OpenServers | None,
) -> list[Mount]:
    mounts: list[Mount] = [requests.mount]
    if servers is not None:
        mounts.append(servers.mount)
        if servers.page is not None:
            mounts.append(servers.page)
    if consoles is not None:
        mounts.append(consoles.handler)
    if login is not None:
        ui_paths = [requests.ui_paths]
        ui_paths += [one.ui_paths for one in (servers, consoles) if one is not None]
        mounts += [login.handler, UiMount(login.gate, ui_paths)]
    return mounts


def _begin_metrics(runtime: Runtime, administration: AdminApi | None) -> None:
    config, loop = runtime.config, asyncio.get_running_loop()
    runtime.metrics.gauge("gateway_tasks", lambda: len(asyncio.all_tasks(loop)))
    runtime.metrics.begin(
        accounts=[account.name for account in config.accounts],
        issuers=[issuer.name for issuer in config.issuers],
        links=[one.name for one in config.catalogue if one.response is ResponseKind.CONSOLE_LINK],
        failures=SERVER_FAILURES,
        actions=[] if administration is None else administration.actions,
    )
