"""The credential of each project of an account, by the account's login method."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config.accounts import (
    Account,
    KeyPairLogin,
    MetadataLogin,
    PasswordLogin,
    TokenFileLogin,
)
from gateway.domain.model import BudgetClass
from gateway.domain.upstream.login_ledger import PAUSES_S
from gateway.drivers.cloud.credential_check import CheckedAccount, CredentialCheck
from gateway.drivers.cloud.credentials import (
    Credential,
    KeyPairCredential,
    MetadataCredential,
    PasswordCredential,
    TokenFileCredential,
)
from gateway.drivers.cloud.iam_login import IamLogin
from gateway.drivers.cloud.login_endpoint import LoginEndpoint
from gateway.drivers.cloud.login_gate import LoginGate, LoginGates
from gateway.drivers.cloud.metadata_credential import MetadataKeys
from gateway.drivers.cloud.upstream import AioUpstream, open_session
from gateway.drivers.network.egress import EgressRoute
from gateway.flow.budgets import FairBudget
from gateway.flow.exchange import Upstream
from gateway.flow.single_flight import SingleFlight
from gateway.process.runtime import Runtime

_TOKEN_PAUSES_S = (30.0, 60.0, 300.0)
"""Short: the cloud locks no user for a rejected token."""


@dataclass(frozen=True, slots=True)
class Logins:
    """What the logins of all accounts share."""

    budget: FairBudget
    single_flight: SingleFlight
    gates: LoginGates


async def open_credentials(
    runtime: Runtime, account: Account, upstream: Upstream, logins: Logins, route: EgressRoute
) -> Mapping[str, Credential]:
    """Return the credential of each project; `upstream` leads to the servers API."""
    match account.login:
        case KeyPairLogin() as login:
            return _key_pairs(runtime, account, login, upstream, logins)
        case MetadataLogin() as login:
            return await _metadata(runtime, account, login, logins)
        case TokenFileLogin() as login:
            return _token_files(runtime, account, login, upstream, logins)
        case PasswordLogin() as login:
            return await _passwords(runtime, account, login, logins, route)


def _key_pairs(
    runtime: Runtime, account: Account, login: KeyPairLogin, upstream: Upstream, logins: Logins
) -> Mapping[str, Credential]:
    check = _check(
        runtime,
        CheckedAccount(
            account.name,
            account.projects[0],
            is_for_all_projects=True,
            is_lockable=True,
            pauses_s=PAUSES_S,
        ),
        endpoint=_endpoint(
            runtime, account, account.projects[0], account.endpoint, upstream, logins
        ),
        gate=logins.gates.of("access key", login.access_key.reveal()),
        logins=logins,
    )
    return {
        project: KeyPairCredential(
            project, login, account.endpoint, check=check, clock=runtime.clock
        )
        for project in account.projects
    }


def _token_files(
    runtime: Runtime, account: Account, login: TokenFileLogin, upstream: Upstream, logins: Logins
) -> Mapping[str, Credential]:
    def credential(project: str) -> TokenFileCredential:
        check = _check(
            runtime,
            CheckedAccount(
                account.name,
                project,
                is_for_all_projects=False,
                is_lockable=False,
                pauses_s=_TOKEN_PAUSES_S,
            ),
            endpoint=_endpoint(runtime, account, project, account.endpoint, upstream, logins),
            gate=logins.gates.of("token file", account.name),
            logins=logins,
        )
        return TokenFileCredential(
            account.name, login, check=check, clock=runtime.clock, telemetry=runtime.metrics
        )

    return {project: credential(project) for project in account.projects}


async def _metadata(
    runtime: Runtime, account: Account, login: MetadataLogin, logins: Logins
) -> Mapping[str, Credential]:
    session = await runtime.stack.enter_async_context(open_session(account.timeouts))
    address = login.metadata_endpoint
    upstream = AioUpstream(session, address, response_bytes_max=account.response_bytes_max)
    endpoint = _endpoint(
        runtime,
        account,
        account.projects[0],
        address,
        upstream,
        logins,
        budget_class=BudgetClass.IAM,
    )
    keys = MetadataKeys(address, endpoint, runtime.clock)
    runtime.tasks[f"keys of {account.name}"] = keys.run
    return {
        project: MetadataCredential(project, keys, account.endpoint, clock=runtime.clock)
        for project in account.projects
    }


async def _passwords(
    runtime: Runtime, account: Account, login: PasswordLogin, logins: Logins, route: EgressRoute
) -> Mapping[str, Credential]:
    session = await runtime.stack.enter_async_context(open_session(account.timeouts))
    upstream = AioUpstream(
        session,
        login.iam_endpoint,
        response_bytes_max=account.response_bytes_max,
        route=route,
    )
    gate = logins.gates.of("user", login.iam_endpoint, login.domain, login.user)

    def credential(project: str) -> PasswordCredential:
        iam = IamLogin(
            account.name,
            project,
            login,
            endpoint=_endpoint(
                runtime,
                account,
                project,
                login.iam_endpoint,
                upstream,
                logins,
                budget_class=BudgetClass.IAM,
            ),
            gate=gate,
            clock=runtime.clock,
            telemetry=runtime.metrics,
        )
        return PasswordCredential(
            account.name,
            project,
            login,
            iam=iam,
            shared=logins.single_flight,
            clock=runtime.clock,
            telemetry=runtime.metrics,
            jitter=runtime.random.random,
        )

    by_project = {project: credential(project) for project in account.projects}
    for i, one in enumerate(by_project.values()):
        runtime.tasks[f"login of {account.name} {i}"] = one.run
    return by_project


def _endpoint(  # noqa: PLR0913 - one parameter per collaborator
    runtime: Runtime,
    account: Account,
    project: str,
    address: str,
    upstream: Upstream,
    logins: Logins,
    *,
    budget_class: BudgetClass = BudgetClass.CONSOLE,
) -> LoginEndpoint:
    return LoginEndpoint(
        account.name,
        project,
        address,
        upstream=upstream,
        budget=logins.budget,
        budget_class=budget_class,
        clock=runtime.clock,
        telemetry=runtime.metrics,
        jitter=runtime.random.random,
    )


def _check(
    runtime: Runtime,
    account: CheckedAccount,
    *,
    endpoint: LoginEndpoint,
    gate: LoginGate,
    logins: Logins,
) -> CredentialCheck:
    return CredentialCheck(
        account,
        endpoint=endpoint,
        gate=gate,
        shared=logins.single_flight,
        clock=runtime.clock,
        telemetry=runtime.metrics,
    )
