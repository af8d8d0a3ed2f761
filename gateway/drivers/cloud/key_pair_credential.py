"""Implements the port `ServiceCredential` with an AK/SK key pair."""

from gateway.config.accounts import KeyPairLogin
from gateway.domain.model import Headers, UpstreamRequest
from gateway.drivers.cloud.credential_check import CredentialCheck
from gateway.drivers.cloud.login_gate import fingerprint
from gateway.drivers.cloud.request_signer import RequestSigner
from gateway.flow.clock import Clock


class KeyPairCredential:
    """Signs each request for one project; a key pair does not expire and is not renewed."""

    def __init__(
        self,
        project: str,
        login: KeyPairLogin,
        endpoint: str,
        *,
        check: CredentialCheck,
        clock: Clock,
    ) -> None:
        """`check` is shared by the account's projects: the cloud locks the key, not a project."""
        self._login = login
        self._check = check
        self._signer = RequestSigner(project, endpoint, clock)
        token = login.security_token
        self._fingerprint = fingerprint(
            endpoint,
            login.access_key.reveal(),
            login.secret_key.reveal(),
            *(() if token is None else (token.reveal(),)),
        )

    async def log_in(self, *, deadline: float) -> str:
        if await self._check.require(self._fingerprint, self._sign, deadline=deadline):
            return "the cloud accepts the signature; IAM not called"
        return "another process has found that the cloud accepts the signature; IAM not called"

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        await self._check.require(self._fingerprint, self._sign, deadline=deadline)
        return await self._sign(request)

    async def renew(self, refused: Headers, *, is_certain: bool, deadline: float) -> bool:
        del refused, is_certain, deadline
        return False

    @property
    def is_ready(self) -> bool:
        return self._check.is_accepted(self._fingerprint)

    def report(self, sent: Headers, *, accepted: bool) -> None:
        del sent
        if not accepted:
            self._check.report_rejection(self._fingerprint)

    async def _sign(self, request: UpstreamRequest) -> Headers:
        login = self._login
        return self._signer.headers(
            request, login.access_key, login.secret_key, login.security_token
        )
