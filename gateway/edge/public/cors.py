"""Cross-origin resource sharing (https://fetch.spec.whatwg.org/#http-cors-protocol).

Callers send a token in a header, which a browser adds to no request by itself. So responses never
allow credentials, and a page of another origin can do nothing that its script has no token for.
"""

from collections.abc import Collection
from typing import Final

from gateway.domain.model import Headers
from gateway.edge.listener.request import ListenerRequest

VARY_ORIGIN: Final = ("Vary", "Origin")
_REQUEST_HEADERS: Final = ", ".join(
    (
        *("Authorization", "X-Auth-Token", "Accept", "Cache-Control", "Content-Type"),
        *("If-None-Match", "If-Range", "Prefer", "Range"),
        *("X-Request-Id", "traceparent", "tracestate"),
    )
)
_RESPONSE_HEADERS: Final = ", ".join(
    (
        *("Accept-Ranges", "Allow", "Content-Disposition", "Content-Range", "ETag", "Link"),
        *("Preference-Applied", "RateLimit", "RateLimit-Policy", "Retry-After"),
        *("WWW-Authenticate", "X-Console-Expires-In", "X-Request-Id", "X-Subject-Token"),
    )
)


class Cors:
    def __init__(
        self, origins: Collection[str], methods: Collection[str], *, max_age_s: int
    ) -> None:
        self._origins = frozenset(origins)
        self._preflight: Headers = (
            ("Access-Control-Allow-Methods", ", ".join(sorted(methods))),
            ("Access-Control-Allow-Headers", _REQUEST_HEADERS),
            ("Access-Control-Max-Age", str(max_age_s)),
        )

    def response_headers(self, request: ListenerRequest) -> Headers:
        """Return the headers that let the page read the response; () for any other origin."""
        origin = request.headers.get("Origin")
        if origin not in self._origins:
            return ()
        return (
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", _RESPONSE_HEADERS),
        )

    def preflight_headers(self, request: ListenerRequest) -> Headers:
        """Return the headers of the response to an allowed preflight request; () for any other.

        The methods are the same for all paths: the page's script then gets the 404 or 405, whose
        text says more than a failed preflight.
        """
        is_preflight = (
            request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        )
        origin = request.headers.get("Origin")
        if not is_preflight or origin not in self._origins:
            return ()
        return (("Access-Control-Allow-Origin", origin), *self._preflight)
