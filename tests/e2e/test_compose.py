"""The services of docker-compose.yml work together, as processes on loopback."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import valkey
from valkey.exceptions import AuthenticationError, NoPermissionError

from tests.support.compose import REPLICAS, ROOT, RunningCompose, compose_file, running_compose
from tests.support.stack import eventually, fetch

DOCKER = """#!/bin/bash
# Replaces `docker compose exec`: runs the command here, with the given variables.
shift 2
while [[ $1 == -* ]]; do
    if [[ $1 == -e ]]; then export "$2"; shift; fi
    shift
done
exec "${@:2}"
"""


@pytest.fixture(scope="module")
def compose() -> Iterator[RunningCompose]:
    with running_compose() as running:
        yield running


def total(admin: str, pattern: str) -> float:
    text = fetch(admin, "GET", "/metrics").body.decode()
    found = re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


@pytest.mark.parametrize("status", [200, 401, 403])
def test_simulated_traffic_reaches_both_replicas(compose: RunningCompose, status: int) -> None:
    requests = rf'gateway_requests_total\{{.*status="{status}".*\}}'
    for name in REPLICAS:
        eventually(lambda at=compose.admins[name]: total(at, requests) > 0)
        eventually(lambda at=compose.admins[name]: total(at, r"gateway_links_total\{.*\}") > 0)


@pytest.mark.parametrize("name", REPLICAS)
def test_health_check_reports_readiness(compose: RunningCompose, name: str) -> None:
    _, _, _, program = compose_file()["services"][name]["healthcheck"]["test"]
    port = compose.admins[name].rpartition(":")[2]

    def check(port: str) -> int:
        code = program.replace("9090", port)
        return subprocess.run(
            [sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL
        ).returncode

    assert check(port) == 0
    assert check("1") != 0


@contextmanager
def valkey_as(compose: RunningCompose, user: str, secret: str) -> Iterator[valkey.Valkey]:
    password = (compose.secrets / secret).read_text().strip()
    with closing(
        valkey.Valkey(port=compose.valkey_port, username=user, password=password)
    ) as client:
        yield client


def test_valkey_operator_may_only_run_runbook_commands(
    compose: RunningCompose,
) -> None:
    runbook = (ROOT / "deploy" / "runbook.md").read_text()
    commands = re.findall(r"`((?:INFO|CONFIG|SLOWLOG|LATENCY|DEL) [^`]+)`", runbook)
    assert {one.partition(" ")[0] for one in commands} == {
        "INFO",
        "CONFIG",
        "SLOWLOG",
        "LATENCY",
        "DEL",
    }
    with valkey_as(compose, "operator", "redis-operator-password") as client:
        assert client.ping()
        for one in commands:
            client.execute_command(*one.split())
        assert "disabled" not in str(client.execute_command("LATENCY", "DOCTOR"))
        for forbidden in (
            "GET gateway:mine",
            "DEL gateway:mine",
            "KEYS *",
            "CONFIG SET maxmemory 1",
            "SLOWLOG RESET",
            "CLIENT KILL TYPE normal",
            "ACL LIST",
            "MONITOR",
            "FLUSHALL",
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*forbidden.split())


def test_valkey_gateway_user_is_limited_to_its_keys(
    compose: RunningCompose,
) -> None:
    for name in REPLICAS:
        eventually(lambda at=compose.admins[name]: total(at, "gateway_store_available") == 1)
    with valkey_as(compose, "gateway", "redis-password") as client:
        assert client.set("gateway:mine", "1", ex=1)
        for forbidden in (
            ("SET", "else", "1"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("KEYS", "*"),
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*forbidden)
    with (
        closing(valkey.Valkey(port=compose.valkey_port)) as stranger,
        pytest.raises(AuthenticationError),
    ):
        stranger.ping()


def test_commands_of_the_compose_guide_work(compose: RunningCompose, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "install-with-compose.md").read_text()
    (commands,) = re.findall(r"^MINT=.*\n(?:(?!```).*\n)+", page, re.MULTILINE)
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    for old, new in {
        "cloud:9101": compose.issuer.removeprefix("http://"),
        "http://127.0.0.1:8080": compose.gateways["gateway-1"],
        "http://127.0.0.1:9090": compose.admins["gateway-1"],
    }.items():
        assert old in commands, old
        commands = commands.replace(old, new)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", commands],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    console, _, queue = done.stdout.partition("\n")
    assert '"url"' in console
    assert "prod" in queue
