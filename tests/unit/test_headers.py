"""What travels on to the cloud, and what never does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.catalogue.headers import returning, travelling
from gateway.domain.model import Answer

OURS = {"X-Request-Id": "req-1", "Via": "1.1 console-gateway", "Accept-Encoding": "identity"}
CONDITIONS = {"Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since"}
MAY_TRAVEL = {*OURS, *CONDITIONS, "Accept", "Content-Type"}


def passed(*headers: tuple[str, str], answer: Answer = Answer.LISTED) -> dict[str, str]:
    return dict(travelling(headers, "req-1", answer))


def test_the_request_id_is_ours_whatever_the_caller_sends() -> None:
    assert passed(("X-Request-Id", "theirs")) == OURS


def test_accept_and_content_type_travel() -> None:
    sent = passed(
        ("ACCEPT", "application/json"),
        ("content-type", "application/json"),
    )
    assert sent == {
        **OURS,
        "Accept": "application/json",
        "Content-Type": "application/json",
    }


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "authorization", "X-Auth-Token", "X_Auth_Token", "X-Security-Token",
        "X-Sdk-Date", "X-Project-Id", "X-Domain-Id", "Cookie", "X-Apig-Mode", "Host", "Via",
        "Transfer-Encoding", "Connection", "Keep-Alive", "TE", "Trailer", "Upgrade",
        "Proxy-Authorization", "Content-Length", "Expect", "X-Forwarded-For", "Forwarded",
        "traceparent", "tracestate",
    ],
)  # fmt: skip
def test_credentials_and_what_belongs_to_one_hop_stay_here(name: str) -> None:
    assert passed((name, "canary")) == OURS


def test_what_connection_names_is_for_this_hop_alone() -> None:
    sent = passed(("Accept", "text/plain"), ("Connection", "close, ACCEPT"))
    assert sent == OURS


def test_a_header_that_stands_twice_does_not_travel() -> None:
    assert "Accept" not in passed(("Accept", "a/b"), ("accept", "c/d"))


def test_conditions_travel_where_the_body_passes_as_it_comes() -> None:
    asked = [(name, "x") for name in sorted(CONDITIONS)]
    assert not CONDITIONS - set(passed(*asked, answer=Answer.STREAMED))
    for answer in (Answer.WHOLE, Answer.LISTED, Answer.CONSOLE_LINK):
        assert not CONDITIONS & set(passed(*asked, answer=answer))


@pytest.mark.parametrize(
    ("accepts", "asked"),
    [
        ("gzip", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip; q=0.00", "identity"),
        ("br", "identity"),
        ("", "identity"),
    ],
)
def test_gzip_is_asked_for_where_the_caller_takes_it_and_nobody_reads_it(
    accepts: str, asked: str
) -> None:
    header = ("Accept-Encoding", accepts)
    assert passed(header, answer=Answer.WHOLE)["Accept-Encoding"] == asked
    assert passed(header, answer=Answer.STREAMED)["Accept-Encoding"] == asked
    assert passed(header, answer=Answer.LISTED)["Accept-Encoding"] == "identity"
    assert passed(header, answer=Answer.CONSOLE_LINK)["Accept-Encoding"] == "identity"


def test_what_comes_back_is_of_the_answer_not_of_the_cloud_s_house() -> None:
    told = {
        "content-type": "application/json",
        "etag": '"1"',
        "set-cookie": "canary",
        "server": "canary",
        "x-request-id": "canary",
        "x-auth-token": "canary",
        "link": "canary",
        "content-disposition": "attachment",
        "content-range": "bytes\n0-1",
    }
    assert dict(returning(told, Answer.WHOLE)) == {"Content-Type": "application/json"}
    assert set(dict(returning(told, Answer.STREAMED))) == {
        "Content-Type",
        "ETag",
        "Content-Disposition",
    }


@given(st.lists(st.tuples(st.text(), st.text())))
def test_only_the_allowed_names_and_clean_values_travel(headers: list[tuple[str, str]]) -> None:
    for name, value in travelling(headers, "req-1", Answer.STREAMED):
        assert name in MAY_TRAVEL
        assert value.isascii()
        assert value.isprintable()
