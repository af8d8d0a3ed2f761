"""Tokens while their issuer announces, replaces and cannot publish its keys."""

from collections.abc import Iterator

import pytest

from gateway.demo.cloud.idp import AUDIENCE
from tests.support.stack import RunningGateway, Stack, eventually

ALGORITHMS = ["RS256", "ES256", "Ed25519", "Ed448"]
WITHOUT_KID = {"kid": None}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    running = Stack(start=False)
    issuer = running.gateway.config["issuers"][0]
    issuer["algorithms"] = ALGORITHMS
    running.gateway.write_config()
    running.gateway.start()
    yield running
    running.close()


def test_tokens_without_kid_survive_an_announced_key(stack: Stack) -> None:
    cloud, gateway = stack.cloud, stack.gateway
    assert gateway.console(cloud.token(headers=WITHOUT_KID)).status == 200
    cloud.rotate(keep_old=True)
    eventually(lambda: gateway.console(cloud.token()).status == 200, gateway.log_text)
    for key in (0, 1):
        assert gateway.console(cloud.token(headers=WITHOUT_KID, key=key)).status == 200
    for forged in ("foreign_key", "signature", "none", "hs256"):
        forgery = cloud.token(headers=WITHOUT_KID, forged=forged)
        assert gateway.console(forgery).status == 401, forged


def test_key_that_is_replaced_under_its_kid_is_loaded(stack: Stack) -> None:
    cloud, gateway = stack.cloud, stack.gateway
    for algorithm in ("RS256", "ES256", "Ed25519", "Ed448"):
        old = cloud.token()
        cloud.rotate(algorithm=algorithm, keep_kid=True)
        # At most one refresh per cooldown, which is one second here.
        eventually(lambda: gateway.console(cloud.token()).status == 200, gateway.log_text)
        assert gateway.console(old).status == 401
        assert gateway.console(cloud.token(forged="foreign_key")).status == 401


def test_new_kid_is_503_while_the_key_set_fails(stack: Stack) -> None:
    cloud, gateway = stack.cloud, stack.gateway
    known = cloud.token("nora")
    cloud.fail(cloud.issuer, "answer", path="/jwks", status=500)
    try:
        cloud.rotate(keep_old=True)
        new = cloud.token("paul")
        eventually(lambda: gateway.console(new).status == 503, gateway.log_text)
        response = gateway.console(new)
        assert (response.status, response.error_code) == (503, "CGW.5034")
        assert 1 <= int(response.headers["retry-after"]) <= 30
        assert gateway.console(known).status == 200, "tokens of known keys are not affected"
        assert gateway.console(cloud.token("nora", key=-2, forged="foreign_key")).status == 401
    finally:
        cloud.heal()
    eventually(lambda: gateway.console(new).status == 200, gateway.log_text)


def test_forged_tokens_cause_one_refresh_per_cooldown(own_stack: Stack) -> None:
    """At a cloud whose other gateway does not refresh: that of the module may have to try again."""
    cloud = own_stack.cloud
    gateway = own_stack.replica(start=False)
    gateway.config["issuers"][0] |= {"unknown_kid_cooldown_s": 3600, "algorithms": ALGORITHMS}
    gateway.write_config()
    gateway.start()

    def fetches() -> int:
        return sum(call["path"] == "/jwks" for call in cloud.calls(cloud.issuer))

    kids = ({}, WITHOUT_KID, {"kid": "unknown"})
    forgeries = [cloud.token(headers=kid, forged="foreign_key") for kid in kids]
    before = fetches()
    for forgery in forgeries * 25:
        assert gateway.console(forgery).status == 401
    assert fetches() == before + 1


def test_tokens_without_audience_are_judged_by_the_configured_claim(stack: Stack) -> None:
    cloud = stack.cloud
    gateway = stack.replica(start=False)
    settings = {"claims": {"audience": "client_id"}, "algorithms": ALGORITHMS}
    gateway.config["issuers"][0] |= settings
    gateway.write_config()
    gateway.start()

    def status(gateway: RunningGateway, **claims: object) -> int:
        return gateway.console(cloud.token(claims=claims)).status

    assert status(gateway, aud=None, client_id=AUDIENCE, token_use="access") == 200
    assert status(gateway) == 200, "a token with aud"
    assert status(gateway, aud=None, client_id="another-client") == 401
    assert status(gateway, aud=None) == 401
    assert status(gateway, aud="another-service", client_id=AUDIENCE) == 401
    assert status(gateway, client_id=AUDIENCE, token_use="id") == 401
    assert status(stack.gateway, aud=None, client_id=AUDIENCE) == 401, "without the setting"
