"""Answers of the browser: RFC 9207 against mixed-up providers, and errors."""

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.commands.cli_issuer import CliIssuer
from gateway.commands.exit_codes import CommandFailed
from gateway.commands.login import _choose
from gateway.commands.login_provider import LoginProvider
from gateway.commands.loopback_login import authorization_code

ISSUER = "https://idp.example"
OTHER = "https://evil.example"


def provider(*, announces_iss: bool | None) -> LoginProvider:
    found = LoginProvider(ISSUER, "cli")
    metadata: dict[str, Any] = {"issuer": ISSUER}
    if announces_iss is not None:
        metadata["authorization_response_iss_parameter_supported"] = announces_iss
    found._metadata = metadata
    return found


@pytest.mark.parametrize(
    ("announces_iss", "answer"),
    [
        (True, {"code": "c", "iss": ISSUER}),
        (False, {"code": "c", "iss": ISSUER}),
        (False, {"code": "c"}),
        (None, {"code": "c"}),
    ],
)
def test_answer_of_the_provider_has_the_code(
    answer: Mapping[str, str], *, announces_iss: bool | None
) -> None:
    assert authorization_code(answer, provider(announces_iss=announces_iss)) == "c"


@pytest.mark.parametrize("announces_iss", [True, False, None])
@pytest.mark.parametrize("result", [{"code": "c"}, {"error": "access_denied"}])
@pytest.mark.parametrize("issuer", [OTHER, f"{ISSUER}/", "", ISSUER.upper()])
def test_answer_of_another_provider_is_refused(
    result: Mapping[str, str], issuer: str, *, announces_iss: bool | None
) -> None:
    with pytest.raises(CommandFailed, match="comes from another identity provider") as ended:
        authorization_code({**result, "iss": issuer}, provider(announces_iss=announces_iss))
    assert ended.value.code == 4


@pytest.mark.parametrize("result", [{"code": "c"}, {"error": "access_denied"}])
def test_announced_issuer_must_not_be_missing(result: Mapping[str, str]) -> None:
    with pytest.raises(CommandFailed, match="another identity provider"):
        authorization_code(result, provider(announces_iss=True))


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (None, 5, "no login within 5 minutes"),
        ({"error": "access_denied"}, 4, "was denied"),
        ({"error": "server_error"}, 4, "refused the login: server_error"),
        ({}, 4, "refused the login: no code"),
    ],
)
def test_answer_without_code_is_explained(
    answer: Mapping[str, str] | None, code: int, message: str
) -> None:
    with pytest.raises(CommandFailed, match=message) as ended:
        authorization_code(answer, provider(announces_iss=False))
    assert ended.value.code == code


def an_issuer(name: str) -> CliIssuer:
    return CliIssuer(name, ISSUER, "cli", ("openid",), "id_token", "localhost", (), device=False)


def test_one_of_several_issuers_must_be_named() -> None:
    corp, partner = an_issuer("corp"), an_issuer("partner")
    assert _choose([corp], None) is corp
    assert _choose([corp, partner], "partner") is partner
    for name in (None, "other"):
        with pytest.raises(CommandFailed, match="by --issuer: corp, partner") as ended:
            _choose([corp, partner], name)
        assert ended.value.code == 2
    with pytest.raises(CommandFailed, match="no issuer with `cli`"):
        _choose([], None)
