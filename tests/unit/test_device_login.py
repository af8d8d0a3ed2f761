"""`gateway login --device`: polling as RFC 8628, 3.5 says, and when it is chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gateway.commands.cli_issuer import CliIssuer
from gateway.commands.device_login import log_in_by_device, offers_device_login
from gateway.commands.exit_codes import CommandFailed
from gateway.commands.login_provider import LoginEnded, LoginProvider, TokenError

ISSUER = CliIssuer(
    "corp", "https://idp.example", "cli", ("openid",), "access_token", "127.0.0.1", (), device=True
)
CODE = {
    "device_code": "secret-device-code",
    "user_code": "ABCD-EFGH",
    "verification_uri": "https://idp.example/device",
    "expires_in": 300,
}
PENDING = TokenError(4, "pending", "authorization_pending")
SLOWER = TokenError(4, "slow", "slow_down")
DOWN = TokenError(6, "the identity provider is unreachable")
TOKENS = {"access_token": "opaque", "refresh_token": "r", "expires_in": 60}


class Provider(LoginProvider):
    """A provider with prepared answers."""

    def __init__(self, *answers: TokenError | Mapping[str, Any], **code: Any) -> None:
        super().__init__(ISSUER.issuer, ISSUER.client_id)
        self._metadata = {"device_authorization_endpoint": "https://idp.example/da"}
        self.answers = [*answers]
        self.code = {**CODE, **code}
        self.waits: list[float] = []

    def request_device_code(self, scopes: Sequence[str]) -> dict[str, Any]:
        assert scopes == ("openid",)
        return self.code

    def request_tokens(self, form: Mapping[str, str]) -> dict[str, Any]:
        assert form["device_code"] == "secret-device-code"
        answer = self.answers.pop(0)
        if isinstance(answer, TokenError):
            raise answer
        return dict(answer)


def log_in(provider: Provider) -> str:
    wait = provider.waits.append
    return log_in_by_device("https://gateway.example:443", ISSUER, provider, wait=wait).token


def test_code_is_shown_and_never_the_device_code(capsys: pytest.CaptureFixture[str]) -> None:
    whole = "https://idp.example/device?user_code=ABCD-EFGH\x1b[2J"
    assert log_in(Provider(TOKENS, verification_uri_complete=whole)) == "opaque"
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "open https://idp.example/device\nand enter the code ABCD-EFGH\n" in shown.err
    assert "user_code=ABCD-EFGH\\x1b[2J and compare" in shown.err
    assert "secret-device-code" not in shown.err


def test_polling_has_the_interval_of_the_provider() -> None:
    provider = Provider(PENDING, SLOWER, PENDING, SLOWER, TOKENS, interval=2)
    log_in(provider)
    assert provider.waits == [2, 2, 7, 7, 12]


@pytest.mark.parametrize("interval", [None, 0, -1, "5", True])
def test_unusable_interval_is_five_seconds(interval: Any) -> None:
    provider = Provider(PENDING, TOKENS, interval=interval)
    log_in(provider)
    assert provider.waits == [5, 5]


def test_unreachable_provider_is_polled_less_often() -> None:
    provider = Provider(DOWN, DOWN, PENDING, TOKENS)
    log_in(provider)
    assert provider.waits == [5, 10, 20, 20]


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (TokenError(4, "no", "access_denied"), 4, "was denied at the identity provider"),
        (TokenError(4, "no", "expired_token"), 5, "The code has expired. Run `gateway login`"),
        (TokenError(4, "invalid client", "invalid_client"), 4, "invalid client"),
        (LoginEnded(4, "issued no access_token", "invalid_grant"), 4, "issued no access_token"),
    ],
)
def test_end_of_a_login_is_explained(answer: TokenError, code: int, message: str) -> None:
    with pytest.raises(CommandFailed, match=message) as ended:
        log_in(Provider(PENDING, answer))
    assert ended.value.code == code


def test_polling_ends_with_the_code() -> None:
    provider = Provider(*[PENDING] * 9, expires_in=20)
    with pytest.raises(CommandFailed, match="has expired"):
        log_in(provider)
    assert sum(provider.waits) == 20


@pytest.mark.parametrize("member", ["device_code", "user_code", "verification_uri"])
def test_incomplete_answer_is_refused(member: str) -> None:
    with pytest.raises(CommandFailed, match="sent no usable code"):
        log_in(Provider(**{member: 7}))


def test_foreign_id_token_is_refused() -> None:
    claims = "eyJpc3MiOiJodHRwczovL290aGVyLmV4YW1wbGUiLCJhdWQiOiJjbGkifQ"  # iss of another
    with pytest.raises(CommandFailed, match="belongs to another login"):
        log_in(Provider({**TOKENS, "id_token": f"e30.{claims}.x"}))


def test_device_login_must_be_offered_by_both() -> None:
    provider = Provider()
    assert offers_device_login(ISSUER, provider)
    provider._metadata = {}
    assert not offers_device_login(ISSUER, provider)
    with pytest.raises(CommandFailed, match="corp offers no login with a code"):
        log_in(provider)
