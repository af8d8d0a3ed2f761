"""The examples in `docs/how-to/write-a-policy.md` are valid."""

import re
from pathlib import Path

import pytest

from gateway.config.located_yaml import parse
from gateway.config.policy_parser import parse_policy

ROLES = "roles: {console-operator: [console:open, server:read]}\n"
TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "write-a-policy.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
SELECTIONS = re.findall(
    r"^\| [^|`]+(?:`[^`]+`[^|`]*)*\| `(\{.*\}|everything)` \|$", TEXT, re.MULTILINE
)


def completed(block: str) -> str:
    grants = "" if "grants:" in block else "grants: []\n"
    return ("" if "roles:" in block else ROLES) + grants + block


def check(text: str) -> int:
    document = parse(Path("policy.yaml"), text.encode())
    project = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
    return parse_policy(
        document,
        issuers=["corp"],
        projects=[project],
        accounts={"prod": (project,)},
        regions={"cn-east-3": (project,)},
        version="v",
    ).size


@pytest.mark.parametrize("block", BLOCKS)
def test_example_is_valid(block: str) -> None:
    assert check(completed(block)) > 0


@pytest.mark.parametrize("selection", SELECTIONS)
def test_selection_is_valid(selection: str) -> None:
    rule = f"{{role: console-operator, to: {{users: [ann]}}, on: {selection}}}"
    assert check(f"{ROLES}grants: [{rule}]\n") == 1


def test_page_has_examples() -> None:
    assert BLOCKS
    assert SELECTIONS
