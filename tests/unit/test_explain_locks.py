"""`gateway explain` with the snapshot files of locks and requests, on the example config."""

import base64
import os
import time
from pathlib import Path

import pytest

from gateway.commands.parser import main
from gateway.domain.overrides import (
    UNTIL_LIFTED,
    ClearedOverride,
    Effect,
    Lock,
    Override,
    OverrideSnapshot,
    encode_snapshot,
)

ROOT = Path(__file__).parents[2]
PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
SERVER = "11111111-2222-4333-8444-555555555555"
TARGET = f"{PROJECT}/{SERVER}"
OLGA = ("--user", "olga", "--group", "operators")
NOT_CHECKED = "  locks were not checked: "


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name in ("gateway.yaml", "policy.yaml"):
        (tmp_path / name).write_text((ROOT / "config" / name).read_text())
    (tmp_path / "secrets").mkdir()
    for name in ("iam-password", "redis-password"):
        (tmp_path / "secrets" / name).write_text("secret\n")
    (tmp_path / "secrets" / "seal-key").write_text(base64.b64encode(b"k" * 32).decode())
    return tmp_path / "gateway.yaml"


def save(
    config: Path, *effects: Effect, complete: bool = True, expires_at: float = UNTIL_LIFTED
) -> None:
    overrides = [
        Override(f"id{n}", 1_000.0, expires_at, "corp:ada", "seized", effect)
        for n, effect in enumerate(effects)
    ]
    snapshot = OverrideSnapshot(complete=complete, overrides=overrides)
    (config.parent / "overrides.json").write_bytes(encode_snapshot(snapshot))


def explain(config: Path, *arguments: str) -> int:
    return main(["explain", "--config", str(config), *arguments])


@pytest.mark.parametrize(
    ("lock", "on"),
    [
        (Lock(subject="olga"), "subject olga"),
        (Lock(issuer="corp", subject="olga"), "subject olga of issuer corp"),
        (Lock(group="operators"), "group operators"),
        (Lock(server=SERVER), f"server {SERVER}"),
        (Lock(project=PROJECT), f"project {PROJECT}"),
    ],
)
def test_explain_names_the_lock_that_decides(
    config: Path, capsys: pytest.CaptureFixture[str], lock: Lock, on: str
) -> None:
    save(config, lock)
    assert explain(config, *OLGA, TARGET) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"DENIED by lock id0 on {on}, until it is lifted, set by corp:ada: seized"
    assert said[1].startswith("  without locks: ALLOWED by ")
    assert said[2].startswith(f"  1 lock in {config.parent / 'overrides.json'}, last written ")


@pytest.mark.parametrize(
    "effects",
    [
        (Lock(subject="victor"),),
        (Lock(issuer="partner", subject="olga"),),
        (Lock(group="olga"),),
        (Lock(server=SERVER.replace("1", "2")), Lock(project="0" * 32)),
        (Lock(subject="olga"), ClearedOverride("id0")),
    ],
)
def test_explain_passes_locks_on_others(
    config: Path, capsys: pytest.CaptureFixture[str], effects: tuple[Effect, ...]
) -> None:
    save(config, *effects)
    assert explain(config, *OLGA, TARGET) == 0
    assert capsys.readouterr().out.startswith("ALLOWED by ")


def test_explain_ignores_a_lock_that_has_ended(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(config, Lock(subject="olga"), expires_at=time.time() + 3_600)
    assert explain(config, *OLGA, TARGET) == 3
    assert "until 20" in capsys.readouterr().out
    assert explain(config, *OLGA, "--at", "2099-01-01T00:00:00Z", TARGET) == 0
    assert "  0 locks in " in capsys.readouterr().out


def test_explain_prints_the_age_of_the_file(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(config, Lock(subject="victor"), complete=False)
    os.utime(config.parent / "overrides.json", (1_700_000_000, 1_700_000_000))
    assert explain(config, *OLGA, TARGET) == 0
    said = capsys.readouterr().out
    assert "last written 2023-11-14T22:13:20.000+00:00, " in said
    assert "had not loaded all overrides, so there may be others" in said


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"{", "damaged"), (b'{"a": 1}', "damaged")]
)
def test_explain_says_that_locks_were_not_checked(
    config: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, reason: str
) -> None:
    """The environment variables of `gateway admin` cause no connection."""
    if content is not None:
        (config.parent / "overrides.json").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSOLE_GATEWAY_ADMIN_URL", "http://127.0.0.1:1")
        assert explain(config, *OLGA, TARGET) == 0
    said = capsys.readouterr().out
    assert NOT_CHECKED in said
    assert reason in said
    assert "--gateway" in said


def test_explain_without_a_file_says_that_locks_were_not_checked(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = config.read_text().replace("overrides:\n  file: overrides.json", "overrides: {}\n#")
    config.write_text(text)
    assert explain(config, *OLGA, TARGET) == 0
    assert f"{NOT_CHECKED}`overrides.file` is not configured" in capsys.readouterr().out


def test_explain_fails_if_the_gateway_does_not_answer(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing answer is neither "allowed" nor "denied"."""
    options = ("--gateway", "http://127.0.0.1:1", "--token-env", "PATH", "--wait", "1")
    assert explain(config, *OLGA, *options, TARGET) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err
    assert explain(config, *OLGA, *options[:2], "--token-env", "NO_VARIABLE", TARGET) == 2


def test_absent_file_of_requests_is_reported(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (config.parent / "policy.yaml").open("a") as policy:
        policy.write(
            "requests:\n  - role: console-operator\n    to: {groups: [staff]}\n    on: everything\n"
            "    for_max: 1h\n    approvers: {groups: [leads]}\n"
        )
    assert explain(config, *OLGA, TARGET) == 0
    reason = "requests.json does not exist; a gateway on this host writes it with the first request"
    assert reason in capsys.readouterr().out
