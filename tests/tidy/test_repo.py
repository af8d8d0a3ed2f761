"""Rules of the repository that no linter knows."""

import re
import subprocess
from pathlib import Path

import pytest

from gateway.domain import errors
from gateway.domain.errors import GatewayError, Rejection
from gateway.edge.errors import INTERNAL, WIRE, render

ROOT = Path(__file__).parents[2]


def leaves(kind: type[GatewayError]) -> list[type[GatewayError]]:
    below = kind.__subclasses__()
    own = [] if kind in (GatewayError, errors.RetryLater) else [kind]
    return own + [leaf for one in below for leaf in leaves(one)]


def error_table() -> str:
    """Render WIRE as the README has it."""
    rows = ["| status | error_code | when |", "|---|---|---|"]
    for kind, looks in sorted(WIRE.items(), key=lambda item: (item[1].status, item[1].code)):
        rows.append(f"| {looks.status} | {looks.code} | {looks.message or _sentence(kind)} |")
    internal = INTERNAL
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


def test_every_error_that_may_reach_a_caller_has_a_row() -> None:
    inside = {errors.StoreUnavailable}
    assert set(WIRE) == set(leaves(GatewayError)) - inside


def test_the_readme_has_the_table_of_errors_as_the_code_has_it() -> None:
    assert error_table() in (ROOT / "README.md").read_text()


def test_codes_tell_errors_apart() -> None:
    codes = [looks.code for looks in WIRE.values()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("reason", list(Rejection))
def test_a_challenge_helps_no_forger(reason: Rejection) -> None:
    answer = render(errors.NotAuthenticated(reason, "canary", issuer="canary"))
    ((name, challenge),) = answer.headers
    assert name == "WWW-Authenticate"
    assert re.fullmatch(r'Bearer realm="console-gateway"(, [a-z_]+="[^"]*")*', challenge)
    assert "canary" not in challenge + answer.body.decode()
    assert "signature" not in challenge
    assert "key" not in challenge


def test_a_permit_is_made_in_one_place_only() -> None:
    makers = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "gateway").rglob("*.py")
        if re.search(r"(?<![\w\"])Permit\(", file.read_text())
    }
    assert makers == {"gateway/domain/policy/policy.py"}


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-dev.lock", "deploy/requirements.lock"]
)
def test_a_lock_has_hashes_and_no_index_address(lock: str) -> None:
    text = (ROOT / lock).read_text()
    pinned = re.findall(r"^[\w.-]+(?:\[[\w,]+\])?==", text, re.MULTILINE)
    assert len(pinned) > 20
    assert text.count("--hash=sha256:") >= len(pinned)
    assert "://" not in text
    assert "index" not in text


def test_no_file_names_a_path_of_the_machine_it_was_made_on() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    here = "/" + "work/"
    for name in listed.stdout.split():
        text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
        assert here not in text, name


def test_the_top_level_holds_what_the_layout_knows() -> None:
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
        ".gitignore",
    }
    assert {name.partition("/")[0] for name in listed.stdout.split()} <= known
