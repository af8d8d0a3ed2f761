"""Access requests: their store, the grants that they are, and their paths."""

import logging
import secrets
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from gateway.domain.requests.model import AccessRequest
from gateway.drivers.crypto.sealed_requests import SealedRequests
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.files.snapshot_file import AtomicSnapshotFile
from gateway.drivers.telemetry.access_request_metrics import AccessRequestMetrics, WebhookMetrics
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.notice_outbox import ValkeyNoticeOutbox
from gateway.drivers.valkey.request_store import ValkeyRequestStore
from gateway.drivers.webhooks.http_webhooks import open_webhooks
from gateway.edge.json_endpoint import Bearer, Paths
from gateway.edge.mount import ApiMount
from gateway.edge.people.browser_gate import identify_by_session
from gateway.edge.requests.requests_handler import PATH, RequestsHandler
from gateway.flow.active_overrides import ActiveOverrides
from gateway.flow.decide import Policies
from gateway.flow.locked_policies import LockedPolicies
from gateway.flow.requests.access_requests import AccessRequests, NoticesOf, RequestBounds
from gateway.flow.requests.active_requests import ActiveRequests
from gateway.flow.requests.requested_policies import RequestedPolicies
from gateway.flow.requests.webhooks import Webhook, Webhooks
from gateway.process.runtime import Runtime
from gateway.process.wiring.login import OpenLogin
from gateway.process.wiring.requests import Stages

log = logging.getLogger("gateway.requests")

_OWNER_ONLY_MODE = 0o600


@dataclass(frozen=True, slots=True)
class OpenRequests:
    """The stored requests, and the policy with those that are grants and with the locks."""

    active: ActiveRequests
    policies: LockedPolicies
    outbox: ValkeyNoticeOutbox


def open_requests(
    runtime: Runtime, valkey: Valkey, policies: Policies, overrides: ActiveOverrides
) -> OpenRequests:
    """Load the requests of the file; those of Redis follow in the background."""
    config, seal = runtime.config, SealedRequests(Sealer(runtime.config.store.seal_keys))
    file = config.requests.file
    outbox = ValkeyNoticeOutbox(valkey, Sealer(config.store.seal_keys))
    active = ActiveRequests(
        ValkeyRequestStore(valkey, seal, outbox),
        None if file is None else AtomicSnapshotFile(file, log, mode=_OWNER_ONLY_MODE),
        seal,
        runtime.clock,
        keep_s=config.requests.keep_s,
        stored_max=config.requests.stored_max,
    )
    runtime.tasks["access requests"] = active.run
    for state in ("pending", "active"):
        runtime.metrics.gauge(
            "gateway_access_requests_open", partial(active.count, state), state=state
        )
    requested = RequestedPolicies(
        policies, lambda: active.started, lambda: overrides.ended_requests, runtime.clock
    )
    locked = LockedPolicies(requested, lambda: overrides.current.target_locks)
    return OpenRequests(active, locked, outbox)


@dataclass(frozen=True, slots=True)
class OpenAccessRequests:
    """The steps of access requests, and where they are served."""

    steps: AccessRequests
    outbox: ValkeyNoticeOutbox
    mount: ApiMount
    ui_paths: tuple[str, Paths]
    """Below `/ui`, for our own pages; without paths if no issuer has a login."""


async def open_access_requests(
    runtime: Runtime,
    opened: OpenRequests,
    stages: Stages,
    overrides: ActiveOverrides,
    login: OpenLogin | None,
) -> OpenAccessRequests:
    config, clock = runtime.config, runtime.clock
    requests = AccessRequests(
        requests=opened.active,
        policies=stages.policies,
        ends=overrides,
        identify=stages.identify,
        audit=stages.request_audit,
        bounds=RequestBounds(config.requests.pending_s, config.requests.person_pending_max),
        clock=clock,
        telemetry=AccessRequestMetrics(runtime.metrics),
        new_id=partial(secrets.token_hex, 16),
        notices_of=await _open_webhooks(runtime, opened, overrides),
    )
    bearer = Bearer(stages.credentials, stages.identify, stages.limits)
    handler = RequestsHandler(requests, bearer, clock)
    prefix = urlsplit(config.listen.public_url or "").path
    ui_paths: Paths = ()
    if login is not None:
        ui_paths = RequestsHandler(requests, identify_by_session, clock).paths
    return OpenAccessRequests(
        requests, opened.outbox, ApiMount([PATH, prefix + PATH], handler.paths), (PATH, ui_paths)
    )


async def _open_webhooks(
    runtime: Runtime, opened: OpenRequests, overrides: ActiveOverrides
) -> NoticesOf:
    """Start the deliveries; return what makes the notices of a step."""
    config = runtime.config

    def find_open(request_id: str) -> AccessRequest | None:
        is_ended = request_id in (overrides.ended_requests or ())
        return None if is_ended else opened.active.find(request_id)

    if not config.requests.webhooks:
        return lambda *_: ()
    sender = await runtime.stack.enter_async_context(
        open_webhooks(config.egress, config.console.private_networks)
    )
    webhooks = Webhooks(
        [Webhook(one.name, one.url, one.secrets, one.format) for one in config.requests.webhooks],
        outbox=opened.outbox,
        sender=sender,
        find_open=find_open,
        is_ready=lambda: opened.active.is_synced and overrides.ended_requests is not None,
        clock=runtime.clock,
        telemetry=WebhookMetrics(runtime.metrics, [one.name for one in config.requests.webhooks]),
    )
    runtime.tasks["webhooks"] = webhooks.run
    runtime.metrics.gauge("gateway_webhook_notices_waiting", lambda: webhooks.waiting)
    return webhooks.notices_of
