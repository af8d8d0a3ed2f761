"""`GET /.well-known/console-gateway`: where and how `gateway login` logs in, and the contact."""

from typing import Any
from urllib.parse import urlsplit

import orjson

from gateway.config.issuers import Issuer
from gateway.config.settings import Settings
from gateway.edge.docs.pages import DocsPage

_PATH = "/.well-known/console-gateway"


def cli_pages(config: Settings) -> dict[str, DocsPage]:
    """Return the document by its paths: bare, and below the path of `listen.public_url`."""
    document = {
        "issuers": [_issuer(one) for one in config.issuers if one.cli is not None],
        "contact": config.public_contact,
    }
    page = DocsPage("cli_logins", "application/json", orjson.dumps(document), "default-src 'none'")
    prefix = urlsplit(config.listen.public_url or "").path
    return dict.fromkeys((_PATH, f"{prefix}{_PATH}"), page)


def _issuer(issuer: Issuer) -> dict[str, Any]:
    cli = issuer.cli
    assert cli is not None
    return {
        "name": issuer.name,
        "issuer": issuer.issuer,
        "client_id": cli.client_id,
        "scopes": list(cli.scopes),
        "token": cli.token,
        "redirect_host": cli.redirect_host,
        "ports": list(cli.ports),
        "device": cli.device,
    }
