"""Tickets for viewing a recording: one view each, by the person that requested it.

A ticket is its own contents, encrypted: the store only remembers that it was used. In the address
it stands in the fragment, which browsers send to no server. An open view gives its page another
ticket, for a lost network or a reload.
"""

import base64
import binascii
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, Protocol

import msgspec

from gateway.domain.errors import ConsoleStoreUnavailable, StoreUnavailable, TicketRejected
from gateway.domain.model import Principal, Secret
from gateway.flow.caller_credentials import ReplayCache
from gateway.flow.clock import Clock

VIEW_TICKET_LIFETIME_S: Final = 60.0
_NEXT_TICKET_LIFETIME_S: Final = 8 * 3_600.0
_CHARS_MAX: Final = 32_768
_BINDING: Final = b"ticket to view a recording"
_RETRY_AFTER_S: Final = 1.0


class Sealing(Protocol):
    def seal(self, plain: bytes, *, bound_to: bytes) -> bytes: ...
    def open(self, sealed: bytes, *, bound_to: bytes) -> bytes | None:
        """Return the plain bytes; None if no configured key sealed them for this name."""


@dataclass(frozen=True, slots=True)
class ViewTicket:
    person: Principal
    recording: str
    with_keystrokes: bool
    expires_at: float
    """Seconds since the epoch."""
    client_address: str
    """The address that requested the ticket."""
    login: str = ""
    """`BrowserSession.lineage` of the browser that requested it; empty with a token."""


class ViewTickets:
    def __init__(self, sealing: Sealing, used: ReplayCache, clock: Clock) -> None:
        self._sealing = sealing
        self._used = used
        self._clock = clock

    def issue(
        self,
        person: Principal,
        recording: str,
        *,
        with_keystrokes: bool,
        client_address: str,
        login: str = "",
    ) -> Secret:
        """Return a ticket that is good once, for VIEW_TICKET_LIFETIME_S."""
        expires_at = self._clock.now() + VIEW_TICKET_LIFETIME_S
        return self._seal(
            ViewTicket(person, recording, with_keystrokes, expires_at, client_address, login)
        )

    def next(self, ticket: ViewTicket) -> Secret:
        """Return another ticket for an open view; each use decides on the right again."""
        expires_at = self._clock.now() + _NEXT_TICKET_LIFETIME_S
        return self._seal(replace(ticket, expires_at=expires_at))

    def read(self, text: Secret) -> ViewTicket:
        """Return the contents of a genuine ticket; raise TicketRejected."""
        return self._open(text.reveal())

    async def spend(self, text: Secret, ticket: ViewTicket) -> None:
        """Use a genuine ticket; raise TicketRejected, ConsoleStoreUnavailable."""
        left_s = ticket.expires_at - self._clock.now()
        if left_s <= 0:
            raise TicketRejected("expired", is_genuine=True)
        key = f"view {sha256(text.reveal().encode()).hexdigest()}"
        try:
            is_first = await self._used.use(key, ttl_s=left_s)
        except StoreUnavailable as error:
            raise ConsoleStoreUnavailable(str(error), retry_after_s=_RETRY_AFTER_S) from None
        if not is_first:
            raise TicketRejected("spent", is_genuine=True)

    def _seal(self, ticket: ViewTicket) -> Secret:
        sealed = self._sealing.seal(msgspec.json.encode(ticket), bound_to=_BINDING)
        return Secret(base64.urlsafe_b64encode(sealed).rstrip(b"=").decode())

    def _open(self, text: str) -> ViewTicket:
        garbage = TicketRejected("not a ticket of this gateway", is_genuine=False)
        if len(text) > _CHARS_MAX or not text.isascii():
            raise garbage
        try:
            padding = "=" * (-len(text) % 4)
            sealed = base64.b64decode(text + padding, altchars=b"-_", validate=True)
        except binascii.Error:
            raise garbage from None
        # One spelling each: another one of a spent ticket would count as a new ticket.
        if base64.urlsafe_b64encode(sealed).rstrip(b"=").decode() != text:
            raise garbage
        plain = self._sealing.open(sealed, bound_to=_BINDING)
        try:
            return msgspec.json.decode(plain or b"", type=ViewTicket)
        except msgspec.DecodeError:
            raise garbage from None
