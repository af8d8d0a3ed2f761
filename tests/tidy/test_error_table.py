"""The table of error codes, and the page that is generated from it."""

import re
from pathlib import Path

import pytest

from gateway.domain import errors
from gateway.domain.errors import GatewayError, Rejection
from gateway.edge.docs.openapi import openapi
from gateway.edge.error_response import render_error
from gateway.edge.error_spec import ErrorSpec
from gateway.edge.error_table import ERROR_SPECS, ERROR_TABLE

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"


def leaf_errors(kind: type[GatewayError]) -> list[type[GatewayError]]:
    below = kind.__subclasses__()
    own = [] if kind in (GatewayError, errors.RetryLater) else [kind]
    return own + [leaf for one in below for leaf in leaf_errors(one)]


def test_error_table_covers_every_caller_error() -> None:
    never_sent = {errors.StoreUnavailable}
    assert set(ERROR_TABLE) == set(leaf_errors(GatewayError)) - never_sent


def test_error_codes_are_unique() -> None:
    codes = [spec.code for spec in ERROR_SPECS]
    assert len(codes) == len(set(codes))


def test_error_code_begins_with_its_status() -> None:
    assert all(spec.code.startswith(f"CGW.{spec.status}") for spec in ERROR_SPECS)


@pytest.mark.parametrize("spec", ERROR_SPECS, ids=lambda spec: spec.code)
def test_error_entry_is_complete(spec: ErrorSpec) -> None:
    for text in (spec.message, spec.cause, spec.caller_action, spec.operator_action):
        assert re.fullmatch(r"[A-Z`].*\.", text), text


@pytest.mark.parametrize("spec", ERROR_SPECS, ids=lambda spec: spec.code)
def test_error_alerts_exist(spec: ErrorSpec) -> None:
    defined = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    assert set(spec.alerts) <= defined


def test_errors_with_retry_after_are_retryable() -> None:
    for kind, spec in ERROR_TABLE.items():
        sends_header = issubclass(kind, errors.RetryLater)
        assert sends_header == ("`Retry-After`" in spec.retry), kind
        assert sends_header == ("in Retry-After." in spec.message), kind


def test_openapi_examples_are_the_table_texts() -> None:
    found = {
        code: example["value"]["error_msg"]
        for response in openapi(())["components"]["responses"].values()
        for code, example in response["content"]["application/json"]["examples"].items()
    }
    assert found == {spec.code: spec.message for spec in ERROR_SPECS}


@pytest.mark.parametrize("reason", list(Rejection))
def test_challenge_reveals_no_verification_detail(reason: Rejection) -> None:
    response = render_error(errors.NotAuthenticated(reason, "canary", issuer="canary"))
    ((name, challenge),) = response.headers
    assert name == "WWW-Authenticate"
    assert re.fullmatch(r'Bearer realm="console-gateway"(, [a-z_]+="[^"]*")*', challenge)
    assert "canary" not in challenge + response.body.decode()
    assert "signature" not in challenge
    assert "key" not in challenge
