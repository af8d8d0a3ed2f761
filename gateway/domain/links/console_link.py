"""Is what the cloud answered a console link that may be handed out? Pure."""

import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.domain.errors import UpstreamBroken
from gateway.domain.model import Secret, UpstreamResponse

_URL_CHARS_MAX = 8_192


@dataclass(frozen=True, slots=True)
class ConsoleAddresses:
    """Where console links of an account may lead."""

    hosts: tuple[str, ...]
    """Exact names, or `*.domain` for names below a domain; lower case."""

    def allows_host(self, host: str) -> bool:
        return any(
            host.endswith(allowed[1:]) and len(host) > len(allowed) - 1
            if allowed.startswith("*.")
            else host == allowed
            for allowed in self.hosts
        )


def console_url(answer: UpstreamResponse, allowed: ConsoleAddresses) -> Secret:
    """Return the URL in a 200 answer; raise UpstreamBroken when it is not one we may hand out.

    The SDK takes a 200 without a usable `url` for success (dossier 4.4), so nothing but a JSON
    object with a string `url` counts, and the URL must lead where consoles of this account are.
    """
    if answer.status != 200:
        raise UpstreamBroken(f"console: status {answer.status} where 200 was due")
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise UpstreamBroken("console: the body is no JSON") from None
    url = body.get("url") if isinstance(body, dict) else None
    if not isinstance(url, str):
        raise UpstreamBroken("console: no string `url` in the body")
    fault = _fault(url, allowed)
    if fault:
        raise UpstreamBroken(f"console: {fault}")
    return Secret(url)


def _fault(url: str, allowed: ConsoleAddresses) -> str:
    # Anything a browser might read in another way than we do is refused, not cleaned.
    if len(url) > _URL_CHARS_MAX or not re.fullmatch(r"[!-\[\]-~]+", url):
        return "the URL is too long, or has blanks, backslashes or non-ASCII characters"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "the URL cannot be parsed"
    if parts.scheme != "https":
        return "the URL is not https"
    if parts.username is not None or parts.password is not None:
        return "the URL has user information"
    if not re.fullmatch(r"[a-z0-9.-]+", host) or not allowed.allows_host(host):
        return "the URL's host is not an allowed console host"
    return ""
