"""The cookies of logins: one for each login in progress, one for the session, one for a ticket.

`__Host-` binds them to this host and to https. SameSite=Lax lets the first one come back from the
provider; SameSite=Strict keeps the session's cookie from every request that another site causes,
also from links. Over http, on loopback, `__Host-` and Secure are left out.
"""

from dataclasses import dataclass
from typing import Final

from gateway.domain.consoles.model import PARKED_LIFETIME_S
from gateway.domain.login.model import ATTEMPT_LIFETIME_S, ATTEMPTS_PER_BROWSER_MAX
from gateway.domain.model import Headers, Secret
from gateway.edge.cookies import cookie_names, find_cookie
from gateway.edge.listener.request import ListenerRequest

_SESSION: Final = "session"
_ATTEMPT: Final = "login-"
_PARKED: Final = "parked"


@dataclass(frozen=True, slots=True)
class LoginCookies:
    is_secure: bool
    """`listen.public_url` is https."""
    session_age_max_s: int
    """`login.absolute_s`."""
    name: str = "gateway"
    """The names begin with it. Cookies know no ports, so each listener has other names."""

    def session(self, request: ListenerRequest) -> str | None:
        return find_cookie(request, self._name(_SESSION))

    def set_session(self, value: Secret) -> Headers:
        return (self._header(_SESSION, value.reveal(), self.session_age_max_s, "Strict"),)

    def clear_session(self) -> Headers:
        return (self._header(_SESSION, "", 0, "Strict"),)

    def attempt(self, request: ListenerRequest, attempt_id: str) -> str | None:
        return find_cookie(request, self._name(_ATTEMPT + attempt_id))

    def set_attempt(self, request: ListenerRequest, attempt_id: str, value: Secret) -> Headers:
        """Return the headers that set the cookie, and remove those of the oldest logins.

        The IDs of logins begin with their time.
        """
        known = cookie_names(request, self._name(_ATTEMPT))
        surplus = known[: max(0, len(known) + 1 - ATTEMPTS_PER_BROWSER_MAX)]
        return (
            *(self._header(_ATTEMPT + one, "", 0, "Lax") for one in surplus if one.isalnum()),
            self._header(_ATTEMPT + attempt_id, value.reveal(), int(ATTEMPT_LIFETIME_S), "Lax"),
        )

    def clear_attempt(self, attempt_id: str) -> Headers:
        return (self._header(_ATTEMPT + attempt_id, "", 0, "Lax"),)

    def parked(self, request: ListenerRequest) -> str | None:
        return find_cookie(request, self._name(_PARKED))

    def set_parked(self, value: Secret) -> Headers:
        return (self._header(_PARKED, value.reveal(), int(PARKED_LIFETIME_S), "Strict"),)

    def clear_parked(self) -> Headers:
        return (self._header(_PARKED, "", 0, "Strict"),)

    def _name(self, name: str) -> str:
        return f"{'__Host-' if self.is_secure else ''}{self.name}-{name}"

    def _header(self, name: str, value: str, max_age_s: int, same_site: str) -> tuple[str, str]:
        secure = "; Secure" if self.is_secure else ""
        attributes = f"Path=/; Max-Age={max_age_s}; HttpOnly; SameSite={same_site}{secure}"
        return "Set-Cookie", f"{self._name(name)}={value}; {attributes}"
