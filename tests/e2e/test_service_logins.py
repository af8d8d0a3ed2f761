"""Logins of the gateway to the cloud: a refusal closes only the project or account concerned."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.demo.cloud.iam import ACCESS_KEY, AGENCY_DOMAIN, AGENCY_NAME, SECRET_KEY
from tests.e2e.test_commands import run
from tests.support.stack import (
    CloudProcess,
    Response,
    RunningGateway,
    Stack,
    console_path,
    eventually,
    fetch,
)

OTHER = "f" * 32
TYPO = "e" * 32
AKSK = {"method": "aksk", "access_key": {"file": "access"}, "secret_key": {"file": "secret"}}


@pytest.fixture
def site() -> Iterator[Stack]:
    """Start a store and a cloud with two projects; the gateway serves both."""
    running = Stack(CloudProcess("--other-project", OTHER), start=False)
    running.gateway = serving(running, running.cloud.project, OTHER)
    eventually(lambda: logins(running) == 2)
    yield running
    running.close()


def serving(site: Stack, *projects: str, start: bool = True, **account: object) -> RunningGateway:
    """Return another gateway of the same fleet, for these projects."""
    gateway = site.replica(start=False, account={"projects": list(projects), **account})
    grant = {"role": "r", "to": {"groups": ["operators"]}, "on": "everything"}
    gateway.write_policy({"roles": {"r": ["console:open"]}, "grants": [grant]})
    (gateway.directory / "access").write_text(ACCESS_KEY)
    (gateway.directory / "secret").write_text(SECRET_KEY)
    return gateway.start() if start else gateway


def console(gateway: RunningGateway, project: str, server: int = 0) -> Response:
    """Open a console past every cache."""
    server_id = gateway.cloud.servers_of(project)[server] if project != TYPO else "0" * 8
    headers = {"Authorization": f"Bearer {gateway.cloud.token()}", "Cache-Control": "no-cache"}
    return fetch(gateway.url, "GET", console_path(project, server_id), headers)


def check(gateway: RunningGateway) -> tuple[int, str]:
    return run("check", "--config", str(gateway.config_file), "--online")


def logins(site: Stack) -> int:
    return len(site.cloud.calls(site.cloud.iam))


def test_mistyped_project_closes_no_other(site: Stack) -> None:
    cloud = site.cloud
    gateway = serving(site, TYPO, cloud.project)
    eventually(lambda: gateway.log_lines("service_login_refused"))
    (line,) = gateway.log_lines("service_login_refused")
    assert (line["project"], line["error_code"]) == (TYPO, "IAM.0004")
    assert console(gateway, cloud.project).status == 200
    gateway.config["accounts"][0]["projects"] = [cloud.project, OTHER]
    gateway.reload()
    assert console(gateway, OTHER).status == 200


def by_agency(gateway: RunningGateway, name: str = AGENCY_NAME) -> None:
    """Let the gateway assume the agency from now on."""
    login = gateway.config["accounts"][0]["login"]
    login["agency"] = {"domain": AGENCY_DOMAIN, "name": name}
    gateway.write_config()


def test_agency_opens_consoles_of_another_account(site: Stack) -> None:
    cloud = site.cloud
    cloud.iam_settings(agency_projects=[OTHER])
    gateway = serving(site, OTHER, start=False)
    gateway.config["store"]["namespace"] = "agency"
    by_agency(gateway)
    gateway.start()
    assert console(gateway, OTHER).status == 200
    before = logins(site)
    cloud.revoke_service_tokens()
    assert console(gateway, OTHER).status == 200
    assert logins(site) == before + 2, "one for the user, one for the agency"
    code, said = check(gateway)
    assert code == 0, said


def test_project_of_another_account_needs_the_agency(site: Stack) -> None:
    cloud = site.cloud
    cloud.iam_settings(agency_projects=[OTHER])
    gateway = serving(site, OTHER, start=False)
    gateway.config["store"]["namespace"] = "no-agency"
    gateway.write_config()
    gateway.start()
    assert console(gateway, OTHER).status == 503
    before = gateway.workers()
    by_agency(gateway)
    gateway.wait_for_new_workers(before)
    assert console(gateway, OTHER).status == 200, "what has changed is tried at once"


def test_rejected_agency_is_named_and_locks_no_account(site: Stack) -> None:
    cloud = site.cloud
    cloud.iam_settings(agency_projects=[OTHER])
    gateway = serving(site, OTHER, start=False)
    gateway.config["store"]["namespace"] = "rejected-agency"
    by_agency(gateway, "mistyped")
    gateway.start()
    assert console(gateway, OTHER).status == 503
    code, said = check(gateway)
    assert code == 1
    assert f"agency mistyped of {AGENCY_DOMAIN} rejected: 404 IAM.0004" in said
    assert "has no such agency" in said
    cloud.iam_settings(agent_operator=False)
    by_agency(gateway)
    code, said = check(gateway)
    assert "rejected: 403 IAM.0003, the user needs the permission Agent Operator" in said
    assert console(site.gateway, cloud.project).status == 200


def test_corrected_iam_endpoint_is_tried_at_once(site: Stack) -> None:
    gateway = serving(site, site.cloud.project, start=False)
    gateway.config["store"]["namespace"] = "corrected"
    gateway.config["accounts"][0]["login"]["iam_endpoint"] = f"{site.cloud.iam}/wrong"
    gateway.write_config()
    gateway.start()
    assert console(gateway, site.cloud.project).status == 503
    gateway.config["accounts"][0]["login"]["iam_endpoint"] = site.cloud.iam
    gateway.reload()
    assert console(gateway, site.cloud.project).status == 200


def test_project_without_role_closes_no_other(site: Stack) -> None:
    cloud, gateway = site.cloud, site.gateway
    assert console(gateway, cloud.project).status == console(gateway, OTHER).status == 200
    cloud.iam_settings(no_role=[OTHER])
    cloud.revoke_service_tokens()
    answers = [(console(gateway, OTHER), console(gateway, cloud.project)) for _ in range(4)]
    assert {one.status for one, _ in answers} == {503}
    assert {other.status for _, other in answers} == {200}
    assert {line["project"] for line in gateway.log_lines("service_login_refused")} == {OTHER}
    code, said = check(gateway)
    assert code == 1
    assert f"project {OTHER}: {cloud.iam}: login rejected: 401, " in said
    assert "the user has no role in the project" in said
    assert f"servers of account prod, project {cloud.project}: ok" in said


@pytest.mark.parametrize("form", ["undecodable", "unlisted", "html"])
def test_revoked_token_costs_one_login_whatever_the_401(site: Stack, form: str) -> None:
    cloud, gateway = site.cloud, site.gateway
    assert console(gateway, cloud.project).status == 200
    before = logins(site)
    cloud.settings(revoked_form=form)
    cloud.revoke_service_tokens()
    gateway.stop()  # a restart finds the dead token in Redis
    gateway.start()
    for server in range(4):
        assert console(gateway, cloud.project, server).status == 200
    assert logins(site) == before + 1


def test_check_online_tries_the_shared_token(site: Stack) -> None:
    cloud, gateway = site.cloud, site.gateway
    assert console(gateway, cloud.project).status == 200
    body = '{"error_code":"PS.0401","error_msg":"no"}'
    cloud.fail(cloud.upstream, "answer", path=f"/v1/{OTHER}/", status=401, body=body)
    code, said = check(gateway)
    assert code == 1
    assert f"servers of account prod, project {cloud.project}: ok" in said
    failed = f"servers of account prod, project {OTHER}: {cloud.upstream}: the cloud rejects"
    assert f"{failed} the newest credential: 401 PS.0401" in said


def test_lasting_401_costs_one_login(site: Stack) -> None:
    cloud, gateway = site.cloud, site.gateway
    assert console(gateway, cloud.project).status == 200
    before = logins(site)
    cloud.fail(cloud.upstream, "answer", status=401, body="<html>")
    for server in range(8):
        answer = console(gateway, cloud.project, server)
        assert (answer.status, answer.error_code) == (503, "CGW.5033")
    assert logins(site) == before + 1


def test_requests_wait_while_a_renewal_waits_for_its_slot(site: Stack) -> None:
    cloud = site.cloud
    iam = {"requests": 1, "per_s": 3, "burst": 1}
    budget = {"console": {"requests": 1_000, "per_s": 1, "burst": 100}, "iam": iam}
    gateway = serving(site, cloud.project, start=False, budget=budget)
    gateway.config["store"]["namespace"] = "slow-login"
    gateway.write_config()
    gateway.start()
    assert console(gateway, cloud.project).status == 200
    cloud.revoke_service_tokens()
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(console, gateway, cloud.project, 0)
        eventually(lambda: _upstream_401(site) == 1)
        later = [pool.submit(console, gateway, cloud.project, i % 8) for i in range(9)]
        assert {one.result().status for one in (first, *later)} == {200}
    assert _upstream_401(site) == 1


def _upstream_401(site: Stack) -> int:
    return sum(call["status"] == 401 for call in site.cloud.calls(site.cloud.upstream))


def test_wrong_secret_key_does_not_lock_the_access_key(site: Stack) -> None:
    cloud = site.cloud
    replicas = [serving(site, cloud.project, start=False, login=AKSK) for _ in range(2)]
    for one in replicas:
        (one.directory / "secret").write_text("wrong")
        one.start()
    answers = [console(one, cloud.project, i % 8) for one in replicas for i in range(20)]
    assert {(one.status, one.error_code) for one in answers} == {(503, "CGW.5033")}
    assert _upstream_401(site) == 1
    assert int(answers[-1].headers["retry-after"]) > 200
    code, said = check(replicas[0])
    assert code == 1
    assert f"login of account prod, project {cloud.project}: " in said
    assert "credential rejected: 401 APIGW.0301, the signature is wrong" in said
    right = serving(site, cloud.project, login=AKSK)
    assert console(right, cloud.project).status == 200
    code, said = check(right)
    assert code == 0, said


def test_iam_with_another_clock_serves(site: Stack) -> None:
    site.cloud.iam_settings(clock_ahead_s=-7_200.0, token_life_s=3_600.0)
    gateway = serving(site, site.cloud.project, start=False)
    gateway.config["store"]["namespace"] = "clock"
    gateway.write_config()
    gateway.start()
    before = logins(site)
    for server in range(4):
        assert console(gateway, site.cloud.project, server).status == 200
    assert logins(site) <= before + 1


def test_redirect_of_the_endpoint_is_named(site: Stack) -> None:
    location = "https://moved.example/v1/canary?token=canary"
    site.cloud.fail(site.cloud.upstream, "redirect", path="remote-console", body=location)
    assert console(site.gateway, site.cloud.project).status == 502
    lines = [line for line in site.gateway.log_lines("request") if line["status"] == 502]
    assert "302, redirects to https://moved.example" in str(lines[-1])
    assert "canary" not in site.gateway.log_text()


def test_temporary_key_pair_signs_with_its_security_token(site: Stack) -> None:
    cloud = site.cloud
    login = {**AKSK, "security_token": {"file": "security-token"}}
    gateway = serving(site, cloud.project, start=False, login=login)
    for name, text in (("access", "HSTA1"), ("secret", "temporary"), ("security-token", "old")):
        (gateway.directory / name).write_text(text)
    cloud.add_temporary_key("HSTA1", "temporary", "canary-security-token")
    gateway.start()
    assert console(gateway, cloud.project).status == 503
    before = gateway.workers()
    (gateway.directory / "security-token").write_text("canary-security-token")
    gateway.wait_for_new_workers(before)
    assert console(gateway, cloud.project).status == 200
    sent = cloud.calls(cloud.upstream)[-1]["headers"]
    assert "x-security-token" in sent["authorization"].partition("Signature")[0]
    assert "canary" not in gateway.log_text()


def test_keys_of_the_metadata_endpoint_sign_requests(site: Stack) -> None:
    cloud = site.cloud
    login = {"method": "ecs_metadata", "metadata_endpoint": cloud.iam}
    gateway = serving(site, cloud.project, login=login)
    assert console(gateway, cloud.project).status == 200
    assert "x-security-token" in cloud.calls(cloud.upstream)[-1]["headers"]
    code, output = check(gateway)
    assert code == 0, output
    assert f"{cloud.iam} issued keys" in output


def test_metadata_endpoint_without_an_agency_is_named(site: Stack) -> None:
    cloud = site.cloud
    login = {"method": "ecs_metadata", "metadata_endpoint": cloud.iam}
    gateway = serving(site, cloud.project, start=False, login=login)
    cloud.fail(cloud.iam, "answer", path="securitykey", status=404, body="no agency")
    code, output = check(gateway)
    assert code == 1
    assert "404 without keys; has the server an agency?" in output


def test_revoked_metadata_keys_are_replaced_once(site: Stack) -> None:
    cloud = site.cloud
    login = {"method": "ecs_metadata", "metadata_endpoint": cloud.iam}
    gateway = serving(site, cloud.project, login=login)
    assert console(gateway, cloud.project).status == 200
    cloud.fail(cloud.upstream, "answer", status=401, body="<html>", times=1)
    before = logins(site)
    assert console(gateway, cloud.project, 1).status == 200
    assert logins(site) == before + 3  # keys, session token, keys
