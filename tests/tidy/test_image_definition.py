"""deploy/Dockerfile is clean, pinned and consistent with the other deployments."""

import re
import subprocess
import tomllib

import yaml

from gateway import __version__
from tests.support.compose import ROOT
from tests.support.deployment import BIN, KUBERNETES, PINNED, manifest, own_services
from tests.support.image import DOCKERFILE, default_target, image_facts


def test_dockerfile_passes_hadolint() -> None:
    subprocess.run([BIN / "hadolint", "--failure-threshold", "style", DOCKERFILE], check=True)


def test_image_installs_locked_hashes() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r"install [^&]*--require-hashes[^&]*--requirement requirements\.lock", text)
    assert text.count("FROM ${PYTHON_IMAGE}") == 3
    (base,) = re.findall(r"ARG PYTHON_IMAGE=(\S+)", text)
    assert PINNED.fullmatch(base)
    defaults = re.findall(r"PYTHON_IMAGE:-([^}]+)", (ROOT / "docker-compose.yml").read_text())
    assert set(defaults) == {base}


def test_image_locks_tested_versions_with_opentelemetry() -> None:
    def pins(lock: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (ROOT / lock).read_text(), re.MULTILINE))

    deployed = pins("deploy/requirements.lock")
    assert pins("requirements.lock") <= deployed <= pins("requirements-dev.lock")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for one in extra["otel"]:
        assert any(pin.startswith(one.partition(">=")[0] + "==") for pin in deployed), one


def test_deployments_use_one_version() -> None:
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE.read_text()
    images = {one["image"] for one in own_services().values()}
    assert images == {f"console-gateway:{__version__}", f"console-gateway-demo:{__version__}"}
    (image,) = yaml.safe_load((KUBERNETES / "example" / "kustomization.yaml").read_text())["images"]
    assert image["newTag"] == __version__


def test_containers_run_as_the_same_user() -> None:
    user = image_facts().user
    assert re.fullmatch(r"(\d{4,}):\1", user)
    assert {one["user"] for one in own_services().values()} == {user}
    pod = manifest("StatefulSet")["spec"]["template"]["spec"]["securityContext"]
    assert f"{pod['runAsUser']}:{pod['runAsGroup']}" == user
    assert pod["fsGroup"] == pod["runAsGroup"]


def test_default_target_is_production() -> None:
    assert default_target() == "production"
    assert image_facts("production").entrypoint == ["gateway"]
    assert image_facts("demo").entrypoint == ["python", "-m", "gateway.demo.cloud"]
