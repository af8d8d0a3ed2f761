"""The hit path: a cached link for a request whose exact bytes are in the request memory.

It takes the stages of `LinkPipeline.issue`, in the same order, without a task, a parser or a
response object. A request that is not certain to be a hit is left to aiohttp before any stage has
had an effect. From the record on there is no way back. If anything differs from the common case
then, aiohttp parses the request after all, and `Gateway.resume` serves the rest of it.
"""

import logging
from asyncio import Future, get_running_loop
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson
from aiohttp import HttpVersion11

from gateway.domain.audit.record import PreparedRecord
from gateway.domain.errors import AuditLogUnavailable, CallerLimited
from gateway.domain.identity.credentials import find_jwt
from gateway.domain.model import ConsoleLink, LinkSource
from gateway.domain.policy.policy import Permit
from gateway.edge.listener.client_address import TrustedProxies, client_address
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.listener.server import END_OF_HEAD, ListenerConnection
from gateway.edge.public.outcome import RequestOutcome
from gateway.edge.public.prepared_response import ResponseEncoder
from gateway.edge.public.request_log import RequestLog
from gateway.edge.public.request_memory import PreparedHit, RememberedRequest, RequestMemory
from gateway.flow.audit_log import BatchAuditLog, RecordOutcome
from gateway.flow.console_links import CachedLinkEntry
from gateway.flow.decide import DecisionVersion
from gateway.flow.identify import CachedToken
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
        peer = connection.peer
        from_proxy = self._has_proxies and peer in self._trusted_proxies
        key = self.memory.key(data, from_proxy=from_proxy)
        remembered = self.memory.find(key)
        if remembered is None:
            connection.note_exact(key)
            return None

        monotonic = self._clock.monotonic
        began = monotonic()
        token = self._identify.cached_token(remembered.token_digest)
        if token is None:
            self.memory.forget(key)
            return None
        identified_at = monotonic()

        principal, version = token.principal, self._decide.version
        permit = self._decide.preview(version.policy, principal, remembered.call)
        if permit is None:
            return None
        decided_at = monotonic()

        cached = self._links.settled_link(permit)
        if cached is None or not self._audit_log.takes_bodies:
            return None
        try:
            self._limits.admit(principal.key)
        except CallerLimited:
            return None  # not counted yet
        obtained_at = monotonic()

        self.begun_count += 1
        hops, proxies = remembered.forwarded_for, self._trusted_proxies
        client = client_address(peer, hops, proxies) if from_proxy else peer
        prepared = remembered.prepared
        if prepared is None or not prepared.fits(permit, cached.link, client):
            prepared = self._prepare(permit, cached.link, client)
            remembered.keep(prepared)
        prepared.counts.begin()
        ascii_id = self._new_id().encode("ascii")
        hit = BegunHit(self, connection, data, token, version, cached, prepared, ascii_id)
        hit.began, hit.identified_at = began, identified_at
        hit.decided_at, hit.obtained_at = decided_at, obtained_at
        at = self._clock.now()
        body = prepared.record.body(at, ascii_id)
        self._audit_log.submit(_EVENT, at, body, hit.settle)
        return hit

    def _prepare(self, permit: Permit, link: ConsoleLink, client: str) -> PreparedHit:
        principal, call = permit.principal, permit.call
        record = self._request_audit.allowed(_EVENT, permit, _RecordedHit(client))
        record.source, record.link_fingerprint = _LOCAL, link.fingerprint
        counts = self._telemetry.hit_counts(
            principal.issuer,
            call.operation.permission,
            call.operation.name,
            self._links.account_of(permit),
            principal.groups,
        )
        line = self.request_log.prepare_hit(client, principal, call, link)
        body = orjson.dumps({"url": link.url.reveal()})
        return PreparedHit(permit, link, client, PreparedRecord(record), line, body, counts)

    def conclude(self, hit: "BegunHit", outcome: RecordOutcome) -> bool:
        """Respond to a recorded hit if nothing has changed meanwhile; False: nothing was done."""
        token, version, cached, prepared = hit.token, hit.version, hit.cached, hit.prepared
        now, recorded_at = self._clock.now(), self._clock.monotonic()
        if not version.since <= now < version.until or now >= token.valid_until:
            return False
        # Hits of one commit are concluded directly one after another: only time passes in between.
        if outcome.checked is not version:
            if not self._decide.is_current(version):
                return False
            outcome.checked = version
        if recorded_at > cached.usable_until:
            return False
        link = cached.link
        hit.connection.finish(
            self._encoder.encode_link(
                prepared.body,
                hit.ascii_id,
                link.good_until - recorded_at,
                now,
                self._limits.remaining_at(recorded_at, token.principal.key),
            )
        )
        ended = self._clock.monotonic()
        prepared.counts.serve(
            hit.began, hit.identified_at, hit.decided_at, hit.obtained_at, recorded_at, ended
        )
        self.request_log.write_hit(now, hit.ascii_id, ended - hit.began, prepared.line)
        return True


@dataclass(slots=True)
class _RecordedHit:
    """The request of a record that is prepared for many."""

    client_address: str
    request_id = ""
    trace = None
    access_key = ""


class BegunHit:
    """A hit whose record is being written."""

    __slots__ = (
        *("_path", "connection", "data", "token", "version", "cached", "prepared", "ascii_id"),
        *("began", "identified_at", "decided_at", "obtained_at", "is_abandoned", "recorded"),
    )

    def __init__(  # noqa: PLR0913 - what the stages found
        self,
        path: HitPath,
        connection: ListenerConnection,
        data: bytes,
        token: CachedToken,
        version: DecisionVersion,
        cached: CachedLinkEntry,
        prepared: PreparedHit,
        ascii_id: bytes,
    ) -> None:
        self._path = path
        self.connection = connection
        self.data = data
        self.token = token
        self.version = version
        self.cached = cached
        self.prepared = prepared
        self.ascii_id = ascii_id
        """The request ID."""
        self.began = self.identified_at = self.decided_at = self.obtained_at = 0.0
        self.is_abandoned = False
        self.recorded: Future[AuditLogUnavailable | None] | None = None
        """Set when the request was handed over to aiohttp."""

    def settle(self, outcome: RecordOutcome) -> None:
        """Go on after the record is durable, or has failed."""
        failure = outcome.failure
        if self.is_abandoned:
            return
        if self.recorded is None:
            try:
                if failure is None and self._path.conclude(self, outcome):
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
        permit, client = self.prepared.permit, self.prepared.client_address
        call, principal, request_id = permit.call, permit.principal, self.ascii_id.decode()
        request = ApiRequest(
            authorization=(),
            x_auth_token=(),
            method=call.operation.method,
            target=call.target,
            has_body=False,
            read_body=_no_body,
            fresh=False,
            headers=(),
            request_id=request_id,
            client_address=client,
            deadline=self.began + self._path.deadline_s,
            principal=principal,
            call=call,
            is_admitted=True,
            identify_s=self.identified_at - self.began,
            identified_at=self.identified_at,
        )
        outcome = RequestOutcome(request_id, client, self.began)
        outcome.request = outcome.api_request = request
        return outcome

    def pending(self) -> PendingLink:
        return PendingLink(
            self.prepared.permit,
            self.version,
            self.decided_at,
            self.prepared.link,
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
