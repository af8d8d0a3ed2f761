"""The image that deploy/Dockerfile makes: its steps work, and so does what they leave."""

import time
from collections.abc import Iterator

import pytest

from gateway import __version__
from tests.support.compose import ROOT, make_secrets
from tests.support.image import Image, can_build
from tests.support.stack import eventually
from tests.support.valkey import free_port

pytestmark = pytest.mark.skipif(
    not can_build(), reason="takes root on Linux, and the image's version of Python"
)
AUDIT = "/var/lib/console-gateway"
SHIPPED = ROOT / "deploy" / "compose" / "gateway"


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def image(admin_port: int) -> Iterator[Image]:
    built = Image()
    try:
        _mount(built, admin_port)
        built.seal(AUDIT)
        yield built
    finally:
        built.close()


def _mount(image: Image, admin_port: int) -> None:
    text = (SHIPPED / "gateway.yaml").read_text()
    text = text.replace("port: 9090", f"port: {admin_port}")
    text = text.replace("port: 8080", f"port: {free_port()}")
    policy = (SHIPPED / "policy.yaml").read_text()
    config = image.path("/etc/gateway")
    config.mkdir()
    (config / "gateway.yaml").write_text(text)
    (config / "policy.yaml").write_text(policy)
    make_secrets(image.path("/run/secrets"))
    image.path("/run/secrets").chmod(0o755)


def test_the_image_answers_with_its_version(image: Image) -> None:
    said = image.run(*image.stage.entrypoint, "--version")
    assert (said.returncode, said.stdout.strip()) == (0, __version__), said.stderr


def test_the_image_finds_no_mistake_in_the_config_of_the_demo(image: Image) -> None:
    _, *options = image.stage.command
    said = image.run(*image.stage.entrypoint, "check", *options)
    assert (said.returncode, said.stdout.count(": ok")) == (0, 2), said.stderr


def test_the_image_runs_as_nobody_in_particular_and_writes_to_its_volume_only(image: Image) -> None:
    program = "import os; print(os.getuid(), os.getgid(), os.access('/opt/gateway', os.W_OK))"
    assert image.run("python", "-c", program).stdout.split() == ["65532", "65532", "False"]
    for closed in ("/opt/gateway", "/etc/gateway", "/var/lib"):
        assert image.run("touch", f"{closed}/x").returncode != 0
    assert image.run("touch", f"{AUDIT}/x").returncode == 0
    assert image.run("rm", f"{AUDIT}/x").returncode == 0
    owner = image.path(AUDIT).stat()
    assert (owner.st_uid, owner.st_gid, owner.st_mode & 0o777) == (65532, 65532, 0o700)


def test_the_image_bears_compiled_modules_and_neither_pip_nor_a_cache(image: Image) -> None:
    packages = image.path("/opt/gateway/lib/python3.11/site-packages")
    assert list((packages / "gateway" / "__pycache__").glob("worker.*.pyc"))
    assert (packages / "gateway" / "catalogue.yaml").exists()
    assert not (packages / "pip").exists()
    assert image.run("/opt/gateway/bin/python", "-m", "pip").returncode != 0
    assert not (packages / "pytest").exists()


def test_the_image_can_trace(image: Image) -> None:
    said = image.run("python", "-c", "import gateway.drivers.telemetry.tracing")
    assert said.returncode == 0, said.stderr


def test_the_image_serves_tells_its_health_and_ends_when_told(
    image: Image, admin_port: int
) -> None:
    health = [one.replace("9090", str(admin_port)) for one in image.stage.health]
    assert image.run(*health).returncode != 0
    serving = image.start(*image.stage.entrypoint, *image.stage.command)
    eventually(lambda: image.run(*health).returncode == 0, image.said)
    serving.terminate()
    began = time.monotonic()
    assert serving.wait(30) == 0, image.said()
    assert time.monotonic() - began < 20
