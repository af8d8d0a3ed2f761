"""Signatures made by the vendor's SDK are accepted."""

import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer

from gateway.domain.errors import NotAuthenticated
from gateway.domain.identity.sdk_signature import IncomingRequest, parse_signature, verify_signature
from gateway.domain.model import Secret


def signed_by_the_sdk(
    method: str, path: str, query: list[tuple[str, str]], body: bytes
) -> IncomingRequest:
    request = SdkRequest(
        method=method,
        schema="https",
        host="gw.example",
        resource_path=path,
        query_params=list(query),
        header_params={"Content-Type": "application/json", "X-Project-Id": "p"},
        body=body,
    )
    Signer(BasicCredentials("CGWACCESS", "secret", "p")).sign(request)
    return IncomingRequest(method, request.uri, tuple(request.header_params.items()))


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/p/physicalservers/1b2c3d4e-0000-4000-8000-000000000000/remote-console-address",
        "/v1/p/physicalservers/a%20b~c_d.e-f",
        "/v1/p/physicalservers/..%2F..%2Finstances%2Fx%3Fy%3D1",
        "/v1/p//x/",
        "/v3/projects",
    ],
)
@pytest.mark.parametrize("body", [b"", b'{"action":"power on"}'])
def test_sdk_signature_requires_its_key(method: str, path: str, body: bytes) -> None:
    query = [("name", "cn-east-3"), ("a b", "c+d&e=f"), ("a", ""), ("name", "1")]
    request = signed_by_the_sdk(method, path, query, body)
    header = parse_signature(request.header_values("authorization")[0])
    assert header.is_issued_key
    verify_signature(request, header, body, Secret("secret"))
    with pytest.raises(NotAuthenticated):
        verify_signature(request, header, body, Secret("another"))
    with pytest.raises(NotAuthenticated):
        verify_signature(request, header, body + b" ", Secret("secret"))
