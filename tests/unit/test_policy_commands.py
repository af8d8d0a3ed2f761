"""`gateway policy` and `gateway explain` with given attributes, on the example config."""

import base64
from pathlib import Path

import pytest

from gateway.commands.parser import main

ROOT = Path(__file__).parents[2]
PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
SERVER = "11111111-2222-4333-8444-555555555555"
WANDA = ("--user", "wanda", "--group", "web-team")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name in ("gateway.yaml", "policy.yaml"):
        (tmp_path / name).write_text((ROOT / "config" / name).read_text())
    (tmp_path / "secrets").mkdir()
    for name in ("iam-password", "redis-password"):
        (tmp_path / "secrets" / name).write_text("secret\n")
    (tmp_path / "secrets" / "seal-key").write_text(base64.b64encode(b"k" * 32).decode())
    return tmp_path / "gateway.yaml"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 3),
        (("--tag", "env=prod"), 0),
        (("--tag", "env=prod", "--tag", "tier=db"), 3),
        (("--tag", "env=test"), 3),
    ],
)
def test_explain_decides_by_given_tags(
    config: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: int
) -> None:
    for target in (PROJECT, f"{PROJECT}/{SERVER}"):
        assert main(["explain", "--config", str(config), *WANDA, *options, target]) == code
        said = capsys.readouterr().out
        assert ("as given" in said) is bool(options)


def test_explain_rejects_a_tag_without_value(config: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["explain", "--config", str(config), *WANDA, "--tag", "env", PROJECT])
    assert ended.value.code == 2


def who(config: Path, *arguments: str) -> int:
    return main(["policy", "who", "--config", str(config), *arguments])


def test_who_lists_grants_and_denials(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert who(config, "console:open", f"{PROJECT}/{SERVER}", "--tag", "env=prod") == 0
    grants, _, denials = capsys.readouterr().out.partition("except the people of:\n")
    assert "grant console-operator to group operators, issuer corp" in grants
    assert "grant console-operator to group web-team" in grants
    assert "vendor-4711" not in grants, "it has not begun"
    assert "denial console:open to group interns" in denials
    assert who(config, "console:open", PROJECT, "--tag", "env=dev") == 0
    assert "web-team" not in capsys.readouterr().out
    at = ("--at", "2036-11-26T12:00:00+01:00")
    assert who(config, "console:open", f"{PROJECT}/{SERVER}", *at) == 0
    assert "to vendor-4711, until 2036-11-28" in capsys.readouterr().out
    assert who(config, "server:power", f"{PROJECT}/{SERVER}") == 3
    assert who(config, "server:powr", f"{PROJECT}/{SERVER}") == 2
    assert who(config, "server:read", "nowhere") == 2


CASES = f"""\
cases:
  - name: web
    user: wanda
    groups: [web-team]
    can: console:open
    server: {{project: {PROJECT}, tags: {{env: prod, tier: web}}}}
    expect: allowed
  - name: interns
    user: ida
    groups: [interns, operators]
    can: console:open
    server: {{id: {SERVER}}}
    at: 2036-11-26T12:00:00+01:00
    expect: denied
"""


def test_policy_test_compares_decisions(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config.with_name("cases.yaml")
    file.write_text(CASES)
    command = ["policy", "test", "--config", str(config), str(file)]
    assert main(command) == 0
    assert capsys.readouterr().out == "2 of 2 cases are as expected\n"
    file.write_text(CASES.replace("expect: denied", "expect: allowed"))
    assert main(command) == 3
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{file}:8: interns: denied (by {config.with_name('policy.yaml')}:")
    assert first.endswith("expected allowed")
    assert last == "1 of 2 cases are as expected"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cases:", "csaes:", "did you mean cases?"),
        ("can: console:open", "can: console:opn", "did you mean console:open?"),
        ("expect: allowed", "expect: yes", "must be `allowed` or `denied`"),
        ("user: wanda", "user: 7", "must be text"),
        ("tags: {env", "tag: {env", "did you mean tags?"),
        (SERVER, "srv-1", "must be a server ID"),
        ("+01:00", "", "needs a time zone"),
        (PROJECT, "nowhere", "unknown project"),
    ],
)
def test_policy_test_rejects_an_invalid_file(
    config: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    file = config.with_name("cases.yaml")
    assert old in CASES
    file.write_text(CASES.replace(old, new))
    assert main(["policy", "test", "--config", str(config), str(file)]) == 1
    assert message in capsys.readouterr().err
