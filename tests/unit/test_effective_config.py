"""`gateway config show`: the effective config loads to the same settings and shows no secret."""

import base64
from pathlib import Path

import pytest
import yaml

from gateway.commands.parser import main
from gateway.config.effective import effective_config
from gateway.config.located_yaml import load
from gateway.config.settings import Settings, load_settings, validate_settings
from tests.support.audit import SigningKey
from tests.support.tls import Authority

CONFIG = Path(__file__).parents[2] / "config" / "gateway.yaml"
CANARIES = {"iam": "canary-iam-password", "AK": "canary-access-key", "SK": "canary-secret-key"}
EVERY_KIND = """\
listen:
  host: 0.0.0.0
  trusted_proxies: [10.0.0.0/8, "fd00::/8"]
  tls: {certificate_file: tls.pem, key_file: tls.key}
admin:
  tls: {certificate_file: tls.pem, key_file: tls.key, client_ca_file: ca.pem}
  api: {audience: ops, issuers: [corp], groups: {b: all, a: [read, lock]}, certificates: {cert-1: [revoke]}}
issuers:
  - {name: corp, issuer: https://a, audience: [x], keys: {jwks: https://a/keys}}
  - {name: partner, issuer: https://b, audience: [x], algorithms: [HS256], keys: {secret: {file: hmac}}}
policy_file: policy.yaml
accounts:
  - name: one
    endpoint: https://cloud.example
    projects: [p1, p2]
    project_names: {p1: first}
    login: {method: password, iam_endpoint: https://iam, user: u, domain: d, password: {env: iam}}
    budget: {console: [{requests: 5}, {requests: 300, per_s: 60}], iam: {requests: 1}}
    links: {reuse: shared}
    inventory: {directory: inventory}
  - name: two
    endpoint: https://other.example
    projects: [p3]
    login: {method: aksk, access_key: {env: AK}, secret_key: {env: SK}}
  - {name: three, endpoint: https://third, projects: [p4], login: {method: token_file, token_file: t}}
store:
  redis: {sentinels: ["s:1"], service: main, password: {file: hmac}}
  seal_keys: [{file: seal}, {file: seal}]
operations:
  disable: [ShowServer]
  add: [{name: Again, method: GET, path: "/x/{server_id}", permission: "server:read"}]
fairness: {group_weights: {"on": 2.5}}
log: {modules: {gateway.policy: debug}}
audit: {directory: audit, signing_key: {file: signing}}
"""  # noqa: E501


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a config with each kind of key, and the files that it names."""
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    authority.issue("gateway").write(tmp_path / "tls.pem", tmp_path / "tls.key")
    (tmp_path / "hmac").write_text("canary-hmac-" * 4)
    (tmp_path / "seal").write_text(base64.b64encode(b"canary-seal-key-" * 2).decode())
    (tmp_path / "signing").write_bytes(SigningKey().private)
    file = tmp_path / "gateway.yaml"
    file.write_text(EVERY_KIND)
    return file


def shown(file: Path) -> tuple[Settings, str]:
    document = load(file)
    settings = validate_settings(document, CANARIES)
    return settings, effective_config(settings, document)


def test_effective_config_loads_to_equal_settings(config: Path, tmp_path: Path) -> None:
    settings, text = shown(config)
    elsewhere = tmp_path / "elsewhere" / "shown.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(text)
    assert load_settings(elsewhere, CANARIES) == settings


def test_effective_config_has_every_key(config: Path) -> None:
    settings, text = shown(config)
    data = yaml.safe_load(text)
    assert list(data) == list(Settings.model_fields)
    assert data["caller_limits"] == {"requests": 120, "per_s": 60.0, "burst": 40}
    assert data["accounts"][1]["links"] == settings.accounts[1].links.model_dump(mode="json")
    assert data["admin"]["port"] == 9090


def test_effective_config_shows_sources_of_secrets(config: Path) -> None:
    _, text = shown(config)
    data = yaml.safe_load(text)
    assert data["accounts"][0]["login"]["password"] == {"env": "iam"}
    assert data["store"]["seal_keys"][0] == {"file": str(config.parent / "seal")}
    encoded = (config.parent / "seal").read_text()
    for secret in ("canary", "PRIVATE KEY", encoded, *CANARIES.values()):
        assert secret not in text


def test_command_prints_the_effective_config(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    assert main(["config", "show", "--config", str(config)]) == 0
    assert capsys.readouterr().out == shown(config)[1]


def test_config_file_is_taken_from_the_environment(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSOLE_GATEWAY_CONFIG", str(config.parent / "none.yaml"))
    for command in (["check"], ["config", "show"], ["serve"]):
        assert main(command) == 1
        assert "none.yaml: cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["config", "show", "--config"])
    monkeypatch.setenv("CONSOLE_GATEWAY_CONFIG", "")
    with pytest.raises(SystemExit):
        main(["check"])
