"""The simulated cloud in the test's process, and HTTP requests to it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from gateway.demo.cloud import iam
from gateway.demo.cloud.simulated_cloud import SimulatedCloudSettings
from tests.support.stack import Response, fetch

UNLIMITED = SimulatedCloudSettings(latency_s=(0.0, 0.0), rate=10_000.0, burst=10_000.0)
"""A cloud without latency and without a rate limit."""


async def fetch_async(
    base: str,
    target: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: str = "",
) -> Response:
    """Send a request on a new connection. Raises OSError or HTTPException without a response."""
    return await asyncio.to_thread(fetch, base, method, target, headers, body)


def login_body(**changes: Any) -> dict[str, Any]:
    """Build the body of POST /v3/auth/tokens; `changes`: user, domain, password, scope."""
    user = {
        "name": changes.get("user", iam.USER),
        "password": changes.get("password", iam.PASSWORD),
        "domain": {"name": changes.get("domain", iam.DOMAIN)},
    }
    scope = changes.get("scope", {"project": {"id": UNLIMITED.project}})
    return {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": scope,
        }
    }
