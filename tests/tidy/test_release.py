"""`make release` builds what a release consists of, and the workflows are valid."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from gateway import __version__
from tests.support.compose import ROOT
from tests.support.deployment import BIN, DEPLOY, rendered

PAGE = ROOT / "gateway" / "edge" / "consoles" / "page"
WORKFLOWS = ROOT / ".github" / "workflows"


def build(directory: Path) -> None:
    if not (PAGE / "dist" / "index.html").exists():
        subprocess.run(["sh", PAGE / "build.sh", sys.executable], check=True)
    subprocess.run([sys.executable, DEPLOY / "release.py", directory], check=True)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("release") / "dist"
    build(directory)
    return directory


def one_of(dist: Path, pattern: str) -> Path:
    (found,) = dist.glob(pattern)
    return found


def test_sums_cover_every_artefact(dist: Path) -> None:
    sums = dict(line.split("  ")[::-1] for line in (dist / "SHA256SUMS").read_text().splitlines())
    assert sums.keys() == {one.name for one in dist.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


def test_same_commit_results_in_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    build(tmp_path / "again")
    assert (tmp_path / "again" / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()


def test_wheel_runs_from_its_file(dist: Path, tmp_path: Path) -> None:
    wheel = one_of(dist, "*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path)
        names = packed.namelist()
    assert {"gateway/catalogue.yaml", "gateway/edge/consoles/page/dist/page.js"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "deploy"))]
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "--version"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.strip() == __version__


def test_sbom_lists_every_locked_package(dist: Path) -> None:
    document = json.loads(one_of(dist, "*.cdx.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["version"] == __version__
    lock = (DEPLOY / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
    found = {one["name"]: one["version"] for one in document["components"]}
    assert found.items() >= locked.items()
    page = json.loads((PAGE / "package.json").read_text())
    assert {name: found[name] for name in found.keys() - locked.keys()} == page["dependencies"]
    references = [one["bom-ref"] for one in document["components"]]
    assert len(set(references)) == len(references)
    (dependency,) = document["dependencies"]
    assert dependency["dependsOn"] == references


def test_kustomize_bundle_renders_like_the_repository(dist: Path, tmp_path: Path) -> None:
    with tarfile.open(one_of(dist, "*-kubernetes.tar.gz")) as packed:
        packed.extractall(tmp_path, filter="data")
    example = one_of(tmp_path, "*") / "kubernetes" / "example"
    built = subprocess.run([BIN / "kubectl", "kustomize", example], check=True, capture_output=True)
    assert tuple(yaml.safe_load_all(built.stdout)) == rendered("example")


def test_workflows_fit_the_schema_of_github() -> None:
    files = sorted(WORKFLOWS.iterdir())
    assert len(files) == 2
    subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.github-workflows", *files),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_release_builds_both_architectures_and_a_draft_only() -> None:
    jobs = yaml.safe_load((WORKFLOWS / "release.yml").read_text())["jobs"]
    image = next(
        step["with"]
        for step in jobs["image"]["steps"]
        if "platforms" in step.get("with", {}) and "file" in step["with"]
    )
    assert image["platforms"].split(",") == ["linux/amd64", "linux/arm64"]
    assert (ROOT / image["file"]).exists()
    assert image["sbom"] is True
    assert "push" not in image
    assert jobs["draft"]["needs"] == ["test", "artefacts", "image"]
    assert " --draft " in jobs["draft"]["steps"][-1]["run"]
    assert {name for name, job in jobs.items() if "permissions" in job} == {"draft"}
