"""The route of outgoing requests: proxy, trusted authorities and client certificate."""

import ssl
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from gateway.config.egress import DIRECT, EgressCertificate, EgressProxy, EgressSettings
from gateway.config.files import load_certificate


class EgressRoute:
    """How the servers of one account or one issuer are reached."""

    def __init__(
        self,
        settings: EgressSettings,
        *,
        proxy: EgressProxy | None,
        ca_file: Path | None,
        certificate: EgressCertificate | None,
    ) -> None:
        """`proxy`, `ca_file` and `certificate` are those of the account or the issuer."""
        self._proxy = settings.proxy if proxy is None else proxy
        # A proxy of its own is used for every host.
        self._no_proxy = settings.no_proxy if proxy is None else ()
        self._context = None
        if ca_file is not None or certificate is not None:
            self._context = ssl.create_default_context(cafile=ca_file)
            if certificate is not None:
                load_certificate(self._context, certificate.certificate_file, certificate.key_file)

    def options(self, url: str) -> dict[str, Any]:
        """Return aiohttp's options for a request to `url`."""
        options: dict[str, Any] = {} if self._context is None else {"ssl": self._context}
        proxy = self._proxy
        if proxy is None or proxy.url == DIRECT or is_direct(url, self._no_proxy):
            return options
        options["proxy"] = proxy.url
        if proxy.username is not None and proxy.password is not None:
            options["proxy_auth"] = aiohttp.BasicAuth(
                proxy.username, proxy.password.reveal(), encoding="utf-8"
            )
        return options


def is_direct(url: str, no_proxy: Sequence[str]) -> bool:
    """Return whether `no_proxy` names the host of `url`."""
    host = (urlsplit(url).hostname or "").lower().rstrip(".")
    return any(_matches(host, entry) for entry in no_proxy)


def _matches(host: str, entry: str) -> bool:
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry)
    except ValueError:
        domain = entry.removeprefix("*")
        return host.endswith(domain) if domain.startswith(".") else host == domain
