"""The simulated API front: authentication and its error texts (upstream-api.md#2.2)."""

from collections import Counter
from datetime import UTC, datetime

from aiohttp import web

from gateway.demo.cloud import cloud_errors
from gateway.demo.cloud.clock import monotonic, now
from gateway.demo.cloud.cloud_errors import CloudError
from gateway.demo.cloud.iam import Iam
from gateway.demo.cloud.signature import SKEW_S_MAX, read_signed

_DAY_S = 86_400.0
_KEY_FAILURES_MAX = 5
_KEY_LOCKED_S = 300.0
REVOKED_FORMS = {
    "undecodable": cloud_errors.TOKEN_UNDECODABLE,
    "unlisted": CloudError(401, "PS.0401", "Unauthorized."),
    "html": CloudError(401, "", "401 Unauthorized", html=True),
}
"""Responses to a revoked token, by a short name. No source documents which one the front sends."""


class ApiFront:
    """Authenticates by a valid IAM token, or by a signature with an access key of IAM."""

    def __init__(self, iam: Iam) -> None:
        self._iam = iam
        self.revoked_form = "undecodable"
        """A key of REVOKED_FORMS."""
        self._failures: Counter[str] = Counter()
        self._locked_until: dict[str, float] = {}

    async def authenticate(self, request: web.Request) -> CloudError | None:
        project = request.match_info.get("project", "")
        if "X-Auth-Token" in request.headers:
            return self._check_token(request.headers["X-Auth-Token"], project)
        if request.headers.get("Authorization", "").startswith("SDK-HMAC-SHA256"):
            return self._check_signature(request, await request.read())
        return cloud_errors.TOKEN_MISSING

    def _check_token(self, text: str, project: str) -> CloudError | None:
        token = self._iam.tokens.get(text)
        if token is None or token.revoked:
            return REVOKED_FORMS[self.revoked_form]
        ended_s = now() - token.expires_at
        if ended_s > _DAY_S:
            return cloud_errors.TOKEN_OUTDATED
        if ended_s >= 0:
            at = datetime.fromtimestamp(token.expires_at, UTC)
            return cloud_errors.token_expired(f"{at:%Y-%m-%dT%H:%M:%S.%fZ}")
        # Assumed: no source documents the response to a token of another project.
        return None if token.project == project else cloud_errors.FORBIDDEN

    def _check_signature(self, request: web.Request, body: bytes) -> CloudError | None:
        headers = list(request.headers.items())
        signed = read_signed(request.method, request.raw_path, headers, body)
        if signed is None:
            return cloud_errors.SIGNATURE_WRONG
        key = signed.access_key
        secret = self._iam.access_keys.get(key)
        if secret is None:
            return cloud_errors.access_key_unknown(key)
        if self._locked_until.get(key, 0.0) > monotonic():
            return cloud_errors.ACCESS_KEY_LOCKED
        if signed.clock_skew_s(now()) > SKEW_S_MAX:
            return cloud_errors.CLOCK_SKEWED
        # Assumed: no source documents the response to a key without its security token.
        token = self._iam.security_tokens.get(key)
        if request.headers.get("X-Security-Token") == token and signed.is_signed_with(secret):
            del self._failures[key]
            # Assumed: the vendor's SDK always sends it, but no source documents what happens
            # without it.
            same = request.headers.get("X-Project-Id") == request.match_info.get("project", "")
            return None if same else cloud_errors.FORBIDDEN
        self._failures[key] += 1
        if self._failures[key] > _KEY_FAILURES_MAX:
            self._failures[key] = 0
            self._locked_until[key] = monotonic() + _KEY_LOCKED_S
        return cloud_errors.SIGNATURE_WRONG
