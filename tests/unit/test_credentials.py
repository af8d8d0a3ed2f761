import pytest

from gateway.domain.errors import BadRequest, NotAuthenticated, Rejection
from gateway.domain.identity.credentials import find_jwt


@pytest.mark.parametrize(
    "header", ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c ", " Bearer a.b.c"]
)
def test_bearer_scheme_is_case_insensitive(header: str) -> None:
    assert find_jwt([header], []) == "a.b.c"


def test_x_auth_token_is_accepted() -> None:
    assert find_jwt([], ["a.b.c"]) == "a.b.c"


def test_same_token_in_two_headers_is_accepted() -> None:
    assert find_jwt(["Bearer a.b.c"], ["a.b.c"]) == "a.b.c"


def test_two_different_tokens_are_rejected() -> None:
    with pytest.raises(NotAuthenticated) as rejected:
        find_jwt(["Bearer a.b.c"], ["a.b.d"])
    assert rejected.value.reason is Rejection.AMBIGUOUS


@pytest.mark.parametrize(
    ("authorization", "x_auth_token"),
    [(["Bearer a", "Bearer a"], []), ([], ["a", "a"]), (["Bearer a", "Basic x"], ["a"])],
)
def test_repeated_header_is_malformed(authorization: list[str], x_auth_token: list[str]) -> None:
    with pytest.raises(BadRequest):
        find_jwt(authorization, x_auth_token)


@pytest.mark.parametrize(
    ("authorization", "x_auth_token"), [([], []), (["Bearer"], []), (["Bearer "], []), ([], [" "])]
)
def test_absent_token_is_missing(authorization: list[str], x_auth_token: list[str]) -> None:
    with pytest.raises(NotAuthenticated) as rejected:
        find_jwt(authorization, x_auth_token)
    assert rejected.value.reason is Rejection.MISSING


@pytest.mark.parametrize("header", ["Basic eDp5", "SDK-HMAC-SM3 Access=x", "a.b.c", ""])
def test_other_scheme_is_unsupported(header: str) -> None:
    with pytest.raises(NotAuthenticated) as rejected:
        find_jwt([header], ["a.b.c"])
    assert rejected.value.reason is Rejection.UNSUPPORTED_SCHEME


FOREIGN = "SDK-HMAC-SHA256 Access=x, SignedHeaders=host;x-sdk-date, Signature=" + "0" * 64
ISSUED = FOREIGN.replace("Access=x", "Access=CGW0123")


def test_placeholder_signature_is_ignored_with_a_jwt() -> None:
    assert find_jwt([FOREIGN], ["a.b.c"]) == "a.b.c"
    assert find_jwt([FOREIGN], [], ["a.b.c"]) == "a.b.c"
    assert find_jwt([FOREIGN], ["a.b.c"], ["a.b.c"]) == "a.b.c"


def test_cloud_security_token_is_ignored() -> None:
    assert find_jwt([FOREIGN], ["a.b.c"], ["gQpjbi1ub3J0aC00"]) == "a.b.c"
    assert find_jwt(["Bearer a.b.c"], [], ["gQpjbi1ub3J0aC00"]) == "a.b.c"


def test_issued_key_signature_requires_verification() -> None:
    assert find_jwt([ISSUED], [], ["cgwkey_x"]) is None
    assert find_jwt([ISSUED], ["a.b.c"], []) is None


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
def test_conflicting_signature_credentials_are_rejected(
    authorization: list[str],
    x_auth_token: list[str],
    x_security_token: list[str],
    reason: Rejection,
) -> None:
    with pytest.raises(NotAuthenticated) as rejected:
        find_jwt(authorization, x_auth_token, x_security_token)
    assert rejected.value.reason is reason


def test_repeated_security_token_is_malformed() -> None:
    with pytest.raises(BadRequest):
        find_jwt([FOREIGN], [], ["a.b.c", "a.b.c"])
