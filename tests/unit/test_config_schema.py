"""The JSON Schemas of config and policy, checked with real validators."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from gateway.commands.parser import main
from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import load
from gateway.config.schema import config_schema, policy_schema
from gateway.config.settings import load_settings
from tests.support.mutations import every_change

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config" / "gateway.yaml"
CONFIGS = [EXAMPLE, *sorted((ROOT / "deploy").rglob("gateway.yaml"))]
POLICIES = [ROOT / "config" / "policy.yaml", *sorted((ROOT / "deploy").rglob("policy.yaml"))]
CONFIG = Draft202012Validator(config_schema())
POLICY = Draft202012Validator(policy_schema())


def problems(validator: Draft202012Validator, data: object) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(data)]


def test_schemas_are_valid_draft_2020_12() -> None:
    for schema in (config_schema(), policy_schema()):
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("file", CONFIGS, ids=str)
def test_shipped_configs_match_the_schema(file: Path) -> None:
    assert problems(CONFIG, load(file).data) == []


@pytest.mark.parametrize("file", POLICIES, ids=str)
def test_shipped_policies_match_the_schema(file: Path) -> None:
    assert problems(POLICY, load(file).data) == []


@pytest.mark.parametrize("name", ["store-cluster.yaml", "store-sentinel.yaml"])
def test_store_examples_match_the_schema(name: str) -> None:
    data = load(EXAMPLE).data | load(EXAMPLE.with_name(name)).data
    assert problems(CONFIG, data) == []


def test_printed_schemas_work_in_a_validator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The validator reads YAML itself, as an editor does, instant values included."""
    for options, files in (((), CONFIGS), (("--policy",), POLICIES)):
        assert main(["config", "schema", *options]) == 0
        schema = tmp_path / "schema.json"
        schema.write_text(capsys.readouterr().out)
        broken = tmp_path / "broken.yaml"
        broken.write_text(files[0].read_text() + "\nunknown: 1\n")
        command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(schema)]
        good = subprocess.run([*command, *map(str, files)], capture_output=True, check=False)
        assert good.returncode == 0, good.stdout
        bad = subprocess.run([*command, str(broken)], capture_output=True, check=False)
        assert bad.returncode == 1
        assert b"unknown" in bad.stdout


BROKEN = {
    "unknown key": ("listen: {host", "lisen: {host", "lisen"),
    "unknown nested key": ("user: console", "usr: console", "usr"),
    "port out of range": ("port: 8080", "port: 80800", "maximum of 65535"),
    "text for a number": ("lifetime_s: 300", "lifetime_s: long", "number"),
    "zero seconds": ("lifetime_s: 300", "lifetime_s: 0", "lifetime_s"),
    "secret in the file": ("{file: secrets/iam-password}", "swordfish", "password"),
    "two sources of a secret": ("{file: secrets/seal-key}", "{file: a, env: B}", "seal_keys"),
    "unknown choice": ("reuse: caller", "reuse: always", "always"),
    "unknown login": ("method: password", "method: magic", "login"),
    "no kind of keys": ("{discovery: ", "{discovry: ", "keys"),
    "unknown algorithm": ("[RS256, ES256]", "[none]", "none"),
    "credentials in a URL": ("redis://valkey", "redis://u:p@valkey", "redis"),
    "not a URL": ("https://clouddc", "ftp://clouddc", "endpoint"),
    "empty list": ("audience: [console-gateway]", "audience: []", "audience"),
    "missing section": ("policy_file: policy.yaml", "log: {}", "policy_file"),
    "no destination of the audit log": ("  directory: audit", "  stdout: false #", "audit"),
    "no audit section": ("\naudit: ", "\nlog: {}\nx-audit: ", "audit"),
    "too many rates": ("{requests: 5, per_s: 1, burst: 5}", str([{"requests": 1}] * 5), "console"),
    "unknown logger": ("policy_file:", "log: {modules: {aiohttp: debug}}\npolicy_file:", "aiohttp"),
}


@pytest.mark.parametrize(("old", "new", "part"), BROKEN.values(), ids=BROKEN.keys())
def test_schema_rejects_broken_configs(old: str, new: str, part: str) -> None:
    text = EXAMPLE.read_text()
    assert old in text
    found = problems(CONFIG, yaml.safe_load(text.replace(old, new)))
    assert any(part in one for one in found), found


@pytest.mark.parametrize(
    "value", [None, False, -1, 0, 1, 1e9, "x", "", [], ["x"], {}, {"file": "key"}], ids=repr
)
def test_schema_accepts_what_the_gateway_accepts(tmp_path: Path, value: object) -> None:
    """An editor must not underline a config that loads."""
    (tmp_path / "secrets").mkdir()
    for name in ("iam-password", "redis-password"):
        (tmp_path / "secrets" / name).write_text("secret")
    (tmp_path / "secrets" / "seal-key").write_text("A" * 43 + "=")
    (tmp_path / "key").write_text("A" * 43 + "=")
    file = tmp_path / "gateway.yaml"
    loaded = 0
    for data in every_change(yaml.safe_load(EXAMPLE.read_text()), value):
        file.write_text(json.dumps(data))
        try:
            load_settings(file, {})
        except InvalidConfig:
            continue
        loaded += 1
        assert problems(CONFIG, data) == []
    assert loaded > 0 or value not in (1, "x")
