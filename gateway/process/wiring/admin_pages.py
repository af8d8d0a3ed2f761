"""The pages of the admin listener, and their login."""

from dataclasses import replace

from gateway.drivers.valkey.connection import Valkey
from gateway.edge.admin.api import AdminApi
from gateway.edge.admin.pages import AdminPages
from gateway.edge.admin.ui import AdminUi
from gateway.flow.login.logins import LoginTimes
from gateway.process.runtime import Runtime
from gateway.process.wiring.audit_log import OpenAuditLog
from gateway.process.wiring.identity import Identity, token_rules
from gateway.process.wiring.login import LoginPlace, OpenLogin, admin_client, open_login_at
from gateway.process.wiring.requests import Stages


async def open_admin_login(
    runtime: Runtime,
    valkey: Valkey,
    identity: Identity,
    stages: Stages,
    audit_log: OpenAuditLog,
) -> OpenLogin | None:
    """Return None where the config has no `admin.login`."""
    admin = runtime.config.admin
    login, client = admin.login, admin_client(runtime.config)
    if admin.api is None or login is None or client is None:
        return None
    rules = replace(token_rules(client.issuer), audiences=frozenset({admin.api.audience}))
    place = LoginPlace(
        is_admin=True,
        store="admin-login",
        cookies="gateway-admin",
        session="admin session",
        url=client.url,
        home="/",
        clients=[(client, rules)],
        times=LoginTimes(login.idle_s, login.absolute_s, fresh_s=None),
        identify=identity.admin_sessions,
    )
    return await open_login_at(place, runtime, valkey, identity, stages.limits, audit_log)


def open_admin_pages(
    runtime: Runtime, login: OpenLogin | None, api: AdminApi | None
) -> AdminUi | None:
    if login is None or api is None:
        return None
    pages = AdminPages(login.assets, login.gate.origin.prefix, runtime.config.public_contact)
    return AdminUi(api, login.gate, (pages, login.handler), runtime.clock)
