"""The HTTP proxy of the client commands, from the usual variables: HTTPS_PROXY and NO_PROXY."""

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from gateway.commands.exit_codes import usage_error


@dataclass(frozen=True, slots=True)
class ClientProxy:
    host: str
    port: int
    headers: dict[str, str] = field(repr=False)
    """Headers of CONNECT: the proxy's credentials."""


def proxy_of(host: str) -> ClientProxy | None:
    """Return the proxy for an https request to `host`; None: a direct connection."""
    found = getproxies()
    url = found.get("https") or found.get("all")
    if not url or proxy_bypass(host):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or 3128
    except ValueError:
        raise usage_error("HTTPS_PROXY is not a URL.") from None
    is_plain = parts.path in ("", "/") and not parts.query and not parts.fragment
    if parts.scheme != "http" or not parts.hostname or not is_plain:
        raise usage_error("HTTPS_PROXY must be http://HOST:PORT.")
    headers = {}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return ClientProxy(parts.hostname, port, headers)
