"""Gateways in real processes whose consoles run through them, on the simulated cloud's screens."""

import json
from collections.abc import Mapping
from typing import Any

from tests.support.stack import CloudProcess, RunningGateway, fetch

PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
ADMIN_API: dict[str, Any] = {
    "audience": "gateway-admin",
    "groups": {"admins": "all", "readers": ["read"]},
}


def deliver_live(gateway: RunningGateway, *, public_url: str = "", **console: Any) -> None:
    """Change the config so that the account's consoles run through the gateway."""
    cloud, config = gateway.cloud, gateway.config
    (gateway.directory / "console-ca.pem").write_text(cloud.console_authority())
    config["listen"]["public_url"] = public_url or gateway.url
    config["console"] = {"private_networks": ["127.0.0.0/8"], "drain_s": 20, **console}
    config["accounts"][0] |= {
        "console": {"delivery": "proxied"},
        "ca_file": "console-ca.pem",
        "links": {"console_hosts": ["127.0.0.1"]},
    }
    gateway.write_config()


def admin_headers(
    cloud: CloudProcess, subject: str = "ada", group: str = "admins"
) -> dict[str, str]:
    """Return the headers of an operator of `ADMIN_API`."""
    token = admin_token(cloud, subject, group)
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def admin_token(cloud: CloudProcess, subject: str = "ada", group: str = "admins") -> str:
    return cloud.token(subject, groups=[group], claims={"aud": ADMIN_API["audience"]})


def admin_post(
    gateway: RunningGateway, path: str, headers: Mapping[str, str], body: object
) -> None:
    response = fetch(gateway.admin, "POST", path, headers, json.dumps(body))
    assert response.status in (200, 201, 202), response.body


def ticket(gateway: RunningGateway, token: str, server: str) -> str:
    """Request a one-time address; return its ticket."""
    response = gateway.console(token, server)
    assert response.status == 200, response.body
    address: str = response.json["url"]
    public_url = gateway.config["listen"]["public_url"]
    assert address.startswith(f"{public_url}/console#")
    return address.partition("#")[2]
