"""A permission that ends during a wait, or while the record is written, ends the request."""

from collections.abc import Callable

import pytest

from gateway.domain.errors import GatewayError, NotAuthenticated, NotPermitted
from gateway.domain.model import LinkSource
from gateway.domain.policy.policy import Policy
from tests.support.one_link import ANN, GRANT, OneLink

LOSSES = pytest.mark.parametrize(
    ("loses", "refusal"),
    [
        (OneLink.forbid, NotPermitted),
        (OneLink.end_grant, NotPermitted),
        (OneLink.revoke, NotAuthenticated),
    ],
    ids=["policy", "grant's end", "revocation"],
)
Loses = Callable[[OneLink], None]


@LOSSES
async def test_permission_lost_during_fetch_issues_no_link(
    loses: Loses, refusal: type[GatewayError]
) -> None:
    scene = OneLink()
    scene.cached_value = None
    scene.while_obtained = lambda: loses(scene)
    with pytest.raises(refusal):
        await scene.request_link()
    assert scene.recorded == ["refused"]


@LOSSES
@pytest.mark.parametrize("link", ["held", "new"])
async def test_permission_lost_during_record_issues_no_link(
    loses: Loses, refusal: type[GatewayError], link: str
) -> None:
    scene = OneLink()
    if link == "new":
        scene.cached_value = None
    scene.while_recorded = lambda: loses(scene)
    with pytest.raises(refusal):
        await scene.request_link()
    assert scene.recorded == [link, "refused"]


async def test_record_names_the_last_deciding_policy() -> None:
    scene = OneLink()
    scene.cached_value = None
    newer = Policy([GRANT], version="v3")

    def changed() -> None:
        scene.policy = newer

    scene.while_obtained = changed
    assert (await scene.request_link()).source is LinkSource.UPSTREAM
    assert [one.policy_version for one in scene.records] == ["v3"]


async def test_revoked_token_is_recorded_with_person_and_operation() -> None:
    scene = OneLink()
    scene.revoke()
    with pytest.raises(NotAuthenticated):
        await scene.request_link()
    (record,) = scene.records
    assert (record.event, record.decision, record.detail) == ("refused", "denied", "revoked")
    assert (record.issuer, record.subject) == (ANN.issuer, ANN.subject)
    assert (record.operation, len(record.servers)) == ("ShowRemoteConsole", 1)


async def test_records_of_a_revoked_token_are_limited() -> None:
    scene = OneLink(burst=3)
    scene.revoke()
    for _ in range(10):
        with pytest.raises(NotAuthenticated):
            await scene.request_link()
    assert scene.recorded == ["refused"] * 3
