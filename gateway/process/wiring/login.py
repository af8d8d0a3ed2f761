"""Logins with a browser: the identity providers, sessions, pages and `/ui/`."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from gateway.config.issuers import Issuer
from gateway.config.settings import Settings
from gateway.domain.login.tokens import LoginRules
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.issuers.openid_provider import HttpOpenIdProvider
from gateway.drivers.network.egress import EgressRoute
from gateway.drivers.telemetry.login_metrics import LoginMetrics
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.login_store import ValkeyLoginStore
from gateway.drivers.valkey.replay_cache import ValkeyReplayCache
from gateway.edge.consoles.page_assets import PageAssets
from gateway.edge.json_endpoint import PublicOrigin
from gateway.edge.people.browser_gate import BrowserGate
from gateway.edge.people.login_cookies import LoginCookies
from gateway.edge.people.login_handler import LoginHandler
from gateway.edge.people.login_pages import IssuerLink, LoginPages
from gateway.flow.clock import Clock
from gateway.flow.login.browser_sessions import BrowserSessions
from gateway.flow.login.id_tokens import IdTokens, LoginIssuer
from gateway.flow.login.login_audit import LoginAudit
from gateway.flow.login.logins import BrowserLogins, LoginTimes
from gateway.flow.login.session_refresh import SessionRefresh
from gateway.process.runtime import Runtime
from gateway.process.wiring.audit_log import OpenAuditLog
from gateway.process.wiring.identity import Identity, token_rules
from gateway.process.wiring.requests import Stages

_CONNECTIONS_MAX = 8


@dataclass(frozen=True, slots=True)
class OpenLogin:
    """The parts of the browser login that other parts of a process use."""

    handler: LoginHandler
    assets: PageAssets
    sessions: BrowserSessions
    gate: BrowserGate


async def open_login(
    runtime: Runtime, valkey: Valkey, identity: Identity, stages: Stages, audit_log: OpenAuditLog
) -> OpenLogin | None:
    """Return None if no issuer has a login."""
    config, clock = runtime.config, runtime.clock
    if not config.has_logins:
        return None
    issuers = await _open_issuers(runtime)
    store = ValkeyLoginStore(valkey, Sealer(config.store.seal_keys))
    id_tokens = IdTokens(identity.signatures, clock)
    audit = LoginAudit(audit_log.for_requests, audit_log.best_effort, clock)
    telemetry = LoginMetrics(runtime.metrics, sorted(issuers))
    sessions = BrowserSessions(
        store=store,
        issuers=issuers,
        refresh=SessionRefresh(store, issuers, id_tokens, telemetry, clock),
        identify=identity.callers,
        audit=audit,
        telemetry=telemetry,
        clock=clock,
    )
    times = config.login
    logins = BrowserLogins(
        issuers=issuers,
        times=LoginTimes(times.idle_s, times.absolute_s, times.fresh_s),
        store=store,
        sessions=sessions,
        id_tokens=id_tokens,
        identify=identity.callers,
        replays=ValkeyReplayCache(valkey),
        audit=audit,
        telemetry=telemetry,
        new_token=secrets.token_urlsafe,
        # Begins with the time, so that the cookies of logins have an order.
        new_attempt_id=lambda: f"{int(clock.now()):010x}{secrets.token_hex(6)}",
        clock=clock,
    )
    gate = _open_gate(runtime, stages, sessions)
    assets = PageAssets.load(gate.origin.prefix)
    return OpenLogin(_open_handler(runtime, logins, gate, assets), assets, sessions, gate)


async def _open_issuers(runtime: Runtime) -> Mapping[str, LoginIssuer]:
    http = await runtime.stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
    )
    return {
        issuer.name: _open_issuer(runtime, issuer, http)
        for issuer in runtime.config.issuers
        if issuer.login is not None
    }


def _open_issuer(runtime: Runtime, issuer: Issuer, http: aiohttp.ClientSession) -> LoginIssuer:
    login = issuer.login
    assert login is not None
    provider = open_provider(runtime.config, issuer, http, runtime.clock)
    rules = LoginRules(
        login.client_id,
        token_rules(issuer, runtime.config.requests.person_claim),
        login.acr_values,
    )
    return LoginIssuer(issuer.name, provider, rules, login.groups_from)


def open_provider(
    config: Settings, issuer: Issuer, http: aiohttp.ClientSession, clock: Clock
) -> HttpOpenIdProvider:
    login = issuer.login
    assert login is not None
    return HttpOpenIdProvider(
        issuer,
        login,
        http=http,
        route=EgressRoute(
            config.egress,
            proxy=issuer.proxy,
            ca_file=issuer.ca_file,
            certificate=issuer.certificate,
        ),
        redirect_uri=redirect_uri(config, issuer),
        logged_out_uri=logged_out_uri(config),
        clock=clock,
    )


def redirect_uri(config: Settings, issuer: Issuer) -> str:
    """Return the redirect URI to register at an issuer."""
    return f"{config.listen.public_url}/login/callback/{issuer.name}"


def logged_out_uri(config: Settings) -> str:
    """Return the post-logout redirect URI to register at the issuers."""
    return f"{config.listen.public_url}/logout"


def _open_gate(runtime: Runtime, stages: Stages, sessions: BrowserSessions) -> BrowserGate:
    config = runtime.config
    url = urlsplit(config.listen.public_url or "")
    return BrowserGate(
        origin=PublicOrigin(f"{url.scheme}://{url.netloc}", url.path),
        cookies=LoginCookies(
            is_secure=url.scheme == "https", session_age_max_s=int(config.login.absolute_s)
        ),
        sessions=sessions,
        limits=stages.limits,
        clock=runtime.clock,
        fresh_s=config.login.fresh_s,
    )


def _open_handler(
    runtime: Runtime, logins: BrowserLogins, gate: BrowserGate, assets: PageAssets
) -> LoginHandler:
    prefix = gate.origin.prefix
    links = [
        IssuerLink(issuer.name, issuer.login.label or issuer.name)
        for issuer in runtime.config.issuers
        if issuer.login is not None
    ]
    home = f"{prefix}/" if runtime.config.page.enabled else f"{prefix}/login"
    pages = LoginPages(assets, prefix, links, runtime.config.public_contact, home=home)
    return LoginHandler(logins, gate, pages, assets, home=home)
