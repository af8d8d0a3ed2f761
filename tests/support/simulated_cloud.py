"""The simulated cloud inside a test's own process, and real HTTP to it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from gateway.demo.cloud import iam
from gateway.demo.cloud.simulated_cloud import SimulatedCloudSettings
from tests.support.stack import Response, fetch

AT_ONCE = SimulatedCloudSettings(latency_s=(0.0, 0.0), rate=10_000.0, burst=10_000.0)
"""A cloud that neither dawdles nor throttles."""


async def fetch_async(
    base: str,
    target: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: str = "",
) -> Response:
    """Ask over a connection of its own; raises OSError or HTTPException where none is answered."""
    return await asyncio.to_thread(fetch, base, method, target, headers, body)


def login_body(**changes: Any) -> dict[str, Any]:
    """Build the body of POST /v3/auth/tokens; `changes`: user, domain, password, scope."""
    user = {
        "name": changes.get("user", iam.USER),
        "password": changes.get("password", iam.PASSWORD),
        "domain": {"name": changes.get("domain", iam.DOMAIN)},
    }
    scope = changes.get("scope", {"project": {"id": AT_ONCE.project}})
    return {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": scope,
        }
    }
