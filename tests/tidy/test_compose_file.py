"""docker-compose.yml is valid, hardened and consistent with the config."""

import hashlib
import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from gateway import __version__
from tests.support.compose import REPLICAS, ROOT, compose_file, make_secrets
from tests.support.deployment import (
    DEPLOY,
    PINNED,
    config_text,
    named_secrets,
    own_services,
    read_config,
    services,
)


def test_one_service_builds_each_image() -> None:
    """Parallel builds of one tag fail, and no registry has these images."""
    builders = {one["image"]: name for name, one in own_services().items() if "build" in one}
    assert builders == {
        f"console-gateway:{__version__}": "gateway-1",
        f"console-gateway-demo:{__version__}": "cloud",
    }
    targets = {name: services()[name]["build"]["target"] for name in builders.values()}
    assert targets == {"gateway-1": "production", "cloud": "demo"}
    policies = {name: one["pull_policy"] for name, one in own_services().items()}
    assert {policies.pop(name) for name in builders.values()} == {"build"}
    assert set(policies.values()) == {"never"}


def test_only_the_demo_profile_uses_the_demo_image() -> None:
    for name, one in own_services().items():
        is_demo = one["image"].startswith("console-gateway-demo:")
        assert one.get("profiles", []) == (["demo"] if is_demo else []), name


def test_compose_file_fits_the_specification() -> None:
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(compose_file(), json.loads(vendored.read_text()))


@pytest.mark.parametrize("name", services())
def test_services_are_pinned_and_hardened(name: str) -> None:
    service = services()[name]
    assert PINNED.fullmatch(re.sub(r"^\$\{[A-Z_]+:-(.+)\}$", r"\1", service["image"]))
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].partition(":")[0]) > 0
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert service["healthcheck"].get("test") or service["healthcheck"] == {"disable": True}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert "privileged" not in service


def test_mounted_files_and_volumes_exist() -> None:
    named = compose_file()
    for service in services().values():
        for volume in service.get("volumes", ()):
            source, target, *_ = re.sub(r"\$\{[A-Z_]+:-([^}]+)\}", r"\1", volume).split(":")
            assert target.startswith("/")
            if not source.startswith("./"):
                assert source in named["volumes"]
            else:
                assert (ROOT / source).is_dir(), source
        assert set(service.get("secrets", ())) <= set(named["secrets"])
        assert set(service["networks"]) <= set(named["networks"])


def test_valkey_persists_and_never_evicts() -> None:
    command = services()["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"


def test_each_replica_has_a_separate_audit_volume(tmp_path: Path) -> None:
    volumes = [volume for name in REPLICAS for volume in services()[name]["volumes"]]
    sources = [
        one.partition(":")[0] for one in volumes if one.endswith(":/var/lib/console-gateway")
    ]
    assert len(set(sources)) == len(REPLICAS)
    assert "directory: /var/lib/console-gateway" in config_text("compose")
    assert read_config("compose", tmp_path).store.processes_max >= len(REPLICAS)


def test_compose_secrets_are_created_once(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    make_secrets(directory)
    made = {file.name: file.read_bytes() for file in directory.iterdir()}
    named = compose_file()["secrets"]
    assert {name: Path(one["file"]).name for name, one in named.items()} == {n: n for n in made}
    assert {Path(one["file"]).parent for one in named.values()} == {Path("deploy/compose/secrets")}
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in directory.iterdir()} == {0o644}
    make_secrets(directory)
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == made
    assert named_secrets("compose") <= set(services()["gateway-1"]["secrets"]) <= set(made)
    ignored = subprocess.run(
        ["git", "check-ignore", "deploy/compose/secrets/seal-key"], check=False, cwd=ROOT
    )
    assert ignored.returncode == 0


@pytest.mark.parametrize(
    ("name", "user"), [("redis-password", "gateway"), ("redis-operator-password", "operator")]
)
def test_deleted_password_is_recreated_with_the_acl_file(
    name: str, user: str, tmp_path: Path
) -> None:
    make_secrets(tmp_path)
    users = tmp_path / "valkey-users"
    before = users.stat().st_ino
    users.chmod(0o444)  # the mode of earlier versions
    with users.open() as open_file:  # as in a container, so the inode number is not reused
        (tmp_path / name).unlink()
        make_secrets(tmp_path)
        assert users.stat().st_ino != before
        assert users.read_text() != open_file.read()
    password = (tmp_path / name).read_text().strip()
    assert f"user {user} on #{hashlib.sha256(password.encode()).hexdigest()} " in users.read_text()


def test_runbook_command_for_redis_works_in_compose(tmp_path: Path) -> None:
    (found,) = re.findall(r"`docker compose exec (\w+) (.*)`", (DEPLOY / "runbook.md").read_text())
    service, command = found
    (secret,) = re.findall(r"/run/secrets/([\w-]+)", command)
    assert secret in services()[service]["secrets"]
    make_secrets(tmp_path)
    (user,) = re.findall(r"--user (\w+)", command)
    assert f"user {user} on #" in (tmp_path / "valkey-users").read_text()


def test_admin_ports_are_not_published() -> None:
    for name in REPLICAS:
        assert {one.rpartition(":")[2] for one in services()[name]["ports"]} == {"8080"}
