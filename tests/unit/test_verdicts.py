"""Every response shape in upstream-api.md, and arbitrary responses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.model import UpstreamResponse
from gateway.domain.upstream.verdicts import (
    Broken,
    CredentialStale,
    Misconfigured,
    Refused,
    Throttled,
    Unavailable,
    Usable,
    error_of,
    judge,
)


def answer(status: int, body: object = b"", **headers: str) -> UpstreamResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return UpstreamResponse(status, {k.replace("_", "-"): v for k, v in headers.items()}, raw)


def reported(code: str, message: str) -> dict[str, str]:
    return {"error_code": code, "error_msg": message, "request_id": "r-1"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (f"{prefix}.{rest[0]}", rest[1])
        for prefix in ("APIGW", "APIG")
        for rest in (
            ("0301", "Incorrect IAM authentication information: token expires, expires_at: now"),
            ("0301", "Incorrect IAM authentication information: Decrypt token fail"),
            ("0307", "The token must be updated."),
        )
    ]
    + [("iMetal.0003", "unauthorized"), ("IAM.0066", "expired"), ("IAM.0067", "invalid")],
)
def test_renewable_401_is_stale(code: str, message: str) -> None:
    assert judge(answer(401, reported(code, message))) == CredentialStale(code)


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        ("APIGW.0301", "Incorrect IAM: x-auth-token not found", "no token reached the cloud"),
        ("APIGW.0301", "verify aksk signature fail", "the signature is wrong"),
        ("APIG.0301", "Get secretKey failed,ak:AKIAX,err:ak not exist", "access key is unknown"),
        ("APIGW.0301", "AK access failed to reach the limit,forbidden.", "is locked"),
        ("APIGW.0303", "the server and client times differ", "the clocks differ"),
        ("APIGW.0303", "Incorrect app authentication information", "another kind of credential"),
        ("APIGW.0305", "Incorrect authentication information", "another kind of credential"),
    ],
)
def test_other_401_is_misconfigured(code: str, message: str, reason: str) -> None:
    verdict = judge(answer(401, reported(code, message)))
    assert isinstance(verdict, Misconfigured)
    assert reason in verdict.reason
    assert "AKIAX" not in verdict.reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Unauthorized",
        b"<html>",
        b'{"error":{"code":401}}',
        reported("PS.0401", "no"),
        reported("APIGW.0301", "something new"),
    ],
)
def test_401_of_unlisted_cause_may_be_stale(body: object) -> None:
    verdict = judge(answer(401, body))
    assert isinstance(verdict, CredentialStale)
    assert not verdict.is_certain


def test_plain_text_401_names_a_listed_cause() -> None:
    assert isinstance(judge(answer(401, b"verify aksk signature fail")), Misconfigured)
    assert judge(answer(401, b"token expires, expires_at: now")) == CredentialStale("")


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://cloud.example/v1/p?token=canary", "301, redirects to https://cloud.example"),
        (
            "http://user:canary@cloud.example:8443/canary",
            "301, redirects to http://cloud.example:8443",
        ),
        ("//[2001:db8::1]:443/canary", "301, redirects to //[2001:db8::1]:443"),
        ("/login?canary", "301, redirects to another path"),
        ("https://canary\udcff/", "301, redirects to an address that is not valid"),
        ("", "301"),
    ],
)
def test_redirect_is_named_without_path_and_query(location: str, shown: str) -> None:
    verdict = judge(answer(301, b"", location=location))
    assert isinstance(verdict, Broken)
    assert verdict.detail == shown


@pytest.mark.parametrize("code", ["APIGW.0302", "APIG.0310", "iMetal.0004", "IAM.0003"])
def test_403_is_misconfigured(code: str) -> None:
    assert isinstance(judge(answer(403, reported(code, "no"))), Misconfigured)


_OVER = "The throttling threshold has been reached: policy"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            reported("APIGW.0308", f"{_OVER} ip over ratelimit,limit:5,time:1 second"),
            Throttled(1.0, 5, 1.0, "ip"),
        ),
        (
            json.dumps(reported("APIG.0308", f"{_OVER} user over ratelimit,limit:7,time:1 minute"))
            .encode()
            .__add__(b"\n"),
            Throttled(None, 7, 60.0, "user"),
        ),
        (
            reported("APIGW.0308", f"{_OVER} api over ratelimit, limit:2000, time:5 second"),
            Throttled(5.0, 2000, 5.0, "api"),
        ),
        (
            reported("APIGW.0308", f"{_OVER} user over ratelimit,limit:XX,time:1 minute"),
            Throttled(),
        ),
        (reported("iMetal.0005", "too many requests"), Throttled()),
        (
            reported("IAM.0012", "Threshold: 5 times per 60 seconds"),
            Throttled(None, 5, 60.0, None),
        ),
        (reported("ces.0429", "Too Many Requests"), Throttled()),
        (b"Too Many Requests", Throttled()),
        (b'"a bare JSON string"', Throttled()),
        (b"[1, 2]", Throttled()),
        (b"<html><h1>429</h1></html>", Throttled()),
        (b"", Throttled()),
        (b"\xff\xfe\x00", Throttled()),
        (
            b"policy app over ratelimit,limit:3,time:1 hour",
            Throttled(None, 3, 3600.0, "app"),
        ),
    ],
)
def test_every_429_shape_is_throttled(body: object, expected: Throttled) -> None:
    assert judge(answer(429, body)) == expected


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": "999999999"}, 86_400.0),
        (
            {
                "retry_after": "Mon, 23 Nov 2026 10:00:30 GMT",
                "date": "Mon, 23 Nov 2026 10:00:00 GMT",
            },
            30.0,
        ),
        (
            {
                "retry_after": "Mon, 23 Nov 2026 09:00:00 GMT",
                "date": "Mon, 23 Nov 2026 10:00:00 GMT",
            },
            0.0,
        ),
        ({"retry_after": "Mon, 23 Nov 2026 10:00:30 GMT"}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "1e9"}, None),
        ({"retry_after": "²"}, None),
        ({"retry_after": "soon"}, None),
    ],
)
def test_retry_after_accepts_seconds_and_dates(
    headers: dict[str, str], pause_s: float | None
) -> None:
    assert judge(answer(429, b"slow down", **headers)) == Throttled(pause_s)
    assert judge(answer(503, b"", **headers)) == Unavailable(503, pause_s)


def test_retry_after_wins_over_window_in_text() -> None:
    body = reported("APIGW.0308", f"{_OVER} ip over ratelimit,limit:5,time:1 second")
    assert judge(answer(429, body, retry_after="9")) == Throttled(9.0, 5, 1.0, "ip")


@pytest.mark.parametrize("status", [400, 404, 405, 409, 415, 422])
@pytest.mark.parametrize(
    "body",
    [
        {"error_code": "iMetal.0100", "error_msg": "not found: a"},
        {"errorCode": "iMetal.0100", "errorMsg": "not found: a"},
        {"code": "iMetal.0100", "message": "not found: a"},
        {"error": {"code": "iMetal.0100", "message": "not found: a"}},
        {"fault": {"error_code": "iMetal.0100", "error_msg": "not found: a"}, "x": 1},
    ],
)
def test_refusal_keeps_status_code_and_message(status: int, body: object) -> None:
    assert judge(answer(status, body)) == Refused(status, "iMetal.0100", "not found: a")


def test_numeric_code_becomes_text() -> None:
    body = {"error": {"code": 404, "message": "Could not find it", "title": "Not Found"}}
    assert judge(answer(404, body)) == Refused(404, "404", "Could not find it")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, reported("APIGW.0101", "The API does not exist")),
        (404, reported("APIG.0101", "The API does not exist")),
        (400, reported("APIGW.0201", "Bad request")),
        (404, b"<html>not found</html>"),
        (400, b""),
        (413, reported("APIGW.0201", "too large")),
        (405, reported("APIGW.0501", "method")),
        (405, reported("APIG.0502", "quota")),
        (409, b"Conflict"),
        (415, b""),
        (422, b"<html>"),
        (302, b""),
        (304, b""),
        (100, b""),
        (418, b""),
        (501, b""),
        (599, b""),
    ],
)
def test_unusable_responses_are_broken(status: int, body: object) -> None:
    assert isinstance(judge(answer(status, body)), Broken)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_5xx_is_unavailable(status: int) -> None:
    assert judge(answer(status, reported("iMetal.0099", "internal"))) == Unavailable(status, None)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_2xx_is_usable(status: int) -> None:
    given_answer = answer(status, b"\x00")
    assert judge(given_answer) == Usable(given_answer)


def test_quoted_token_is_removed() -> None:
    canary = "MII" + "CanaryToken" * 300
    verdict = judge(answer(400, reported("iMetal.0001", f"bad header {canary} here\r\nX: y")))
    assert isinstance(verdict, Refused)
    assert "CanaryToken" not in verdict.message
    assert verdict.message == "bad header … here  X: y"


def test_message_is_bounded() -> None:
    verdict = judge(answer(400, reported("iMetal.0001", "word " * 100_000)))
    assert isinstance(verdict, Refused)
    assert len(verdict.message) <= 1_024


def test_deep_nesting_has_no_code() -> None:
    assert error_of(b"[" * 200_000) == ("", "")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["error_code", "error_msg", "code", "message", "error", "x"]), inner
        )
    ),
    max_leaves=8,
)


@given(
    status=st.integers(100, 599),
    body=st.binary() | _JSON.map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(st.sampled_from(["retry-after", "date", "location"]), st.text()),
)
def test_judge_never_raises(status: int, body: bytes, headers: dict[str, str]) -> None:
    verdict = judge(UpstreamResponse(status, headers, body))
    match verdict:
        case Throttled(pause_s=float() as span_s) | Unavailable(retry_after_s=float() as span_s):
            assert 0 <= span_s <= 86_400
    if isinstance(verdict, Refused):
        assert verdict.code
        assert verdict.message.isprintable()
    assert isinstance(verdict, Usable) == (200 <= status < 300)
