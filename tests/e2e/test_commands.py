"""`gateway check` and `gateway explain` against a running stack."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import programs
from tests.support.browser_login import ENVIRON, enable_login
from tests.support.stack import RunningGateway, Stack, make_policy


def run(*arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
    done = programs.run("gateway", *arguments, environ=environ)
    return done.returncode, done.stdout + done.stderr


def explain(gateway: RunningGateway, *arguments: str) -> tuple[int, str]:
    return run("explain", "--config", str(gateway.config_file), *arguments)


def test_check_accepts_a_valid_config_offline_and_online(stack: Stack) -> None:
    config = str(stack.gateway.config_file)
    assert stack.gateway.console(stack.cloud.token()).status == 200  # so Redis holds a token
    code, output = run("check", "--config", config)
    assert (code, output.count(": ok")) == (0, 2)
    code, output = run("check", "--config", config, "--online")
    assert code == 0, output
    project = f"account prod, project {stack.cloud.project}"
    for part in ("redis", "keys of corp", f"login of {project}", f"servers of {project}"):
        assert f"{part}: ok" in output
    assert f"token found in Redis; {stack.cloud.iam} not called" in output


def test_check_online_tries_the_browser_login(own_stack: Stack) -> None:
    gateway = own_stack.replica(start=False)
    enable_login(gateway)
    config = str(gateway.config_file)
    code, output = run("check", "--config", config, "--online", environ=ENVIRON)
    assert code == 0, output
    assert "browser login of corp: ok\n" in output
    assert f"  redirect URI {gateway.url}/login/callback/corp\n" in output
    enable_login(gateway, client_id="unknown")
    code, output = run("check", "--config", config, "--online", environ=ENVIRON)
    assert code == 1
    assert "browser login of corp: refuses the login with HTTP 400: is `login.client_id`" in output


def test_check_online_names_each_failed_connection(own_stack: Stack) -> None:
    own_stack.cloud.fail(own_stack.cloud.issuer, "reset")
    own_stack.valkey.kill()
    gateway = own_stack.replica(start=False)
    (gateway.directory / "iam-password").write_text("canary")
    code, output = run("check", "--config", str(gateway.config_file), "--online")
    assert code == 1
    assert f"redis: {own_stack.valkey.url}: connection refused" in output
    assert "keys of corp: " in output
    refused = "login rejected: 401, user, domain or password is wrong, or the user has no role"
    project = f"project {own_stack.cloud.project}"
    prefix = f"login of account prod, {project}: {project}"
    assert f"{prefix}: {own_stack.cloud.iam}: {refused}" in output
    for word in ("canary", "Traceback", "store_unavailable", "service_login"):
        assert word not in output


def test_check_online_respects_the_login_pause(own_stack: Stack) -> None:
    cloud, gateway = own_stack.cloud, own_stack.replica(start=False)
    assert own_stack.gateway.console(cloud.token()).status == 200
    logins = len(cloud.calls(cloud.iam))
    (gateway.directory / "iam-password").write_text("canary")
    cloud.fail(cloud.iam, "account_locked")
    refusals = [run("check", "--config", str(gateway.config_file), "--online") for _ in range(2)]
    for code, output in refusals:
        assert code == 1
        assert "login rejected: 401 IAM.0061, the account is locked" in output
    assert len(cloud.calls(cloud.iam)) == logins + 1


def test_check_online_names_an_unreachable_iam(stack: Stack) -> None:
    gateway = stack.replica(start=False)
    gateway.config["store"]["namespace"] = "without-a-token"
    gateway.config["accounts"][0]["login"]["iam_endpoint"] = "http://127.0.0.1:1"
    gateway.write_config()
    code, output = run("check", "--config", str(gateway.config_file), "--online")
    assert code == 1
    assert ": http://127.0.0.1:1: no connection: connection refused" in output


def test_check_online_is_not_counted_as_a_replica(own_stack: Stack) -> None:
    fleet = "gateway:{fleet}:processes"
    assert own_stack.gateway.ready() == 200
    alive = own_stack.valkey.command("ZRANGE", fleet, "0", "-1")
    code, output = run("check", "--config", str(own_stack.gateway.config_file), "--online")
    assert code == 0, output
    assert own_stack.valkey.command("ZRANGE", fleet, "0", "-1") == alive


def test_check_reports_every_error_with_its_place(stack: Stack) -> None:
    gateway = stack.replica(start=False)
    gateway.config["lisen"] = {}
    gateway.config["accounts"][0]["links"] = {"lifetime_s": 10, "min_remaining_s": 20}
    gateway.config["issuers"][0]["algorithms"] = ["HS256"]
    gateway.write_config()
    code, output = run("check", "--config", str(gateway.config_file))
    assert code == 1
    for key in (
        "lisen: unknown key",
        "accounts[0].links.min_remaining_s: ",
        "issuers[0].algorithms[0]: ",
    ):
        (line,) = [line for line in output.splitlines() if key in line]
        assert line.startswith(f"{gateway.config_file}:")
        assert line.removeprefix(f"{gateway.config_file}:").partition(":")[0].isdigit()


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_check_names_the_key_of_an_unreadable_policy(stack: Stack, name: str) -> None:
    gateway = stack.replica(start=False, change={"policy_file": name})
    code, output = run("check", "--config", str(gateway.config_file))
    assert code == 1
    line = gateway.config_file.read_text().partition('"policy_file"')[0].count("\n") + 1
    path = gateway.directory / name
    assert output.startswith(f"{gateway.config_file}:{line}: policy_file: {path} cannot be read: ")


def test_check_validates_the_tracing_variables(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    code, output = run("check", "--config", str(stack.gateway.config_file))
    assert code == 1
    assert output.startswith("environment: OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf")


def test_check_reports_errors_of_the_policy(stack: Stack) -> None:
    gateway = stack.replica(start=False)
    policy: dict[str, Any] = make_policy(stack.cloud)
    policy["grants"][0]["role"] = "operatr"
    gateway.write_policy(policy)
    code, output = run("check", "--config", str(gateway.config_file))
    assert code == 1
    assert "grants[0].role: unknown role 'operatr'; did you mean operator?" in output


def test_explain_names_the_deciding_line(stack: Stack) -> None:
    cloud, target = stack.cloud, f"{stack.cloud.project}/{stack.cloud.servers[0]}"
    code, output = explain(stack.gateway, "--user", "olga", "--group", "operators", target)
    assert code == 0
    assert output.startswith(f"ALLOWED by {stack.gateway.policy_file}:")
    code, output = explain(stack.gateway, "--user", "victor", "--group", "viewers", target)
    assert code == 3
    assert output.startswith("DENIED: no grant applies\n  locks were not checked: ")
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


def test_explain_rejects_an_invalid_option(stack: Stack) -> None:
    target = f"{stack.cloud.project}/{stack.cloud.servers[0]}"
    code, output = explain(stack.gateway, "--user", "x", "--permission", "console:opn", target)
    assert code == 2
    assert "console:open" in output
    code, _ = explain(stack.gateway, "--user", "x", "--at", "2026-01-01T00:00:00", target)
    assert code == 2


@pytest.mark.parametrize(
    ("target", "word"),
    [("nosuch/59e1053f-3d7e-5e0b-a607-cd24734156d2", "no account"), ("{project}/zzz", "UUID")],
)
def test_explain_rejects_an_invalid_target(stack: Stack, target: str, word: str) -> None:
    target_text = target.format(project=stack.cloud.project)
    code, output = explain(stack.gateway, "--user", "olga", "--group", "operators", target_text)
    assert code == 2
    assert word in output


def test_check_online_starts_the_embedded_store(stack: Stack) -> None:
    store = {**stack.gateway.config["store"], "redis": {"embedded": True}}
    gateway = stack.replica(change={"store": store}, start=False)
    code, output = run("check", "--online", "--config", str(gateway.config_file))
    assert (code, "redis: ok" in output) == (0, True), output


def test_export_without_stream_is_reported(stack: Stack, tmp_path: Path) -> None:
    config = stack.gateway.config_file
    code, output = run("audit", "export", "--config", str(config), str(tmp_path / "out"))
    assert (code, output) == (
        1,
        f"the stream contains no chain: `audit.stream` is false in {config}\n",
    )


def test_check_online_warns_if_redis_may_evict_keys(own_stack: Stack) -> None:
    config = str(own_stack.gateway.config_file)
    set_config = partial(own_stack.valkey.command, "CONFIG", "SET")
    set_config("maxmemory-policy", "allkeys-lru")
    code, said = run("check", "--config", config, "--online", "--strict")
    assert (code, "redis_may_evict" in said) == (0, False), said  # the memory has no limit
    set_config("maxmemory", "100mb")
    code, said = run("check", "--config", config, "--online")
    assert code == 0, said
    assert "warning: redis: maxmemory-policy is allkeys-lru; set it to noeviction" in said
    assert run("check", "--config", config, "--online", "--strict")[0] == 1
    set_config("maxmemory-policy", "volatile-ttl")  # keeps keys without expiry
    assert run("check", "--config", config, "--online", "--strict")[0] == 0
