"""A real console: TigerVNC's Xvnc with an xterm, behind websockify with TLS."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import pytest

from tests.support.simulated_cloud import login_body
from tests.support.stack import TIMEOUT_S, CloudProcess, console_path, eventually, fetch
from tests.support.tls import Authority
from tests.support.valkey import free_port

PROGRAMS: Final = ("Xvnc", "websockify", "xterm")
MISSING: Final = [program for program in PROGRAMS if shutil.which(program) is None]
"""Programs that are not installed; .ci/system-packages names their packages."""
needs_real_console: Final = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (.ci/system-packages)"
)

_JSON: Final = {"Content-Type": "application/json"}


def fetch_link(cloud: CloudProcess, server: str) -> str:
    """Return a console link from the cloud itself, without the gateway."""
    body = login_body(scope={"project": {"id": cloud.project}})
    login = fetch(cloud.iam, "POST", "/v3/auth/tokens", _JSON, json.dumps(body))
    headers = {"X-Auth-Token": login.headers["x-subject-token"]}
    path = console_path(cloud.project, server)
    return str(fetch(cloud.upstream, "GET", path, headers).json["url"])


class RealConsoleHost:
    """One screen with a shell. The simulated cloud adds its tokens to `token_file`."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="console-"))
        self.token_file = self.directory / "tokens"
        self.token_file.touch()
        self.home = self.directory / "home"
        """Working directory of the shell."""
        self.home.mkdir()
        self.log = self.directory / "websockify.log"
        authority = Authority()
        self.authority_pem = authority.certificate.decode()
        certificate, key = self.directory / "tls.crt", self.directory / "tls.key"
        authority.issue("console host").write(certificate, key)
        self._processes: list[subprocess.Popen[bytes]] = []
        rfb_port, self.port = free_port(), free_port()
        self.target = f"127.0.0.1:{rfb_port}"
        self.display = display = self._start_display(rfb_port)
        shell = ["xterm", "-geometry", "200x80+0+0", "-e", "sh"]
        environment = {**os.environ, "DISPLAY": display, "PS1": "$ ", "HOME": str(self.home)}
        self._start(shell, cwd=self.home, env=environment)
        self._start(
            [
                *("websockify", "--cert", str(certificate), "--key", str(key), "--ssl-only"),
                *("--token-plugin", "TokenFile", "--token-source", str(self.token_file)),
                f"127.0.0.1:{self.port}",
            ]
        )
        eventually(self._is_listening, self.log.read_text)

    @property
    def base(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def details(self) -> dict[str, str]:
        """Return the body of POST /_box/real_console, but for the server."""
        file = str(self.token_file)
        return {"base": self.base, "token_file": file, "target": self.target}

    def paths(self) -> list[str]:
        """Return the path of each WebSocket, without the token, as websockify logged it."""
        lines = self.log.read_text().splitlines()
        found = [line.rpartition("Path: '")[2] for line in lines if "Path: '" in line]
        return [path.partition("?")[0] for path in found]

    def typed(self, name: str) -> str:
        """Return the content of a file that the shell wrote; empty until it exists."""
        file = self.home / name
        return file.read_text() if file.exists() else ""

    def close(self) -> None:
        for process in reversed(self._processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start_display(self, rfb_port: int) -> str:
        """Start Xvnc on a free display and return the display's name."""
        reading, writing = os.pipe()
        command = ["Xvnc", "-displayfd", str(writing), "-rfbport", str(rfb_port), "-localhost"]
        command += ["-SecurityTypes", "None", "-geometry", "800x600", "-depth", "24"]
        command += ["-UseBlacklist=0"]  # of clients that leave early; it refuses the next ones
        self._start(command, pass_fds=(writing,))
        os.close(writing)
        with os.fdopen(reading) as numbers:
            number = numbers.readline().strip()
        assert number, self.log.read_text()
        return f":{number}"

    def _start(self, command: list[str], **options: object) -> None:
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # type: ignore[call-overload]
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )
        self._processes.append(process)

    def _is_listening(self) -> bool:
        for process in self._processes:
            assert process.poll() is None, self.log.read_text()
        return f":{self.port}" in self.log.read_text()
