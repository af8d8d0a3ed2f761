"""The identity provider as `gateway login` uses it: discovery and token requests over HTTP."""

import base64
import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from gateway.commands.client_proxy import proxy_of
from gateway.commands.exit_codes import (
    NOT_AUTHENTICATED,
    REJECTED,
    UNREACHABLE,
    CommandFailed,
    usage_error,
)
from gateway.commands.gateway_address import is_loopback

_TIMEOUT_S: Final = 10.0
_BYTES_MAX: Final = 262_144
_DISCOVERY: Final = "/.well-known/openid-configuration"


class TokenError(CommandFailed):
    """The provider issued no token."""

    def __init__(self, code: int, message: str, error: str = "") -> None:
        super().__init__(code, message)
        self.error = error
        """The code of RFC 6749, 5.2; empty: none."""


class LoginEnded(TokenError):
    """The provider refused the code or the refresh token (`invalid_grant`)."""


class LoginProvider:
    """One issuer with its client. Nothing is sent to any host but the issuer's own endpoints."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        *,
        ca_file: Path | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """`ca_file` is trusted besides the authorities of the system; `timeout_s`: of a step."""
        self.issuer, self.client_id = issuer, client_id
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self._metadata: dict[str, Any] | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """Return the discovery document; raise CommandFailed."""
        if self._metadata is None:
            status, found = self._send(f"{self.issuer.rstrip('/')}{_DISCOVERY}")
            if status != 200 or found.get("issuer") != self.issuer:
                message = f"{self.issuer} has no usable discovery document (HTTP {status})."
                raise CommandFailed(UNREACHABLE, message)
            self._metadata = found
        return self._metadata

    def endpoint(self, name: str) -> str:
        address = self.metadata.get(name)
        if not isinstance(address, str) or not address.startswith(("https://", "http://")):
            raise CommandFailed(REJECTED, f"The discovery document of {self.issuer} has no {name}.")
        if self.issuer.startswith("https:") and not address.startswith("https:"):
            raise CommandFailed(REJECTED, f"The {name} of {self.issuer} is not https.")
        return address

    def request_tokens(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Raise LoginEnded, or TokenError without anything that was sent."""
        return self._request("token_endpoint", form, "access_token")

    def request_device_code(self, scopes: Sequence[str]) -> dict[str, Any]:
        """Return the response of RFC 8628, 3.2; raise TokenError."""
        form = {"scope": " ".join(scopes)}
        return self._request("device_authorization_endpoint", form, "device_code")

    def revoke(self, refresh_token: str) -> None:
        """Revoke a token (RFC 7009) if the issuer offers that; raise CommandFailed."""
        if "revocation_endpoint" not in self.metadata:
            return
        form = {"token": refresh_token, "token_type_hint": "refresh_token"}
        sent = {**form, "client_id": self.client_id}
        status, _ = self._send(self.endpoint("revocation_endpoint"), sent)
        if status != 200:
            message = f"{self.issuer} did not revoke the refresh token (HTTP {status})."
            raise CommandFailed(UNREACHABLE, message)

    def _request(self, endpoint: str, form: Mapping[str, str], member: str) -> dict[str, Any]:
        """Return a response that has `member`."""
        sent = {**form, "client_id": self.client_id}
        status, found = self._send(self.endpoint(endpoint), sent)
        if status == 200 and isinstance(found.get(member), str):
            return found
        error = found.get("error")
        named = error[:40] if isinstance(error, str) else ""
        suffix = f", {named}" if named else ""
        message = f"{self.issuer} issued no {member} (HTTP {status}{suffix})."
        if named == "invalid_grant":
            raise LoginEnded(NOT_AUTHENTICATED, message, named)
        code = UNREACHABLE if status >= 500 or status == 429 else NOT_AUTHENTICATED
        raise TokenError(code, message, named)

    def _send(self, url: str, form: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Send GET, or a form with POST. A redirect is not followed."""
        connection = self._connection(url)
        parts = urlsplit(url)
        target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        headers = {"Accept": "application/json"}
        try:
            if form is None:
                connection.request("GET", target, headers=headers)
            else:
                headers["Content-Type"] = "application/x-www-form-urlencoded"
                connection.request("POST", target, urlencode(form), headers)
            response = connection.getresponse()
            body = response.read(_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            message = f"The identity provider {self.issuer} is unreachable: {reason}."
            raise TokenError(UNREACHABLE, message) from None
        finally:
            connection.close()
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        return response.status, found if isinstance(found, dict) else {}

    def _connection(self, url: str) -> http.client.HTTPConnection:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise CommandFailed(REJECTED, f"{self.issuer} is not a URL.") from None
        if parts.scheme == "http" and is_loopback(host):
            return http.client.HTTPConnection(host, port or 80, timeout=self._timeout_s)
        if parts.scheme != "https" or not host:
            raise CommandFailed(REJECTED, f"{self.issuer} must be an https URL.")
        try:
            tls = ssl.create_default_context()
            if self._ca_file is not None:
                tls.load_verify_locations(self._ca_file)
        except OSError:
            raise usage_error("--ca-file cannot be used.") from None
        proxy = proxy_of(host)
        if proxy is None:
            return http.client.HTTPSConnection(
                host, port or 443, timeout=self._timeout_s, context=tls
            )
        tunnel = http.client.HTTPSConnection(
            proxy.host, proxy.port, timeout=self._timeout_s, context=tls
        )
        tunnel.set_tunnel(host, port or 443, headers=proxy.headers)
        return tunnel


def unverified_claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT that came from its issuer directly; {} if it is none."""
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, LookupError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def expiry_of(token: str, life_s: object) -> float:
    """Return when a token that was just issued expires, by the clock of this machine.

    That clock may differ from the issuer's, so the life of the token counts: `life_s` (from
    `expires_in`) or the span of its own times. Without any, it expires at once.
    """
    claims, now = unverified_claims(token), current_time()
    expiry, issued_at = _seconds(claims.get("exp")), _seconds(claims.get("iat"))
    life = _seconds(life_s)
    if life is None and expiry is not None and issued_at is not None:
        life = expiry - issued_at
    if expiry is None or (expiry <= now and life is not None):
        return now + (life or 0.0)
    return expiry if life is None else min(expiry, now + life)


def _seconds(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e12 else None


def current_time() -> float:
    return datetime.now(UTC).timestamp()
