"""The simulated cloud's signature check against the vendor's signer."""

from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.cloud.signature import SignedRequest, read_signed

HOST = "clouddc.cn-east-3.myhuaweicloud.com"
AT = datetime(2027, 1, 15, 8, tzinfo=UTC)
PATH = "/v1/p/physicalservers/1b2c3d4e-0000-4000-8000-000000000000/remote-console-address"


def sdk_request(
    method: str = "GET",
    path: str = PATH,
    query: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
) -> SignedRequest:
    """Sign a request with the SDK and parse it as the simulated cloud does."""
    headers = {"Content-Type": "application/json", "X-Project-Id": "p", "User-Agent": "u"}
    request = SdkRequest(
        method=method,
        schema="https",
        host=HOST,
        resource_path=path,
        query_params=list(query),
        header_params={**headers, "X-Sdk-Date": f"{AT:%Y%m%dT%H%M%SZ}"},
        body=body,
    )
    signed = Signer(BasicCredentials("ACCESSKEY", "SECRETKEY", "p")).sign(request)
    read = read_signed(method, signed.uri, list(signed.header_params.items()), body)
    assert read is not None
    return read


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    segments=st.lists(_TEXT, max_size=4),
    query=st.lists(st.tuples(_TEXT, st.just("") | _TEXT), max_size=4),
    body=st.binary(max_size=64),
)
def test_sdk_signature_requires_the_right_secret(
    method: str, segments: list[str], query: list[tuple[str, str]], body: bytes
) -> None:
    path = "/v1/" + "/".join(quote(segment, safe="") for segment in segments)
    sent = sdk_request(method, path, tuple(query), body)
    assert sent.is_signed_with("SECRETKEY")
    assert not sent.is_signed_with("SECRETKEX")


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"target": PATH.replace("remote-console-address", "hardware-attributes")},
        {"target": PATH + "?limit=1"},
        {"body": b"{}"},
        {"signature": "0" * 64},
        {"at": AT.replace(second=1)},
    ],
)
def test_changes_after_signing_are_detected(change: dict[str, object]) -> None:
    sent = sdk_request()
    assert sent.is_signed_with("SECRETKEY")
    assert not replace(sent, **change).is_signed_with("SECRETKEY")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["host", "x-project-id", "content-type", "user-agent"])
@pytest.mark.parametrize("what", ["changed", "missing", "twice"])
def test_signed_header_must_arrive_once_unchanged(name: str, what: str) -> None:
    sent = sdk_request()
    others = [(one, value) for one, value in sent.headers if one.lower() != name]
    now = {"changed": [(name, "x")], "missing": [], "twice": [(name, "x"), (name, "x")]}[what]
    assert not replace(sent, headers=[*others, *now]).is_signed_with("SECRETKEY")


def test_unsigned_headers_may_be_added() -> None:
    sent = sdk_request()
    assert replace(sent, headers=[*sent.headers, ("Via", "x")]).is_signed_with("SECRETKEY")


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer x",
        "SDK-HMAC-SHA256",
        "SDK-HMAC-SHA256 Access=A, SignedHeaders=host, Signature=" + "0" * 64,
        "SDK-HMAC-SHA256 Access=A, SignedHeaders=x-sdk-date, Signature=" + "0" * 64,
        "SDK-HMAC-SHA256 Access=A, SignedHeaders=x-sdk-date;host, Signature=" + "0" * 64,
        "SDK-HMAC-SHA256 Access=A, SignedHeaders=host;x-sdk-date, Signature=short",
    ],
)
def test_malformed_authorization_is_none(authorization: str) -> None:
    date = ("X-Sdk-Date", "20270115T080000Z")
    headers = [("Host", HOST), date, ("Authorization", authorization)]
    assert read_signed("GET", PATH, headers, b"") is None
    assert read_signed("GET", PATH, [headers[0], headers[2]], b"") is None
