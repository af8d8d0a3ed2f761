"""The inquiries of the admin API: why a decision, and what was recorded."""

from pathlib import Path
from typing import Any, cast

import pytest

from gateway.config.located_yaml import load
from gateway.config.policy_parser import parse_policy
from gateway.domain.audit.search import FoundRecord, FoundRecords, Proof, RecordFilter
from gateway.domain.errors import BadRequest
from gateway.domain.model import ServerId
from gateway.domain.overrides import UNTIL_LIFTED, Lock, Override, OverrideSet
from gateway.domain.policy.inventory import Attributes, Inventory
from gateway.flow.admin.administration import Administrator
from gateway.flow.admin.inquiry_actions import DecisionSources, GatewayHosts, InquiryActions
from gateway.flow.admin.inquiry_messages import (
    ExplainRequest,
    ExplainResponse,
    SearchAuditRequest,
)
from tests.support.clock import FakeClock

PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
SERVER = "11111111-2222-4333-8444-555555555555"
POLICY = f"""
groups:
  ops: [team-1]
roles: {{op: [console:open]}}
grants:
  - role: op
    to: {{groups: [ops]}}
    on: {{projects: [{PROJECT}]}}
denials:
  - role: op
    to: {{users: [mallory]}}
    on: {{servers: [{SERVER}]}}
"""
ADA = cast("Administrator", None)


class Records:
    """An audit log with one record."""

    def __init__(self) -> None:
        self.wanted: RecordFilter | None = None

    async def search(self, wanted: RecordFilter, *, records_max: int) -> FoundRecords:
        self.wanted = wanted
        record = {"event": "refused", "at": 0.0, "servers": [SERVER], "groups": ["team-1"]}
        found = [FoundRecord(record, Proof.BROKEN)]
        hosts = frozenset({"web-2"})
        return FoundRecords(found, is_complete=True, is_intact=False, hosts=hosts)


class Inquiring:
    def __init__(self, directory: Path, clock: FakeClock) -> None:
        file = directory / "policy.yaml"
        file.write_text(POLICY)
        policy = parse_policy(load(file), issuers=["corp"], projects=[PROJECT], version="v7")
        self.clock = clock
        self.locks: list[Override] = []
        self.groups: dict[tuple[str, str], frozenset[str]] = {}
        """Of the newest token by person."""
        self.records: Records | None = Records()
        known = {ServerId(SERVER): Attributes(name="db-1")}
        inventory = Inventory(known, taken_at=0.0, good_until=float("inf"))
        self._policies: Any = type("P", (), {"current": lambda _: policy})()
        self._inventories: Any = type("I", (), {"current": lambda _, __: inventory})()

    async def _newest_groups(self, issuer: str, subject: str) -> frozenset[str] | None:
        return self.groups.get((issuer, subject))

    @property
    def actions(self) -> InquiryActions:
        sources = DecisionSources(
            self._policies,
            self._inventories,
            lambda: OverrideSet(self.locks),
            self._newest_groups,
            "web-1:7",
        )

        async def hosts() -> tuple[frozenset[str], int]:
            return frozenset({"web-1", "web-2", "web-3"}), 1

        here = GatewayHosts("web-1", hosts)
        return InquiryActions(sources, frozenset({PROJECT}), self.records, here, self.clock)

    async def explain(self, subject: str, **fields: Any) -> ExplainResponse:
        request = ExplainRequest(
            **{"issuer": "corp", "subject": subject, "project": PROJECT, "server": SERVER, **fields}
        )
        return cast("ExplainResponse", await self.actions.explain(request, ADA).perform())

    def token(self, subject: str, *groups: str) -> None:
        self.groups["corp", subject] = frozenset(groups)


@pytest.fixture
def inquiring(tmp_path: Path, clock: FakeClock) -> Inquiring:
    return Inquiring(tmp_path, clock)


async def test_grant_explains_and_aliases_are_read(inquiring: Inquiring) -> None:
    found = await inquiring.explain("olga", groups=["ops"])
    assert found.allowed
    assert found.rule is not None
    assert found.rule.kind == "grant"
    assert "policy.yaml:" in found.rule.location
    assert (found.groups, found.groups_from) == (["team-1"], "request")
    assert (found.attributes_known, found.server_name, found.policy) == (True, "db-1", "v7")


async def test_groups_come_from_the_newest_token(inquiring: Inquiring) -> None:
    unknown = await inquiring.explain("olga")
    assert (unknown.allowed, unknown.rule, unknown.groups_from) == (False, None, "none")
    inquiring.token("olga", "team-1")
    assert (await inquiring.explain("olga")).allowed
    inquiring.token("olga", "team-2")
    newest = await inquiring.explain("olga")
    assert (newest.allowed, newest.groups, newest.groups_from) == (False, ["team-2"], "token")
    assert newest.process == "web-1:7"


async def test_denial_wins_and_the_grant_is_named(inquiring: Inquiring) -> None:
    found = await inquiring.explain("mallory", groups=["team-1"])
    assert not found.allowed
    assert found.rule is not None
    assert found.rule.kind == "denial"
    assert [one.kind for one in found.others] == ["grant"]


@pytest.mark.parametrize("lock", [Lock(subject="olga"), Lock(server=SERVER), Lock(group="team-1")])
async def test_lock_wins_over_the_grant(inquiring: Inquiring, lock: Lock) -> None:
    inquiring.locks = [Override("id1", 0.0, UNTIL_LIFTED, "corp:ada", "why", lock)]
    found = await inquiring.explain("olga", groups=["team-1"])
    assert not found.allowed
    assert found.rule is not None
    assert found.rule.kind == "grant"  # it decides again when the lock is lifted
    assert [one.id for one in found.locks] == ["id1"]


async def test_explain_names_person_and_server_for_the_record(inquiring: Inquiring) -> None:
    request = ExplainRequest(issuer="corp", subject="olga", project=PROJECT, server=SERVER.upper())
    plan = inquiring.actions.explain(request, ADA)
    assert (plan.target, plan.project, plan.servers) == ("corp:olga", PROJECT, (SERVER,))


@pytest.mark.parametrize("wrong", [{"project": "other"}, {"server": "web-1"}])
async def test_unknown_names_are_rejected(inquiring: Inquiring, wrong: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        await inquiring.explain("olga", **wrong)
    with pytest.raises(ValueError, match="permission must be one of"):
        await inquiring.explain("olga", permission="console:everything")


async def test_search_reads_one_day_by_default(inquiring: Inquiring) -> None:
    request = SearchAuditRequest(subject="olga")
    plan = inquiring.actions.search(request, ADA)
    assert plan.target == ":olga"
    found: Any = await plan.perform()
    assert inquiring.records is not None
    wanted = inquiring.records.wanted
    assert wanted is not None
    assert wanted.until == inquiring.clock.now()
    assert wanted.since == inquiring.clock.now() - 86_400
    assert (found.complete, found.intact) == (True, False)
    (record,) = found.records
    assert (record.at, record.servers) == ("1970-01-01T00:00:00+00:00", [SERVER])
    assert record.proof == "broken"


async def test_search_names_hosts_that_were_not_searched(inquiring: Inquiring) -> None:
    found: Any = await inquiring.actions.search(SearchAuditRequest(), ADA).perform()
    assert found.hosts == ["web-1", "web-2"]
    assert (found.other_hosts, found.missing) == (["web-3"], 1)


async def test_search_requires_files(inquiring: Inquiring) -> None:
    inquiring.records = None
    with pytest.raises(BadRequest, match=r"audit\.directory"):
        inquiring.actions.search(SearchAuditRequest(), ADA)
