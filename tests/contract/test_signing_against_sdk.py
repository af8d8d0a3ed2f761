"""Our signatures are those that the vendor's own SDK computes."""

from urllib.parse import quote

import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.model import Secret
from gateway.domain.upstream.signing import sign

AT = 1_800_000_000.0
DATE = "20270115T080000Z"
HOST = "clouddc.cn-east-3.myhuaweicloud.com"


def by_the_sdk(
    method: str, path: str, query: list[tuple[str, str]], headers: dict[str, str], body: bytes
) -> str:
    request = SdkRequest(
        method=method,
        schema="https",
        host=HOST,
        resource_path=path,
        query_params=list(query),
        header_params={**headers, "X-Sdk-Date": DATE},
        body=body,
    )
    signer = Signer(BasicCredentials("ACCESSKEY", "SECRETKEY", "p"))
    return str(signer.sign(request).header_params["Authorization"])


def by_us(
    method: str, path: str, query: list[tuple[str, str]], headers: dict[str, str], body: bytes
) -> str:
    pairs = "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in query)
    sent = sign(
        method=method,
        target=f"{path}?{pairs}" if pairs else path,
        headers=headers,
        body=body,
        access_key=Secret("ACCESSKEY"),
        secret_key=Secret("SECRETKEY"),
        at=AT,
    )
    return dict(sent)["Authorization"]


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/p/physicalservers/1b2c3d4e-0000-4000-8000-000000000000/remote-console-address",
        "/v1/p/physicalservers/",
        "/",
        "/v1/p//physicalservers",
        "/v1/p/physicalservers/..%2F..%2Finstances%2Fx%3Fy%3D1",
        "/v1/p/physicalservers/%7Bid%7D",
        "/v1/p/physicalservers/a%20b~c_d.e-f",
        "/v1/p/physicalservers/%E6%9C%BA",
        "/v1/p/physicalservers/a%2Bb+c*d'(e)",
        "/v1/p/physicalservers/%2525",
    ],
)
@pytest.mark.parametrize("body", [b"", b'{"action":"power on"}', b"\x00\xff"])
def test_listed_requests_are_signed_as_by_the_sdk(method: str, path: str, body: bytes) -> None:
    headers = {"Host": HOST, "Content-Type": "application/json", "X-Project-Id": "p"}
    request_fields = (
        method,
        path,
        [("limit", "10"), ("a b", "c+d&e=f"), ("a", ""), ("limit", "1")],
    )
    assert by_us(*request_fields, headers, body) == by_the_sdk(*request_fields, dict(headers), body)


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH"]),
    segments=st.lists(_TEXT, max_size=4),
    query=st.lists(st.tuples(_TEXT, st.just("") | _TEXT), max_size=4),
    extra=st.dictionaries(st.sampled_from(["X-Project-Id", "X-Domain-Id", "Accept"]), _VALUE),
    body=st.binary(max_size=64),
)
def test_any_request_is_signed_as_by_the_sdk(
    method: str,
    segments: list[str],
    query: list[tuple[str, str]],
    extra: dict[str, str],
    body: bytes,
) -> None:
    path = "/v1/" + "/".join(quote(segment, safe="") for segment in segments)
    headers = {"Host": HOST, **extra}
    own = by_us(method, path, query, headers, body)
    assert own == by_the_sdk(method, path, query, dict(headers), body)
