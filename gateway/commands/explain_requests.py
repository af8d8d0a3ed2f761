"""The access requests that `gateway explain` considers: of the snapshot file, or of a gateway."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from gateway.commands.exit_codes import REJECTED, CommandFailed
from gateway.commands.gateway_client import GatewayClient, require_member
from gateway.config.settings import Settings
from gateway.domain.model import ProjectId, ServerId
from gateway.domain.overrides import OverrideSet
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.request_grants import RequestGrant, RequestGrants
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.requests.grants import grant_of, grants_of
from gateway.domain.requests.model import AccessRequest, RequestPerson
from gateway.drivers.crypto.sealed_requests import SealedRequests
from gateway.drivers.crypto.sealer import Sealer
from gateway.flow.requests.active_requests import decode_snapshot


def with_requests(config: Settings, policy: Policy, overrides: OverrideSet) -> tuple[Policy, str]:
    """Return the policy with the grants of access requests, and where those are from.

    `overrides`: those that end requests. The text is empty if the policy has no rule of requests.
    """
    if not policy.request_rules:
        return policy, ""
    file = config.requests.file
    if file is None:
        return policy, "access requests were not considered: `requests.file` is not configured"
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        reason = f"{file} does not exist; a gateway on this host writes it with the first request"
        return policy, f"access requests were not considered: {reason}"
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return policy, f"access requests were not considered: {file}: {reason}"
    requests = decode_snapshot(text, SealedRequests(Sealer(config.store.seal_keys)))
    grants = grants_of(requests, policy.request_rules, overrides.ended_requests)
    return policy.with_requested(grants), f"{_count(grants)} in {file}"


def with_requests_of_gateway(
    gateway: GatewayClient, url: str, policy: Policy
) -> tuple[Policy, str]:
    """Return the policy with the requests that are grants at a gateway, as `with_requests` does."""
    if not policy.request_rules:
        return policy, ""
    try:
        response = gateway.request("/admin/requests?state=active").data
    except CommandFailed as failure:
        return policy, f"access requests were not considered: {url}: {failure}"
    try:
        listed = require_member(response, "requests", list)
        grants = RequestGrants(_grants(listed, policy.request_rules))
    except (ValueError, LookupError, TypeError):
        raise CommandFailed(REJECTED, "Unexpected response. Check --gateway.") from None
    return policy.with_requested(grants), f"{_count(grants)} in force at {url}"


def _grants(
    listed: Iterable[dict[str, Any]], rules: Mapping[str, RequestRule]
) -> Iterable[RequestGrant]:
    """Yield the grants of the listed requests; the gateway says which of them are in force."""
    for one in listed:
        rule = rules.get(one["rule"])
        if not one["in_force"] or rule is None:
            continue
        ends_at = datetime.fromisoformat(one["ends_at"]).timestamp()
        request = AccessRequest(
            id=str(one["id"]),
            requester=RequestPerson(one["issuer"], one["subject"]),
            rule=rule.name,
            role=rule.role,
            project=ProjectId(one["project"]),
            servers=tuple(ServerId(server) for server in one["servers"]),
            duration_s=float(one["duration_s"]),
            reason="",
            created_at=datetime.fromisoformat(one["created_at"]).timestamp(),
            pending_until=ends_at,
            started_at=ends_at - float(one["duration_s"]),
        )
        how = (
            "by break-glass"
            if one["break_glass"]
            else "approved by " + ", ".join(one["approved_by"])
        )
        yield grant_of(request, rule, f"access request {request.id} {how}")


def _count(grants: RequestGrants) -> str:
    count = len(grants.rules)
    return f"{count} access {'request' if count == 1 else 'requests'}"
