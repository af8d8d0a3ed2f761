"""A caller's own permissions on servers, as a response body. Pure."""

import msgspec

from gateway.domain.errors import ServerIdsRequired
from gateway.domain.model import PERMISSIONS, Principal, ResolvedCall
from gateway.domain.policy.inventory import Inventory
from gateway.domain.policy.policy import Policy


def permissions_on(
    principal: Principal, call: ResolvedCall, policy: Policy, now: float, inventory: Inventory
) -> bytes:
    """Return {"servers": [{"id", "permissions"}]} of the servers with at least one permission.

    A forbidden server and an unknown server are both omitted, so that they look the same. Raises
    ServerIdsRequired.
    """
    if not call.servers:
        raise ServerIdsRequired("no server_id")
    scopes = {
        permission: policy.scope(principal, permission, call.project, now, inventory)
        for permission in sorted(PERMISSIONS)
    }
    servers = []
    for server in dict.fromkeys(call.servers):
        allowed = [permission for permission, scope in scopes.items() if scope.allows(server)]
        if allowed:
            servers.append({"id": server, "permissions": allowed})
    return msgspec.json.encode({"servers": servers})
