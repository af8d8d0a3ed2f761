"""A token without the groups claim must not bypass a denial of a group."""

import json

from tests.support.stack import Stack, eventually


def test_token_without_groups_is_rejected_beside_group_denial(own_stack: Stack) -> None:
    stack = own_stack
    cloud, gateway = stack.cloud, stack.gateway
    policy = json.loads(gateway.policy_file.read_text())
    everyone = {"role": "operator", "to": {"users": ["ann"]}, "on": {"projects": [cloud.project]}}
    gateway.write_policy({**policy, "grants": [*policy["grants"], everyone]})
    without = cloud.token("ann", claims={"groups": None})
    eventually(lambda: gateway.console(without).status == 200)
    assert gateway.console(cloud.token("ann", claims={"groups": None})).status == 200
    (logged,) = gateway.log_lines("groups_claim_missing")
    assert (logged["level"], logged["issuer"], logged["claims"]) == ("warning", "corp", ["groups"])

    denial = {"permissions": "all", "to": {"groups": ["suspended"]}, "on": "everything"}
    gateway.write_policy({**policy, "grants": [*policy["grants"], everyone], "denials": [denial]})
    eventually(lambda: gateway.console(without).status == 401)
    assert "no groups claim" in gateway.console(without).json["error_msg"]
    assert gateway.console(cloud.token("ann", groups=[])).status == 200
    assert gateway.console(cloud.token("ann", groups=["suspended"])).status == 403
    assert 'outcome="groups_missing"' in gateway.metrics()
