"""Locks against two replicas: people, groups, servers and projects, on both listeners."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.e2e.test_admin import ADMINS, AUDIENCE, Operator, with_api
from tests.support import programs
from tests.support.round_trips import RoundTrips
from tests.support.stack import CloudProcess, RunningGateway, Stack, eventually, fetch

WITHIN_S = 1.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    running = Stack(CloudProcess("--rate", "1000", "--burst", "1000"), **with_api())
    yield running
    running.close()


@pytest.fixture(scope="module")
def other(stack: Stack) -> RunningGateway:
    return stack.replica(**with_api())


@pytest.fixture
def ada(stack: Stack) -> Operator:
    return Operator(stack.cloud)


def listed(gateway: RunningGateway, token: str) -> list[str]:
    path = f"/v1/{gateway.cloud.project}/physicalservers?limit=100"
    response = fetch(gateway.url, "GET", path, {"Authorization": f"Bearer {token}"})
    if response.status != 200:
        return [response.error_code]
    return [server["id"] for server in response.json["servers"]]


def test_lock_keeps_a_person_out_with_a_new_token(
    stack: Stack, other: RunningGateway, ada: Operator
) -> None:
    cloud, gateways = stack.cloud, (stack.gateway, other)
    old, olga = cloud.token("victor"), cloud.token("olga")
    assert {gateway.console(old).status for gateway in gateways} == {200}
    with RoundTrips(*gateways, valkey=stack.valkey) as trips:
        lock = ada.add_override(stack.gateway, "lock", "--subject", "victor", "--reason", "left us")
        set_at = time.monotonic()
        eventually(lambda: other.console(old).status == 403)
        took_s = time.monotonic() - set_at
    assert took_s < trips.limit_s(WITHIN_S)
    new = cloud.token("victor", claims={"iat": int(time.time()) + 5, "jti": "fresh"})
    for gateway in gateways:
        for token in (old, new):
            rejected = gateway.console(token)
            assert (rejected.status, rejected.error_code) == (403, "CGW.4034")
            assert "www-authenticate" not in rejected.headers
        assert gateway.console(olga).status == 200
        eventually(lambda g=gateway: g.metric('gateway_locks{target="subject"}') == 1)
    record = stack.gateway.audit("lock_set")[-1]
    assert (record["subject"], record["operation"]) == ("ada", "Lock")
    assert json.loads(record["detail"])["override_id"] == lock
    refused = stack.gateway.audit("refused")[-1]
    assert (refused["subject"], refused["detail"]) == ("victor", f"locked: lock {lock}")

    assert lock in ada.run(other, "locks").stdout
    refusal = ada.run(other, "clear", lock)
    assert "is a lock" in refusal.stderr
    ada.add_override(other, "unlock", lock)
    for gateway in gateways:
        eventually(lambda g=gateway: g.console(new).status == 200)
    assert other.audit("lock_lifted")[-1]["target"] == ":victor"
    assert "No overrides." in ada.run(other, "locks").stdout


def test_locked_administrator_cannot_lift_the_lock(stack: Stack, ada: Operator) -> None:
    eve = Operator(stack.cloud, "eve")
    own = eve.run(stack.gateway, "lock", "--subject", "eve")
    assert "would cover you" in own.stderr
    lock = ada.add_override(stack.gateway, "lock", "--issuer", "corp", "--subject", "eve")
    again = Operator(stack.cloud, "eve")
    for operator in (eve, again):
        for command in (("unlock", lock), ("overrides",), ("lock", "--subject", "ada")):
            rejected = operator.run(stack.gateway, *command)
            assert rejected.returncode == 3
            assert "CGW.4034" in rejected.stderr
    refused = stack.gateway.audit("admin_refused")[-1]
    assert (refused["subject"], lock in refused["detail"]) == ("eve", True)
    ada.add_override(stack.gateway, "unlock", lock)
    assert again.run(stack.gateway, "overrides").returncode == 0


def test_lock_on_a_group_rejects_its_members_and_tokens_without_groups(
    stack: Stack, other: RunningGateway, ada: Operator
) -> None:
    cloud = stack.cloud
    policy = json.loads(stack.gateway.policy_file.read_text())
    ann = {"role": "operator", "to": {"users": ["ann"]}, "on": {"projects": [cloud.project]}}
    without = cloud.token("ann", claims={"groups": None})
    for gateway in (stack.gateway, other):
        gateway.write_policy({**policy, "grants": [*policy["grants"], ann]})
        eventually(lambda g=gateway: g.console(without).status == 200)
    lock = ada.add_override(stack.gateway, "lock", "--group", "suspended")
    for gateway in (stack.gateway, other):
        eventually(lambda g=gateway: g.console(without).status == 401)
        assert "no groups claim" in gateway.console(without).json["error_msg"]
        assert gateway.console(cloud.token("ann", groups=[])).status == 200
        member = gateway.console(cloud.token("ann", groups=["suspended"]))
        assert (member.status, member.error_code) == (403, "CGW.4034")
    admin = Operator(cloud, "eve", groups=(ADMINS, "suspended"))
    assert "CGW.4034" in admin.run(stack.gateway, "unlock", lock).stderr
    ada.add_override(stack.gateway, "unlock", lock)
    eventually(lambda: other.console(without).status == 200)
    lifted = json.loads(stack.gateway.audit("lock_lifted")[-1]["detail"])
    assert (lifted["id"], lifted["cleared"]["group"]) == (lock, "suspended")


def test_lock_on_an_alias_of_the_policy_is_rejected(stack: Stack, ada: Operator) -> None:
    """Tokens do not contain the alias, so the lock would cover no person."""
    policy = json.loads(stack.gateway.policy_file.read_text())
    policy["groups"] = {"contractors": "5c3d8a0e-6f1b-4c43-9d0a-3f2f6b1f0c11"}
    stack.gateway.write_policy(policy)
    eventually(lambda: "alias" in ada.run(stack.gateway, "lock", "--group", "contractors").stderr)
    said = ada.run(stack.gateway, "lock", "--group", "contractors").stderr
    assert "Lock the group as tokens name it: 5c3d8a0e-6f1b-4c43-9d0a-3f2f6b1f0c11." in said
    del policy["groups"]
    stack.gateway.write_policy(policy)
    for lock in ada.run_json(stack.gateway, "locks")["overrides"]:
        ada.add_override(stack.gateway, "unlock", lock["id"])


def test_admin_token_without_one_groups_claim_is_rejected_beside_a_group_lock(
    stack: Stack, ada: Operator
) -> None:
    """The missing claim may contain the locked group, so its holder must not lift the lock."""
    gateway = stack.replica(start=False, **with_api())
    gateway.config["issuers"][0]["claims"] = {"subject": "sub", "groups": ["groups", "teams"]}
    gateway.write_config()
    gateway.start()
    whole = Operator(stack.cloud, "eve")
    whole.token = stack.cloud.token(
        "eve", groups=[ADMINS], claims={"aud": AUDIENCE, "teams": ["red"]}
    )
    lock = ada.add_override(stack.gateway, "lock", "--group", "suspended")
    eventually(lambda: lock in whole.run(gateway, "locks").stdout)
    partial = Operator(stack.cloud, "eve")
    assert partial.send(gateway, "POST", "/locks/lift", json.dumps({"id": lock})).status == 401
    whole.add_override(gateway, "unlock", lock)
    eventually(lambda: partial.send(gateway, "GET", "/locks").status == 200)


def test_locked_server_and_project_are_closed_to_everyone(
    stack: Stack, other: RunningGateway, ada: Operator
) -> None:
    cloud, gateways = stack.cloud, (stack.gateway, other)
    viewer, olga = cloud.token("vic", groups=["viewers"]), cloud.token("olga")
    server, free = cloud.servers[:2]
    assert server in listed(other, viewer)
    lock = ada.add_override(stack.gateway, "lock", "--server", server.upper())
    for gateway in gateways:
        eventually(lambda g=gateway: g.console(olga, server).status == 403)
        assert gateway.console(olga, server).error_code == "CGW.4030"
        assert gateway.console(olga, free).status == 200
        assert server not in listed(gateway, viewer)
        assert free in listed(gateway, viewer)
    assert stack.gateway.audit("refused")[-1]["detail"] == f"lock {lock}"
    assert stack.gateway.audit("lock_set")[-1]["servers"] == [server]
    ada.add_override(stack.gateway, "unlock", lock)
    eventually(lambda: other.console(olga, server).status == 200)

    lock = ada.add_override(stack.gateway, "lock", "--project", cloud.project)
    for gateway in gateways:
        eventually(lambda g=gateway: g.console(olga, free).status == 403)
        assert listed(gateway, viewer) == ["CGW.4030"]
    ada.add_override(stack.gateway, "unlock", lock)
    eventually(lambda: other.console(olga, free).status == 200)


def test_explain_knows_the_locks_of_file_and_gateway(
    stack: Stack, other: RunningGateway, ada: Operator
) -> None:
    target = f"{stack.cloud.project}/{stack.cloud.servers[0]}"

    def explain(*options: str, token: str = ada.token) -> tuple[int, str]:
        ran = programs.run(
            *("gateway", "explain", "--config", str(stack.gateway.config_file)),
            *("--user", "olga", "--group", "operators", *options, target),
            environ={"CONSOLE_GATEWAY_ADMIN_TOKEN": token},
        )
        assert token not in ran.stdout + ran.stderr
        return ran.returncode, ran.stdout + ran.stderr

    online = ("--gateway", other.admin)
    assert [explain()[0], explain(*online)[0]] == [0, 0]
    lock = ada.add_override(stack.gateway, "lock", "--group", "operators", "--reason", "audit")
    eventually(lambda: lock in ada.run(other, "locks").stdout)
    denied = f"DENIED by lock {lock} on group operators, until it is lifted, set by corp:ada: audit"
    by_file, by_gateway = explain(), explain(*online)
    for code, output in (by_file, by_gateway):
        assert (code, output.splitlines()[0]) == (3, denied)
        assert "without locks: ALLOWED by " in output
    assert "1 lock in " in by_file[1]
    assert f"1 lock at {other.admin}" in by_gateway[1]
    ada.add_override(stack.gateway, "unlock", lock)
    assert explain()[0] == 0
    # A gateway that does not answer the question has said neither yes nor no.
    reader = Operator(stack.cloud, "rosa", groups=("may-revoke",))
    code, output = explain(*online, token=reader.token)
    assert (code, "Missing admin permission: `read`" in output) == (1, True)


def test_lock_for_a_time_ends_by_itself(stack: Stack, ada: Operator) -> None:
    otto, status = stack.cloud.token("otto"), 0
    for seconds in ("2", "4", "8", "16"):  # on a busy machine it may have ended before the request
        ada.add_override(stack.gateway, "lock", "--subject", "otto", "--for", seconds)
        status = stack.gateway.console(otto).status
        if status == 403:
            break
    assert status == 403
    eventually(lambda: stack.gateway.console(otto).status == 200)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"subject": "a", "group": "b"},
        {"issuer": "corp", "server": "f5f16eae-02d3-5193-80a0-2fb680e9d886"},
        {"issuer": "nobody", "subject": "a"},
        {"server": "no-uuid"},
        {"project": "unknown"},
        {"subject": ""},
        {"subject": "mallory "},
        {"subject": "mal\tlory"},
        {"group": "ext-*"},
        {"group": " ops"},
        {"issuer": "certificate", "group": "ops"},
    ],
)
def test_lock_without_a_known_target_is_rejected(
    stack: Stack, ada: Operator, body: dict[str, str]
) -> None:
    response = ada.send(stack.gateway, "POST", "/locks", json.dumps(body))
    assert (response.status, response.error_code) == (400, "CGW.4000")


def test_lock_survives_redis_outage_and_restart() -> None:
    stack = Stack(CloudProcess("--rate", "1000", "--burst", "1000"), **with_api())
    try:
        gateway, ada = stack.gateway, Operator(stack.cloud)
        ada.add_override(gateway, "lock", "--subject", "victor")
        stack.valkey.kill()
        gateway.stop()
        gateway.start(wait=False)
        eventually(lambda: gateway.ready() == 200)
        new = stack.cloud.token("victor")
        assert gateway.console(new).error_code == "CGW.4034"
    finally:
        stack.close()
