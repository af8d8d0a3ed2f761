"""Grants by tag on real processes: they begin, change and end with the inventory."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import programs
from tests.support.stack import CloudProcess, RunningGateway, Stack, console_path, eventually, fetch


@pytest.fixture
def stack() -> Iterator[Stack]:
    cloud = CloudProcess("--rate", "1000", "--burst", "1000", servers=12)
    inventory = {"poll_s": 1, "age_max_s": 8, "directory": "."}
    running = Stack(cloud, account={"inventory": inventory})
    yield running
    running.close()


def policy(*rules: dict[str, Any]) -> dict[str, Any]:
    return {
        "roles": {
            "op": ["console:open", "server:read"],
            "tagger": ["server:tag"],
            "tag-admin": ["server:tag", "server:tag_policy"],
            "all": "all",
        },
        "grants": list(rules),
    }


GRANT = {
    "role": "op",
    "to": {"groups": ["operators"]},
    "on": {"tags": {"env": "prod"}, "not": {"tags": {"tier": "db"}}},
}


def tagged(cloud: CloudProcess) -> dict[str, dict[str, str]]:
    (project,) = fetch(cloud.upstream, "GET", "/_box/fleet").json["projects"].values()
    return {one["id"]: one["tags"] for one in project["servers"]}


def retag(cloud: CloudProcess, server: str, **tags: str) -> None:
    body = json.dumps({"id": server, "tags": tags})
    headers = {"Content-Type": "application/json"}
    assert fetch(cloud.upstream, "POST", "/_box/servers", headers, body).status == 200


def opens(gateway: RunningGateway, server: str) -> int:
    return gateway.console(gateway.cloud.token(), server).status


def explain(gateway: RunningGateway, server: str) -> str:
    return programs.run(
        *("gateway", "explain", "--config", str(gateway.config_file)),
        *("--user", "olga", "--group", "operators", f"{gateway.cloud.project}/{server}"),
    ).stdout


def test_tag_grant_follows_the_inventory(stack: Stack) -> None:
    gateway, cloud = stack.gateway, stack.cloud
    tags = tagged(cloud)
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
    target = f"/v1/{cloud.project}/physicalservers?limit=100"
    headers = {"Authorization": f"Bearer {cloud.token()}"}
    assert gateway.metric("gateway_inventory_needed") == 1
    assert gateway.metric('gateway_inventory_age_seconds{account="prod"}') < math.inf
    listed = fetch(gateway.url, "GET", target, headers).json
    assert {one["id"] for one in listed["servers"]} == set(mine)

    # The gateway saves an inventory after it is in force.
    eventually(lambda: explain(gateway, mine[0]).startswith("ALLOWED"))
    explanation = explain(gateway, mine[0])
    assert "env=prod" in explanation
    assert " s before" in explanation
    assert "env=" in explain(gateway, others[0])
    assert "does not know this server" in explain(gateway, "00000000-0000-4000-8000-000000000000")

    retag(cloud, mine[0], env="test", tier="web")
    eventually(lambda: opens(gateway, mine[0]) == 403)
    retag(cloud, others[0], env="prod", tier="web")
    eventually(lambda: opens(gateway, others[0]) == 200)

    cloud.fail(cloud.upstream, "unavailable")
    eventually(lambda: opens(gateway, others[0]) == 403)
    assert gateway.metric('gateway_inventory_age_seconds{account="prod"}') >= 8
    assert "too old" in explain(gateway, mine[0])


def test_tag_write_through_gateway_applies_at_once(stack: Stack) -> None:
    gateway, cloud = stack.gateway, stack.cloud
    gateway.config["accounts"][0]["inventory"].update({"poll_s": 600, "age_max_s": 900})
    gateway.write_config()
    tagger = {"role": "tag-admin", "to": {"users": ["theo"]}, "on": "everything"}
    gateway.write_policy(policy(GRANT, tagger))
    tags = tagged(cloud)
    dev = next(one for one, its in tags.items() if its["env"] == "test" and its["tier"] == "web")
    eventually(lambda: gateway.metric('gateway_inventory_age_seconds{account="prod"}') < math.inf)
    body = json.dumps({"tags": [{"key": "env", "value": "prod"}]})
    path = f"/v1/{cloud.project}/physicalservers/{dev}/tags/create"
    theo = {"Authorization": f"Bearer {cloud.token('theo', groups=[])}"}
    olga = {"Authorization": f"Bearer {cloud.token()}"}
    assert fetch(gateway.url, "POST", path, olga, body).status == 403
    eventually(lambda: fetch(gateway.url, "POST", path, theo, body).status == 204)
    eventually(
        lambda: fetch(gateway.url, "GET", console_path(cloud.project, dev), olga).status == 200
    )


def test_tag_write_does_not_widen_the_rights_of_its_caller(stack: Stack) -> None:
    gateway, cloud = stack.gateway, stack.cloud
    dev = {"role": "op", "to": {"groups": ["devs"]}, "on": {"tags": {"env": "dev"}}}
    to_devs = {"to": {"groups": ["devs"]}, "on": "everything"}
    prod = next(one for one, its in tagged(cloud).items() if its["env"] == "prod")
    denial = {"permissions": ["console:open"], **to_devs, "on": {"tags": {"env": "prod"}}}
    granted = policy(dev, {"role": "tagger", **to_devs}, {"role": "all", **to_devs})
    gateway.write_policy({**granted, "denials": [denial]})
    headers = {"Authorization": f"Bearer {cloud.token('dan', groups=['devs'])}"}
    console = console_path(cloud.project, prod)
    before = tagged(cloud)[prod]

    def write(change: str, *tags: dict[str, str]) -> int:
        path = f"/v1/{cloud.project}/physicalservers/{prod}/tags/{change}"
        return fetch(gateway.url, "POST", path, headers, json.dumps({"tags": list(tags)})).status

    eventually(lambda: write("create", {"key": "owner", "value": "dan"}) == 204)
    assert fetch(gateway.url, "GET", console, headers).status == 403
    assert write("delete", {"key": "env", "value": "prod"}) == 403
    assert write("create", {"key": "env", "value": "dev"}) == 403
    assert write("create", {"key": "owner", "value": "x"}, {"key": "ENV ", "value": "dev"}) == 403
    assert tagged(cloud)[prod] == {**before, "owner": "dan"}
    (record, *_) = [
        one for one in gateway.audit("refused") if one["operation"] == "BatchDeleteTags"
    ]
    assert (record["permission"], record["detail"]) == ("server:tag_policy", "no grant applies")

    explicit = {"role": "tag-admin", **to_devs}
    gateway.write_policy({**policy(dev, explicit), "denials": [denial]})
    eventually(lambda: write("delete", {"key": "env", "value": "prod"}) == 204)
    assert write("create", {"key": "env", "value": "dev"}) == 204
    eventually(lambda: fetch(gateway.url, "GET", console, headers).status == 200)
    (record, *_) = gateway.audit("write_permitted")[-1:]
    assert record["permission"] == "server:tag_policy"


def test_large_policy_is_loaded_by_a_running_worker(stack: Stack) -> None:
    """It is parsed in a child of the worker; the worker goes on serving and reaps the child."""
    gateway, cloud = stack.gateway, stack.cloud
    grants = [{**GRANT, "to": {"users": [f"p{i}"]}} for i in range(2_000)]
    open_to_all = {"role": "op", "to": "everyone", "on": {"projects": [cloud.project]}}
    gateway.write_policy(policy(*grants, open_to_all))
    eventually(lambda: gateway.console(cloud.token("victor", groups=[])).status == 200)
    assert gateway.metric("gateway_policy_rules") == 2_001
    gateway.write_policy(policy(*grants, {**open_to_all, "role": "nobody"}))
    eventually(lambda: gateway.log_lines("policy_rejected") != [])
    assert gateway.console(cloud.token("victor", groups=[])).status == 200
    (worker,) = gateway.workers()
    assert Path(f"/proc/{worker}/task/{worker}/children").read_text() == ""
