"""The admin API and the commands of `gateway admin`, against two replicas."""

import http.client
import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import jsonschema
import jwt
import pytest
from openapi_spec_validator import validate

from gateway.domain.admin_permissions import ADMIN_PERMISSIONS
from gateway.domain.model import Logger, LogLevel
from gateway.flow.admin.action_specs import ACTION_SPECS, ActionSpec
from tests.support import programs
from tests.support.stack import (
    TIMEOUT_S,
    CloudProcess,
    Response,
    RunningGateway,
    Stack,
    eventually,
    fetch,
)
from tests.support.tls import Authority

AUDIENCE, ADMINS = "console-gateway-admin", "console-admins"
JSON = "application/json"
API = {
    "audience": AUDIENCE,
    "groups": {ADMINS: "all"} | {f"may-{name}": [name] for name in ADMIN_PERMISSIONS},
}
WITH_CERTIFICATE = {**API, "certificates": {"breakglass": "all"}}

REQUESTS = [
    ("/overrides", "GET", ""),
    ("/log-levels", "POST", '{"levels": {"gateway.policy": "info"}, "duration_s": 60}'),
    ("/rate-ceilings", "POST", '{"account": "prod", "rate_per_s": 100, "duration_s": 60}'),
    ("/revocations", "POST", '{"issuer": "corp", "token_id": "none-has-it"}'),
    ("/revocations", "POST", '{"issuer": "corp", "subject": "no-person"}'),
    ("/locks", "POST", '{"issuer": "corp", "subject": "no-person"}'),
    ("/locks", "GET", ""),
    ("/links/drop", "POST", '{"issuer": "corp", "subject": "no-person"}'),
    ("/overrides", "GET", ""),
    ("/sessions", "GET", ""),
    ("/queue", "GET", ""),
    ("/policy", "GET", ""),
    ("/policy/reload", "POST", "{}"),
    ("/audit", "GET", ""),
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    running = Stack(CloudProcess("--rate", "1000", "--burst", "1000"), **with_api())
    yield running
    running.close()


@pytest.fixture(scope="module")
def other(stack: Stack) -> RunningGateway:
    return stack.replica(**with_api())


def with_api(**change: Any) -> dict[str, Any]:
    """Return the arguments of a Stack with the admin API."""
    return {"change": {"overrides": {"file": "overrides.json"}, **change}, "admin_api": API}


class Operator:
    def __init__(
        self, cloud: CloudProcess, subject: str = "ada", *, groups: tuple[str, ...] = (ADMINS,)
    ):
        claims = {"aud": AUDIENCE}
        self.subject = subject
        self.token = cloud.token(subject, groups=list(groups), claims=claims)

    def run(self, gateway: RunningGateway, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {
            "CONSOLE_GATEWAY_ADMIN_URL": gateway.admin,
            "CONSOLE_GATEWAY_ADMIN_TOKEN": self.token,
        }
        ran = programs.run("gateway", "admin", *arguments, environ=environ)
        assert self.token not in ran.stdout + ran.stderr
        return ran

    def run_json(self, gateway: RunningGateway, *arguments: str) -> dict[str, Any]:
        ran = self.run(gateway, *arguments, "--json")
        assert ran.returncode == 0, ran.stderr + ran.stdout
        found: dict[str, Any] = json.loads(ran.stdout)
        return found

    def add_override(self, gateway: RunningGateway, *arguments: str) -> str:
        """Run the command and return the ID of its override."""
        return str(self.run_json(gateway, *arguments)["override"]["id"])

    def send(self, gateway: RunningGateway, method: str, path: str, body: str = "") -> Response:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": JSON}
        return fetch(gateway.admin, method, f"/admin{path}", headers, body)


@pytest.fixture
def ada(stack: Stack) -> Operator:
    return Operator(stack.cloud)


def test_revoked_person_is_rejected_on_all_replicas(
    stack: Stack, other: RunningGateway, ada: Operator
) -> None:
    mallory, olga = stack.cloud.token("mallory"), stack.cloud.token("olga")
    for gateway in (stack.gateway, other):
        assert gateway.console(mallory).status == 200
    override = ada.add_override(
        stack.gateway, "revoke", "--issuer", "corp", "--subject", "mallory", "--reason", "left us"
    )
    assert stack.gateway.console(mallory).status == 401
    eventually(lambda: other.console(mallory).status == 401)
    for gateway in (stack.gateway, other):
        assert gateway.console(olga).status == 200
        eventually(lambda g=gateway: g.metric('gateway_revocations{kind="subject"}') == 1)
    record = stack.gateway.audit("revoked")[-1]
    assert (record["subject"], record["operation"]) == ("ada", "Revoke")
    assert record["target"] == "corp:mallory"
    detail = json.loads(record["detail"])
    assert (detail["reason"], detail["override_id"]) == ("left us", override)
    printed = ada.run(other, "overrides").stdout
    assert override in printed
    assert "subject" in printed
    ada.add_override(other, "clear", override)
    for gateway in (stack.gateway, other):
        eventually(lambda g=gateway: g.console(mallory).status == 200)


def test_token_issued_after_the_revocation_is_accepted(stack: Stack, ada: Operator) -> None:
    before = stack.cloud.token("nina")
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    old = stack.cloud.token("nina", claims={"iat": int(hour_ago.timestamp())})
    instant = (hour_ago + timedelta(minutes=1)).isoformat()
    assert stack.gateway.console(old).status == 200
    override = ada.add_override(stack.gateway, "revoke", "--issuer", "corp", "--before", instant)
    assert stack.gateway.console(old).status == 401
    assert stack.gateway.console(before).status == 200
    ada.add_override(stack.gateway, "clear", override)


def test_administrator_revoked_during_a_request_is_rejected(stack: Stack, ada: Operator) -> None:
    eve, olga = Operator(stack.cloud, "eve"), stack.cloud.token("olga")
    body = b'{"issuer": "corp", "subject": "olga"}'
    head = (
        f"POST /admin/revocations HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
        f"Authorization: Bearer {eve.token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    address = ("127.0.0.1", stack.gateway.admin_port)
    with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
        connection.sendall(head.encode() + body[:5])
        eventually(lambda: eve.send(stack.gateway, "GET", "/overrides").status == 200)
        override = ada.add_override(stack.gateway, "revoke", "--issuer", "corp", "--subject", "eve")
        connection.sendall(body[5:])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")
    assert stack.gateway.console(olga).status == 200
    record = stack.gateway.audit("admin_refused")[-1]
    assert (record["subject"], record["operation"]) == ("eve", "Revoke")
    ada.add_override(stack.gateway, "clear", override)
    cleared = stack.gateway.audit("admin_action")[-1]
    assert (cleared["operation"], cleared["target"]) == ("ClearOverride", "corp:eve")


def test_incomplete_body_ends_with_a_timeout(stack: Stack, ada: Operator) -> None:
    """A chunk without a valid size never completes either."""
    bodies = [("Content-Length: 50", b""), ("Transfer-Encoding: chunked", b"zz\r\n")]
    began = time.monotonic()
    with ThreadPoolExecutor(len(bodies)) as pool:
        responses = list(pool.map(lambda one: raw_response_to(stack.gateway, ada, *one), bodies))
    for received in responses:
        assert received.startswith(b"HTTP/1.1 400 ")
        assert set(json.loads(received.partition(b"\r\n\r\n")[2])) == {"error_code", "error_msg"}
    assert time.monotonic() - began > 8
    assert not stack.gateway.log_lines("admin_request_failed")


def test_revoked_token_does_not_affect_other_tokens(stack: Stack, ada: Operator) -> None:
    lost = stack.cloud.token("olga", claims={"jti": "lost-laptop"})
    override = ada.add_override(
        stack.gateway, "revoke", "--issuer", "corp", "--token-id", "lost-laptop"
    )
    assert stack.gateway.console(lost).status == 401
    assert stack.gateway.console(stack.cloud.token("olga")).status == 200
    ada.add_override(stack.gateway, "clear", override)


def test_revoked_token_gets_no_sdk_keys(stack: Stack, ada: Operator) -> None:
    lost = stack.cloud.token("nina", claims={"jti": "nina-s-laptop"})
    tokens = "/v3.0/OS-AUTH/id-token/tokens"
    body = json.dumps({"auth": {"id_token": {"id": lost}}})
    subject_token = fetch(stack.gateway.url, "POST", tokens, {}, body).headers["x-subject-token"]
    ada.add_override(stack.gateway, "revoke", "--issuer", "corp", "--token-id", "nina-s-laptop")
    inner = {"methods": ["token"], "token": {"id": subject_token}}
    keys = json.dumps({"auth": {"identity": inner}})
    responses = {
        "CreateTokenWithIdToken": fetch(stack.gateway.url, "POST", tokens, {}, body),
        "CreateTemporaryAccessKey": fetch(
            stack.gateway.url, "POST", "/v3.0/OS-CREDENTIAL/securitytokens", {}, keys
        ),
        "ListProjects": fetch(stack.gateway.url, "GET", "/v3/projects", {"X-Auth-Token": lost}),
    }
    records = stack.gateway.audit("refused")[-3:]
    for (operation, response), record in zip(responses.items(), records, strict=True):
        assert (response.status, response.error_code) == (401, "CGW.4010")
        assert record["request_id"] == response.headers["x-request-id"]
        assert (record["subject"], record["operation"]) == ("nina", operation)
        assert (record["decision"], record["detail"]) == ("denied", "revoked")


def test_revoked_token_uses_none_of_the_owners_limit(stack: Stack, ada: Operator) -> None:
    limits = {"requests": 60, "per_s": 1_200, "burst": 3}
    gateway = stack.replica(**with_api(caller_limits=limits))
    stolen = stack.cloud.token("otto", claims={"jti": "otto-s-lost-phone"})
    ada.add_override(gateway, "revoke", "--issuer", "corp", "--token-id", "otto-s-lost-phone")
    assert {gateway.console(stolen).status for _ in range(10)} == {401}
    assert gateway.console(stack.cloud.token("otto")).status == 200
    assert 3 <= len(gateway.audit("refused")) < 10


@pytest.mark.parametrize("by", ["override", "policy", "lock", "server_lock"])
def test_queued_write_is_not_sent_after_revocation(by: str) -> None:
    # The write must wait until the command has run, also on a busy machine.
    console = {"requests": 1, "per_s": 7, "burst": 1}
    account = {"budget": {"console": console, "wait_max_s": 20}}
    patient = with_api()
    stack = Stack(CloudProcess("--rate", "1000", "--burst", "1000"), account=account, **patient)
    try:
        gateway, cloud = stack.gateway, stack.cloud
        policy = {
            "roles": {"switch": ["server:power", "console:open"]},
            "grants": [{"role": "switch", "to": {"users": ["mallory"]}, "on": "everything"}],
        }
        gateway.write_policy(policy)
        mallory = cloud.token("mallory", groups=[])
        eventually(lambda: gateway.console(mallory).status == 200)
        with ThreadPoolExecutor() as threads:
            headers = {"Authorization": f"Bearer {mallory}"}
            body = json.dumps({"action": "power off", "server_id_set": [cloud.servers[0]]})
            path = f"/v1/{cloud.project}/physicalservers/power-state"
            waiting = threads.submit(fetch, gateway.url, "PUT", path, headers, body)
            eventually(lambda: gateway.audit("write_permitted"))
            command = {
                "override": ("revoke", "--issuer", "corp", "--subject", "mallory"),
                "lock": ("lock", "--subject", "mallory"),
                "server_lock": ("lock", "--server", cloud.servers[0]),
            }.get(by)
            if command is not None:
                Operator(cloud).add_override(gateway, *command)
            else:
                gateway.write_policy({**policy, "grants": []})
            response = waiting.result()
        assert (response.status, response.error_code) == {
            "override": (401, "CGW.4010"),
            "policy": (403, "CGW.4030"),
            "lock": (403, "CGW.4034"),
            "server_lock": (403, "CGW.4030"),
        }[by]
        assert "PUT" not in {call["method"] for call in cloud.calls(cloud.upstream)}
        eventually(lambda: gateway.audit("write_outcome"))  # the response waits for it briefly
        (outcome,) = gateway.audit("write_outcome")
        assert (outcome["subject"], outcome["outcome"]) == ("mallory", "not_sent")
    finally:
        stack.close()


def test_revocation_survives_redis_outage_and_restart(ada: Operator) -> None:
    stack = Stack(CloudProcess("--rate", "1000", "--burst", "1000"), **with_api())
    try:
        operator = Operator(stack.cloud)
        mallory, olga = stack.cloud.token("mallory"), stack.cloud.token("olga")
        forgetful = stack.replica(admin_api=API)
        stack.valkey.kill()
        arguments = ("revoke", "--issuer", "corp", "--subject", "mallory")
        response = operator.run_json(stack.gateway, *arguments)
        assert response["all_replicas_notified"] is False
        printed = operator.run(stack.gateway, "overrides").stdout
        assert "mallory" in printed
        assert stack.gateway.console(mallory).status == 401
        for gateway in (stack.gateway, forgetful):
            gateway.stop()
            gateway.start(wait=False)
        eventually(lambda: stack.gateway.ready() == 200)
        assert stack.gateway.console(mallory).status == 401
        assert stack.gateway.console(olga).status == 200
        # The other replica has neither Redis nor a file: it rejects callers.
        eventually(lambda: forgetful.ready() == 503)
        rejected = forgetful.console(olga)
        assert (rejected.status, rejected.error_code) == (503, "CGW.5037")
        assert int(rejected.headers["retry-after"]) > 0
        stack.valkey.start()
        eventually(lambda: forgetful.ready() == 200)
        eventually(lambda: forgetful.console(mallory).status == 401)
        assert forgetful.console(olga).status == 200
    finally:
        stack.close()


def test_dropped_links_are_not_returned_again(
    stack: Stack, other: RunningGateway, ada: Operator
) -> None:
    token, server = stack.cloud.token("olga"), stack.cloud.servers[3]
    first = stack.gateway.console(token, server).json["url"]
    assert other.console(token, server).json["url"] == first
    ada.add_override(stack.gateway, "drop-links", "--server", server, "--reason", "seized")
    fresh = stack.gateway.console(token, server).json["url"]
    assert fresh != first
    eventually(lambda: other.console(token, server).json["url"] == fresh)
    recorded = [record["servers"] for record in stack.gateway.audit("links_dropped")]
    assert [server] in recorded


def test_sessions_queue_and_policy_are_shown(stack: Stack, ada: Operator) -> None:
    token, server = stack.cloud.token("olga"), stack.cloud.servers[4]
    assert stack.gateway.console(token, server).status == 200
    sessions = ada.run_json(stack.gateway, "sessions")
    assert "olga" in {one["subject"] for one in rows_of_all(sessions, "tokens")}
    (link,) = [one for one in rows_of_all(sessions, "links") if one["server"] == server]
    assert link["seconds_left"] > 60
    assert token not in json.dumps(sessions)
    assert "https://" not in json.dumps(sessions)
    ada.add_override(stack.gateway, "rate-ceiling", "prod", "50", "--for", "60")

    def ceiling() -> Any:
        (queue, *_) = ada.run_json(stack.gateway, "queue")["processes"]
        budgets = {(one["account"], one["budget"]): one for one in queue["budgets"]}
        return budgets["prod", "console"]["ceiling_per_s"]

    eventually(lambda: ceiling() == 50, ceiling)  # the first process may be another replica's
    assert (
        stack.gateway.metric('gateway_budget_rate_ceiling{account="prod",budget="console"}') == 50
    )
    (policy, *_) = ada.run_json(stack.gateway, "policy")["processes"]
    assert policy["rules"] > 0
    assert policy["file_rejected"] is False
    for arguments in ("sessions", "queue", "policy", "overrides"):
        ran = ada.run(stack.gateway, arguments)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout


def test_queries_cover_all_processes() -> None:
    stack = Stack(CloudProcess("--rate", "1000", "--burst", "1000"), workers=2, **with_api())
    try:
        ada, server = Operator(stack.cloud), stack.cloud.servers[2]
        plain = stack.replica()  # responses cluster queries only
        people: list[str] = []

        def next_person_calls() -> None:
            people.append(f"person-{len(people)}")
            assert stack.gateway.console(stack.cloud.token(people[-1]), server).status == 200

        for _ in range(12):
            next_person_calls()
        assert plain.console(stack.cloud.token("suspect"), server).status == 200

        def run_json(*command: str) -> Any:
            """Repeat a query until every process has answered in time."""
            answers: list[Any] = []

            def is_complete() -> bool:
                answers.append(json.loads(ada.run(stack.gateway, *command, "--json").stdout))
                return bool(answers[-1]["missing"] == 0)

            eventually(is_complete)
            return answers[-1]

        found = run_json("sessions")
        assert (found["total"], found["missing"]) == (3, 0)
        while not all(one["tokens"] for one in found["processes"]):  # one worker took all calls
            next_person_calls()
            found = run_json("sessions")
        subjects = {one["subject"] for one in rows_of_all(found, "tokens")}
        assert subjects == {*people, "suspect"}
        only = run_json("sessions", "--subject", "suspect")
        assert [one["subject"] for one in rows_of_all(only, "tokens")] == ["suspect"]
        assert [one["person"] for one in rows_of_all(only, "links")] == ["corp:suspect"]
        upper = run_json("sessions", "--server", server.upper())
        assert rows_of_all(upper, "tokens") == []
        assert {one["server"] for one in rows_of_all(upper, "links")} == {server}

        before = run_json("policy")
        after = run_json("policy", "--reload")
        assert len(after["processes"]) == 3
        by_process = {one["process"]: one["loaded_at"] for one in before["processes"]}
        assert {one["process"] for one in after["processes"]} == by_process.keys()
        assert all(one["loaded_at"] >= by_process[one["process"]] for one in after["processes"])
        assert len(run_json("queue")["processes"]) == 3

        # Each worker has an admin port, and an answer of one is about all.
        workers = [f"http://127.0.0.1:{stack.gateway.admin_port + one}" for one in range(2)]
        lock = ada.add_override(stack.gateway, "lock", "--subject", "mallory")

        def read(worker: str, path: str, body: str = "") -> Any:
            method = "POST" if body else "GET"
            headers = {"Authorization": f"Bearer {ada.token}", "Content-Type": JSON}
            answer = fetch(worker, method, f"/admin{path}", headers, body)
            assert answer.status == 200, answer.body
            return answer.json

        def has_lock(worker: str) -> bool:
            found = read(worker, "/locks")
            return found["complete"] and [one["id"] for one in found["overrides"]] == [lock]

        question = {"issuer": "corp", "subject": "suspect", "project": stack.cloud.project}
        for worker in workers:
            eventually(lambda worker=worker: has_lock(worker))
            eventually(lambda worker=worker: read(worker, "/requests")["complete"])
            # Only the plain replica has a token of the person.
            body = json.dumps(question)
            eventually(
                lambda worker=worker, body=body: (
                    read(worker, "/policy/explain", body)["groups_from"] == "token"
                )
            )

        stack.valkey.kill()
        eventually(lambda: ada.run_json(stack.gateway, "sessions")["missing"] == 2)
        printed = ada.run(stack.gateway, "queue").stdout
        assert "2 of 3 processes did not respond" in printed
        for command in ("locks", "requests"):
            printed = ada.run(stack.gateway, command).stdout
            assert "changes by other replicas may be missing" in printed
    finally:
        stack.close()


def rows_of_all(response: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for one in response["processes"] for row in one[name]]


def test_lowest_rate_ceiling_works_on_all_replicas(
    stack: Stack, other: RunningGateway, ada: Operator
) -> None:
    override = ada.add_override(stack.gateway, "rate-ceiling", "prod", "0.001")
    low = 'gateway_budget_rate_ceiling{account="prod",budget="console"}'
    for gateway in (stack.gateway, other):
        eventually(lambda g=gateway: g.metric(low) == 0.001)
        assert not gateway.log_lines("task_died")
    ada.add_override(other, "clear", override)
    eventually(lambda: stack.gateway.metric(low) > 1)


def test_log_levels_change_at_runtime(stack: Stack, ada: Operator) -> None:
    def reloads_logged() -> int:
        return len(stack.gateway.log_lines("policy_loaded"))

    override = ada.add_override(stack.gateway, "log-level", "gateway.policy=error")
    before = reloads_logged()
    # On a busy machine a process may answer too late; the command then says so.
    eventually(lambda: ada.run(stack.gateway, "policy", "--reload").returncode == 0)
    assert reloads_logged() == before
    ada.add_override(stack.gateway, "clear", override)
    ran = ada.run(stack.gateway, "log-level", "aiohttp=debug")
    assert ran.returncode == 1
    assert "CGW.4000" in ran.stderr


def test_non_administrator_is_rejected_and_recorded(stack: Stack) -> None:
    viewer = Operator(stack.cloud, "vic", groups=("operators",))
    rejected = 'gateway_admin_requests_total{action="Revoke",status="403"}'
    before = stack.gateway.metric(rejected)
    ran = viewer.run(stack.gateway, "revoke", "--issuer", "corp", "--subject", "olga")
    assert ran.returncode == 3
    assert "CGW.4032" in ran.stderr
    assert viewer.send(stack.gateway, "POST", "/revocations", "{").status == 403
    for record in stack.gateway.audit("admin_refused")[-2:]:
        assert (record["subject"], record["operation"], record["decision"]) == (
            "vic",
            "Revoke",
            "denied",
        )
    assert stack.gateway.console(stack.cloud.token("olga")).status == 200
    # A caller's token is rejected by the admin API, and the reverse.
    caller = Operator(stack.cloud)
    caller.token = stack.cloud.token("ada", groups=[ADMINS])
    assert caller.send(stack.gateway, "GET", "/overrides").status == 401
    line = stack.gateway.log_lines("admin_request")[-1]
    assert (line["status"], line["action"], line["subject"]) == (401, "ListOverrides", "")
    assert (line["client_address"], line["error"]) == (
        "127.0.0.1",
        f"audience: aud is 'console-gateway', and not {AUDIENCE}",
    )
    assert "" in {one["subject"] for one in stack.gateway.audit("admin_refused")}
    admin = Operator(stack.cloud, "olga", groups=("operators", ADMINS))
    assert stack.gateway.console(admin.token).status == 401
    assert stack.gateway.metric(rejected) == before + 2


@pytest.mark.parametrize("spec", ACTION_SPECS.values(), ids=lambda spec: spec.name)
def test_action_requires_its_admin_permission(stack: Stack, spec: ActionSpec) -> None:
    """All permissions except the required ones are not enough; a required one alone is."""
    others = [name for name in ADMIN_PERMISSIONS if name not in spec.permissions]
    outsider = Operator(stack.cloud, "otto", groups=tuple(f"may-{name}" for name in others))
    body = "{}" if spec.method == "POST" else ""
    rejected = outsider.send(stack.gateway, spec.method, spec.path, body)
    assert (rejected.status, rejected.error_code) == (403, "CGW.4032")
    named = " or ".join(f"`{name}`" for name in spec.permissions)
    assert rejected.json["error_msg"].startswith(f"Missing admin permission: {named}.")
    record = stack.gateway.audit("admin_refused")[-1]
    assert (record["subject"], record["operation"]) == ("otto", spec.name)
    assert record["permission"] == " or ".join(spec.permissions)
    for name in spec.permissions:
        insider = Operator(stack.cloud, "inge", groups=(f"may-{name}",))
        assert insider.send(stack.gateway, spec.method, spec.path, body).status in (200, 400)


def test_commands_explain_and_search_the_audit_log(stack: Stack, ada: Operator) -> None:
    cloud = stack.cloud
    person = ("--issuer", "corp", "--subject", "olga")
    target = f"{cloud.project}/{cloud.servers[0]}"
    allowed = ada.run(stack.gateway, "explain", *person, "--group", "operators", target)
    assert allowed.stdout.startswith("ALLOWED by "), allowed.stderr
    lock = ada.add_override(stack.gateway, "lock", "--subject", "olga")
    denied = ada.run(stack.gateway, "explain", *person, "--group", "operators", target).stdout
    assert denied.startswith(f"DENIED by lock {lock}, set by corp:ada\n  without locks: grant ")
    ada.run(stack.gateway, "unlock", lock)
    found = ada.run_json(stack.gateway, "audit", "--subject", "olga", "--event", "lock_set")
    assert found["records"][0]["detail"].count(lock) == 1
    assert (found["complete"], found["intact"]) == (True, True)
    printed = ada.run(stack.gateway, "audit", "--subject", "nobody", "--since", "1h")
    first, searched = printed.stdout.splitlines()
    assert first == "No record matches."
    assert searched.startswith("Searched: the audit directory of ")


def test_command_prints_the_missing_admin_permission(stack: Stack) -> None:
    revoker = Operator(stack.cloud, "rosa", groups=("may-revoke",))
    ran = revoker.run(stack.gateway, "lock", "--subject", "victor")
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr.startswith("Missing admin permission: `lock`.")
    assert "(permission: lock)" in revoker.run(stack.gateway, "lock", "--help").stdout
    # A revocation is cleared with the permission that sets it; another override is not.
    reader = Operator(stack.cloud, "rita", groups=("may-override", "may-read"))
    override = revoker.add_override(
        stack.gateway, "revoke", "--issuer", "corp", "--subject", "no-person"
    )
    assert "permission: `revoke`." in reader.run(stack.gateway, "clear", override).stderr
    levels = reader.add_override(stack.gateway, "log-level", "gateway.policy=error")
    assert "permission: `override`." in revoker.run(stack.gateway, "clear", levels).stderr
    revoker.add_override(stack.gateway, "clear", override)
    reader.add_override(stack.gateway, "clear", levels)


def test_issuer_outside_admin_issuers_has_no_administrators(stack: Stack, ada: Operator) -> None:
    secret, iss = "p" * 40, "https://partner.example"
    gateway = stack.replica(start=False, admin_api={**API, "issuers": ["corp"]})
    (gateway.directory / "partner-secret").write_text(secret)
    partner = {
        "name": "partner",
        "issuer": iss,
        "audience": ["console-gateway"],
        "algorithms": ["HS256"],
        "keys": {"secret": {"file": "partner-secret"}},
    }
    gateway.config["issuers"].append(partner)
    gateway.write_config()
    policy = json.loads(gateway.policy_file.read_text())
    for grant in policy["grants"]:
        grant["to"]["issuer"] = "any"  # required with several issuers
    gateway.write_policy(policy)
    gateway.start()
    now = int(time.time())
    claims = {"iss": iss, "sub": "ada", "groups": [ADMINS], "iat": now, "exp": now + 600}
    foreign = Operator(stack.cloud)
    foreign.token = jwt.encode({**claims, "aud": AUDIENCE}, secret, "HS256")
    assert foreign.send(gateway, "GET", "/overrides").status == 401
    assert ada.send(gateway, "GET", "/overrides").status == 200


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("/revocations", '{"issuer": "corp"}', "specify either token_id"),
        ("/revocations", '{"issuer": "no-issuer", "token_id": "x"}', "issuer must be one of: corp"),
        ("/revocations", '{"issuer": "corp", "subject": "x", "befor": 1}', "befor"),
        ("/links/drop", '{"subject": "olga"}', "issuer and subject"),
        ("/links/drop", "{}", "all: true"),
        ("/links/drop", '{"all": true, "server": "x"}', "all: true"),
        ("/links/drop", '{"issuer": "no-issuer", "subject": "x"}', "issuer must be one of: corp"),
        ("/links/drop", '{"project": "nowhere"}', "project must be one of"),
        ("/links/drop", '{"server": "srv-1"}', "must be a UUID"),
        ("/log-levels", '{"levels": {}}', "levels"),
        ("/sessions?subjct=x", "", "subjct"),
        ("/sessions?issuer=nobody", "", "issuer must be one of: corp"),
        ("/sessions?server=x", "", "must be a UUID"),
        ("/rate-ceilings", '{"account": "prod", "rate_per_s": 1e-320}', "rate_per_s"),
        ("/revocations", '{"issuer": "corp", "before": "9999-12-31T23:59:59Z"}', "in the future"),
        ("/rate-ceilings", '{"account": "dev", "rate_per_s": 1}', "account must be one of: prod"),
        ("/overrides/clear", '{"id": "x"}', "No override with this ID"),
        (
            "/log-levels",
            '{"levels": {"gateway.policy": "loud"}}',
            "level in levels must be one of: debug, info, warning, error.",
        ),
        (
            "/log-levels",
            '{"levels": {"gateway.polcy": "info"}}',
            "logger in levels must be one of: gateway, gateway.admin, gateway.audit, ",
        ),
        (
            "/rate-ceilings",
            '{"account": "prod", "rate_per_s": 1, "budget": "x"}',
            "budget must be one of: console, iam.",
        ),
        ("/revocations", "{", "not one complete JSON value."),
        ("/revocations", '{"a": ' + "[" * 60_000, "Invalid request"),
    ],
)
def test_invalid_request_names_the_problem(
    stack: Stack, ada: Operator, path: str, body: str, error: str
) -> None:
    method = "POST" if body else "GET"
    response = ada.send(stack.gateway, method, path, body)
    assert (response.status, response.error_code) == (400, "CGW.4000")
    assert error in response.json["error_msg"]
    record = stack.gateway.audit("admin_refused")[-1]
    assert record["request_id"] == response.headers["x-request-id"]
    assert (record["subject"], record["decision"]) == ("ada", "denied")
    assert error in json.loads(record["detail"])["refused"]


def test_openapi_lists_loggers_and_levels(stack: Stack) -> None:
    document = fetch(stack.gateway.admin, "GET", "/admin/openapi.json").json
    levels = document["components"]["schemas"]["SetLogLevelsRequest"]["properties"]["levels"]
    assert levels["propertyNames"]["enum"] == list(get_args(Logger))
    assert levels["additionalProperties"]["enum"] == list(get_args(LogLevel))
    assert levels["minProperties"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/admin/sessions", 405),
        ("GET", "/admin/sessions", 401),
        ("GET", "/admin/openapi.json", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics", 200),
    ],
)
def test_every_response_has_common_headers(
    stack: Stack, method: str, path: str, status: int
) -> None:
    responses = [fetch(stack.gateway.admin, method, path) for _ in range(2)]
    for response in responses:
        assert response.status == status
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["server"] == "console-gateway"
        assert response.headers["x-content-type-options"] == "nosniff"
    assert len({response.headers["x-request-id"] for response in responses}) == 2


def test_openapi_describes_every_action(stack: Stack, ada: Operator) -> None:
    document = fetch(stack.gateway.admin, "GET", "/admin/openapi.json").json
    validate(document)
    schemas = {"components": document["components"]}
    question = {"issuer": "corp", "subject": "olga", "project": stack.cloud.project}
    explain = ("/policy/explain", "POST", json.dumps(question))
    for path, method, body in [*REQUESTS, explain]:
        operation = document["paths"]["/admin" + path][method.lower()]
        for operator in (ada, Operator(stack.cloud, "vic", groups=())):
            response = operator.send(stack.gateway, method, path, body)
            assert response.status == (200 if operator is ada else 403), response.body
            content = operation["responses"][str(response.status)]["content"]["application/json"]
            jsonschema.validate(response.json, {**content["schema"], **schemas})
            if response.status == 200 and "override" in response.json:
                clear = json.dumps({"id": response.json["override"]["id"]})
                lift = "/locks/lift" if path == "/locks" else "/overrides/clear"
                cleared = ada.send(stack.gateway, "POST", lift, clear)
                assert cleared.status == 200
                jsonschema.validate(cleared.json, {**content["schema"], **schemas})
    requested = {"/admin" + path for path, _, _ in REQUESTS} | {"/admin/overrides/clear"}
    requested |= {"/admin/locks/lift", "/admin/policy/explain"}
    # No account of this stack delivers live consoles: test_console_sessions.py calls these two.
    requested |= {"/admin/consoles", "/admin/consoles/end"}
    # No rule of its policy lets people request access: test_access_request_api.py calls these.
    requested |= {"/admin/requests", "/admin/requests/end"}
    requested |= {"/admin/webhooks/dead", "/admin/webhooks/replay"}
    # This stack has no login: test_operator_login.py calls these.
    requested |= {"/admin/logins", "/admin/logins/end"}
    assert requested == document["paths"].keys()
    for path, methods in document["paths"].items():
        for method in methods:
            response = fetch(stack.gateway.admin, method.upper(), path)
            assert (response.status, response.error_code) == (401, "CGW.4010")
            assert fetch(stack.gateway.url, method.upper(), path).status in (401, 404)
    unknown = fetch(stack.gateway.admin, "GET", "/admin/nowhere")
    assert (unknown.status, unknown.error_code) == (404, "CGW.4040")
    other = fetch(stack.gateway.admin, "DELETE", "/admin/overrides")
    assert (other.status, other.error_code, other.headers["allow"]) == (
        405,
        "CGW.4050",
        "GET, HEAD",
    )


@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        ("Content-Length: 65600", b'"' + b"x" * 65_598 + b'"', 413),
        ("Content-Length: 5", b'{"\xff"}', 400),
        ("Content-Length: 5\r\nContent-Encoding: deflate", b"abcde", 400),
        ("Content-Length: 5\r\nContent-Encoding: br", b"abcde", 400),
    ],
)
def test_malformed_body_is_a_client_error(
    stack: Stack, ada: Operator, fields: str, body: bytes, status: int
) -> None:
    received = raw_response_to(stack.gateway, ada, fields, body)
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    assert set(json.loads(received.partition(b"\r\n\r\n")[2])) == {"error_code", "error_msg"}
    assert not stack.gateway.log_lines("admin_request_failed")


def raw_response_to(gateway: RunningGateway, operator: Operator, fields: str, body: bytes) -> bytes:
    """Send this much of a body and return the response."""
    head = (
        f"POST /admin/revocations HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
        f"Authorization: Bearer {operator.token}\r\nContent-Type: application/json\r\n"
        f"{fields}\r\n\r\n"
    )
    with socket.create_connection(
        ("127.0.0.1", gateway.admin_port), timeout=TIMEOUT_S
    ) as connection:
        connection.sendall(head.encode())
        time.sleep(0.2)  # sends the body in a separate packet
        connection.sendall(body)
        received = b""
        # Without the rest of the body the gateway closes the connection only seconds later.
        while not _is_complete(received) and (chunk := connection.recv(65_536)):
            received += chunk
    return received


def _is_complete(response: bytes) -> bool:
    head, _, body = response.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])


def test_admin_api_requires_its_config(stack: Stack) -> None:
    plain = stack.replica()
    assert fetch(plain.admin, "GET", "/admin/overrides").status == 404


def test_administrator_may_use_a_certificate(tmp_path: Path, stack: Stack) -> None:
    authority = Authority()
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    for name in ("gateway", "breakglass", "somebody"):
        authority.issue(name).write(tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
    tls = {
        "certificate_file": str(tmp_path / "gateway.crt"),
        "key_file": str(tmp_path / "gateway.key"),
        "client_ca_file": str(tmp_path / "ca.crt"),
    }
    gateway = stack.replica(start=False, admin_api=WITH_CERTIFICATE)
    gateway.config["admin"]["tls"] = tls
    gateway.write_config()
    gateway.start(wait=False)
    eventually(lambda: gateway.log_lines("serving"), gateway.log_text)

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return programs.run(
            *("gateway", "admin", *arguments),
            *("--gateway", f"https://127.0.0.1:{gateway.admin_port}"),
            *("--ca-file", str(tmp_path / "ca.crt")),
            *("--cert", str(tmp_path / f"{name}.crt"), "--key", str(tmp_path / f"{name}.key")),
        )

    ran = run("breakglass", "log-level", "gateway.policy=info")
    assert ran.returncode == 0, ran.stderr
    record = gateway.audit("admin_action")[-1]
    assert (record["issuer"], record["subject"]) == ("certificate", "breakglass")
    rejected = run("somebody", "overrides")
    assert rejected.returncode == 3
    assert "CGW.4032" in rejected.stderr


@pytest.fixture(scope="module")
def by_certificate(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> "CertificateAdmin":
    return CertificateAdmin(stack, tmp_path_factory.mktemp("tls"))


class CertificateAdmin:
    """A gateway with the administrator `breakglass`, authenticated by a certificate."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self._directory = directory
        self.authority = Authority()
        self.trust(self.authority)
        self.authority.issue("gateway").write(directory / "tls.crt", directory / "tls.key")
        self.gateway = stack.replica(
            start=False, admin_api={**API, "certificates": {"breakglass": "all"}}
        )
        self.gateway.config["admin"]["tls"] = {
            "certificate_file": str(directory / "tls.crt"),
            "key_file": str(directory / "tls.key"),
            "client_ca_file": str(directory / "clients.crt"),
        }
        self.gateway.write_config()
        self.gateway.start(wait=False)
        eventually(lambda: self.gateway.log_lines("serving"), self.gateway.log_text)

    def trust(self, *authorities: Authority) -> None:
        file = self._directory / "clients.new"
        file.write_bytes(b"".join(one.certificate for one in authorities))
        file.replace(self._directory / "clients.crt")

    def connect(
        self, *, lasts_s: float = 3_600, with_certificate: bool = True
    ) -> http.client.HTTPSConnection:
        files = self._directory / "client.crt", self._directory / "client.key"
        self.authority.issue("breakglass", days=(-1, lasts_s / 86_400)).write(*files)
        context = ssl.create_default_context(cadata=self.authority.certificate.decode())
        if with_certificate:
            context.load_cert_chain(*files)
        port = self.gateway.admin_port
        return http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=TIMEOUT_S)

    def status(self, connection: http.client.HTTPSConnection, **headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        body = '{"levels": {"gateway.policy": "info"}, "duration_s": 60}'
        connection.request("POST", "/admin/log-levels", body, {"Content-Type": JSON, **sent})
        response = connection.getresponse()
        response.read()
        return response.status


def test_client_without_certificate_gets_only_health_and_metrics(
    by_certificate: CertificateAdmin,
) -> None:
    anonymous = by_certificate.connect(with_certificate=False)

    def status(method: str, path: str) -> int:
        anonymous.request(method, path, "{}", {"Content-Type": JSON})
        response = anonymous.getresponse()
        response.read()
        return response.status

    assert {status("GET", path) for path in ("/healthz", "/readyz", "/metrics")} == {200}
    anonymous.request("GET", "/admin/openapi.json")
    paths = json.loads(anonymous.getresponse().read())["paths"]
    requested = {(method, path) for path, methods in paths.items() for method in methods}
    assert len(requested) >= len({one[:2] for one in REQUESTS})
    for method, path in requested:
        assert status(method.upper(), path.replace("{id}", "x")) == 401, path


def test_keep_alive_connection_ends_with_its_certificate(
    by_certificate: CertificateAdmin,
) -> None:
    for lasts_s in (4, 8, 16, 32):  # on a busy machine it may have expired before its first use
        connection = by_certificate.connect(lasts_s=lasts_s)
        expires_at = time.time() + lasts_s
        with suppress(ssl.SSLError, ConnectionError):
            if by_certificate.status(connection) == 200:
                break
    assert connection.sock is not None
    time.sleep(max(0.0, expires_at + 0.5 - time.time()))
    assert by_certificate.status(connection) == 401
    assert connection.sock is None


def test_keep_alive_connection_ends_with_its_authority(
    by_certificate: CertificateAdmin,
) -> None:
    connection, others = by_certificate.connect(), Authority()
    assert by_certificate.status(connection) == 200
    loaded = len(by_certificate.gateway.log_lines("certificate_loaded"))
    by_certificate.trust(others)
    eventually(lambda: len(by_certificate.gateway.log_lines("certificate_loaded")) > loaded)
    assert by_certificate.status(connection) == 401

    def last_request() -> tuple[int, str]:
        line = by_certificate.gateway.log_lines("admin_request")[-1]
        return line["status"], line.get("error", "")

    eventually(lambda: last_request() == (401, "certificate"), last_request)
    by_certificate.trust(by_certificate.authority)
    eventually(lambda: len(by_certificate.gateway.log_lines("certificate_loaded")) > loaded + 1)
    assert by_certificate.status(connection) == 200  # by a new connection
    connection.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_cross_site_request_with_certificate_is_rejected(
    by_certificate: CertificateAdmin, headers: dict[str, str]
) -> None:
    connection = by_certificate.connect()
    assert by_certificate.status(connection, **headers) == (
        400 if "Content_Type" in headers else 403
    )
    assert by_certificate.status(connection, Origin=f"https://127.0.0.1:{connection.port}") == 200
    assert by_certificate.gateway.audit("admin_refused")[-1]["subject"] == "breakglass"
    connection.close()


def test_rejection_record_has_the_policy_version(stack: Stack) -> None:
    gateway, forbidden = stack.gateway, stack.cloud.servers[-1]
    assert gateway.console(stack.cloud.token("rita"), forbidden).status == 403
    (record,) = [one for one in gateway.audit("refused") if one["subject"] == "rita"]
    assert (record["decision"], record["permission"]) == ("denied", "console:open")
    assert (record["servers"], record["operation"]) == ([forbidden], "ShowRemoteConsole")
    loaded = gateway.audit("policy_loaded")[-1]
    assert record["policy_version"] == loaded["policy_version"]
    served = gateway.console(stack.cloud.token("rita"))
    assert served.status == 200
    issued = [one for one in gateway.audit("console_link_issued") if one["subject"] == "rita"]
    assert [one["decision"] for one in issued] == ["allowed"]
    assert issued[0]["policy_version"] == loaded["policy_version"]


def test_rejected_policy_reload_exits_with_an_error(stack: Stack, ada: Operator) -> None:
    other = stack.replica(**with_api())
    good = other.policy_file.read_text()
    other.write_policy({**json.loads(good), "grants": "everything"})
    ran = ada.run(stack.gateway, "policy", "--reload")
    while ran.returncode == 5:  # on a busy machine, a process has not answered in time
        ran = ada.run(stack.gateway, "policy", "--reload")
    assert ran.returncode == 1
    assert re.search(r"rejected: \S+policy.yaml:\d+: grants", ran.stdout)
    assert ran.stdout.count("in force") >= 1
    other.write_policy(json.loads(good))
    eventually(lambda: ada.run(stack.gateway, "policy", "--reload").returncode == 0)


def test_rejected_policy_is_recorded(stack: Stack) -> None:
    plain = stack.replica()
    policy = json.loads(plain.policy_file.read_text())
    plain.write_policy({**policy, "grants": "everything"})
    eventually(lambda: plain.audit("policy_rejected"))
    (record,) = plain.audit("policy_rejected")
    assert "grants" in record["detail"]
    assert record["policy_version"] == plain.audit("policy_loaded")[0]["policy_version"]
    plain.write_policy(policy)  # as on the other replicas, which request a reload
    eventually(lambda: len(plain.audit("policy_loaded")) == 2)
