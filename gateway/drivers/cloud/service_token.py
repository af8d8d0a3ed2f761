"""The cloud's service token (X-Auth-Token): the login request, and parsing of the result."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from gateway.config.accounts import Agency, PasswordLogin
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


def login_request(login: PasswordLogin, scope: dict[str, Any]) -> UpstreamRequest:
    """Return the Keystone password login."""
    user = {
        "name": login.user,
        "password": login.password.reveal(),
        "domain": {"name": login.domain},
    }
    return _token_request({"methods": ["password"], "password": {"user": user}}, scope)


def agency_request(agency: Agency, project: str) -> UpstreamRequest:
    """Return the request for an agency's token; it is sent with a token of the user."""
    assumed = {"domain_name": agency.domain, "xrole_name": agency.name}
    identity = {"methods": ["assume_role"], "assume_role": assumed}
    return _token_request(identity, project_scope(project))


def project_scope(project: str) -> dict[str, Any]:
    return {"project": {"id": project}}


def domain_scope(domain: str) -> dict[str, Any]:
    return {"domain": {"name": domain}}


def _token_request(identity: dict[str, Any], scope: dict[str, Any]) -> UpstreamRequest:
    return UpstreamRequest(
        method="POST",
        # The service catalogue is larger than the rest of the response (upstream-api.md#3.1).
        path="/v3/auth/tokens?nocatalog=1",
        headers=(("Content-Type", "application/json;charset=utf8"),),
        body=orjson.dumps({"auth": {"identity": identity, "scope": scope}}),
        repeatable=False,
    )


def token_from_response(response: UpstreamResponse, *, requested_at: float) -> ServiceToken | None:
    """Return the token of a response to a login; None when token or lifetime is invalid.

    The lifetime runs from `requested_at`, on this machine's clock: IAM's clock may differ from it.
    """
    text = response.headers.get("x-subject-token", "")
    try:
        body = orjson.loads(response.body)["token"]
        expires_at = _parse_time(body["expires_at"])
        since = issued_at(body, response, requested_at)
    except (ValueError, TypeError, KeyError):
        return None
    # Before any encoding: the header may have bytes that are not UTF-8.
    if not TOKEN_PATTERN.fullmatch(text) or expires_at <= since:
        return None
    return _token(text, requested_at + expires_at - since)


def parse_shared_token(value: bytes) -> ServiceToken | None:
    """Return the token in its shared form; None when it is invalid."""
    try:
        fields: dict[str, Any] = orjson.loads(value)
        text, expires_at = fields["token"], float(fields["expires_at"])
        return _token(text, expires_at) if TOKEN_PATTERN.fullmatch(text) else None
    except (ValueError, TypeError, KeyError):
        return None


def _token(text: str, expires_at: float) -> ServiceToken:
    shared_form = orjson.dumps({"token": text, "expires_at": expires_at})
    return ServiceToken(Secret(text), expires_at, shared_form)


def issued_at(body: dict[str, Any], response: UpstreamResponse, default: float) -> float:
    if "issued_at" in body:
        return _parse_time(body["issued_at"])
    try:
        return parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        return default


def _parse_time(text: str) -> float:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("no time zone")
    return at.timestamp()
