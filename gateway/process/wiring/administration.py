"""The admin API, and the cluster queries behind it."""

import os
import socket

from gateway.domain.admin_permissions import AdminGrants
from gateway.domain.model import BudgetClass
from gateway.drivers.audit.record_search import RecordSearch
from gateway.drivers.audit.signing_keys import load_verifier_of
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.replicas import ValkeyReplicas
from gateway.edge.admin.api import AdminApi
from gateway.flow.active_overrides import ActiveOverrides
from gateway.flow.admin.actions import AdminActions
from gateway.flow.admin.administration import Administration
from gateway.flow.admin.cluster_query import ClusterQuery, ProcessView
from gateway.flow.admin.console_actions import ConsoleActions, ConsoleDirectory
from gateway.flow.admin.inquiry_actions import DecisionSources, GatewayHosts, InquiryActions
from gateway.flow.admin.login_actions import LoginActions
from gateway.flow.admin.request_actions import RequestActions, RequestDirectory
from gateway.flow.admin.webhook_actions import DeadNotices, WebhookActions
from gateway.flow.decide import Policies
from gateway.process.runtime import Runtime
from gateway.process.wiring.identity import Identity, token_rules
from gateway.process.wiring.login import OpenLogin
from gateway.process.wiring.requests import Stages


def open_cluster_query(runtime: Runtime, valkey: Valkey, view: ProcessView) -> ClusterQuery:
    replicas = ValkeyReplicas(valkey, Sealer(runtime.config.store.seal_keys), runtime.clock)
    runtime.tasks["cluster queries"] = replicas.run
    return ClusterQuery(view, replicas)


def process_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def open_administration(  # noqa: PLR0913 - what administrators act on
    runtime: Runtime,
    identity: Identity,
    stages: Stages,
    policies: Policies,
    overrides: ActiveOverrides,
    cluster: ClusterQuery,
    consoles: ConsoleDirectory | None,
    login: OpenLogin | None,
    admin_login: OpenLogin | None,
    requests: RequestDirectory,
    notices: DeadNotices,
) -> AdminApi | None:
    """Return None where the config has no `admin.api`."""
    config, clock = runtime.config, runtime.clock
    api = config.admin.api
    if api is None:
        return None
    projects = frozenset(config.project_ids)
    sources = DecisionSources(
        stages.policies,
        stages.inventories,
        lambda: overrides.current,
        cluster.newest_groups,
        process_name(),
    )
    listeners = {"public": login, "admin": admin_login}
    logins = {name: one.sessions for name, one in listeners.items() if one is not None}
    actions = AdminActions(
        rate_max_per_s={
            (account.name, budget.value): account.budget.override_max_per_s(budget)
            for account in config.accounts
            for budget in BudgetClass
        },
        projects=projects,
        rules={issuer.name: token_rules(issuer) for issuer in config.issuers},
        link_life_s=max(account.links.lifetime_s for account in config.accounts),
        group_aliases=lambda: policies.current().group_aliases,
        overrides=overrides,
        cluster=cluster,
        consoles=ConsoleActions(consoles),
        logins=LoginActions(logins),
        requests=RequestActions(requests, clock),
        webhooks=WebhookActions(notices),
        inquiries=_inquiries(runtime, sources, cluster),
        clock=clock,
    )
    administration = Administration(
        actions.all,
        grants=AdminGrants(groups=api.groups, certificates=api.certificates),
        find_lock=overrides.find_lock,
        audit_log=stages.audit_log,
        clock=clock,
    )
    return AdminApi(administration, identity.admins, clock, runtime.metrics.admin_request)


def _inquiries(runtime: Runtime, sources: DecisionSources, cluster: ClusterQuery) -> InquiryActions:
    config = runtime.config
    directory, signing_key = config.audit.directory, config.audit.signing_key
    keys = {} if signing_key is None else dict([load_verifier_of(signing_key)])
    return InquiryActions(
        sources,
        frozenset(config.project_ids),
        None if directory is None else RecordSearch(directory, keys),
        GatewayHosts(socket.gethostname(), cluster.hosts),
        runtime.clock,
    )
