"""Rights that go by tags, through real processes: they come, they change, and they end."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.stack import Box, RunningGateway, Stack, ask, console_path, eventually


@pytest.fixture
def stack() -> Iterator[Stack]:
    box = Box("--rate", "1000", "--burst", "1000", servers=12)
    inventory = {"poll_s": 1, "age_max_s": 8, "directory": "."}
    running = Stack(box, account={"inventory": inventory})
    yield running
    running.close()


def policy(*rules: dict[str, Any]) -> dict[str, Any]:
    return {
        "roles": {"op": ["console:open", "server:read"], "tagger": ["server:tag"]},
        "grants": list(rules),
    }


GRANT = {
    "role": "op",
    "to": {"groups": ["operators"]},
    "on": {"tags": {"env": "prod"}, "not": {"tags": {"tier": "db"}}},
}


def tagged(box: Box) -> dict[str, dict[str, str]]:
    (project,) = ask(box.cloud, "GET", "/_box/fleet").json["projects"].values()
    return {one["id"]: one["tags"] for one in project["servers"]}


def retag(box: Box, server: str, **tags: str) -> None:
    body = json.dumps({"id": server, "tags": tags})
    headers = {"Content-Type": "application/json"}
    assert ask(box.cloud, "POST", "/_box/servers", headers, body).status == 200


def opens(gateway: RunningGateway, server: str) -> int:
    return gateway.console(gateway.box.token(), server).status


def explain(gateway: RunningGateway, server: str) -> str:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "gateway", "explain", "--config", str(gateway.config_file)),
            *("--user", "olga", "--group", "operators", f"{gateway.box.project}/{server}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout


def test_tag_grant_follows_the_inventory(stack: Stack) -> None:
    gateway, box = stack.gateway, stack.box
    tags = tagged(box)
    mine = [one for one, its in tags.items() if its["env"] == "prod" and its["tier"] != "db"]
    others = [one for one in tags if one not in mine]
    assert mine
    assert others
    assert gateway.metric("gateway_inventory_needed") == 0
    assert gateway.metric('gateway_inventory_age_seconds{account="prod"}') == math.inf
    gateway.write_policy(policy(GRANT))
    eventually(
        lambda: {one for one in tags if opens(gateway, one) == 200} == set(mine),
        gateway.log_text,
    )
    target = f"/v1/{box.project}/physicalservers?limit=100"
    headers = {"Authorization": f"Bearer {box.token()}"}
    assert gateway.metric("gateway_inventory_needed") == 1
    assert gateway.metric('gateway_inventory_age_seconds{account="prod"}') < math.inf
    listed = ask(gateway.url, "GET", target, headers).json
    assert {one["id"] for one in listed["servers"]} == set(mine)

    explanation = explain(gateway, mine[0])
    assert explanation.startswith("ALLOWED")
    assert "env=prod" in explanation
    assert " s before" in explanation
    assert "env=" in explain(gateway, others[0])
    assert "does not know this server" in explain(gateway, "00000000-0000-4000-8000-000000000000")

    retag(box, mine[0], env="test", tier="web")
    eventually(lambda: opens(gateway, mine[0]) == 403)
    retag(box, others[0], env="prod", tier="web")
    eventually(lambda: opens(gateway, others[0]) == 200)

    box.fail(box.cloud, "unavailable")
    eventually(lambda: opens(gateway, others[0]) == 403)
    assert gateway.metric('gateway_inventory_age_seconds{account="prod"}') >= 8
    assert "too old" in explain(gateway, mine[0])


def test_tag_write_through_gateway_applies_at_once(stack: Stack) -> None:
    gateway, box = stack.gateway, stack.box
    gateway.config["accounts"][0]["inventory"].update({"poll_s": 600, "age_max_s": 900})
    gateway.write_config()
    tagger = {"role": "tagger", "to": {"users": ["theo"]}, "on": "everything"}
    gateway.write_policy(policy(GRANT, tagger))
    tags = tagged(box)
    dev = next(one for one, its in tags.items() if its["env"] == "test" and its["tier"] == "web")
    eventually(lambda: gateway.metric('gateway_inventory_age_seconds{account="prod"}') < math.inf)
    body = json.dumps({"tags": [{"key": "env", "value": "prod"}]})
    path = f"/v1/{box.project}/physicalservers/{dev}/tags/create"
    theo = {"Authorization": f"Bearer {box.token('theo', groups=[])}"}
    olga = {"Authorization": f"Bearer {box.token()}"}
    assert ask(gateway.url, "POST", path, olga, body).status == 403
    eventually(lambda: ask(gateway.url, "POST", path, theo, body).status == 204)
    eventually(lambda: ask(gateway.url, "GET", console_path(box.project, dev), olga).status == 200)
