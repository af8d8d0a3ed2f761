"""Warnings of `gateway check` about access requests, on the example config."""

import base64
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.commands.parser import main

ROOT = Path(__file__).parents[2]
RULE = """
requests:
  - role: console-operator
    to: {issuer: corp, groups: [staff]}
    on: {projects: [0a1b2c3d4e5f60718293a4b5c6d7e8f9]}
    for_max: 4h
    approvers: {issuer: %s, groups: [leads]}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    for name in ("iam-password", "redis-password"):
        (tmp_path / "secrets" / name).write_text("secret\n")
    (tmp_path / "secrets" / "seal-key").write_text(base64.b64encode(b"k" * 32).decode())
    return tmp_path


def warnings(
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    rule: str,
    config: dict[str, Any] | None = None,
) -> list[str]:
    data = yaml.safe_load((ROOT / "config" / "gateway.yaml").read_text())
    second = copy.deepcopy(data["issuers"][0])  # YAML would refer to the same lists
    second |= {"name": "partner", "issuer": "https://idp.partner.example"}
    second["keys"] = {"discovery": "https://idp.partner.example"}
    data["issuers"].append(second)
    del data["admin"]["api"]
    (directory / "gateway.yaml").write_text(yaml.safe_dump({**data, **(config or {})}))
    (directory / "policy.yaml").write_text(
        f"roles: {{console-operator: [console:open]}}\ngrants: []\n{rule}"
    )
    assert main(["check", "--config", str(directory / "gateway.yaml")]) == 0
    lines = capsys.readouterr().err.splitlines()
    return [one for one in lines if one.endswith(("[requests_unusable]", "[requests_not_saved]"))]


def test_rule_that_someone_can_approve_is_no_warning(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warnings(directory, capsys, RULE % "corp") == []
    claim = {"requests": {"file": "requests.json", "person_claim": "email"}}
    assert warnings(directory, capsys, RULE % "partner", claim) == []


def test_approvers_of_another_issuer_need_the_claim(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (warning,) = warnings(directory, capsys, RULE % "partner")
    assert "requests[0].approvers" in warning
    assert "approvals require `requests.person_claim` in the config" in warning


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"overrides": {}}, ["overrides.file"]),
        ({"requests": {}}, ["requests.file"]),
        ({"overrides": {"enabled": False}}, ["overrides.enabled"]),
    ],
)
def test_request_that_a_restart_could_lose_is_named(
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    config: dict[str, Any],
    found: list[str],
) -> None:
    named = warnings(directory, capsys, RULE % "corp", config)
    assert len(named) == len(found)
    assert all(key in line for key, line in zip(found, named, strict=True)), named
    assert warnings(directory, capsys, "", config) == []
