"""The config of `gateway login`: which tokens of commands an issuer may name."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.issuers import Issuer

DISCOVERY = {"discovery": "https://idp.example"}


def issuer(**fields: Any) -> Issuer:
    base = {"name": "corp", "issuer": "https://idp.example", "keys": DISCOVERY}
    context = {"environ": {"SET": "canary"}}
    return Issuer.model_validate({**base, **fields}, context=context)


def test_id_tokens_need_a_client_of_their_own() -> None:
    """The browser's ID tokens are in the address of its logout, so they must open nothing."""
    login = {"client_id": "web", "client_secret": {"env": "SET"}}
    cli = {"client_id": "cli", "token": "id_token"}
    found = issuer(audience=["cli"], login=login, cli=cli)
    assert found.cli is not None
    assert found.cli.sends_id_token

    with pytest.raises(ValidationError, match=r"another client than `login\.client_id`"):
        issuer(audience=["web"], login=login, cli={**cli, "client_id": "web"})

    issuer(audience=["web"], login=login, cli={"client_id": "web"})


def test_id_tokens_need_the_client_as_an_audience() -> None:
    with pytest.raises(ValidationError, match=r"`audience` contains `cli\.client_id`"):
        issuer(audience=["console-gateway"], cli={"client_id": "cli", "token": "id_token"})
