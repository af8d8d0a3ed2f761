"""Write the artefacts of a release: `python deploy/release.py DIRECTORY`, or `make release`.

The wheel, an SBOM of the packages that the image installs and the page of live consoles contains, a
kustomize bundle, and the SHA-256 sums of all. Nothing is published. The same commit results in the
same bytes.
"""

import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "gateway" / "edge" / "consoles" / "page"
NAME = "console-gateway"
_PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>.*?))? \\$", re.MULTILINE)


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    version = project()["version"]
    wheel = _build_wheel(directory)
    sbom = directory / f"{NAME}-{version}.cdx.json"
    sbom.write_text(json.dumps(bill_of_materials(), indent=1) + "\n")
    bundle = directory / f"{NAME}-{version}-kubernetes.tar.gz"
    bundle.write_bytes(kustomize_bundle(f"{NAME}-{version}"))
    sums = (
        f"{hashlib.sha256(one.read_bytes()).hexdigest()}  {one.name}\n"
        for one in (
            bundle,
            sbom,
            wheel,
        )
    )
    (directory / "SHA256SUMS").write_text("".join(sums))


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def bill_of_materials() -> dict[str, Any]:
    """Return a CycloneDX document of deploy/requirements.lock and the packages in the page."""
    lock = (DEPLOY / "requirements.lock").read_text()
    page = (PAGE / "package-lock.json").read_text()
    components = [_component(**found.groupdict()) for found in _PIN.finditer(lock)]
    components += _page_components(json.loads(page))
    own = project()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, own['version'] + lock + page)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": NAME,
                "name": NAME,
                "version": own["version"],
                "licenses": [{"license": {"id": own["license"]}}],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": NAME, "dependsOn": [one["bom-ref"] for one in components]},
        ],
    }


def _component(name: str, version: str, marker: str | None) -> dict[str, Any]:
    found = _library(name, version, f"pkg:pypi/{name.lower().replace('_', '-')}@{version}")
    if marker:  # installed on some platforms only
        found["properties"] = [{"name": f"{NAME}:marker", "value": marker}]
    return found


def _page_components(lock: dict[str, Any]) -> list[dict[str, Any]]:
    packages = {
        path.removeprefix("node_modules/"): one
        for path, one in lock["packages"].items()
        if path and not one.get("dev")
    }
    return [
        _library(name, one["version"], f"pkg:npm/{name.replace('@', '%40')}@{one['version']}")
        for name, one in packages.items()
    ]


def _library(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def kustomize_bundle(top: str) -> bytes:
    """Return a tar.gz of the manifests and dashboards, below the directory `top`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in _manifests():
            entry = tarfile.TarInfo(f"{top}/{file.relative_to(DEPLOY).as_posix()}")
            entry.size, entry.mode = file.stat().st_size, 0o644
            tar.addfile(entry, io.BytesIO(file.read_bytes()))
    return gzip.compress(packed.getvalue(), mtime=0)


def _manifests() -> Iterator[Path]:
    yield from sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    yield DEPLOY / "grafana" / "kustomization.yaml"
    yield from sorted((DEPLOY / "kubernetes").rglob("*.yaml"))


def _build_wheel(directory: Path) -> Path:
    if not (PAGE / "dist" / "index.html").exists():
        raise SystemExit("the page of live consoles is not built: make page")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", directory]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - fixed
    (wheel,) = directory.glob(f"*-{project()['version']}-*.whl")
    return wheel


if __name__ == "__main__":
    main()
