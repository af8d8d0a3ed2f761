import pytest

from gateway.errors import BadRequest, NotAuthenticated, Rejection
from gateway.rules.credentials import caller_jwt


@pytest.mark.parametrize(
    "header", ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c ", " Bearer a.b.c"]
)
def test_a_bearer_token_is_found_whatever_the_scheme_s_case(header: str) -> None:
    assert caller_jwt([header], []) == "a.b.c"


def test_a_cloud_client_may_send_it_in_x_auth_token() -> None:
    assert caller_jwt([], ["a.b.c"]) == "a.b.c"


def test_the_same_token_twice_is_one_credential() -> None:
    assert caller_jwt(["Bearer a.b.c"], ["a.b.c"]) == "a.b.c"


def test_two_tokens_that_disagree_prove_nobody() -> None:
    with pytest.raises(NotAuthenticated) as refused:
        caller_jwt(["Bearer a.b.c"], ["a.b.d"])
    assert refused.value.reason is Rejection.AMBIGUOUS


@pytest.mark.parametrize(
    ("authorization", "x_auth_token"),
    [(["Bearer a", "Bearer a"], []), ([], ["a", "a"]), (["Bearer a", "Basic x"], ["a"])],
)
def test_a_header_that_stands_twice_is_malformed(
    authorization: list[str], x_auth_token: list[str]
) -> None:
    with pytest.raises(BadRequest):
        caller_jwt(authorization, x_auth_token)


@pytest.mark.parametrize(
    ("authorization", "x_auth_token"), [([], []), (["Bearer"], []), (["Bearer "], []), ([], [" "])]
)
def test_no_token_is_missing(authorization: list[str], x_auth_token: list[str]) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        caller_jwt(authorization, x_auth_token)
    assert refused.value.reason is Rejection.MISSING


@pytest.mark.parametrize("header", ["Basic eDp5", "SDK-HMAC-SHA256 Access=x", "a.b.c", ""])
def test_another_scheme_is_unsupported_even_beside_a_good_token(header: str) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        caller_jwt([header], ["a.b.c"])
    assert refused.value.reason is Rejection.UNSUPPORTED_SCHEME
