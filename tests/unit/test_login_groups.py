"""Claims of a login from the access token or from userinfo, and the leeway of its times."""

from typing import Any, Literal

import pytest

from gateway.domain.errors import LoginFailed, NotAuthenticated, Rejection
from gateway.domain.identity.claims import TokenRules
from gateway.domain.login import model
from gateway.domain.login.model import LoginProblem
from gateway.domain.login.tokens import IdTokenFacts, LoginRules
from gateway.domain.model import Secret, VerifiedToken
from gateway.flow.login.id_tokens import IdTokens, LoginIssuer
from gateway.flow.login.openid_provider import ProviderTokens
from tests.support.clock import FakeClock

NOW = 1_000_000.0
ID_TOKEN = {
    "iss": "https://idp.example",
    "sub": "olga",
    "aud": "gateway-web",
    "iat": NOW,
    "exp": NOW + 300,
    "nonce": "n",
}
ACCESS_TOKEN = {
    "iss": "https://idp.example",
    "sub": "olga",
    "aud": ["gateway-api"],
    "iat": NOW,
    "exp": NOW + 300,
    "groups": ["operators"],
}
GroupsFrom = Literal["id_token", "access_token", "userinfo"]


class Provider:
    """Verifies what it has made itself: the tokens are the names of its claims."""

    def __init__(self, **claims: Any) -> None:
        self.tokens = {"id": {**ID_TOKEN}, "access": {**ACCESS_TOKEN}, **claims}
        self.issuers = {"id": "corp", "access": "corp"}

    async def verify(self, token: Secret) -> VerifiedToken:
        name = token.reveal()
        if name not in self.tokens:
            raise NotAuthenticated(Rejection.SIGNATURE)
        return VerifiedToken(self.issuers[name], {"alg": "ES256"}, self.tokens[name])

    async def userinfo(self, access_token: str) -> Any:
        assert access_token == "access"
        return self.tokens["userinfo"]

    async def log_in(
        self, groups_from: GroupsFrom = "access_token", *, access: str = "access"
    ) -> IdTokenFacts:
        anything: Any = self
        rules = TokenRules(
            issuer="corp",
            iss="https://idp.example",
            audiences=frozenset({"gateway-api"}),
            leeway_s=30.0,
            token_age_max_s=3_600.0,
            token_type=None,
            subject_claim="sub",
            groups_claim="groups",
        )
        issuer = LoginIssuer("corp", anything, LoginRules("gateway-web", rules, ()), groups_from)
        tokens = ProviderTokens(access, "id", "", 300.0)
        return await IdTokens(anything, FakeClock(NOW)).check(issuer, tokens, nonce="n")


async def test_groups_come_from_the_access_token() -> None:
    facts = await Provider().log_in()
    assert (facts.person.subject, facts.person.groups) == ("olga", frozenset({"operators"}))


async def test_claims_of_the_id_token_win() -> None:
    provider = Provider(id={**ID_TOKEN, "groups": ["viewers"]})
    assert (await provider.log_in()).person.groups == frozenset({"viewers"})


async def test_access_token_is_not_read_unless_it_is_configured() -> None:
    assert (await Provider().log_in("id_token")).person.groups == frozenset()


@pytest.mark.parametrize(
    ("access", "problem"),
    [
        ({"sub": "victor"}, model.TOKEN_REJECTED),
        ({"aud": ["other-api"]}, model.TOKEN_REJECTED),
        ({"exp": NOW - 31}, model.CLOCK_SKEW),
        ({"groups": None, "_claim_names": {"groups": "src1"}}, model.GROUPS_OVERAGE),
    ],
)
async def test_unsuitable_access_token_is_rejected(
    access: dict[str, Any], problem: LoginProblem
) -> None:
    provider = Provider(access={**ACCESS_TOKEN, **access})
    with pytest.raises(LoginFailed) as failed:
        await provider.log_in()
    assert failed.value.problem is problem


async def test_opaque_access_token_is_rejected() -> None:
    with pytest.raises(LoginFailed) as failed:
        await Provider().log_in(access="opaque")
    assert failed.value.problem is model.TOKEN_REJECTED


async def test_access_token_of_another_issuer_is_a_mix_up() -> None:
    provider = Provider()
    provider.issuers["access"] = "other"
    with pytest.raises(LoginFailed) as failed:
        await provider.log_in()
    assert failed.value.problem is model.MIXED_UP


async def test_userinfo_of_another_person_is_rejected() -> None:
    provider = Provider(userinfo={"sub": "olga", "groups": ["operators"]})
    assert (await provider.log_in("userinfo")).person.groups == frozenset({"operators"})
    for sub in ("victor", None):
        provider.tokens["userinfo"] = {"sub": sub, "groups": ["operators"]}
        with pytest.raises(LoginFailed) as failed:
            await provider.log_in("userinfo")
        assert failed.value.problem is model.TOKEN_REJECTED


@pytest.mark.parametrize(
    ("times", "is_accepted"),
    [
        ({"exp": NOW - 29}, True),
        ({"exp": NOW - 31}, False),
        ({"iat": NOW + 29}, True),
        ({"iat": NOW + 31}, False),
        ({"nbf": NOW + 31}, False),
    ],
)
async def test_clocks_may_differ_by_the_leeway(
    times: dict[str, float], *, is_accepted: bool
) -> None:
    provider = Provider(id={**ID_TOKEN, "groups": ["operators"], **times})
    if is_accepted:
        assert (await provider.log_in("id_token")).person.subject == "olga"
        return
    with pytest.raises(LoginFailed) as failed:
        await provider.log_in("id_token")
    assert failed.value.problem is model.CLOCK_SKEW
