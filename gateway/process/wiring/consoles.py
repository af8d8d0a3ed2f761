"""Live consoles: tickets, sessions, their store, and the connections to the cloud's consoles."""

import base64
import logging
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import orjson

from gateway.config.accounts import Account
from gateway.config.operations import built_in_operations
from gateway.config.settings import Settings
from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.consoles.page_messages import ErrorText
from gateway.domain.consoles.rules import AccountSessions, SessionRules
from gateway.domain.consoles.shapes import configured_shapes
from gateway.domain.consoles.ticket_text import TicketTexts
from gateway.domain.errors import GatewayError
from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import Operation, ProjectId, ResponseKind
from gateway.drivers.cloud.console_connector import (
    CloudConsoles,
    ConsoleRoute,
    open_console_route,
)
from gateway.drivers.crypto.fingerprints import KeyedFingerprints
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.network.drop_connection import drop_connection
from gateway.drivers.network.egress import EgressRoute
from gateway.drivers.network.websocket_channel import accept_browser
from gateway.drivers.telemetry.console_metrics import ConsoleMetrics
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.console_shapes import ValkeyShapeMemory
from gateway.drivers.valkey.console_store import ValkeyConsoleStore
from gateway.drivers.valkey.replay_cache import ValkeyReplayCache
from gateway.edge.consoles.browser_sockets import BrowserSockets
from gateway.edge.consoles.console_handler import ConsoleHandler
from gateway.edge.consoles.own_sessions import OwnSessionsHandler
from gateway.edge.consoles.page_assets import PageAssets
from gateway.edge.consoles.recording_file import RecordingFile
from gateway.edge.consoles.recordings_handler import RecordingsHandler
from gateway.edge.consoles.session_cookie import SessionCookies
from gateway.edge.error_response import render_error
from gateway.edge.json_endpoint import Bearer, Paths, PublicOrigin
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.people.browser_gate import identify_by_session
from gateway.edge.people.ticket_browser import TicketBrowser
from gateway.flow.active_overrides import ActiveOverrides
from gateway.flow.budgets import FairBudget
from gateway.flow.console_links import ConsoleAccount
from gateway.flow.consoles.console_audit import ConsoleAudit
from gateway.flow.consoles.console_rights import ConsoleCalls, ConsoleRights
from gateway.flow.consoles.fallback_console_store import FallbackConsoleStore
from gateway.flow.consoles.fresh_links import FreshLinks
from gateway.flow.consoles.issue_ticket import TicketAddresses, TicketPipeline
from gateway.flow.consoles.live_session import SessionServices
from gateway.flow.consoles.live_sessions import LiveSessions
from gateway.flow.consoles.local_console_store import LocalConsoleStore
from gateway.flow.consoles.login_consoles import LoginConsoles
from gateway.flow.consoles.redemption import Redemption
from gateway.flow.consoles.session_drain import SessionDrain
from gateway.flow.consoles.session_leases import SessionLeases
from gateway.flow.consoles.session_opening import SessionSecrets
from gateway.flow.consoles.session_watch import SessionWatch
from gateway.flow.decide import Decide
from gateway.flow.recordings.recording_writer import RecordingWriter
from gateway.flow.recordings.view_tickets import ViewTickets
from gateway.flow.recordings.views import RecordingViews
from gateway.flow.request import RequestContext
from gateway.process.runtime import Runtime
from gateway.process.wiring.administration import process_name
from gateway.process.wiring.audit_log import OpenAuditLog
from gateway.process.wiring.login import OpenLogin
from gateway.process.wiring.recordings import OpenRecordings
from gateway.process.wiring.requests import Stages

log = logging.getLogger("gateway.console")

_CONNECT_TIMEOUT_S = 10.0
_LINK_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class OpenConsoles:
    """The parts of live consoles that other parts of a process use."""

    tickets: TicketPipeline
    handler: ConsoleHandler
    ui_paths: tuple[str, Paths]
    """Below `/ui`, for our own pages; without paths if no issuer has a login."""
    sessions: LiveSessions
    drain: SessionDrain


async def open_consoles(  # noqa: PLR0913 - what live consoles use
    runtime: Runtime,
    *,
    valkey: Valkey,
    stages: Stages,
    accounts: Mapping[ProjectId, ConsoleAccount],
    budget: FairBudget,
    overrides: ActiveOverrides,
    audit_log: OpenAuditLog,
    recordings: OpenRecordings | None,
    login: OpenLogin | None,
) -> OpenConsoles | None:
    """Return None if no account delivers live consoles, and there are no recordings of any."""
    config, clock = runtime.config, runtime.clock
    if not config.delivers_proxied and recordings is None:
        return None
    names = [one.name for one in config.accounts if one.delivers_proxied]
    calls = ConsoleCalls(Catalogue(config.catalogue), console_operation(config))
    shared = _SharedParts(
        names,
        store=FallbackConsoleStore(
            ValkeyConsoleStore(valkey, Sealer(config.store.seal_keys), clock),
            LocalConsoleStore(clock),
            clock,
            processes=lambda: valkey.processes,
            server_max=config.console.sessions_server_max,
        ),
        rights=_open_rights(runtime, stages, calls),
        audit=ConsoleAudit(audit_log.for_requests, audit_log.best_effort, clock),
        telemetry=ConsoleMetrics(runtime.metrics, names),
        texts=TicketTexts([base64.b64decode(one.reveal()) for one in config.store.seal_keys]),
        fingerprints=KeyedFingerprints(config.store.seal_keys[0]),
        recordings=None if recordings is None else recordings.writer,
    )
    views = None
    if recordings is not None:
        views = _open_views(runtime, stages, shared, valkey, recordings, login)
    links = _open_links(runtime, stages, accounts, budget, calls, shared.rights)
    sessions = await _open_sessions(runtime, stages, shared, links, ValkeyShapeMemory(valkey))
    _start(runtime, sessions, shared, overrides)
    if login is not None:
        login.sessions.end_consoles = LoginConsoles(sessions).end
    kind = console_operation(config).budget
    handler, ui_paths = _open_handler(runtime, stages, shared, sessions, views, login)
    return OpenConsoles(
        _open_tickets(runtime, stages, shared),
        handler,
        ("/console", ui_paths),
        sessions,
        SessionDrain(sessions, lambda account: budget.spare_interval_s(account, kind), clock),
    )


@dataclass(frozen=True, slots=True)
class _SharedParts:
    """What tickets, redemption and sessions have in common."""

    accounts: Sequence[str]
    """Those that deliver live consoles."""
    store: FallbackConsoleStore
    rights: ConsoleRights
    audit: ConsoleAudit
    telemetry: ConsoleMetrics
    texts: TicketTexts
    fingerprints: KeyedFingerprints
    recordings: RecordingWriter | None


async def _open_sessions(
    runtime: Runtime,
    stages: Stages,
    shared: _SharedParts,
    links: FreshLinks,
    shapes: ValkeyShapeMemory,
) -> LiveSessions:
    routes = {
        account.name: await runtime.stack.enter_async_context(
            console_route(runtime.config, account)
        )
        for account in runtime.config.accounts
        if account.delivers_proxied
    }
    return LiveSessions(
        owner=process_name(),
        store=shared.store,
        services=SessionServices(
            rights=shared.rights,
            links=links,
            connector=CloudConsoles(routes, shapes),
            rules=session_rules(runtime.config),
            identify=stages.identify.identify_by_deadline,
            error_text=_error_text,
            on_failure=_log_failure,
            clock=runtime.clock,
            recordings=shared.recordings,
            power_changed=stages.power_changed,
        ),
        audit=shared.audit,
        telemetry=shared.telemetry,
        new_key=secrets.token_urlsafe,
    )


def _start(
    runtime: Runtime, sessions: LiveSessions, shared: _SharedParts, overrides: ActiveOverrides
) -> None:
    """Start the background tasks of the sessions, and export their gauges."""
    watch = SessionWatch(sessions, shared.rights, runtime.clock)
    overrides.on_change(watch.wake)
    runtime.tasks["console leases"] = SessionLeases(sessions, shared.store, runtime.clock).run
    runtime.tasks["console rights"] = watch.run

    gauge = runtime.metrics.gauge
    for one in runtime.config.accounts:
        if one.delivers_proxied:
            maximum = one.console.sessions_max
            gauge("gateway_console_account_sessions_max", partial(int, maximum), account=one.name)
    gauge("gateway_console_sessions_max", lambda: runtime.config.console.sessions_max)
    gauge("gateway_console_on_old_inventory", lambda: watch.on_old_inventory)


def _open_tickets(runtime: Runtime, stages: Stages, shared: _SharedParts) -> TicketPipeline:
    config = runtime.config
    return TicketPipeline(
        accounts=_account_by_project(config),
        rights=shared.rights,
        limits=stages.limits,
        store=shared.store,
        addresses=TicketAddresses(
            shared.texts, config.listen.public_url or "", secrets.token_bytes
        ),
        fingerprints=shared.fingerprints,
        request_audit=stages.request_audit,
        clock=runtime.clock,
        telemetry=runtime.metrics,
    )


def _open_redemption(runtime: Runtime, shared: _SharedParts) -> Redemption:
    return Redemption(
        texts=shared.texts,
        account_of=_account_by_project(runtime.config).get,
        rights=shared.rights,
        store=shared.store,
        rules=session_rules(runtime.config),
        new_secrets=SessionSecrets(secrets.token_urlsafe, partial(secrets.token_hex, 16)),
        fingerprints=shared.fingerprints,
        audit=shared.audit,
        clock=runtime.clock,
        telemetry=shared.telemetry,
        requires_login=runtime.config.console.browser_login == "required",
    )


def _account_by_project(config: Settings) -> dict[ProjectId, str]:
    return {
        ProjectId(project): account.name
        for account in config.accounts
        if account.delivers_proxied
        for project in account.projects
    }


def session_rules(config: Settings) -> SessionRules:
    console = config.console
    return SessionRules(
        accounts={
            one.name: AccountSessions(
                one.console.clipboard,
                one.console.sessions_max,
                one.console.recording,
                one.console.record_keys,
            )
            for one in config.accounts
            if one.delivers_proxied
        },
        time_limit_s=console.time_limit_s,
        view_time_limit_s=console.view_time_limit_s,
        idle_s=console.idle_s,
        person_max=console.sessions_person_max,
        server_max=console.sessions_server_max,
        viewers_max=console.viewers_server_max,
        total_max=console.sessions_max,
        connect_timeout_s=_CONNECT_TIMEOUT_S,
        link_timeout_s=_LINK_TIMEOUT_S,
    )


def _open_rights(runtime: Runtime, stages: Stages, calls: ConsoleCalls) -> ConsoleRights:
    decide = Decide(
        policies=stages.policies,
        inventories=stages.inventories,
        identify=stages.identify,
        clock=runtime.clock,
        telemetry=runtime.metrics,
    )
    return ConsoleRights(
        decide=decide,
        identify=stages.identify,
        policies=stages.policies,
        inventories=stages.inventories,
        calls=calls,
        clock=runtime.clock,
        outlive_token_s=runtime.config.console.outlive_token_s,
    )


def _open_links(
    runtime: Runtime,
    stages: Stages,
    accounts: Mapping[ProjectId, ConsoleAccount],
    budget: FairBudget,
    calls: ConsoleCalls,
    rights: ConsoleRights,
) -> FreshLinks:
    return FreshLinks(
        accounts=accounts,
        calls=calls,
        rights=rights,
        limits=stages.limits,
        group_weights=runtime.config.fairness.group_weights,
        expected_wait_s=budget.expected_wait_s,
        clock=runtime.clock,
        timeout_s=_LINK_TIMEOUT_S,
    )


def _open_views(
    runtime: Runtime,
    stages: Stages,
    shared: _SharedParts,
    valkey: Valkey,
    recordings: OpenRecordings,
    login: OpenLogin | None,
) -> RecordingViews:
    views = RecordingViews(
        recordings=recordings.known,
        tickets=ViewTickets(
            Sealer(runtime.config.store.seal_keys), ValkeyReplayCache(valkey), runtime.clock
        ),
        rights=shared.rights,
        limits=stages.limits,
        audit=stages.request_audit,
        clock=runtime.clock,
        error_text=_error_text,
        on_failure=_log_failure,
        is_login_open=None if login is None else login.sessions.is_open,
    )
    runtime.tasks["recording views"] = views.run
    if login is not None:
        runtime.tasks["logins of recording views"] = views.run_logins
    return views


def _open_handler(
    runtime: Runtime,
    stages: Stages,
    shared: _SharedParts,
    sessions: LiveSessions,
    views: RecordingViews | None,
    login: OpenLogin | None,
) -> tuple[ConsoleHandler, Paths]:
    """Return the handler, and what of it our own pages reach with the session of a browser."""
    url = urlsplit(runtime.config.listen.public_url or "")
    origin = PublicOrigin(f"{url.scheme}://{url.netloc}", url.path)
    assets = PageAssets.load(
        url.path,
        has_logins=login is not None,
        has_pages=login is not None and runtime.config.page.enabled,
        contact=runtime.config.public_contact,
    )
    bearer = Bearer(stages.credentials, stages.identify, stages.limits)
    sockets = BrowserSockets(
        accept_browser, stages.limits, lambda: shared.telemetry.request_rejected("limit")
    )
    cookies = SessionCookies(
        url.path,
        is_secure=url.scheme == "https",
        max_age_s=int(runtime.config.console.time_limit_s),
    )
    recordings = recordings_of_pages = None
    if views is not None:
        recordings, recordings_of_pages = (
            RecordingsHandler(
                origin,
                views=views,
                file=RecordingFile(assets.files),
                identify=identify,
                sockets=sockets,
                clock=runtime.clock,
                drop_connection=drop_connection,
            )
            for identify in (bearer, identify_by_session)
        )
    handler = ConsoleHandler(
        origin,
        assets=assets,
        cookies=cookies,
        redemption=_open_redemption(runtime, shared),
        sessions=sessions,
        limits=stages.limits,
        bearer=bearer,
        sockets=sockets,
        recordings=recordings,
        clock=runtime.clock,
        browser=None if login is None else TicketBrowser(login.gate),
    )
    if login is None:
        return handler, ()
    own = OwnSessionsHandler(sessions, cookies, _identify_owner)
    return handler, (*own.paths, *(recordings_of_pages.paths if recordings_of_pages else ()))


async def _identify_owner(request: ListenerRequest, context: RequestContext, _: str) -> str:
    return (await identify_by_session(request, context)).key


def console_route(config: Settings, account: Account) -> AbstractAsyncContextManager[ConsoleRoute]:
    """Open the client for the consoles of one account."""
    return open_console_route(
        ConsoleAddresses(account.links.console_hosts),
        configured_shapes(account.console.websocket, account.console.subprotocol),
        EgressRoute(
            config.egress,
            proxy=account.proxy,
            ca_file=account.ca_file,
            certificate=account.certificate,
        ),
        config.console.private_networks,
    )


def console_operation(config: Settings) -> Operation:
    """Return the operation that gives a console link; recordings need it where it is disabled."""
    known = (*config.catalogue, *built_in_operations())
    return next(one for one in known if one.response is ResponseKind.CONSOLE_LINK)


def _error_text(error: GatewayError) -> ErrorText:
    body = orjson.loads(render_error(error).body)
    return ErrorText(body["error_code"], body["error_msg"])


def _log_failure(error: Exception) -> None:
    log.error("console_session_failed", exc_info=error)
