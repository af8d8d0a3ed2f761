"""Config section `requests`, and the claim that identifies a person over all issuers."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.errors import InvalidConfig
from gateway.config.settings import Settings, load_settings
from gateway.domain.identity.claims import principal_of
from gateway.domain.model import VerifiedToken
from gateway.process.wiring.identity import token_rules

EXAMPLE = Path(__file__).parents[2] / "config" / "gateway.yaml"
SECRET = "whsec_" + base64.b64encode(b"w" * 32).decode()
NOW = 1_000.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    for name in ("iam-password", "redis-password"):
        (tmp_path / "secrets" / name).write_text("secret\n")
    (tmp_path / "secrets" / "seal-key").write_text(base64.b64encode(b"k" * 32).decode())
    return tmp_path


def read(directory: Path, requests: dict[str, Any], **environ: str) -> Settings:
    data = yaml.safe_load(EXAMPLE.read_text())
    data["requests"] = requests
    (directory / "gateway.yaml").write_text(yaml.safe_dump(data))
    return load_settings(directory / "gateway.yaml", environ)


def a_webhook(**more: Any) -> dict[str, Any]:
    return {"name": "security", "url": {"env": "URL"}, "secrets": [{"env": "KEY"}], **more}


@pytest.mark.parametrize("url", ["https://hooks.example/x", "http://127.0.0.1:8000/x"])
def test_webhook_is_read_and_its_address_is_secret(directory: Path, url: str) -> None:
    (webhook,) = read(directory, {"webhooks": [a_webhook()]}, URL=url, KEY=SECRET).requests.webhooks
    assert (webhook.url.reveal(), webhook.format) == (url, "json")
    assert "hooks.example" not in repr(webhook)


@pytest.mark.parametrize(
    ("webhooks", "url", "key", "problem"),
    [
        ([a_webhook()], "http://hooks.example/canary", SECRET, "must be https"),
        ([a_webhook()], "ftp://hooks.example/canary", SECRET, "must be an http or https URL"),
        ([a_webhook()], "https://u:canary@hooks.example/", SECRET, "without user and password"),
        ([a_webhook()], "https://hooks.example/", "canary", "must be `whsec_`"),
        ([a_webhook(secrets=[])], "https://hooks.example/", SECRET, "secrets"),
        ([a_webhook(format="mail")], "https://hooks.example/", SECRET, "format"),
        ([a_webhook(), a_webhook()], "https://hooks.example/", SECRET, "duplicate: security"),
    ],
)
def test_unusable_webhook_is_refused_without_its_secret(
    directory: Path, webhooks: list[Any], url: str, key: str, problem: str
) -> None:
    with pytest.raises(InvalidConfig) as found:
        read(directory, {"webhooks": webhooks}, URL=url, KEY=key)
    text = "\n".join(map(str, found.value.errors))
    assert problem in text
    assert "requests.webhooks" in text
    assert "canary" not in text


@pytest.mark.parametrize(
    "requests",
    [{"keep_s": 60}, {"stored_max": 1}, {"person_pending_max": 0}, {"person_claim": ""}],
)
def test_value_out_of_bounds_is_refused(directory: Path, requests: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match=r"requests\."):
        read(directory, requests)


@pytest.mark.parametrize(
    ("claims", "person"),
    [
        ({"email": "ann@example.com"}, "ann@example.com"),
        ({"email": "ann@example.com", "email_verified": False}, ""),
        ({"email": 7}, ""),
        ({}, ""),
    ],
)
def test_person_claim_is_read_from_the_token(
    directory: Path, claims: dict[str, Any], person: str
) -> None:
    settings = read(directory, {"person_claim": "email"})
    (issuer,) = settings.issuers
    body = {"iss": issuer.issuer, "aud": "console-gateway", "iat": NOW, "exp": NOW + 60}
    token = VerifiedToken("corp", {}, {**body, "sub": "ann", "groups": [], **claims})
    assert principal_of(token, token_rules(issuer, "email"), NOW).person == person
    assert principal_of(token, token_rules(issuer), NOW).person == ""
