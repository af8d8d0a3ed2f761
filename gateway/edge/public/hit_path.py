"""The hit path: a cached link for a request whose exact bytes are in the request memory.

It takes the stages of `LinkPipeline.issue`, in the same order, without a task, a parser or a
response object. A request that is not certain to be a hit is left to aiohttp before any stage has
had an effect. From the record on there is no way back. If anything differs from the common case
then, aiohttp parses the request after all, and `Gateway.resume` serves the rest of it.
"""

import logging
from asyncio import Future, get_running_loop
from collections.abc import Callable
from typing import Final

import orjson
from aiohttp import HttpVersion11

from gateway.domain.audit.record import encode_record
from gateway.domain.errors import AuditLogUnavailable, CallerLimited
from gateway.domain.identity.credentials import find_jwt
from gateway.domain.model import ConsoleLink, LinkSource, StageTimes
from gateway.domain.policy.policy import Permit, Policy
from gateway.edge.listener.client_address import TrustedProxies, client_address
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.listener.server import END_OF_HEAD, ListenerConnection
from gateway.edge.public.outcome import RequestOutcome
from gateway.edge.public.prepared_response import ResponseEncoder
from gateway.edge.public.request_log import RequestLog
from gateway.edge.public.request_memory import RememberedRequest, RequestMemory
from gateway.edge.rate_limit_fields import rate_limit_field
from gateway.flow.audit_log import BatchAuditLog
from gateway.flow.pipeline import LinkStages, PendingLink
from gateway.flow.request import ApiRequest

log = logging.getLogger("gateway.request")

_BEGINNING: Final = b"GET /v1/"
_BYTES_MAX: Final = 20_480
"""The longest token, and other headers of usual length."""
_HEADERS: Final = frozenset(
    {
        *("host", "authorization", "x-auth-token"),
        *("accept", "accept-encoding", "accept-language", "content-type", "user-agent"),
        *("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port"),
        *("x-forwarded-proto", "x-real-ip"),
    }
)
"""A request with any other header is left to aiohttp, because the header may have a meaning."""
_EVENT: Final = "console_link_issued"
_LOCAL: Final = LinkSource.LOCAL.value


class HitPath:
    """Implements ExactRequests for the public listener."""

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        stages: LinkStages,
        audit_log: BatchAuditLog,
        *,
        request_log: RequestLog,
        encoder: ResponseEncoder,
        trusted_proxies: TrustedProxies,
        new_id: Callable[[], str],
        deadline_s: float,
    ) -> None:
        self.memory = RequestMemory()
        self.deadline_s = deadline_s
        self.request_log = request_log
        self._identify = stages.identify
        self._decide = stages.decide
        self._limits = stages.limits
        self._links = stages.links
        self._request_audit = stages.request_audit
        self._audit_log = audit_log
        self._clock = stages.clock
        self._telemetry = stages.telemetry
        self._encoder = encoder
        self._trusted_proxies = trusted_proxies
        self._has_proxies = bool(trusted_proxies)
        self._new_id = new_id
        self.begun_count = 0

    def learn(self, request: ListenerRequest, api_request: ApiRequest) -> None:
        """Remember a request that was a hit, at the second sight of its bytes."""
        key, principal, call = request.exact, api_request.principal, api_request.call
        if key is None or principal is None or call is None or not _is_eligible(request):
            return
        caller_jwt = find_jwt(api_request.authorization, api_request.x_auth_token)
        if caller_jwt is None or not self.memory.is_second_sight(key):
            return
        remembered = RememberedRequest(
            self._identify.digest_of(caller_jwt),
            principal.key,
            call,
            tuple(request.headers.getall("X-Forwarded-For", ())),
        )
        self.memory.add(key, remembered)

    def begin(self, connection: ListenerConnection, data: bytes) -> "BegunHit | None":
        """Take a remembered request up to its record; None: nothing was done."""
        if not (
            data.startswith(_BEGINNING) and data.endswith(END_OF_HEAD) and len(data) <= _BYTES_MAX
        ):
            return None
        from_proxy = self._has_proxies and connection.peer in self._trusted_proxies
        key = self.memory.key(data, from_proxy=from_proxy)
        remembered = self.memory.find(key)
        if remembered is None:
            connection.note_exact(key)
            return None

        began = self._clock.monotonic()
        principal = self._identify.cached_principal(remembered.token_digest)
        if principal is None:
            self.memory.forget(key)
            return None
        identified_at = self._clock.monotonic()

        version, call = self._decide.version, remembered.call
        permit = self._decide.preview(version[0], principal, call)
        if permit is None:
            return None
        decided_at = self._clock.monotonic()

        link = self._links.settled_link(permit)
        if link is None or not self._audit_log.takes_bodies:
            return None
        try:
            self._limits.admit(principal.key)
        except CallerLimited:
            return None  # not counted yet

        self.begun_count += 1
        self._telemetry.identified(principal.issuer, "cached")
        self._telemetry.decided(call.operation.permission, allowed=True)
        client = connection.peer
        if from_proxy:
            client = client_address(client, remembered.forwarded_for, self._trusted_proxies)
        hit = BegunHit(self, connection, data, permit, version, link, self._new_id(), client)
        hit.began, hit.identified_at, hit.decided_at = began, identified_at, decided_at
        hit.obtained_at = self._clock.monotonic()

        record = self._request_audit.allowed(_EVENT, permit, hit)
        record.source, record.link_fingerprint = _LOCAL, link.fingerprint
        self._audit_log.submit(_EVENT, record.at, encode_record(record), hit.settle)
        return hit

    def conclude(self, hit: "BegunHit") -> bool:
        """Respond to a recorded hit if nothing has changed meanwhile; False: nothing was done."""
        permit, link, principal = hit.permit, hit.link, hit.permit.principal
        if not self._decide.still_holds(principal, hit.version):
            return False
        if not self._links.is_usable(permit, link):
            return False
        recorded_at = self._clock.monotonic()
        times = StageTimes(
            hit.identified_at - hit.began,
            hit.decided_at - hit.identified_at,
            hit.obtained_at - hit.decided_at,
            recorded_at - hit.obtained_at,
        )
        account = self._links.account_of(permit)
        self._telemetry.link_served(account, principal.groups, LinkSource.LOCAL, times)
        body = orjson.dumps({"url": link.url.reveal()})
        limit = rate_limit_field(self._limits.remaining(principal.key))
        left_s, now = link.good_until - recorded_at, self._clock.now()
        hit.connection.finish(self._encoder.encode_link(body, hit.request_id, left_s, now, limit))
        self.request_log.finish_hit(
            hit.request_id, hit.client_address, hit.began, principal, permit.call, link
        )
        return True


class BegunHit:
    """A hit whose record is being written. It is a `RequestContext` for its audit record."""

    __slots__ = (
        *("_path", "connection", "data", "permit", "version", "link"),
        *("began", "identified_at", "decided_at", "obtained_at"),
        *("client_address", "is_abandoned", "recorded", "request_id"),
    )
    trace = None
    access_key = ""

    def __init__(  # noqa: PLR0913 - what the stages found
        self,
        path: HitPath,
        connection: ListenerConnection,
        data: bytes,
        permit: Permit,
        version: tuple[Policy, int],
        link: ConsoleLink,
        request_id: str,
        client_address: str,
    ) -> None:
        self._path = path
        self.connection = connection
        self.data = data
        self.permit = permit
        self.version = version
        self.link = link
        self.request_id = request_id
        self.client_address = client_address
        self.began = self.identified_at = self.decided_at = self.obtained_at = 0.0
        self.is_abandoned = False
        self.recorded: Future[AuditLogUnavailable | None] | None = None
        """Set when the request was handed over to aiohttp."""

    def settle(self, failure: AuditLogUnavailable | None) -> None:
        """Go on after the record is durable, or has failed."""
        if self.is_abandoned:
            return
        if self.recorded is None:
            try:
                if failure is None and self._path.conclude(self):
                    return
                self.connection.hand_over()
            except Exception:
                log.exception("request_failed")
                self.connection.force_close()
        if self.recorded is not None and not self.recorded.done():
            self.recorded.set_result(failure)

    def handed_over(self) -> None:
        self.recorded = get_running_loop().create_future()

    def abandon(self) -> None:
        self.is_abandoned = True
        outcome = self.outcome()
        outcome.close()
        self._path.request_log.finish(outcome)

    def outcome(self) -> RequestOutcome:
        """Return the state of the request as the handler has it."""
        call, principal = self.permit.call, self.permit.principal
        request = ApiRequest(
            authorization=(),
            x_auth_token=(),
            method=call.operation.method,
            target=call.target,
            has_body=False,
            read_body=_no_body,
            fresh=False,
            headers=(),
            request_id=self.request_id,
            client_address=self.client_address,
            deadline=self.began + self._path.deadline_s,
            principal=principal,
            call=call,
            is_admitted=True,
            identify_s=self.identified_at - self.began,
            identified_at=self.identified_at,
        )
        outcome = RequestOutcome(self.request_id, self.client_address, self.began)
        outcome.request = outcome.api_request = request
        return outcome

    def pending(self) -> PendingLink:
        return PendingLink(
            self.permit,
            self.version,
            self.decided_at,
            self.link,
            LinkSource.LOCAL,
            self.obtained_at,
        )


def _is_eligible(request: ListenerRequest) -> bool:
    """Return whether a parsed request says nothing but "this link, by this one token"."""
    names = [name.lower() for name in request.headers]
    return (
        request.method == "GET"
        and request.version == HttpVersion11
        and request.keep_alive
        and not request.body_exists
        and request.rejection is None
        and names.count("authorization") + names.count("x-auth-token") == 1
        and _HEADERS.issuperset(names)
    )


async def _no_body(_: int) -> bytes:
    return b""
