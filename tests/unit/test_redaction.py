"""No credential and no console URL in what the cloud returns reaches a caller or a log."""

import json
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.model import Secret, UpstreamResponse
from gateway.domain.upstream.redaction import SecretSearch, redact, redact_body, secrets_in
from gateway.domain.upstream.signing import sign
from gateway.domain.upstream.verdicts import Refused, Usable, judge

TOKEN = "MIIabc/def+Ghi0123456789canary=="
CREDENTIAL = (("X-Auth-Token", TOKEN),)
URL = "https://cn-east-3-console.huaweicloud.com:443/vnc/a.b/vnc_auto.html?token=canary&resize"
SIGNED = sign(
    method="GET",
    target="/v1",
    headers={"Host": "clouddc.example"},
    body=b"",
    access_key=Secret("CANARYACCESSKEY"),
    secret_key=Secret("secret"),
    at=0.0,
)


def refused(
    code: str, message: str, credential: tuple[tuple[str, str], ...] = CREDENTIAL
) -> object:
    body = json.dumps({"error_code": code, "error_msg": message}).encode()
    return judge(UpstreamResponse(400, {}, body), credential=credential)


@pytest.mark.parametrize(
    "quoted",
    [
        TOKEN,
        f"X-Auth-Token={TOKEN}",
        f"<{TOKEN}>",
        quote(TOKEN, safe=""),
        quote(TOKEN, safe="").lower(),
        TOKEN[4:30],
        f"{TOKEN[12:]}...",
        URL,
        URL.removeprefix("https://"),
        URL.replace("https", "wss"),
        quote(URL, safe=""),
        URL.upper().replace("CANARY", "canary"),
        "token=canary-1b2c3d4e",
        "//user:canary1@console/?x=canary",
        "MII" + "canary" * 30,
    ],
)
def test_quoted_secret_is_removed_from_messages(quoted: str) -> None:
    for message in (quoted, f"invalid value ({quoted}) in the request", f"'{quoted}'"):
        verdict = refused("iMetal.0001", message)
        assert isinstance(verdict, Refused)
        assert verdict.code == "iMetal.0001"
        assert "canary" not in verdict.message
        assert "…" in verdict.message


@pytest.mark.parametrize("code", ["Ghi0123456789canary", "iMetal.Ghi0123456789canary"])
def test_code_that_quotes_the_token_is_none(code: str) -> None:
    assert "canary" not in repr(refused(code, "no"))


def test_parts_of_a_signature_are_removed() -> None:
    authorization = dict(SIGNED)["Authorization"]
    proof = authorization.rpartition("=")[2]
    for quoted in (authorization, f"signature {proof} wrong", "ak:CANARYACCESSKEY,err"):
        verdict = refused("iMetal.0001", quoted, SIGNED)
        assert isinstance(verdict, Refused)
        assert "CANARY" not in verdict.message
        assert proof not in verdict.message
    assert not {"clouddc.example", "19700101T000000Z"} & set(secrets_in(SIGNED))


def test_harmless_text_is_unchanged() -> None:
    message = (
        "The physical servers [1b2c3d4e-0000-4000-8000-000000000000] are not found: iMetal.0100?"
    )
    assert redact(message, (TOKEN, "ab")) == message


def test_body_of_a_success_does_not_quote_the_token() -> None:
    body = json.dumps({"a": [TOKEN], "b": 1}).encode()
    for quoting in (body, body.replace(b"/", b"\\/")):
        verdict = judge(UpstreamResponse(200, {}, quoting), credential=CREDENTIAL)
        assert isinstance(verdict, Usable)
        assert json.loads(verdict.response.body) == {"a": ["…"], "b": 1}
    assert redact_body(b"plain", (TOKEN,)) == b"plain"


@given(st.text(max_size=40), st.text(max_size=40), st.text(min_size=4, max_size=60))
def test_secret_never_survives(before: str, after: str, secret: str) -> None:
    assert secret not in redact(before + secret + after, (secret,)) or secret == "…"


@given(
    before=st.binary(max_size=60),
    after=st.binary(max_size=60),
    cuts=st.sets(st.integers(1, 200), max_size=12),
    secret=st.text("ab/", min_size=4, max_size=12),
)
def test_search_in_chunks_finds_each_secret_and_emits_nothing_of_it(
    before: bytes, after: bytes, cuts: set[int], secret: str
) -> None:
    body = before + secret.encode() + after
    search, emitted = SecretSearch((secret, "xyz", "0123456789canary")), b""
    for chunk in in_chunks(body, cuts):
        harmless = search.add(chunk)
        if harmless is None:
            break
        emitted += harmless
    else:
        raise AssertionError("the secret was not found")
    assert body.startswith(emitted)
    assert len(emitted) <= body.index(secret.encode())


@given(body=st.binary(max_size=300), cuts=st.sets(st.integers(1, 300), max_size=12))
def test_search_in_chunks_passes_a_harmless_body_unchanged(body: bytes, cuts: set[int]) -> None:
    for secrets in ((), ("ab",), ("0123456789canary", "other/canary")):
        search, emitted = SecretSearch(secrets), b""
        for chunk in in_chunks(body, cuts):
            harmless = search.add(chunk)
            assert harmless is not None
            emitted += harmless
        assert emitted + search.rest() == body


def in_chunks(body: bytes, cuts: set[int]) -> list[bytes]:
    ends = sorted({*cuts, len(body)})
    return [body[begin:end] for begin, end in pairwise([0, *ends])]


def test_header_of_a_success_that_quotes_the_token_is_dropped() -> None:
    headers = {"Content-Type": "application/json", "ETag": f'"{TOKEN}"', "X": "ab"}
    verdict = judge(UpstreamResponse(200, headers, b"{}"), credential=(*CREDENTIAL, ("Y", "ab")))
    assert isinstance(verdict, Usable)
    assert verdict.response.headers == {"content-type": "application/json", "x": "ab"}
    unchanged = UpstreamResponse(200, {"ETag": '"1"'}, b"{}")
    found = judge(unchanged, credential=(*CREDENTIAL, ("Y", ""), ("tracestate", '"1"xy')))
    assert isinstance(found, Usable)
    assert found.response is unchanged
