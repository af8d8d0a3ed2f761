"""Tickets belong to a person: where browsers are logged in, a ticket opens for its own only.

A ticket that a browser presents without the login that it needs is parked: it is spent for everyone
else, and waits for the login under a secret of this browser.
"""

from typing import Final

from gateway.domain.consoles.model import BrowserLogin, Ticket
from gateway.domain.errors import (
    FreshLoginRequired,
    LoginRequired,
    TicketOfAnotherPerson,
)

_PARKED: Final = "parked "
"""No text of another ticket has a blank."""


def parked_text(secret: str) -> str:
    """Return the text of the parked ticket of the browser with this cookie."""
    return _PARKED + secret


def is_parked(text: str) -> bool:
    return text.startswith(_PARKED)


class TicketBinding:
    def __init__(self, *, requires_login: bool) -> None:
        """`requires_login`: `console.browser_login` is `required`."""
        self._requires_login = requires_login

    def check(self, ticket: Ticket, login: BrowserLogin | None) -> None:
        """Raise TicketOfAnotherPerson, LoginRequired, FreshLoginRequired; the ticket is unspent."""
        if login is None:
            if self._requires_login or ticket.parked_fingerprint:
                raise LoginRequired("the ticket needs the login of its person")
            return
        if login.person.key != ticket.person.key:
            person = login.person
            raise TicketOfAnotherPerson(
                f"the browser is logged in as {person.issuer}:{person.subject}"
            )
        if not login.is_fresh:
            raise FreshLoginRequired("login.fresh_s")
