"""Stage identify: the credentials of a request -> Principal.

A credential is a JWT, or a signature with a key pair that this gateway issued for a JWT. Identify
verifies the JWT in both cases.
"""

from gateway.domain.identity.sdk_signature import IncomingRequest
from gateway.domain.model import SAFE_METHODS, Principal
from gateway.flow.caller_credentials import CallerCredentials
from gateway.flow.identify import Identify
from gateway.flow.request import ApiRequest


class Authenticate:
    def __init__(
        self, credentials: CallerCredentials, identify: Identify, *, body_bytes_max: int
    ) -> None:
        """`body_bytes_max`: the largest body of any operation; a signature covers the body."""
        self._credentials = credentials
        self._identify = identify
        self._body_bytes_max = body_bytes_max

    async def __call__(self, request: ApiRequest) -> Principal:
        """Return the caller.

        Raises NotAuthenticated, BadRequest, KeysUnavailable, RevocationsUnavailable and
        DeadlineExceeded.
        """
        caller_jwt = self._credentials.unsigned_jwt(
            request.authorization, request.x_auth_token, request.x_security_token
        )
        if caller_jwt is None:
            caller_jwt = await self._signed_jwt(request)
        request.principal = await self._identify.identify_by_deadline(caller_jwt, request.deadline)
        return request.principal

    async def _signed_jwt(self, request: ApiRequest) -> str:
        """Verify the signature and return the JWT of its key pair."""

        async def read_body() -> bytes:
            if request.has_body:
                request.body = await request.read_body(self._body_bytes_max)
            return request.body or b""

        incoming = IncomingRequest(request.method, request.target, tuple(request.headers))
        pair = await self._credentials.verify_signed(incoming, read_body)
        request.access_key = pair.access
        if request.method not in SAFE_METHODS:
            request.signed = incoming
        return pair.caller_jwt.reveal()
