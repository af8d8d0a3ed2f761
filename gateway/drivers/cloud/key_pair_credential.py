"""Implements the port `ServiceCredential` with an AK/SK key pair."""

from urllib.parse import urlsplit

from gateway.config.accounts import KeyPairLogin
from gateway.domain.model import Headers, UpstreamRequest
from gateway.domain.upstream.signing import sign
from gateway.flow.clock import Clock


class KeyPairCredential:
    """Signs each request; a key pair does not expire and is not renewed."""

    def __init__(self, login: KeyPairLogin, endpoint: str, *, clock: Clock) -> None:
        self._login = login
        self._host = urlsplit(endpoint).netloc
        self._clock = clock

    async def log_in(self, *, deadline: float) -> str:
        del deadline
        return "requests are signed; IAM not called"

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        del deadline  # signing does not wait
        return sign(
            method=request.method,
            target=request.path,
            headers={"Host": self._host},
            body=request.body,
            access_key=self._login.access_key,
            secret_key=self._login.secret_key,
            at=self._clock.now(),
        )

    async def renew(self, refused: Headers, *, deadline: float) -> bool:
        del refused, deadline
        return False
