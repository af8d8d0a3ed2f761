"""Who loses a right while a link is waited for, or put on record, is not given the link."""

from collections.abc import Callable

import pytest

from gateway.domain.errors import GatewayError, NotAuthenticated, NotPermitted
from gateway.domain.model import LinkSource
from gateway.domain.policy.policy import Policy
from tests.support.one_link import ANN, GRANT, OneLink

LOSSES = pytest.mark.parametrize(
    ("loses", "refusal"),
    [(OneLink.forbid, NotPermitted), (OneLink.revoke, NotAuthenticated)],
    ids=["policy", "revocation"],
)
Loses = Callable[[OneLink], None]


@LOSSES
async def test_a_right_that_ends_while_the_link_is_waited_for(
    loses: Loses, refusal: type[GatewayError]
) -> None:
    scene = OneLink()
    scene.held = None
    scene.while_obtained = lambda: loses(scene)
    with pytest.raises(refusal):
        await scene.asks()
    assert scene.recorded == ["refused"]


@LOSSES
@pytest.mark.parametrize("link", ["held", "new"])
async def test_a_right_that_ends_while_the_link_is_put_on_record(
    loses: Loses, refusal: type[GatewayError], link: str
) -> None:
    scene = OneLink()
    if link == "new":
        scene.held = None
    scene.while_recorded = lambda: loses(scene)
    with pytest.raises(refusal):
        await scene.asks()
    assert scene.recorded == [link, "refused"]


async def test_the_record_names_the_policy_that_allowed_it_in_the_end() -> None:
    scene = OneLink()
    scene.held = None
    newer = Policy([GRANT], version="v3")

    def changed() -> None:
        scene.policy = newer

    scene.while_obtained = changed
    assert (await scene.asks()).source is LinkSource.UPSTREAM
    assert [one.policy_version for one in scene.records] == ["v3"]


async def test_a_revoked_token_is_put_on_record_with_whose_it_is_and_what_was_asked() -> None:
    scene = OneLink()
    scene.revoke()
    with pytest.raises(NotAuthenticated):
        await scene.asks()
    (record,) = scene.records
    assert (record.event, record.decision, record.detail) == ("refused", "denied", "revoked")
    assert (record.issuer, record.subject) == (ANN.issuer, ANN.subject)
    assert (record.operation, len(record.servers)) == ("ShowRemoteConsole", 1)


async def test_who_asks_on_and_on_with_a_revoked_token_fills_no_trail() -> None:
    scene = OneLink(burst=3)
    scene.revoke()
    for _ in range(10):
        with pytest.raises(NotAuthenticated):
            await scene.asks()
    assert scene.recorded == ["refused"] * 3
