"""The targets of deploy/Dockerfile: their steps succeed, and the images work."""

import json
import time
from collections.abc import Iterator

import pytest

from gateway import __version__
from tests.support.compose import ROOT, make_secrets
from tests.support.image import Build, Image, can_build
from tests.support.stack import TIMEOUT_S, eventually
from tests.support.valkey import free_port

pytestmark = pytest.mark.skipif(not can_build(), reason="requires root on Linux")
AUDIT = "/var/lib/console-gateway"
PACKAGES = "/opt/gateway/app"
SHIPPED = ROOT / "deploy" / "compose" / "gateway"


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def build() -> Iterator[Build]:
    built = Build()
    yield built
    built.close()


@pytest.fixture(scope="module")
def image(build: Build, admin_port: int) -> Image:
    production = build.image("production")
    _mount(production, admin_port)
    production.seal(AUDIT)
    return production


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


def test_image_prints_its_version(image: Image) -> None:
    done = image.run(*image.stage.entrypoint, "--version")
    assert (done.returncode, done.stdout.strip()) == (0, __version__), done.stderr


def test_image_accepts_the_compose_config(image: Image) -> None:
    _, *options = image.stage.command
    done = image.run(*image.stage.entrypoint, "check", *options)
    assert (done.returncode, done.stdout.count(": ok")) == (0, 2), done.stderr


def test_image_runs_unprivileged_on_a_read_only_root(image: Image) -> None:
    program = "import os; print(os.getuid(), os.getgid(), os.access('/opt/gateway', os.W_OK))"
    assert image.run("python", "-c", program).stdout.split() == ["65532", "65532", "False"]
    for closed in ("/opt/gateway", "/etc/gateway", "/var/lib"):
        assert image.run("touch", f"{closed}/x").returncode != 0
    assert image.run("touch", f"{AUDIT}/x").returncode == 0
    assert image.run("rm", f"{AUDIT}/x").returncode == 0
    owner = image.path(AUDIT).stat()
    assert (owner.st_uid, owner.st_gid, owner.st_mode & 0o777) == (65532, 65532, 0o700)


def test_image_has_compiled_modules_but_no_pip(image: Image) -> None:
    packages = image.path(PACKAGES)
    assert list((packages / "gateway" / "process" / "__pycache__").glob("worker.*.pyc"))
    assert (packages / "gateway" / "catalogue.yaml").exists()
    assert not (packages / "pip").exists()
    assert image.run("/opt/gateway/bin/python", "-m", "pip").returncode != 0
    assert not (packages / "pytest").exists()


def test_image_contains_the_built_page_only(image: Image) -> None:
    page = image.path(PACKAGES) / "gateway" / "edge" / "consoles" / "page"
    assert [one.name for one in page.iterdir()] == ["dist"]
    assert "Mozilla Public License" in (page / "dist" / "licenses.txt").read_text()
    program = (
        "from gateway.edge.consoles.page_assets import PageAssets as P; print(P.load('').version)"
    )
    done = image.run("python", "-c", program)
    assert done.returncode == 0, done.stderr


def test_image_contains_opentelemetry(image: Image) -> None:
    done = image.run("python", "-c", "import gateway.drivers.telemetry.tracing")
    assert done.returncode == 0, done.stderr


def test_production_image_leaves_out_the_demo(image: Image) -> None:
    assert not image.path(f"{PACKAGES}/gateway/demo").exists()
    done = image.run(*image.stage.entrypoint, "demo")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("The demo is not part of this image: run `make demo`")
    assert done.stderr.count("\n") == 1


def test_demo_image_runs_the_simulated_cloud(build: Build) -> None:
    image = build.image("demo")
    running = image.start(*image.stage.entrypoint, "--json")
    eventually(lambda: image.output().endswith("\n"), image.output)
    addresses = json.loads(image.output())
    assert addresses["upstream"].startswith("http://127.0.0.1:")
    running.terminate()
    assert running.wait(TIMEOUT_S) == 0, image.output()


def test_image_serves_reports_health_and_stops(image: Image, admin_port: int) -> None:
    health = [one.replace("9090", str(admin_port)) for one in image.stage.health]
    assert image.run(*health).returncode != 0
    serving = image.start(*image.stage.entrypoint, *image.stage.command)
    eventually(lambda: image.run(*health).returncode == 0, image.output)
    serving.terminate()
    began = time.monotonic()
    assert serving.wait(TIMEOUT_S) == 0, image.output()
    assert time.monotonic() - began < 20
