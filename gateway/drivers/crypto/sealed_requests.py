"""Sealed access requests: write access to Redis or to a file is not enough to forge one."""

from gateway.domain.requests.model import AccessRequest, decode_request, encode_request
from gateway.drivers.crypto.sealer import Sealer


class SealedRequests:
    """Implements the port `RequestSeal`. A sealed request is bound to its ID."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, request: AccessRequest) -> bytes:
        return self._sealer.seal(encode_request(request), bound_to=_binding(request.id))

    def open(self, request_id: str, sealed: bytes) -> AccessRequest | None:
        text = self._sealer.open(sealed, bound_to=_binding(request_id))
        try:
            request = decode_request(text or b"")
        except ValueError:
            return None
        return request if request.id == request_id else None

    def is_current(self, sealed: bytes) -> bool:
        return self._sealer.is_current(sealed)


def _binding(request_id: str) -> bytes:
    return f"access request:{request_id}".encode()
