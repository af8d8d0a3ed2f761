"""Stage resolve: the call of a request, with and without its body."""

import pytest

from gateway.config.operations import built_in_operations
from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.errors import OperationUnknown, ServerIdsRequired
from gateway.flow.request import ApiRequest
from gateway.flow.resolve import Resolve
from tests.support.stages import SERVER, a_request

POWER = "/v1/p/physicalservers/power-state"


@pytest.fixture
def resolve() -> Resolve:
    return Resolve(Catalogue(built_in_operations()))


def a_power_request(body: bytes = b'{"server_id_set": ["%s"]}' % SERVER.encode()) -> ApiRequest:
    return a_request("PUT", POWER, body)


def test_call_is_stored_in_the_request(resolve: Resolve) -> None:
    request = a_request(target=f"/v1/p/physicalservers/{SERVER}")
    call = resolve(request)
    assert request.call is call
    assert call.servers == (SERVER,)


async def test_body_adds_its_servers(resolve: Resolve) -> None:
    request = a_power_request()
    call = await resolve.body(request, resolve(request))
    assert request.call is call
    assert call.servers == (SERVER,)


async def test_body_without_servers_is_rejected(resolve: Resolve) -> None:
    request = a_power_request(b'{"server_id_set": []}')
    with pytest.raises(ServerIdsRequired):
        await resolve.body(request, resolve(request))


async def test_body_read_for_the_signature_is_not_read_again(resolve: Resolve) -> None:
    request = a_power_request(b"not read")
    request.body = b'{"server_id_set": ["%s"]}' % SERVER.encode()
    assert (await resolve.body(request, resolve(request))).servers == (SERVER,)


def test_audit_of_an_unknown_operation_has_no_call(resolve: Resolve) -> None:
    request = a_request(target="/v1/p/nothing")
    resolve.for_audit(request)
    assert request.call is None
    with pytest.raises(OperationUnknown):
        resolve(request)
