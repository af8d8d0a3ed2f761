"""Warnings of `gateway check`: each has a code, line and key; `--strict` makes it an error."""

import base64
from pathlib import Path

import pytest
import yaml

from gateway.commands.parser import main
from gateway.config.located_yaml import parse
from gateway.config.operations import built_in_operations
from gateway.config.policy_names import KnownNames
from gateway.config.policy_parser import read_policy
from gateway.config.policy_warnings import policy_warnings
from gateway.config.warnings import WARNINGS
from tests.support.tokens import ec_signer, rsa_signer

ROOT = Path(__file__).parents[2]
PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
NOW = 1_800_000_000.0


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a copy of config/ with its secrets."""
    for name in ("gateway.yaml", "policy.yaml"):
        (tmp_path / name).write_text((ROOT / "config" / name).read_text())
    (tmp_path / "secrets").mkdir()
    for name in ("iam-password", "redis-password"):
        (tmp_path / "secrets" / name).write_text("secret\n")
    (tmp_path / "secrets" / "seal-key").write_text(base64.b64encode(b"k" * 32).decode())
    return tmp_path


def check(config: Path, *options: str) -> int:
    return main(["check", "--config", str(config / "gateway.yaml"), *options])


def found(text: str, *issuers: str, delivers_proxied: bool = False) -> list[tuple[str, int, str]]:
    known = KnownNames(issuers or ("corp",), (PROJECT,))
    parsed = read_policy(parse(Path("policy.yaml"), text.encode()), known)
    warnings = policy_warnings(
        parsed, built_in_operations(), NOW, delivers_proxied=delivers_proxied
    )
    return [(one.code, one.at.line, one.at.key) for one in warnings]


def a_policy(*rules: str, roles: str = "{op: [console:open]}", more: str = "") -> str:
    lines = "".join(f"  - {rule}\n" for rule in rules)
    return f"roles: {roles}\ngrants:\n{lines}{more}" if rules else f"roles: {roles}\n{more}"


ON = f"on: {{projects: [{PROJECT}]}}"


def test_policy_without_surprises_has_no_warning() -> None:
    rule = f"{{role: op, to: {{users: [ann], groups: [ops]}}, {ON}}}"
    assert found(a_policy(rule)) == []


def test_tag_permission_meets_tag_rules() -> None:
    roles = "{op: [console:open], tagger: [server:tag], admin: [server:tag, server:tag_policy]}"
    by_tag = "{role: op, to: {groups: [devs]}, on: {tags: {env: dev}}}"
    tagger = "{role: tagger, to: {groups: [devs]}, on: everything}"
    admin = "{role: admin, to: {groups: [ops]}, on: everything}"
    assert found(a_policy(by_tag, tagger, admin, roles=roles)) == [
        ("tags_are_permissions", 4, "grants[1].role"),
        ("tags_change_permissions", 5, "grants[2].role"),
    ]
    by_project = f"{{role: op, to: {{groups: [devs]}}, {ON}}}"
    assert found(a_policy(by_project, tagger, admin, roles=roles)) == []


def test_rules_that_gain_console_view_by_all_are_named() -> None:
    """Only where it has an effect: an account has live consoles, and the rule has not ended."""
    rules = (
        f"{{role: admin, to: {{groups: [ops]}}, {ON}}}",
        f"{{role: op, to: {{groups: [devs]}}, {ON}}}",
        f"{{role: watcher, to: {{groups: [audit]}}, {ON}}}",
        f'{{role: admin, to: {{users: [ann]}}, {ON}, until: "2027-01-14T00:00Z"}}',
        f"{{role: admin, to: {{users: [bob]}}, {ON}}}",
    )
    roles = "{op: [console:open], watcher: [console:view], admin: all}"
    text = a_policy(*rules, roles=roles)
    assert found(text, delivers_proxied=True) == [
        ("view_by_all", 3, "grants[0].role"),
        ("view_by_all", 7, "grants[4].role"),
    ]
    assert found(text) == []


@pytest.mark.parametrize(
    ("rule", "code", "key"),
    [
        (f'{{role: op, to: {{users: [a]}}, {ON}, until: "2020-01-01T00:00Z"}}',
         "rule_ended", "grants[0].until"),
        (f"{{role: op, to: {{users: [a], groups: []}}, {ON}}}", "empty_list",
         "grants[0].to.groups"),
        (f"{{role: site, to: {{users: [a]}}, {ON}}}", "rule_without_effect", "grants[0]"),
        ("{role: site, to: everyone, on: {everything: true, not: {models: [B1]}}}",
         "rule_without_effect", "grants[0]"),
    ],
)  # fmt: skip
def test_rule_that_can_never_apply_is_named(rule: str, code: str, key: str) -> None:
    roles = "{op: [console:open], site: [site:read]}"
    others = (
        f"{{role: op, to: {{users: [x]}}, {ON}}}",
        "{role: site, to: {users: [x]}, on: everything}",
    )
    text = a_policy(rule, *others, roles=roles)
    warnings = [one for one in found(text) if one[0] != "role_not_used"]
    assert warnings == [(code, 3, key)]


def test_everyone_of_several_issuers_is_named() -> None:
    rule = f"{{role: op, to: everyone, {ON}}}"
    assert found(a_policy(rule)) == []
    assert found(a_policy(rule), "corp", "partners") == [
        ("everyone_of_any_issuer", 3, "grants[0].to")
    ]
    denial = f"grants: []\ndenials:\n  - {{permissions: all, to: everyone, {ON}}}\n"
    assert found(a_policy(more=denial, roles="{}"), "corp", "partners") == []


def test_unused_roles_and_aliases_are_named() -> None:
    rule = f"{{role: op, to: {{groups: [ops, opps]}}, {ON}}}"
    text = a_policy(
        rule, roles="{op: [console:open], old: all}", more="groups: {ops: a, gone: b}\n"
    )
    assert found(text) == [
        ("group_without_alias", 3, "grants[0].to.groups[1]"),
        ("role_not_used", 1, "roles.old"),
        ("alias_not_used", 4, "groups.gone"),
    ]


def test_no_description_is_of_a_warning_that_nothing_gives() -> None:
    table = ROOT / "gateway" / "config" / "warnings.py"
    sources = [one.read_text() for one in ROOT.glob("gateway/**/*.py") if one != table]
    source = "".join([*sources, table.read_text().partition("def ")[2]])
    assert [code for code in WARNINGS if f'"{code}"' not in source] == []


def test_strict_turns_a_warning_into_an_error(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (config / "gateway.yaml").read_text()
    (config / "gateway.yaml").write_text(
        text.replace("port: 8080}", "port: 8080, trusted_proxies: [10.0.0.0/8, 0.0.0.0/0]}")
    )
    assert check(config) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {config / 'gateway.yaml'}:3: listen.trusted_proxies[1]: ")
    assert line.endswith("[trusts_everyone]")
    assert check(config, "--strict") == 1
    assert check(config, "--strict", "--accept", "trusts_everyone") == 0
    assert capsys.readouterr().err.count("trusts_everyone") == 1


@pytest.mark.parametrize(
    ("network", "warns"),
    [
        ("0.0.0.0/0", True), ("::/0", True), ("0.0.0.0/1", True), ("2000::/3", True),
        ("::ffff:0:0/96", True), ("10.0.0.0/8", False), ("fc00::/7", False),
        ("2001:db8::/32", False), ("::ffff:10.0.0.0/104", False),
    ],
)  # fmt: skip
def test_proxies_of_the_whole_internet_are_named(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    network: str,
    warns: bool,  # noqa: FBT001
) -> None:
    data = yaml.safe_load((config / "gateway.yaml").read_text())
    data["listen"]["trusted_proxies"] = [network]
    (config / "gateway.yaml").write_text(yaml.safe_dump(data))
    assert check(config) == 0
    assert ("trusts_everyone" in capsys.readouterr().err) is warns


def test_secret_with_blanks_is_named_and_not_printed(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config / "secrets" / "iam-password").write_text("canary \n")
    assert check(config, "--strict") == 1
    said = capsys.readouterr()
    assert "accounts[0].login.password: the secret begins or ends with a blank" in said.err
    assert "canary" not in said.out + said.err


def test_byte_order_mark_in_a_secret_is_named(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config / "secrets" / "iam-password").write_bytes(b"\xef\xbb\xbfcanary\n")
    assert check(config) == 0
    said = capsys.readouterr()
    assert "iam-password begins with a byte order mark, which is ignored" in said.err
    assert "canary" not in said.out + said.err


def test_link_setting_of_a_proxied_account_has_no_effect(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config / "gateway.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["listen"]["public_url"] = "https://consoles.example.com"
    settings["accounts"][0]["console"] = {"delivery": "proxied"}
    settings["accounts"][0]["links"] = {"reuse": "shared", "console_hosts": ["*.huaweicloud.com"]}
    file.write_text(yaml.safe_dump(settings))
    assert check(config) == 0
    warnings = capsys.readouterr().err
    assert "accounts[0].links.reuse: does not apply" in warnings
    assert "[setting_without_effect]" in warnings
    assert "console_hosts" not in warnings


def test_live_consoles_require_the_public_url(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config / "gateway.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["accounts"][0]["console"] = {"delivery": "proxied"}
    file.write_text(yaml.safe_dump(settings))
    assert check(config) == 1
    assert "listen.public_url: is required" in capsys.readouterr().err


def test_ignored_key_of_a_file_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config / "keys.pem").write_bytes(rsa_signer().pem() + ec_signer().pem())
    data = yaml.safe_load((config / "gateway.yaml").read_text())
    data["issuers"][0] |= {"keys": {"public_key_file": "keys.pem"}, "algorithms": ["RS256"]}
    (config / "gateway.yaml").write_text(yaml.safe_dump(data))
    assert check(config, "--strict") == 1
    shown = capsys.readouterr().err
    assert "keys.pem: ignored: a key without `kid` fits ES256" in shown
    assert "[key_ignored]" in shown
    data["issuers"][0]["algorithms"] = ["RS256", "ES256"]
    (config / "gateway.yaml").write_text(yaml.safe_dump(data))
    assert "key_ignored" not in check_errors(config, capsys)


def check_errors(config: Path, capsys: pytest.CaptureFixture[str]) -> str:
    check(config)
    return capsys.readouterr().err
