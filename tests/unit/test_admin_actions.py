"""The actions of the admin API: their overrides, and requests that are rejected."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from gateway.domain.errors import BadRequest
from gateway.domain.identity.claims import TokenRules
from gateway.domain.model import Principal
from gateway.domain.overrides import LogLevels, Override, RevokedBefore
from gateway.flow.active_overrides import ActiveOverrides
from gateway.flow.admin.actions import AdminActions
from gateway.flow.admin.administration import ActionPlan, Administrator
from gateway.flow.admin.cluster_query import ClusterQuery
from gateway.flow.admin.console_actions import ConsoleActions
from gateway.flow.admin.login_actions import LoginActions
from gateway.flow.admin.request_actions import RequestActions
from gateway.flow.admin.webhook_actions import WebhookActions
from tests.support.clock import FakeClock
from tests.support.override_store import FakeOverrideStore
from tests.support.replicas import Alone

CORP = TokenRules(
    issuer="corp",
    iss="https://corp",
    audiences=frozenset({"console-gateway"}),
    leeway_s=30.0,
    token_age_max_s=3_600.0,
    token_type=None,
    subject_claim="sub",
    groups_claim="groups",
)
ADA = Administrator(
    Principal("corp", "ada", frozenset({"admins"}), 0.0, 0.0, None),
    by_certificate=False,
    check=lambda: None,
    request_id="r1",
    client_address="192.0.2.1",
)


class Operating:
    """The actions with an in-memory store of overrides."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.overrides = ActiveOverrides(FakeOverrideStore(), None, clock, allow_unloaded=False)
        self._actions = AdminActions(
            rate_max_per_s={("prod", "console"): 9.0, ("prod", "iam"): 1.0},
            projects=frozenset({"p1"}),
            rules={"corp": CORP},
            link_life_s=300.0,
            group_aliases=lambda: {"contractors": frozenset({"5c3d-8a0e", "1f0e-9d8c"})},
            overrides=self.overrides,
            cluster=ClusterQuery(cast(Any, None), Alone()),
            consoles=ConsoleActions(None),
            logins=LoginActions({}),
            requests=RequestActions(cast(Any, None), clock),
            webhooks=WebhookActions(cast(Any, None)),
            inquiries=cast(Any, SimpleNamespace(explain=None, search=None)),
            clock=clock,
        )

    def plan(self, name: str, **fields: Any) -> ActionPlan:
        (action,) = [one for one in self._actions.all if one.spec.name == name]
        return action.plan(msgspec.convert(fields, action.spec.request_type), ADA)

    async def do(self, name: str, **fields: Any) -> Any:
        return msgspec.to_builtins(await self.plan(name, **fields).perform())

    def is_revoked(self, subject: str, *, issued_s_ago: float) -> bool:
        at = self.clock.now() - issued_s_ago
        return self.overrides.is_known_revoked(
            Principal("corp", subject, frozenset(), at, at, None)
        )

    def instant(self, *, s_ago: float) -> datetime:
        return datetime.fromtimestamp(self.clock.now(), UTC) - timedelta(seconds=s_ago)


@pytest.fixture
def operating(clock: FakeClock) -> Operating:
    return Operating(clock)


async def test_revoking_a_person_includes_the_issuer_leeway(
    operating: Operating,
) -> None:
    response = await operating.do("Revoke", issuer="corp", subject="mallory")
    assert operating.is_revoked("mallory", issued_s_ago=-30)
    assert not operating.is_revoked("mallory", issued_s_ago=-33)
    assert not operating.is_revoked("olga", issued_s_ago=0)
    assert "30 s of leeway" in response["note"]


async def test_revoking_before_a_time_includes_the_leeway(
    operating: Operating,
) -> None:
    response = await operating.do("Revoke", issuer="corp", before=operating.instant(s_ago=100))
    assert operating.is_revoked("olga", issued_s_ago=70)
    assert not operating.is_revoked("olga", issued_s_ago=67)
    assert response["override"]["effect"]["before"] == operating.clock.now() - 68


async def test_revocation_outlives_every_token_it_covers(
    operating: Operating, clock: FakeClock
) -> None:
    await operating.do("Revoke", issuer="corp", before=operating.instant(s_ago=-29))
    (override,) = operating.overrides.current.in_force
    assert isinstance(override.effect, RevokedBefore)
    assert override.expires_at >= override.effect.before + CORP.token_age_max_s + CORP.leeway_s
    assert override.effect.before == clock.now() + CORP.leeway_s + 2


@pytest.mark.parametrize(
    "before",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.fromisoformat("9999-12-31T23:59:59-14:00"),
        datetime.fromisoformat("0001-01-01T00:00:00+14:00"),
        datetime(1969, 12, 31, tzinfo=UTC),
    ],
)
def test_before_out_of_range_is_rejected(operating: Operating, before: datetime) -> None:
    with pytest.raises(BadRequest, match="before"):
        operating.plan("Revoke", issuer="corp", subject="mallory", before=before)


@pytest.mark.parametrize("before", [1e300, -1e300, float("inf"), float("nan")])
async def test_listing_limits_extreme_times(operating: Operating, before: float) -> None:
    effect = RevokedBefore("corp", 0.0)
    await operating.overrides.add(Override("a", before, float("inf"), "corp:ada", "", effect))
    (response,) = (await operating.do("ListOverrides"))["overrides"]
    assert response["expires_at"] == "9999-12-31T23:59:59+00:00"


async def test_clearing_requires_the_permission_that_set_it(operating: Operating) -> None:
    revoked = await operating.do("Revoke", issuer="corp", subject="mallory")
    levels = await operating.do("SetLogLevels", levels={"gateway.policy": "debug"}, duration_s=60)
    plans = [operating.plan("ClearOverride", id=one["override"]["id"]) for one in (revoked, levels)]
    assert [plan.permission for plan in plans] == ["revoke", "override"]
    assert plans[1].cleared == LogLevels({"gateway.policy": "debug"})


async def test_lifting_a_lock_without_end_is_forgotten(
    operating: Operating, clock: FakeClock
) -> None:
    """Locks and liftings that are never removed would fill the bound of locks."""
    locks = [await operating.do("Lock", subject="olga", **more) for more in ({}, {"duration_s": 9})]
    for lock, remembered_s in zip(locks, (30 * 86_400, 9), strict=True):
        lifted = await operating.do("Unlock", id=lock["override"]["id"])
        expires_at = datetime.fromisoformat(lifted["override"]["expires_at"]).timestamp()
        assert expires_at == pytest.approx(clock.now() + remembered_s + 300, abs=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subject": "mallory "}, "subject must not begin or end with a blank"),
        ({"subject": "mal\nlory"}, "subject must not contain control characters"),
        ({"group": "ext-*"}, "no wildcards"),
        ({"group": "ops?"}, "no wildcards"),
        ({"issuer": "certificate", "group": "ops"}, "A certificate is in no group"),
        ({"group": "contractors"}, "alias of the policy.*: 1f0e-9d8c and 5c3d-8a0e"),
    ],
)
def test_lock_without_possible_target_is_rejected(
    operating: Operating, fields: dict[str, str], message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        operating.plan("Lock", **fields)


@pytest.mark.parametrize("name", ["Revoke", "DropLinks"])
def test_person_that_no_token_names_is_rejected(operating: Operating, name: str) -> None:
    with pytest.raises(BadRequest, match="subject must not"):
        operating.plan(name, issuer="corp", subject=" mallory")


async def test_lock_compares_wildcards_as_they_are(operating: Operating) -> None:
    """A person may have chosen such a name and must not be out of reach of a lock."""
    response = await operating.do("Lock", subject="eve*")
    assert "no wildcards" in response["note"]
    eves = [Principal("corp", name, frozenset(), 0.0, 0.0, None) for name in ("eve*", "eves")]
    found = [operating.overrides.find_lock(one) for one in eves]
    assert found == [response["override"]["id"], None]
    assert (await operating.do("Lock", subject="eve"))["note"] == ""


async def test_dropped_links_name_the_person_without_key_length(operating: Operating) -> None:
    response = await operating.do("DropLinks", issuer="corp", subject="olga")
    assert response["override"]["effect"]["person"] == "corp:olga"
    assert operating.overrides.dropped_by("p1", "s", "4:corp:olga")


@pytest.mark.parametrize("per_s", [0.0, 1e-320, 0.000_9, 100_001.0, float("nan"), float("inf")])
def test_rate_ceiling_out_of_bounds_is_rejected(operating: Operating, per_s: float) -> None:
    with pytest.raises(msgspec.ValidationError):
        operating.plan("SetRateCeiling", account="prod", rate_per_s=per_s)


@pytest.mark.parametrize(
    ("budget", "per_s"), [("console", 9.1), ("console", 4_000.0), ("iam", 2.0)]
)
def test_rate_ceiling_above_configured_maximum_is_rejected(
    operating: Operating, budget: str, per_s: float
) -> None:
    with pytest.raises(BadRequest, match="or less"):
        operating.plan("SetRateCeiling", account="prod", budget=budget, rate_per_s=per_s)
    assert operating.plan("SetRateCeiling", account="prod", budget="console", rate_per_s=9.0)


@pytest.mark.parametrize(
    ("name", "fields", "problem"),
    [
        ("ListLogins", {}, r"issuers\[\].login"),
        ("EndLogins", {"listener": "admin", "subject": "olga"}, r"admin\.login"),
        ("EndLogins", {}, "exactly one of id and subject"),
        ("EndLogins", {"id": "0a", "subject": "olga"}, "exactly one of id and subject"),
        ("EndLogins", {"id": "0a", "issuer": "corp"}, "issuer requires subject"),
        ("ListLogins", {"issuer": "corp"}, "issuer requires subject"),
        ("ListLogins", {"subject": "olga", "before": "7"}, "before excludes subject"),
        ("ListLogins", {"listener": "other"}, "one of: public, admin"),
        ("ListLogins", {"before": "(1 +inf"}, "match"),
    ],
)
async def test_wrong_request_about_logins_is_rejected(
    operating: Operating, name: str, fields: dict[str, str], problem: str
) -> None:
    with pytest.raises((BadRequest, msgspec.ValidationError), match=problem):
        operating.plan(name, **fields)
