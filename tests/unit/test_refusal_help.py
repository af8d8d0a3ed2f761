"""Whom to contact after a refusal, and what to request."""

from typing import Any, cast

import pytest

from gateway.commands.exit_codes import CommandFailed, NoSuchServer, usage_error
from gateway.commands.gateway_client import GatewayClient, GatewayResponse
from gateway.commands.refusal_help import add_help

CONTACT = {"text": "Platform on-call", "url": "https://help.example"}
RULES = {"rules": [{"role": "operator"}, {"role": "operator"}]}


class Gateway:
    """Answers with prepared documents, or fails."""

    def __init__(self, contact: Any = None, rules: Any = None) -> None:
        self._documents = {
            "/.well-known/console-gateway": {"issuers": [], "contact": contact},
            "/requests/rules": rules,
        }

    def within(self, wait_s: float) -> "Gateway":
        assert wait_s <= 5
        return self

    def request(self, path: str) -> GatewayResponse:
        document = self._documents[path]
        if document is None:
            raise CommandFailed(1, "not found", status=404)
        return GatewayResponse(200, {}, document)


def helped(gateway: Gateway) -> CommandFailed:
    failure = NoSuchServer("No server visible to you is called x.")
    add_help(failure, cast("GatewayClient", gateway))
    return failure


def test_refusal_names_contact_and_role() -> None:
    failure = helped(Gateway(CONTACT, RULES))
    assert failure.help == [
        "Contact: Platform on-call https://help.example",
        (
            "Request access by: gateway requests create PROJECT/SERVER --role operator --for 1h"
            " --reason TEXT"
        ),
    ]
    assert failure.fields["contact"] == CONTACT
    assert failure.fields["requestable_roles"] == ["operator"]


def test_several_roles_are_listed_in_json() -> None:
    failure = helped(Gateway(None, {"rules": [{"role": "b"}, {"role": "a"}]}))
    assert "--role ROLE --for" in failure.help[0]
    assert failure.fields["requestable_roles"] == ["a", "b"]


@pytest.mark.parametrize(
    ("contact", "rules"),
    [
        (None, None),
        (7, {"rules": 7}),
        ({"text": 7, "url": "x" * 2_000}, {"rules": [7, {}, {"role": ""}]}),
    ],
)
def test_unusable_answers_add_no_help(contact: Any, rules: Any) -> None:
    failure = helped(Gateway(contact, rules))
    assert failure.help == []
    assert failure.fields.keys() == {"error_code", "error_msg"}


@pytest.mark.parametrize(
    ("failure", "is_refusal"),
    [
        (CommandFailed(3, "no", error_code="CGW.4030", status=403), True),
        (CommandFailed(1, "no", error_code="CGW.4040", status=404), True),
        (NoSuchServer("no"), True),
        (CommandFailed(1, "not a Console Gateway?", status=404), False),
        (CommandFailed(5, "later", error_code="CGW.5030", status=503), False),
        (CommandFailed(4, "token", error_code="CGW.4010", status=401), False),
        (usage_error("wrong"), False),
    ],
)
def test_outages_are_no_refusals(failure: CommandFailed, *, is_refusal: bool) -> None:
    assert failure.is_refusal is is_refusal
