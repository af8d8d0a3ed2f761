"""The access requests that `gateway explain` considers: those of the snapshot file."""

from gateway.config.settings import Settings
from gateway.domain.overrides import OverrideSet
from gateway.domain.policy.policy import Policy
from gateway.domain.requests.grants import grants_of
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
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return policy, f"access requests were not considered: {file}: {reason}"
    requests = decode_snapshot(text, SealedRequests(Sealer(config.store.seal_keys)))
    grants = grants_of(requests, policy.request_rules, overrides.ended_requests)
    count = len(grants.rules)
    source = f"{count} access {'request' if count == 1 else 'requests'} in {file}"
    return policy.with_requested(grants), source
