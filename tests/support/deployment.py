"""Readers of the deployment files: configs, docker-compose.yml, manifests, the systemd unit."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gateway.config.settings import Settings, load_settings
from tests.support.compose import ROOT, compose_file, make_secrets
from tests.support.tls import Authority

BIN = Path(sys.executable).parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNIT = DEPLOY / "systemd" / "console-gateway.service"
CONFIGS = {
    "config": ROOT / "config",
    "compose": DEPLOY / "compose" / "gateway",
    "systemd": DEPLOY / "systemd",
    "kubernetes": KUBERNETES / "base",
    "kubernetes example": KUBERNETES / "example",
}
SECRET_DIRECTORIES = ("/run/secrets/", "/run/credentials/console-gateway.service/", "secrets/")
RECORDS_PER_S, RECORD_BYTES = 3, 700
"""Assumed load of a pod's audit volume: a constant rate of link records with some groups."""
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*")


def config_text(name: str) -> str:
    return (CONFIGS[name] / "gateway.yaml").read_text()


def named_secrets(name: str) -> set[str]:
    """Return the names of the files that a config reads its secrets from."""
    found = re.findall(r"\{file: ([^}]+)\}", config_text(name))
    assert all(one.startswith(SECRET_DIRECTORIES) for one in found), found
    return {one.rpartition("/")[2] for one in found}


def read_config(name: str, directory: Path) -> Settings:
    """Load a config with its secrets and certificates created in `directory`."""
    text = config_text(name)
    for one in SECRET_DIRECTORIES:
        text = text.replace(one, f"{directory}/")
    make_secrets(directory / "made")
    for secret in named_secrets(name):
        (directory / secret).write_bytes((directory / "made" / secret).read_bytes())
    Authority().issue("console-gateway-admin").write(directory / "tls.crt", directory / "tls.key")
    text = text.replace("/run/admin-tls/", f"{directory}/")
    file = directory / "gateway.yaml"
    file.write_text(text.replace("/var/lib/console-gateway", str(directory)))
    return load_settings(file, environ={})


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose_file()["services"]
    return found


def own_services() -> dict[str, Any]:
    return {name: one for name, one in services().items() if "console-gateway" in one["image"]}


@cache
def rendered(name: str) -> tuple[dict[str, Any], ...]:
    built = subprocess.run(
        [BIN / "kubectl", "kustomize", KUBERNETES / name], check=True, capture_output=True
    )
    return tuple(yaml.safe_load_all(built.stdout))


def manifests(kind: str) -> Iterator[dict[str, Any]]:
    return (one for one in rendered("example") if one["kind"] == kind)


def manifest(kind: str) -> dict[str, Any]:
    (found,) = manifests(kind)
    return found


def unit(file: Path = UNIT) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and name.isalpha():
            found.setdefault(name, []).append(value)
    return found
