"""The cloud's service token (X-Auth-Token): the login request, and parsing of the result."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from gateway.config.accounts import PasswordLogin
from gateway.domain.model import Secret, UpstreamRequest, UpstreamResponse

TOKEN_PATTERN = re.compile(r"[!-~]{16,65536}")
"""Tokens have up to tens of kilobytes (upstream-api.md#3.1)."""
_MARGIN_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class ServiceToken:
    secret: Secret
    expires_at: float
    """Seconds since the epoch."""
    shared_form: bytes = field(repr=False)
    """The JSON that the replicas share; `parse_shared_token` reads it."""


def expiry_margin_s(lifetime_s: float) -> float:
    """Return the remaining lifetime below which a token is not sent: it could expire in transit."""
    return min(_MARGIN_S_MAX, lifetime_s / 10)


def login_request(login: PasswordLogin, project: str) -> UpstreamRequest:
    """Return the Keystone password login, scoped to one project."""
    user = {
        "name": login.user,
        "password": login.password.reveal(),
        "domain": {"name": login.domain},
    }
    body = {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"id": project}},
        }
    }
    return UpstreamRequest(
        method="POST",
        # The service catalogue is larger than the rest of the response (upstream-api.md#3.1).
        path="/v3/auth/tokens?nocatalog=1",
        headers=(("Content-Type", "application/json;charset=utf8"),),
        body=orjson.dumps(body),
        repeatable=False,
    )


def token_from_response(response: UpstreamResponse) -> ServiceToken | None:
    """Return the token of a 201 response; None for another status or an invalid token."""
    if response.status != 201:
        return None
    text = response.headers.get("x-subject-token", "")
    try:
        expires = orjson.loads(response.body)["token"]["expires_at"]
    except (ValueError, TypeError, KeyError):
        return None
    return parse_shared_token(orjson.dumps({"token": text, "expires_at": expires}))


def parse_shared_token(value: bytes) -> ServiceToken | None:
    """Return the token in its shared form; None when it is invalid."""
    try:
        fields: dict[str, Any] = orjson.loads(value)
        text, expires = fields["token"], fields["expires_at"]
        at = datetime.fromisoformat(expires)
    except (ValueError, TypeError, KeyError):
        return None
    if at.tzinfo is None or not TOKEN_PATTERN.fullmatch(text):
        return None
    return ServiceToken(Secret(text), at.timestamp(), value)
