import pytest

from gateway.domain.errors import BadRequest, NotAuthenticated, Rejection
from gateway.domain.identity.credentials import find_jwt


@pytest.mark.parametrize(
    "header", ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c ", " Bearer a.b.c"]
)
def test_a_bearer_token_is_found_whatever_the_scheme_s_case(header: str) -> None:
    assert find_jwt([header], []) == "a.b.c"


def test_a_cloud_client_may_send_it_in_x_auth_token() -> None:
    assert find_jwt([], ["a.b.c"]) == "a.b.c"


def test_the_same_token_twice_is_one_credential() -> None:
    assert find_jwt(["Bearer a.b.c"], ["a.b.c"]) == "a.b.c"


def test_two_tokens_that_disagree_prove_nobody() -> None:
    with pytest.raises(NotAuthenticated) as refused:
        find_jwt(["Bearer a.b.c"], ["a.b.d"])
    assert refused.value.reason is Rejection.AMBIGUOUS


@pytest.mark.parametrize(
    ("authorization", "x_auth_token"),
    [(["Bearer a", "Bearer a"], []), ([], ["a", "a"]), (["Bearer a", "Basic x"], ["a"])],
)
def test_a_header_that_stands_twice_is_malformed(
    authorization: list[str], x_auth_token: list[str]
) -> None:
    with pytest.raises(BadRequest):
        find_jwt(authorization, x_auth_token)


@pytest.mark.parametrize(
    ("authorization", "x_auth_token"), [([], []), (["Bearer"], []), (["Bearer "], []), ([], [" "])]
)
def test_no_token_is_missing(authorization: list[str], x_auth_token: list[str]) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        find_jwt(authorization, x_auth_token)
    assert refused.value.reason is Rejection.MISSING


@pytest.mark.parametrize("header", ["Basic eDp5", "SDK-HMAC-SM3 Access=x", "a.b.c", ""])
def test_another_scheme_is_unsupported_even_beside_a_good_token(header: str) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        find_jwt([header], ["a.b.c"])
    assert refused.value.reason is Rejection.UNSUPPORTED_SCHEME


FOREIGN = "SDK-HMAC-SHA256 Access=x, SignedHeaders=host;x-sdk-date, Signature=" + "0" * 64
OURS = FOREIGN.replace("Access=x", "Access=CGW0123")


def test_the_sdk_s_dummy_signature_means_nothing_beside_a_jwt() -> None:
    assert find_jwt([FOREIGN], ["a.b.c"]) == "a.b.c"
    assert find_jwt([FOREIGN], [], ["a.b.c"]) == "a.b.c"
    assert find_jwt([FOREIGN], ["a.b.c"], ["a.b.c"]) == "a.b.c"


def test_the_cloud_s_own_security_token_means_nothing_here() -> None:
    assert find_jwt([FOREIGN], ["a.b.c"], ["gQpjbi1ub3J0aC00"]) == "a.b.c"
    assert find_jwt(["Bearer a.b.c"], [], ["gQpjbi1ub3J0aC00"]) == "a.b.c"


def test_a_signature_with_a_key_of_ours_is_to_be_verified() -> None:
    assert find_jwt([OURS], [], ["cgwkey_x"]) is None
    assert find_jwt([OURS], ["a.b.c"], []) is None


@pytest.mark.parametrize(
    ("authorization", "x_auth_token", "x_security_token", "reason"),
    [
        ([FOREIGN], [], [], Rejection.FOREIGN_KEY),
        ([FOREIGN], [], ["gQpjbi1ub3J0aC00"], Rejection.FOREIGN_KEY),
        ([FOREIGN], [], ["cgwkey_x"], Rejection.ISSUED_KEY),
        ([], [], ["cgwkey_x"], Rejection.ISSUED_KEY),
        ([FOREIGN], ["a.b.c"], ["a.b.d"], Rejection.AMBIGUOUS),
        (["Bearer a.b.c"], [], ["a.b.d"], Rejection.AMBIGUOUS),
        (["Bearer a.b.c"], [], ["cgwkey_x"], Rejection.AMBIGUOUS),
        ([], ["a.b.c"], ["cgwkey_x"], Rejection.AMBIGUOUS),
        (["SDK-HMAC-SHA256 Access=x"], ["a.b.c"], [], Rejection.SIGNATURE_MALFORMED),
    ],
)
def test_what_else_comes_with_a_signature_is_refused(
    authorization: list[str],
    x_auth_token: list[str],
    x_security_token: list[str],
    reason: Rejection,
) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        find_jwt(authorization, x_auth_token, x_security_token)
    assert refused.value.reason is reason


def test_a_security_token_that_stands_twice_is_malformed() -> None:
    with pytest.raises(BadRequest):
        find_jwt([FOREIGN], [], ["a.b.c", "a.b.c"])
