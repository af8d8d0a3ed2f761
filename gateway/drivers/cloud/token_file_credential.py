"""Implements the port `ServiceCredential` with a token file that an external agent renews."""

import asyncio
import logging
from pathlib import Path

from gateway.config.accounts import TokenFileLogin
from gateway.domain.errors import ServiceLoginFailed
from gateway.domain.model import Headers, Secret, UpstreamRequest
from gateway.drivers.cloud.credential_check import CredentialCheck
from gateway.drivers.cloud.login_gate import fingerprint
from gateway.drivers.cloud.service_token import TOKEN_PATTERN
from gateway.drivers.files.writers import is_open_for_writing
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.login")

_READ_EVERY_S = 1.0
_RETRY_S = 5.0


class TokenFileCredential:
    """Reads the token file at most once a second; the last valid token serves meanwhile."""

    def __init__(
        self,
        account: str,
        login: TokenFileLogin,
        *,
        check: CredentialCheck,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._account = account
        self._file = login.token_file
        self._check = check
        self._clock = clock
        self._telemetry = telemetry
        self._token: Secret | None = None
        self._read_at = float("-inf")
        self._reported_at = float("-inf")

    async def log_in(self, *, deadline: float) -> str:
        del deadline
        await self._current_token()
        return f"token found in {self._file}; IAM not called"

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        del request
        token = await self._current_token()
        sent = _headers(token)
        if self._check.is_doubted(credential := fingerprint(token.reveal())):

            async def authenticate(_: UpstreamRequest) -> Headers:
                return sent

            await self._check.require(credential, authenticate, deadline=deadline)
        return sent

    async def renew(self, refused: Headers, *, is_certain: bool, deadline: float) -> bool:
        del is_certain, deadline
        await self._read()
        return self._token is not None and refused != _headers(self._token)

    @property
    def is_ready(self) -> bool:
        # Reading the file again takes less time than a slot lasts.
        token = self._token
        return token is not None and not self._check.is_doubted(fingerprint(token.reveal()))

    def report(self, sent: Headers, *, accepted: bool) -> None:
        if not accepted:
            self._check.report_rejection(fingerprint(dict(sent)["X-Auth-Token"]))

    async def _current_token(self) -> Secret:
        if self._clock.monotonic() - self._read_at >= _READ_EVERY_S:
            await self._read()
        if self._token is None:
            raise ServiceLoginFailed(f"no valid token in {self._file}", retry_after_s=_RETRY_S)
        return self._token

    async def _read(self) -> None:
        self._read_at = self._clock.monotonic()
        text, is_written = await asyncio.to_thread(_read_text, self._file)
        is_new = self._token is None or text != self._token.reveal()
        if TOKEN_PATTERN.fullmatch(text) and not (is_new and is_written):
            self._token = Secret(text)
        else:  # partly written or missing: the last valid token may still be accepted
            self._report_invalid()

    def _report_invalid(self) -> None:
        now = self._clock.monotonic()
        if now - self._reported_at < _READ_EVERY_S:
            return  # each request that the cloud rejects reads the file
        self._reported_at = now
        self._telemetry.service_login(self._account, "unavailable")
        extra = {"account": self._account, "file": str(self._file)}
        log.warning("token_file_invalid", extra=extra)


def _read_text(file: Path) -> tuple[str, bool]:
    """Return the text, and whether the file is being written."""
    try:
        text = file.read_text(encoding="utf-8-sig").strip()  # some editors write a BOM
    except (OSError, UnicodeDecodeError):
        return "", False
    return text, is_open_for_writing(file)


def _headers(token: Secret) -> Headers:
    return (("X-Auth-Token", token.reveal()),)
