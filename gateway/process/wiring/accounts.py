"""Service accounts: their sessions, credentials, circuit breakers and exchanges with the cloud."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config.accounts import Account
from gateway.config.settings import Settings
from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import ProjectId
from gateway.domain.upstream.breaker import Breaker, BreakerRules, BreakerState
from gateway.drivers.cloud.credentials import Credential
from gateway.drivers.cloud.login_gate import LoginGates
from gateway.drivers.cloud.upstream import AioUpstream, open_session
from gateway.drivers.network.egress import EgressRoute
from gateway.flow.budgets import FairBudget
from gateway.flow.console_links import ConsoleAccount
from gateway.flow.exchange import Exchange
from gateway.flow.federation import FederationProject
from gateway.flow.single_flight import SingleFlight
from gateway.process.runtime import Runtime
from gateway.process.wiring.credentials import Logins, open_credentials

_BREAKER_GAUGE_VALUES = {
    BreakerState.CLOSED: 0.0,
    BreakerState.HALF_OPEN: 0.5,
    BreakerState.OPEN: 1.0,
}


@dataclass(frozen=True, slots=True)
class OpenAccount:
    endpoint: str
    console: ConsoleAccount
    credentials: Mapping[str, Credential]


async def open_accounts(
    runtime: Runtime, budget: FairBudget, single_flight: SingleFlight
) -> dict[ProjectId, ConsoleAccount]:
    """Open all accounts; return the account of each project."""
    accounts: dict[ProjectId, ConsoleAccount] = {}
    logins = Logins(budget, single_flight, LoginGates(single_flight, runtime.clock))
    for account in runtime.config.accounts:
        opened = await open_account(runtime, account, logins)
        accounts |= {ProjectId(project): opened.console for project in account.projects}
    return accounts


async def open_account(runtime: Runtime, account: Account, logins: Logins) -> OpenAccount:
    session = await runtime.stack.enter_async_context(open_session(account.timeouts))
    route = EgressRoute(
        runtime.config.egress,
        proxy=account.proxy,
        ca_file=account.ca_file,
        certificate=account.certificate,
    )
    upstream = AioUpstream(
        session, account.endpoint, response_bytes_max=account.response_bytes_max, route=route
    )
    credentials = await open_credentials(runtime, account, upstream, logins, route)
    exchange = Exchange(
        account.name,
        upstream=upstream,
        credentials=credentials,
        budget=logins.budget,
        breaker=_open_breaker(runtime, account),
        clock=runtime.clock,
        telemetry=runtime.metrics,
        jitter=runtime.random.random,
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
        addresses=ConsoleAddresses(account.links.console_hosts),
    )
    return OpenAccount(account.endpoint, console, credentials)


def _open_breaker(runtime: Runtime, account: Account) -> Breaker:
    rules = BreakerRules(**account.breaker.model_dump())
    breaker = Breaker(rules, jitter=runtime.random.random)
    runtime.metrics.gauge(
        "gateway_breaker_open",
        lambda: _BREAKER_GAUGE_VALUES[breaker.state(runtime.clock.monotonic())],
        account=account.name,
    )
    return breaker


def configured_projects(config: Settings) -> tuple[FederationProject, ...]:
    return tuple(
        FederationProject(ProjectId(project), account.project_name(project))
        for account in config.accounts
        for project in account.projects
    )
