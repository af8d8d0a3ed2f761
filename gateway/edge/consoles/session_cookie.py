"""The cookie of one live console.

`__Host-` would forbid a path, and a cookie for the whole origin would be sent with each session's
requests. SameSite=Strict keeps it from other sites; another port of the same host is stopped by the
check of `Origin` only.
"""

from dataclasses import dataclass
from typing import Final

from gateway.domain.model import Headers, Secret
from gateway.edge.cookies import cookie_names, find_cookie
from gateway.edge.listener.request import ListenerRequest

_COOKIES_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class SessionCookies:
    prefix: str
    """The path of `listen.public_url`, without a final slash."""
    is_secure: bool
    """`listen.public_url` is https. Over http, on loopback, browsers refuse `__Secure-`."""
    max_age_s: int
    """The longest life of a session."""

    def set_headers(self, session_id: str, value: Secret) -> Headers:
        """Return the headers that give the cookie to the page: one for each of its two paths."""
        text = f"{self._name(session_id)}={value.reveal()}"
        return tuple(self._header(path, text, self.max_age_s) for path in self._paths(session_id))

    def clear_headers(self, session_id: str) -> Headers:
        """Return the headers that remove the cookie."""
        text = f"{self._name(session_id)}="
        return tuple(self._header(path, text, 0) for path in self._paths(session_id))

    def find(self, request: ListenerRequest, session_id: str) -> str | None:
        """Return the value of a session's cookie; None without exactly one value."""
        return find_cookie(request, self._name(session_id))

    def session_ids(self, request: ListenerRequest) -> list[str]:
        """Return the session IDs of the cookies in a request, up to a bound."""
        return cookie_names(request, self._name(""))[:_COOKIES_MAX]

    def _name(self, session_id: str) -> str:
        return f"{'__Secure-' if self.is_secure else ''}console-{session_id}"

    def _paths(self, session_id: str) -> tuple[str, str]:
        return f"{self.prefix}/console/s/{session_id}/", f"{self.prefix}/console/sessions"

    def _header(self, path: str, text: str, max_age_s: int) -> tuple[str, str]:
        secure = "; Secure" if self.is_secure else ""
        attributes = f"Path={path}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"
        return "Set-Cookie", f"{text}; {attributes}"
