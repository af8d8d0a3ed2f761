"""One decision at 100 and at 100,000 grants, side by side, and the time to load them."""

import json
import tempfile
import time
import uuid
from pathlib import Path

from gateway.config.located_yaml import load
from gateway.config.policy_parser import parse_policy
from gateway.domain.model import CONSOLE_OPEN, Principal, ProjectId, ServerId
from gateway.domain.policy.policy import Policy

_ROUNDS = 20_000
_PROJECT = ProjectId("0a1b2c3d4e5f60718293a4b5c6d7e8f9")
_SERVERS = [str(uuid.uuid5(uuid.NAMESPACE_OID, str(i))) for i in range(100)]


def main() -> None:
    small, _ = _load(100)
    large, seconds = _load(100_000)
    print(f"loading 100,000 grants: {seconds:.1f} s")
    print("one decision, µs:                    100 grants   100,000 grants   ratio")
    for what, principal, server in (
        ("allowed, 1 group", _person("p7", 1), _SERVERS[7]),
        ("allowed, 100 groups", _person("p7", 100), _SERVERS[7]),
        ("denied by a denial", _person("denied", 1), _SERVERS[0]),
        ("no grant applies", _person("nobody", 1), _SERVERS[7]),
        ("no grant, 100 groups", _person("nobody", 100), _SERVERS[7]),
    ):
        few, many = (_decide(policy, principal, ServerId(server)) for policy in (small, large))
        print(f"  {what:32} {few:12.2f} {many:16.2f} {many / few:7.2f}")


def _load(count: int) -> tuple[Policy, float]:
    grants = [
        {"role": "op", "to": {"users": [f"p{i}"]}, "on": {"servers": [_SERVERS[i % 100]]}}
        for i in range(count)
    ]
    denials = [{"role": "op", "to": {"users": ["denied"]}, "on": "everything"}]
    policy = {"roles": {"op": [CONSOLE_OPEN]}, "grants": grants, "denials": denials}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "policy.yaml"
        file.write_text(json.dumps(policy, indent=1))
        began = time.perf_counter()
        read = parse_policy(load(file), issuers=["corp"], projects=[_PROJECT], version="bench")
        return read, time.perf_counter() - began


def _person(subject: str, groups: int) -> Principal:
    return Principal("corp", subject, frozenset(f"g{i}" for i in range(groups)), 0.0, 1.0, None)


def _decide(policy: Policy, principal: Principal, server: ServerId) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(_ROUNDS):
            policy.decide(principal, CONSOLE_OPEN, _PROJECT, server, 0.0)
        best = min(best, time.perf_counter() - began)
    return best / _ROUNDS * 1e6


if __name__ == "__main__":
    main()
