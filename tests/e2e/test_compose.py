"""What docker-compose.yml starts works together, as real processes on loopback."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
import valkey
from valkey.exceptions import AuthenticationError, NoPermissionError

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


@pytest.mark.parametrize("status", [200, 401, 403])
def test_the_people_of_the_demo_make_both_replicas_count(
    compose: RunningCompose, status: int
) -> None:
    asked = rf'gateway_requests_total\{{.*status="{status}".*\}}'
    for name in REPLICAS:
        eventually(lambda at=compose.admins[name]: total(at, asked) > 0)
        eventually(lambda at=compose.admins[name]: total(at, r"gateway_links_total\{.*\}") > 0)


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


def test_valkey_lets_the_gateways_user_in_and_to_its_own_keys_only(
    compose: RunningCompose,
) -> None:
    for name in REPLICAS:
        assert total(compose.admins[name], "gateway_store_available") == 1
    client = valkey.Valkey(
        port=compose.valkey_port, username="gateway", password=compose.redis_password
    )
    with closing(client):
        assert client.set("gateway:mine", "1", ex=1)
        for refused in (("SET", "else", "1"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*")):
            with pytest.raises(NoPermissionError):
                client.execute_command(*refused)
    with (
        closing(valkey.Valkey(port=compose.valkey_port)) as stranger,
        pytest.raises(AuthenticationError),
    ):
        stranger.ping()
