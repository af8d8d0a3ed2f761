"""Logins with a browser, for either listener: the identity providers, sessions and pages."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from gateway.config.issuers import Issuer
from gateway.config.login import IssuerLogin
from gateway.config.settings import Settings
from gateway.domain.identity.claims import TokenRules
from gateway.domain.login.tokens import LoginRules
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.issuers.openid_provider import HttpOpenIdProvider
from gateway.drivers.network.egress import EgressRoute
from gateway.drivers.telemetry.login_metrics import LoginMetrics
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.login_store import ValkeyLoginStore
from gateway.drivers.valkey.replay_cache import ValkeyReplayCache
from gateway.edge.consoles.page_assets import Contact, PageAssets
from gateway.edge.json_endpoint import PublicOrigin
from gateway.edge.people.browser_gate import BrowserGate
from gateway.edge.people.login_cookies import LoginCookies
from gateway.edge.people.login_handler import LoginHandler
from gateway.edge.people.login_pages import IssuerLink, LoginPages
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.identify import Identify
from gateway.flow.login.browser_sessions import BrowserSessions
from gateway.flow.login.id_tokens import IdTokens, LoginIssuer
from gateway.flow.login.login_audit import LoginAudit
from gateway.flow.login.login_limits import LoginLimits
from gateway.flow.login.logins import BrowserLogins, LoginTimes
from gateway.flow.login.session_refresh import SessionRefresh
from gateway.flow.login.token_revocations import TokenRevocations
from gateway.process.runtime import Runtime
from gateway.process.wiring.audit_log import OpenAuditLog
from gateway.process.wiring.identity import Identity, token_rules
from gateway.process.wiring.requests import Stages

_CONNECTIONS_MAX = 8


@dataclass(frozen=True, slots=True)
class LoginClient:
    """The gateway as a client at an issuer, for one of its listeners."""

    issuer: Issuer
    login: IssuerLogin
    url: str
    """At which browsers reach the listener."""

    @property
    def redirect_uri(self) -> str:
        """The redirect URI to register at the issuer."""
        return f"{self.url}/login/callback/{self.issuer.name}"

    @property
    def logged_out_uri(self) -> str:
        """The post-logout redirect URI to register at the issuer."""
        return f"{self.url}/logout"


def public_clients(config: Settings) -> list[LoginClient]:
    url = config.listen.public_url or ""
    return [LoginClient(one, one.login, url) for one in config.issuers if one.login is not None]


def admin_client(config: Settings) -> LoginClient | None:
    login = config.admin.login
    if login is None:
        return None
    issuer = next(one for one in config.admin_issuers if one.name == login.issuer)
    return LoginClient(issuer, login, config.admin.public_url or "")


@dataclass(frozen=True, slots=True)
class LoginPlace:
    """The differences between the logins of the two listeners."""

    is_admin: bool
    store: str
    """Name of the store of its sessions."""
    cookies: str
    """With which the names of its cookies begin."""
    session: str
    """The name of a session in the audit log."""
    url: str
    """At which browsers reach it."""
    home: str
    """Path below `url`: where a login without a valid return path goes."""
    clients: Sequence[tuple[LoginClient, TokenRules]]
    """The gateway at each issuer, and the rules for access tokens."""
    times: LoginTimes
    identify: Identify
    """Checks the person of a session at each use."""


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
    """Return the login of the public listener; None if no issuer has one."""
    config = runtime.config
    if not config.has_logins:
        return None
    person_claim = config.requests.person_claim
    place = LoginPlace(
        is_admin=False,
        store="login",
        cookies="gateway",
        session="session",
        url=config.listen.public_url or "",
        home="/" if config.page.enabled else "/login",
        clients=[(one, token_rules(one.issuer, person_claim)) for one in public_clients(config)],
        times=LoginTimes(config.login.idle_s, config.login.absolute_s, config.login.fresh_s),
        identify=identity.callers,
    )
    return await open_login_at(place, runtime, valkey, identity, stages.limits, audit_log)


async def open_login_at(
    place: LoginPlace,
    runtime: Runtime,
    valkey: Valkey,
    identity: Identity,
    limits: CallerLimits,
    audit_log: OpenAuditLog,
) -> OpenLogin:
    config, clock = runtime.config, runtime.clock
    issuers = await _open_issuers(runtime, place)
    store = ValkeyLoginStore(valkey, Sealer(config.store.seal_keys), place.store)
    id_tokens = IdTokens(identity.signatures, clock)
    audit = LoginAudit(audit_log.for_requests, audit_log.best_effort, clock, session=place.session)
    telemetry = LoginMetrics(runtime.metrics, sorted(issuers))
    revocations = TokenRevocations(store, issuers, telemetry)
    runtime.stack.push_async_callback(revocations.close)  # before its HTTP client and the store
    sessions = BrowserSessions(
        store=store,
        issuers=issuers,
        refresh=SessionRefresh(store, issuers, id_tokens, telemetry, clock),
        revocations=revocations,
        identify=place.identify,
        audit=audit,
        telemetry=telemetry,
        clock=clock,
    )
    limits_of_sessions = LoginLimits(store, revocations, audit, telemetry, clock)
    runtime.tasks[f"{place.session} limits"] = limits_of_sessions.run
    logins = BrowserLogins(
        issuers=issuers,
        times=place.times,
        store=store,
        sessions=sessions,
        id_tokens=id_tokens,
        identify=place.identify,
        replays=ValkeyReplayCache(valkey),
        audit=audit,
        telemetry=telemetry,
        new_token=secrets.token_urlsafe,
        # Begins with the time, so that the cookies of logins have an order.
        new_attempt_id=lambda: f"{int(clock.now()):010x}{secrets.token_hex(6)}",
        clock=clock,
    )
    gate = _open_gate(runtime, place, limits, sessions)
    assets = PageAssets.load(gate.origin.prefix)
    handler = _open_handler(place, logins, gate, assets, config.public_contact)
    return OpenLogin(handler, assets, sessions, gate)


async def _open_issuers(runtime: Runtime, place: LoginPlace) -> Mapping[str, LoginIssuer]:
    http = await runtime.stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
    )
    return {
        client.issuer.name: LoginIssuer(
            client.issuer.name,
            open_provider(runtime.config, client, http, runtime.clock),
            LoginRules(client.login.client_id, rules, client.login.acr_values),
            client.login.groups_from,
        )
        for client, rules in place.clients
    }


def open_provider(
    config: Settings, client: LoginClient, http: aiohttp.ClientSession, clock: Clock
) -> HttpOpenIdProvider:
    issuer = client.issuer
    return HttpOpenIdProvider(
        issuer,
        client.login,
        http=http,
        route=EgressRoute(
            config.egress,
            proxy=issuer.proxy,
            ca_file=issuer.ca_file,
            certificate=issuer.certificate,
        ),
        redirect_uri=client.redirect_uri,
        logged_out_uri=client.logged_out_uri,
        clock=clock,
    )


def _open_gate(
    runtime: Runtime, place: LoginPlace, limits: CallerLimits, sessions: BrowserSessions
) -> BrowserGate:
    url, times = urlsplit(place.url), place.times
    return BrowserGate(
        origin=PublicOrigin(f"{url.scheme}://{url.netloc}", url.path),
        cookies=LoginCookies(
            is_secure=url.scheme == "https",
            session_age_max_s=int(times.absolute_s),
            name=place.cookies,
        ),
        sessions=sessions,
        limits=limits,
        clock=runtime.clock,
        fresh_s=times.fresh_s,
    )


def _open_handler(
    place: LoginPlace,
    logins: BrowserLogins,
    gate: BrowserGate,
    assets: PageAssets,
    contact: Contact | None,
) -> LoginHandler:
    prefix = gate.origin.prefix
    links = [
        IssuerLink(one.issuer.name, one.login.label or one.issuer.name) for one, _ in place.clients
    ]
    home = prefix + place.home
    pages = LoginPages(assets, prefix, links, contact, home=home, is_admin=place.is_admin)
    return LoginHandler(logins, gate, pages, assets, home=home)
