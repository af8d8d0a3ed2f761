"""Implements the port `ServiceCredential` with an AK/SK key pair."""

from urllib.parse import urlsplit

from gateway.config.accounts import KeyPairLogin
from gateway.domain.model import Headers, UpstreamRequest
from gateway.domain.upstream.signing import sign
from gateway.drivers.cloud.credential_check import CredentialCheck
from gateway.drivers.cloud.login_gate import fingerprint
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
        self._project = project
        self._login = login
        self._host = urlsplit(endpoint).netloc
        self._check = check
        self._clock = clock
        token = login.security_token
        self._security_token = {} if token is None else {"X-Security-Token": token.reveal()}
        self._fingerprint = fingerprint(
            endpoint,
            login.access_key.reveal(),
            login.secret_key.reveal(),
            *self._security_token.values(),
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

    def report(self, sent: Headers, *, accepted: bool) -> None:
        del sent
        if not accepted:
            self._check.report_rejection(self._fingerprint)

    async def _sign(self, request: UpstreamRequest) -> Headers:
        return sign(
            method=request.method,
            target=request.path,
            # As the vendor's SDK does (upstream-api.md#4.1).
            headers={
                "Host": self._host,
                "X-Project-Id": self._project,
                **self._security_token,
            },
            body=request.body,
            access_key=self._login.access_key,
            secret_key=self._login.secret_key,
            at=self._clock.now(),
        )
