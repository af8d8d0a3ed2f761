"""The pipeline of console links whose account delivers live consoles: a ticket instead of a link.

    decide -> admit -> issue -> record -> respond

It calls no cloud. A caller of the API sees the same response as with the cloud's own URL.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.domain.audit.record import ConsoleSessionFields
from gateway.domain.consoles.model import (
    TICKET_LIFETIME_S,
    TICKETS_PER_PERSON_MAX,
    ConsoleTarget,
    Ticket,
)
from gateway.domain.consoles.ticket_text import RANDOM_BYTES, TicketTexts, ticket_hash
from gateway.domain.errors import DeadlineExceeded, StoreUnavailable
from gateway.domain.model import (
    ConsoleLink,
    LinkSource,
    Principal,
    ProjectId,
    ResolvedCall,
    Secret,
    StageTimes,
)
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.console_links import Fingerprints, IssuedLink
from gateway.flow.consoles.console_rights import ConsolePermit, ConsoleRights
from gateway.flow.consoles.fallback_console_store import FallbackConsoleStore
from gateway.flow.request import ApiRequest
from gateway.flow.request_audit import RequestAudit
from gateway.flow.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class TicketAddresses:
    """Makes the address that a caller opens in a browser."""

    texts: TicketTexts
    public_url: str
    """`listen.public_url`, without a slash at its end."""
    random: Callable[[int], bytes]
    """Returns unpredictable bytes."""

    def new_ticket(self, *, is_local: bool = False) -> tuple[Secret, bytes]:
        """Return a ticket's text, and its hash; `is_local`: only this process has the ticket."""
        text = self.texts.make(self.random(RANDOM_BYTES), is_local=is_local)
        return text, ticket_hash(text.reveal(), is_local=is_local)

    def address(self, ticket: Secret) -> Secret:
        # In the fragment, which browsers send to no server.
        return Secret(f"{self.public_url}/console#{ticket.reveal()}")


class TicketPipeline:
    def __init__(  # noqa: PLR0913 - the stages
        self,
        *,
        accounts: Mapping[ProjectId, str],
        rights: ConsoleRights,
        limits: CallerLimits,
        store: FallbackConsoleStore,
        addresses: TicketAddresses,
        fingerprints: Fingerprints,
        request_audit: RequestAudit,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """`accounts`: the account by project, of those that deliver live consoles."""
        self._accounts = accounts
        self._rights = rights
        self._limits = limits
        self._store = store
        self._addresses = addresses
        self._fingerprints = fingerprints
        self._request_audit = request_audit
        self._clock = clock
        self._telemetry = telemetry

    def serves(self, project: ProjectId) -> bool:
        """Return whether the project's account delivers live consoles."""
        return project in self._accounts

    async def issue(
        self, principal: Principal, call: ResolvedCall, request: ApiRequest
    ) -> IssuedLink:
        """Return a one-time address, recorded."""
        (server,) = call.servers
        target = ConsoleTarget(self._accounts[call.project], call.project, server)
        version = self._rights.version
        permit = self._rights.greatest(principal, target)
        decided = self._clock.monotonic()
        request.enter("admit")
        self._limits.admit_once(request)
        request.enter("obtain")
        ticket = Ticket(
            principal,
            target,
            permit.mode,
            self._clock.now(),
            request.request_id,
            request.client_address,
        )
        text = await self._store_ticket(ticket)
        obtained = self._clock.monotonic()
        request.enter("record")
        await self._record(permit, text, request)
        if self._rights.version != version:
            self._rights.recheck(principal, target, permit.mode)
        recorded = self._clock.monotonic()
        left_s = TICKET_LIFETIME_S - (recorded - decided)
        if left_s <= 0:
            raise DeadlineExceeded("the ticket expired while its record was written")
        times = StageTimes(
            request.identify_s,
            decided - request.identified_at,
            obtained - decided,
            recorded - obtained,
        )
        account = target.account
        self._telemetry.link_served(account, principal.groups, LinkSource.TICKET, times)
        return self._link(text, left_s)

    async def _store_ticket(self, ticket: Ticket) -> Secret:
        text, hashed = self._addresses.new_ticket()
        try:
            await self._store.add_ticket(
                hashed,
                ticket,
                per_person_max=TICKETS_PER_PERSON_MAX,
                lifetime_s=TICKET_LIFETIME_S,
            )
        except StoreUnavailable:
            # Another text: the store may have the first one, and a ticket is good once.
            text, hashed = self._addresses.new_ticket(is_local=True)
            await self._store.local.add_ticket(
                hashed,
                ticket,
                per_person_max=TICKETS_PER_PERSON_MAX,
                lifetime_s=TICKET_LIFETIME_S,
            )
        return text

    async def _record(self, permit: ConsolePermit, text: Secret, request: ApiRequest) -> None:
        record = self._request_audit.allowed("console_ticket_issued", permit.permit, request)
        record.source = LinkSource.TICKET.value
        record.link_fingerprint = self._fingerprints.of(text)
        record.extra = ConsoleSessionFields(mode=permit.mode.value)
        await self._request_audit.record(record, request.deadline)

    def _link(self, text: Secret, left_s: float) -> IssuedLink:
        good_until = self._clock.monotonic() + left_s
        link = ConsoleLink(self._addresses.address(text), self._fingerprints.of(text), good_until)
        return IssuedLink(link, left_s, LinkSource.TICKET)
