"""What docker-compose.yml starts works together, as real processes on loopback."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.compose import REPLICAS, RunningCompose, compose_file, running_compose
from tests.support.stack import ask, eventually


@pytest.fixture(scope="module")
def compose() -> Iterator[RunningCompose]:
    with running_compose() as running:
        yield running


def total(admin: str, pattern: str) -> float:
    text = ask(admin, "GET", "/metrics").body.decode()
    found = re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


@pytest.mark.parametrize(
    "series",
    [
        r"gateway_links_total\{.*\}",
        r'gateway_decisions_total\{.*decision="allowed".*\}',
        r'gateway_decisions_total\{.*decision="denied".*\}',
        r'gateway_identifications_total\{.*outcome="signature".*\}',
        r"gateway_store_available",
    ],
)
def test_the_people_of_the_demo_make_both_replicas_count(
    compose: RunningCompose, series: str
) -> None:
    for name in REPLICAS:
        admin = compose.admins[name]
        eventually(lambda at=admin: total(at, series) > 0, lambda: series)


@pytest.mark.parametrize("name", REPLICAS)
def test_the_health_check_of_a_replica_tells_whether_it_is_ready(
    compose: RunningCompose, name: str
) -> None:
    _, _, _, program = compose_file()["services"][name]["healthcheck"]["test"]
    port = compose.admins[name].rpartition(":")[2]

    def check(port: str) -> int:
        asked = program.replace("9090", port)
        return subprocess.run(
            [sys.executable, "-c", asked], check=False, stderr=subprocess.DEVNULL
        ).returncode

    assert check(port) == 0
    assert check("1") != 0


def test_the_user_of_valkey_reaches_the_gateways_keys_only(compose: RunningCompose) -> None:
    for name in REPLICAS:
        assert total(compose.admins[name], r"gateway_store_available") == 1
        failed = r'gateway_store_duration_seconds_count\{outcome="failed"\}'
        assert total(compose.admins[name], failed) == 0
