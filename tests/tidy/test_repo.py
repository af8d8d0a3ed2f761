"""Rules of the repository that no linter knows."""

import re
import subprocess
from pathlib import Path

import pytest

from gateway.domain import errors
from gateway.domain.errors import GatewayError, Rejection
from gateway.edge.errors import ERROR_TABLE, INTERNAL_ERROR, render_error

ROOT = Path(__file__).parents[2]


def leaf_errors(kind: type[GatewayError]) -> list[type[GatewayError]]:
    below = kind.__subclasses__()
    own = [] if kind in (GatewayError, errors.RetryLater) else [kind]
    return own + [leaf for one in below for leaf in leaf_errors(one)]


def error_table() -> str:
    """Render WIRE as the README has it."""
    rows = ["| status | error_code | when |", "|---|---|---|"]
    for kind, looks in sorted(ERROR_TABLE.items(), key=lambda item: (item[1].status, item[1].code)):
        rows.append(f"| {looks.status} | {looks.code} | {looks.message or _sentence(kind)} |")
    internal = INTERNAL_ERROR
    message = "The gateway failed; the operators find it by the request id."
    rows.append(f"| {internal.status} | {internal.error_code} | {message} |")
    return "\n".join(rows)


def _sentence(kind: type[GatewayError]) -> str:
    return {
        errors.BadRequest: "The request is malformed; the message says what to do.",
        errors.OperationUnknown: str(errors.OperationUnknown()),
        errors.MethodNotAllowed: "The path takes another method; `Allow` names it.",
        errors.RequestTooLarge: "The request line or a header is too long.",
    }[kind]


def test_error_table_covers_every_caller_error() -> None:
    inside = {errors.StoreUnavailable}
    assert set(ERROR_TABLE) == set(leaf_errors(GatewayError)) - inside


def test_readme_matches_the_error_table() -> None:
    assert error_table() in (ROOT / "README.md").read_text()


def test_error_codes_are_unique() -> None:
    codes = [looks.code for looks in ERROR_TABLE.values()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("reason", list(Rejection))
def test_challenge_reveals_no_verification_detail(reason: Rejection) -> None:
    answer = render_error(errors.NotAuthenticated(reason, "canary", issuer="canary"))
    ((name, challenge),) = answer.headers
    assert name == "WWW-Authenticate"
    assert re.fullmatch(r'Bearer realm="console-gateway"(, [a-z_]+="[^"]*")*', challenge)
    assert "canary" not in challenge + answer.body.decode()
    assert "signature" not in challenge
    assert "key" not in challenge


def test_permit_is_constructed_in_policy_only() -> None:
    makers = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "gateway").rglob("*.py")
        if re.search(r"(?<![\w\"])Permit\(", file.read_text())
    }
    assert makers == {"gateway/domain/policy/policy.py"}


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-dev.lock", "deploy/requirements.lock"]
)
def test_lock_file_has_hashes_and_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    pinned = re.findall(r"^[\w.-]+(?:\[[\w,]+\])?==", text, re.MULTILINE)
    assert len(pinned) > 20
    assert text.count("--hash=sha256:") >= len(pinned)
    assert "://" not in text
    assert "index" not in text


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
