"""The page is built with Node from PyPI where npm is missing, and a wheel contains the result."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from tests.support.compose import ROOT

PAGE = Path("gateway/edge/consoles/page")
BUILT = {
    "icon.svg",
    "index.html",
    "licenses.txt",
    "login.html",
    "login.js",
    "operators.css",
    "operators.html",
    "operators.js",
    "page.js",
    "people.css",
    "people.html",
    "people.js",
    "player.html",
    "player.js",
    "style.css",
}


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_page_is_built_without_npm(tmp_path: Path) -> None:
    """Node from PyPI gives the bytes that this machine's npm gave."""
    copy, tools = tmp_path / "page", tmp_path / "bin"
    ignored = shutil.ignore_patterns("dist", "node_modules")
    shutil.copytree(ROOT / PAGE, copy, ignore=ignored)
    tools.mkdir()
    for name in ("sh", "dirname"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    venv.create(tmp_path / "venv", symlinks=True, with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    done = subprocess.run(
        ["sh", copy / "build.sh", python],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": str(tools)},
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(copy / "dist") == contents(ROOT / PAGE / "dist")


def test_wheel_contains_the_built_page_only(tmp_path: Path) -> None:
    program = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        files = [Path(name) for name in wheel.namelist()]
        text = wheel.read(f"{PAGE}/dist/licenses.txt").decode()
    assert {file.name for file in files if file.parent == PAGE / "dist"} == BUILT
    assert [file for file in files if PAGE in file.parents and file.parent != PAGE / "dist"] == []
    assert Path("gateway/edge/consoles/page_assets.py") in files
    assert "Mozilla Public License Version 2.0" in text
