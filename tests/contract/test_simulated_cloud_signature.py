"""The box's check of signatures against the vendor's own signer."""

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


def sent_by_the_sdk(
    method: str = "GET",
    path: str = PATH,
    query: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
) -> SignedRequest:
    """Sign with the SDK, and read what it sends as the cloud reads it."""
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
def test_whatever_the_sdk_signs_is_accepted_and_with_another_secret_not(
    method: str, segments: list[str], query: list[tuple[str, str]], body: bytes
) -> None:
    path = "/v1/" + "/".join(quote(segment, safe="") for segment in segments)
    sent = sent_by_the_sdk(method, path, tuple(query), body)
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
def test_anything_changed_after_signing_is_seen(change: dict[str, object]) -> None:
    sent = sent_by_the_sdk()
    assert sent.is_signed_with("SECRETKEY")
    assert not replace(sent, **change).is_signed_with("SECRETKEY")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["host", "x-project-id", "content-type", "user-agent"])
@pytest.mark.parametrize("what", ["changed", "missing", "twice"])
def test_a_signed_header_must_arrive_once_and_as_it_was(name: str, what: str) -> None:
    sent = sent_by_the_sdk()
    others = [(one, value) for one, value in sent.headers if one.lower() != name]
    now = {"changed": [(name, "x")], "missing": [], "twice": [(name, "x"), (name, "x")]}[what]
    assert not replace(sent, headers=[*others, *now]).is_signed_with("SECRETKEY")


def test_a_header_that_was_not_signed_may_come_on_the_way() -> None:
    sent = sent_by_the_sdk()
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
def test_what_is_not_written_as_a_claim_is_none(authorization: str) -> None:
    date = ("X-Sdk-Date", "20270115T080000Z")
    headers = [("Host", HOST), date, ("Authorization", authorization)]
    assert read_signed("GET", PATH, headers, b"") is None
    assert read_signed("GET", PATH, [headers[0], headers[2]], b"") is None
