"""check and explain, as an operator runs them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import RunningGateway, Stack, make_policy


def run(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def explain(gateway: RunningGateway, *arguments: str) -> tuple[int, str]:
    return run("explain", "--config", str(gateway.config_file), *arguments)


def test_a_good_config_is_told_so_offline_and_online(stack: Stack) -> None:
    config = str(stack.gateway.config_file)
    code, said = run("check", "--config", config)
    assert (code, said.count(": ok")) == (0, 2)
    code, said = run("check", "--config", config, "--online")
    assert code == 0, said
    for part in ("redis", "keys of corp", "login of account prod"):
        assert f"{part}: ok" in said
    assert f"token found in Redis; {stack.cloud.iam} not called" in said


def test_what_cannot_be_reached_is_named(own_stack: Stack) -> None:
    own_stack.cloud.fail(own_stack.cloud.issuer, "reset")
    own_stack.valkey.kill()
    gateway = own_stack.replica(start=False)
    (gateway.directory / "iam-password").write_text("canary")
    code, said = run("check", "--config", str(gateway.config_file), "--online")
    assert code == 1
    assert f"redis: {own_stack.valkey.url}: connection refused" in said
    assert "keys of corp: " in said
    refused = "login rejected: 401, user, domain or password is wrong; next attempt in"
    assert f"login of account prod: {own_stack.cloud.iam}: {refused}" in said
    for word in ("canary", "Traceback", "store_unavailable", "service_login"):
        assert word not in said


def test_check_online_keeps_to_the_pause_and_says_what_it_is_for(own_stack: Stack) -> None:
    cloud, gateway = own_stack.cloud, own_stack.replica(start=False)
    assert own_stack.gateway.console(cloud.token()).status == 200
    logins = len(cloud.calls(cloud.iam))
    (gateway.directory / "iam-password").write_text("canary")
    cloud.fail(cloud.iam, "account_locked")
    refusals = [run("check", "--config", str(gateway.config_file), "--online") for _ in range(2)]
    for code, said in refusals:
        assert code == 1
        assert "login rejected: 401 IAM.0061, the account is locked" in said
    assert len(cloud.calls(cloud.iam)) == logins + 1


def test_check_online_says_where_iam_cannot_be_reached(own_stack: Stack) -> None:
    gateway = own_stack.replica(start=False)
    gateway.config["store"]["namespace"] = "without-a-token"
    gateway.config["accounts"][0]["login"]["iam_endpoint"] = "http://127.0.0.1:1"
    gateway.write_config()
    code, said = run("check", "--config", str(gateway.config_file), "--online")
    assert code == 1
    assert "login of account prod: http://127.0.0.1:1: no connection: connection refused" in said


def test_check_online_is_no_process_of_the_fleet(own_stack: Stack) -> None:
    fleet = "gateway:{fleet}:processes"
    assert own_stack.gateway.ready() == 200
    alive = own_stack.valkey.command("ZRANGE", fleet, "0", "-1")
    code, said = run("check", "--config", str(own_stack.gateway.config_file), "--online")
    assert code == 0, said
    assert own_stack.valkey.command("ZRANGE", fleet, "0", "-1") == alive


def test_every_mistake_is_told_at_once_with_file_line_and_key(own_stack: Stack) -> None:
    gateway = own_stack.replica(start=False)
    gateway.config["lisen"] = {}
    gateway.config["accounts"][0]["links"] = {"lifetime_s": 10, "min_remaining_s": 20}
    gateway.config["issuers"][0]["algorithms"] = ["HS256"]
    gateway.write_config()
    code, said = run("check", "--config", str(gateway.config_file))
    assert code == 1
    for key in (
        "lisen: unknown key",
        "accounts[0].links.min_remaining_s: ",
        "issuers[0].algorithms[0]: ",
    ):
        (line,) = [line for line in said.splitlines() if key in line]
        assert line.startswith(f"{gateway.config_file}:")
        assert line.removeprefix(f"{gateway.config_file}:").partition(":")[0].isdigit()


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_policy_file_that_cannot_be_read_is_told_where_it_is_named(
    own_stack: Stack, name: str
) -> None:
    gateway = own_stack.replica(start=False, change={"policy_file": name})
    code, said = run("check", "--config", str(gateway.config_file))
    assert code == 1
    line = gateway.config_file.read_text().partition('"policy_file"')[0].count("\n") + 1
    path = gateway.directory / name
    assert said.startswith(f"{gateway.config_file}:{line}: policy_file: {path} cannot be read: ")


def test_check_looks_at_what_traces_are_to_be(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    code, said = run("check", "--config", str(stack.gateway.config_file))
    assert code == 1
    assert said.startswith("environment: OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf")


def test_a_bad_policy_is_found_by_check(own_stack: Stack) -> None:
    gateway = own_stack.replica(start=False)
    policy: dict[str, Any] = make_policy(own_stack.cloud)
    policy["grants"][0]["role"] = "operatr"
    gateway.write_policy(policy)
    code, said = run("check", "--config", str(gateway.config_file))
    assert code == 1
    assert "grants[0].role: unknown role 'operatr'; did you mean operator?" in said


def test_explain_names_the_line_that_decides(stack: Stack) -> None:
    cloud, target = stack.cloud, f"{stack.cloud.project}/{stack.cloud.servers[0]}"
    code, said = explain(stack.gateway, "--user", "olga", "--group", "operators", target)
    assert code == 0
    assert said.startswith(f"ALLOWED by {stack.gateway.policy_file}:")
    code, said = explain(stack.gateway, "--user", "victor", "--group", "viewers", target)
    assert (code, said) == (3, "DENIED: no grant applies\n")
    code, _ = explain(
        stack.gateway,
        "--user",
        "victor",
        "--group",
        "viewers",
        "--permission",
        "server:read",
        target,
    )
    assert code == 0
    assert cloud.servers


def test_explain_tells_a_question_that_makes_no_sense(stack: Stack) -> None:
    target = f"{stack.cloud.project}/{stack.cloud.servers[0]}"
    code, said = explain(stack.gateway, "--user", "x", "--permission", "console:opn", target)
    assert code == 2
    assert "console:open" in said
    code, _ = explain(stack.gateway, "--user", "x", "--at", "2026-01-01T00:00:00", target)
    assert code == 2


@pytest.mark.parametrize(
    ("target", "word"),
    [("nosuch/59e1053f-3d7e-5e0b-a607-cd24734156d2", "no account"), ("{project}/zzz", "UUID")],
)
def test_explain_tells_a_target_that_cannot_be(stack: Stack, target: str, word: str) -> None:
    asked = target.format(project=stack.cloud.project)
    code, said = explain(stack.gateway, "--user", "olga", "--group", "operators", asked)
    assert code == 2
    assert word in said


def test_check_online_starts_the_server_that_is_embedded(own_stack: Stack) -> None:
    store = {**own_stack.gateway.config["store"], "redis": {"embedded": True}}
    gateway = own_stack.replica(change={"store": store}, start=False)
    code, said = run("check", "--online", "--config", str(gateway.config_file))
    assert (code, "redis: ok" in said) == (0, True), said


def test_export_says_that_the_config_sends_no_trail_to_the_stream(
    stack: Stack, tmp_path: Path
) -> None:
    config = stack.gateway.config_file
    code, said = run("audit", "export", "--config", str(config), str(tmp_path / "out"))
    assert (code, said) == (
        1,
        f"the stream contains no chain: `audit.stream` is false in {config}\n",
    )
