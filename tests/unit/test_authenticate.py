"""Stage identify: the JWT of a request, sent as it is or behind a signature."""

from typing import Any

import pytest

from gateway.domain.identity.sdk_signature import IncomingRequest
from gateway.domain.model import Secret
from gateway.flow.authenticate import Authenticate
from gateway.flow.caller_credentials import KeyPair, ReadBody
from tests.support.stages import ANN, FakeIdentify, a_request

PAIR = KeyPair("CGWaccess", Secret("s"), Secret("t"), Secret("jwt-of-pair"), 9e9)


class FakeCredentials:
    def __init__(self, plain: str | None) -> None:
        self.plain = plain
        self.bodies: list[bytes] = []

    def unsigned_jwt(self, *_: object) -> str | None:
        return self.plain

    async def verify_signed(self, incoming: IncomingRequest, read_body: ReadBody) -> KeyPair:
        self.bodies.append(await read_body())
        return PAIR


def a_stage(plain: str | None) -> tuple[Authenticate, Any, Any]:
    credentials: Any = FakeCredentials(plain)
    identify: Any = FakeIdentify()
    return Authenticate(credentials, identify, body_bytes_max=100), credentials, identify


async def test_plain_jwt_identifies_without_reading_the_body() -> None:
    authenticate, credentials, identify = a_stage("jwt")
    request = a_request("PUT", body=b"body")
    assert await authenticate(request) is ANN
    assert request.principal is ANN
    assert (identify.tokens, credentials.bodies, request.body) == (["jwt"], [], None)


@pytest.mark.parametrize(("method", "is_write"), [("GET", False), ("PUT", True)])
async def test_signature_identifies_by_the_jwt_of_its_pair(method: str, *, is_write: bool) -> None:
    authenticate, credentials, identify = a_stage(None)
    request = a_request(method, body=b"body")
    assert await authenticate(request) is ANN
    assert (identify.tokens, credentials.bodies) == (["jwt-of-pair"], [b"body"])
    assert (request.body, request.access_key) == (b"body", "CGWaccess")
    assert (request.signed is not None) is is_write
