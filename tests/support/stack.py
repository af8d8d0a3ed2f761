"""The product in real processes on loopback: the simulated cloud, Valkey and gateways."""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.demo.cloud import iam
from gateway.demo.cloud.idp import AUDIENCE
from tests.support.audit import assert_documented
from tests.support.programs import Program
from tests.support.valkey import RealValkey, free_port, free_ports

# Nothing waits for these times when it works. A busy machine may stop a process for seconds, so
# every time limit of the tests and of their gateways is far above that. A test of a limit sets that
# limit, and must not need anything else to be fast.
TIMEOUT_S = 60.0
"""Above the deadline of a request."""
REQUEST_DEADLINE_S = 40.0
CALL_TIMEOUT_S = 30.0
QUEUE_WAIT_MAX_S = 20.0
DRAIN_S = 30.0
STORE_TIMEOUT_S = 3.0
"""Every request waits this long for a Redis that hangs, until the gateway has noticed."""
START_TIMEOUT_S = 120.0
"""A process that starts on a busy machine imports for many seconds."""


class _Members(dict[str, Any]):
    def __init__(self, data: dict[str, Any], *, status: int) -> None:
        super().__init__(data)
        self._status = status

    def __missing__(self, key: str) -> Any:
        raise KeyError(f"{key} is not in the response: {self._status} {dict(self)}")


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """Return the parsed body; a member that is missing raises an error with all of it."""
        try:
            data = json.loads(self.body)
        except ValueError:
            raise AssertionError(f"not JSON: {self.status} {self.body!r}") from None
        return _Members(data, status=self.status) if isinstance(data, dict) else data

    @property
    def error_code(self) -> str:
        data = self.json
        assert set(data) == {"error_code", "error_msg"}, data
        assert data["error_msg"]
        return str(data["error_code"])


def fetch(
    base: str, method: str, target: str, headers: Mapping[str, str] | None = None, body: str = ""
) -> Response:
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, target, body or None, dict(headers or {}))
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, named, response.read())
    finally:
        connection.close()


class CloudProcess:
    """A process with the simulated cloud; tests control it through /_box."""

    def __init__(self, *options: str, servers: int = 8, stderr: int | None = None) -> None:
        """`options` are those of `python -m gateway.demo.cloud --help`."""
        self._process = Program[bytes](
            "gateway.demo.cloud",
            *("--servers", str(servers), *options),
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        assert self._process.stdout is not None
        facts = json.loads(self._process.stdout.readline())
        self.issuer: str = facts["issuer"]
        self.iam: str = facts["iam"]
        self.upstream: str = facts["upstream"]
        self.console_host: str = facts["consoles"]
        """Address of the console host; its certificate is signed by `console_authority`."""
        self.console_control: str = facts["consoles_control"]
        self.project: str = facts["project_id"]
        self.servers: list[str] = facts["servers"]

    def token(self, subject: str | None = "olga", **options: Any) -> str:
        options.setdefault("groups", ["operators"])
        return str(
            self._post(self.issuer, "/_box/tokens", {"subject": subject, **options})["token"]
        )

    def rotate(self, **options: Any) -> None:
        self._post(self.issuer, "/_box/rotate", options)

    def revoke_service_tokens(self) -> None:
        self._post(self.iam, "/_box/revoke", {})

    def fail(self, listener: str, kind: str, **details: Any) -> None:
        self._post(listener, "/_box/faults", {"kind": kind, **details})

    def heal(self) -> None:
        for listener in (self.issuer, self.iam, self.upstream, self.console_control):
            assert fetch(listener, "DELETE", "/_box/faults").status == 200

    def wait_for_fault(self, listener: str) -> None:
        """Wait until every fault with `times` was used up: the last request has arrived.

        A request that hangs (kind `hang`) is served after `heal`.
        """

        def pending() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = fetch(listener, "GET", "/_box/faults").json["faults"]
            return [one for one in found if one["times"] is not None]

        eventually(lambda: not pending(), lambda: f"unused faults: {pending()}")

    def rate(self, **options: Any) -> None:
        self._post(self.upstream, "/_box/rate", options)

    def settings(self, **options: Any) -> None:
        self._post(self.upstream, "/_box/settings", options)

    def iam_settings(self, **options: Any) -> None:
        self._post(self.iam, "/_box/settings", options)

    def add_temporary_key(self, access: str, secret: str, security_token: str) -> None:
        key = {"access": access, "secret": secret, "securitytoken": security_token}
        self._post(self.iam, "/_box/temporary_key", key)

    def servers_of(self, project: str) -> list[str]:
        found = fetch(self.upstream, "GET", f"/_box/fleet?project={project}").json
        return [one["id"] for one in found["projects"][project]["servers"]]

    def calls(self, listener: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = fetch(listener, "GET", "/_box/calls").json["calls"]
        return found

    def consoles(self) -> dict[str, int]:
        found: dict[str, int] = fetch(self.upstream, "GET", "/_box/consoles").json
        return found

    def add_real_console(self, server: str, **details: str) -> None:
        """Let another program serve a server's console; see RealConsoleHost.details."""
        self._post(self.upstream, "/_box/real_console", {"server": server, **details})

    def console_authority(self) -> str:
        """Return the PEM certificate of the authority of the console host."""
        return fetch(self.console_control, "GET", "/_box/authority").body.decode()

    def console_settings(self, **options: Any) -> None:
        self._post(self.console_control, "/_box/settings", options)

    def console_tokens(self) -> list[dict[str, Any]]:
        """Return every token of a console link so far."""
        found: list[dict[str, Any]] = fetch(self.console_control, "GET", "/_box/tokens").json[
            "tokens"
        ]
        return found

    def screen(self, server: str, **changes: Any) -> dict[str, Any]:
        """Return what is on a server's screen and what was typed, after the changes."""
        path = f"/_box/screens/{server}"
        if changes:
            return self._post(self.console_control, path, changes)
        found: dict[str, Any] = fetch(self.console_control, "GET", path).json
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _post(self, listener: str, path: str, data: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        response = fetch(listener, "POST", path, headers, json.dumps(data))
        assert response.status == 200, response.body
        found: dict[str, Any] = response.json
        return found


class RunningGateway:
    """One `gateway serve` with its config in a temporary directory."""

    def __init__(
        self,
        cloud: CloudProcess,
        redis_url: str,
        *,
        change: Mapping[str, Any] | None = None,
        account: Mapping[str, Any] | None = None,
        workers: int = 1,
        seal_key: str | None = None,
        environ: Mapping[str, str] | None = None,
        admin_api: Mapping[str, Any] | None = None,
    ) -> None:
        """`environ` extends the environment of this process."""
        self.directory = Path(tempfile.mkdtemp(prefix="gateway-test-"))
        self.cloud = cloud
        self.port, self.admin_port = free_port(), free_ports(workers)
        self._workers = workers
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.config = make_config(cloud, redis_url, self.port, self.admin_port)
        self.config["accounts"][0].update(account or {})
        if admin_api is None:
            # Without this, the first process waits for others that may restore overrides.
            self.config["overrides"] = {"enabled": False}
        else:
            self.config["admin"]["api"] = dict(admin_api)
        self.config.update(change or {})
        (self.directory / "iam-password").write_text(iam.PASSWORD)
        (self.directory / "seal-key").write_text(seal_key or make_seal_key())
        self.write_policy(make_policy(cloud))
        self.write_config()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def config_file(self) -> Path:
        return self.directory / "gateway.yaml"

    @property
    def policy_file(self) -> Path:
        return self.directory / "policy.yaml"

    def write_config(self) -> None:
        _replace(self.config_file, json.dumps(self.config, indent=1))

    def write_policy(self, policy: Mapping[str, Any]) -> None:
        _replace(self.policy_file, json.dumps(policy, indent=1))

    def start(self, *, wait: bool = True, passed: socket.socket | None = None) -> "RunningGateway":
        """Start it; `passed` is a listening socket that outlives it, as systemd passes one."""
        options = ("--config", str(self.config_file), "--workers", str(self._workers))
        with (self.directory / "log").open("ab") as log:
            streams: dict[str, Any] = {"stdout": log, "stderr": log, "env": self._environ}
            if passed is None:
                self._process = Program[bytes](
                    "gateway", "serve", *options, start_new_session=True, **streams
                )
            else:
                command = (*_passing(passed), sys.executable, "-m", "gateway", "serve", *options)
                self._process = subprocess.Popen(
                    command, start_new_session=True, pass_fds=(passed.fileno(),), **streams
                )
        if wait:
            eventually(lambda: self.ready() == 200, self.log_text, within_s=START_TIMEOUT_S)
        return self

    def ready(self) -> int | None:
        try:
            ports = range(self.admin_port, self.admin_port + self._workers)
            return max(fetch(f"http://127.0.0.1:{port}", "GET", "/readyz").status for port in ports)
        except OSError:
            return None

    def wait_for_access_requests(self) -> None:
        """Wait until access requests are made and approved.

        A gateway that begins with an empty Redis first gives other replicas time to restore it.
        """
        headers = {
            "Authorization": f"Bearer {self.cloud.token('nobody')}",
            "Content-Type": "application/json",
        }
        path, body = f"/requests/{'0' * 32}/approve", json.dumps({"hash": "0" * 64})
        eventually(lambda: fetch(self.url, "POST", path, headers, body).status == 404)

    def console(self, token: str | None, server: str | None = None, **headers: str) -> Response:
        server = server if server is not None else self.cloud.servers[0]
        sent = {"Authorization": f"Bearer {token}"} if token is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return fetch(self.url, "GET", console_path(self.cloud.project, server), sent)

    def metrics(self, port: int | None = None) -> str:
        """Return the metrics of one worker, by default of the first."""
        base = self.admin if port is None else f"http://127.0.0.1:{port}"
        for _ in range(20):
            try:
                return fetch(base, "GET", "/metrics").body.decode()
            except ConnectionError:  # of a worker that has just been replaced
                time.sleep(0.1)
        return fetch(base, "GET", "/metrics").body.decode()

    def metric(self, line: str, *, port: int | None = None) -> float:
        """Return the value of one series, 0 if it is missing."""
        for found in self.metrics(port).splitlines():
            if found.startswith(line + " "):
                return float(found.rpartition(" ")[2])
        return 0.0

    def log_text(self) -> str:
        """Return the log after the writer thread has written all lines so far."""
        log, before = self.directory / "log", -1
        for _ in range(20):
            self._wait_for_workers()
            time.sleep(0.1)
            size = log.stat().st_size
            if size == before:
                break
            before = size
        return log.read_text()

    def _wait_for_workers(self) -> None:
        """Wait for a response of each worker, if it runs: a busy machine may have stopped it."""
        if "tls" in self.config["admin"]:
            return
        for port in range(self.admin_port, self.admin_port + self._workers):
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
            ):
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                connection.recv(100)

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in _whole_lines(self.log_text()) if line[:1] == "{"]
        return [line for line in lines if line.get("event") == event]

    def audit(self, event: str) -> list[dict[str, Any]]:
        """Return the audit records of one event, chain by chain."""
        files = sorted((self.directory / "audit").glob("chain-*/segment-*.jsonl"))
        lines = [json.loads(line) for file in files for line in _whole_lines(file.read_text())]
        for line in lines:
            assert_documented(line)
        return [line for line in lines if line["event"] == event]

    def workers(self) -> list[int]:
        """Return the process IDs of the workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def reload(self) -> None:
        """Write the config, and wait until only workers with it are left.

        The log event `config_reloaded` does not say so: a busy machine may let an old worker
        accept a connection before it notices that it has to drain.
        """
        before = self.workers()
        self.write_config()
        self.wait_for_new_workers(before)

    def wait_for_new_workers(self, before: list[int]) -> None:
        """Wait until the config has been reloaded and none of the workers before it runs."""
        eventually(lambda: set(before).isdisjoint(self.workers()), self.log_text)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> int:
        """Stop it with SIGTERM; return the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait(TIMEOUT_S)

    def close(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self.signal(signal.SIGTERM)
                try:
                    self._process.wait(TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    os.killpg(self.pid, signal.SIGKILL)  # and its workers
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Stack:
    """Box, store and one gateway; more gateways on the same store by `replica`."""

    def __init__(
        self, cloud: CloudProcess | None = None, *, start: bool = True, **gateway: Any
    ) -> None:
        self.cloud = cloud or CloudProcess()
        self.valkey = RealValkey().start()
        self.seal_key = make_seal_key()
        self._gateways: list[RunningGateway] = []
        self.gateway = self.replica(start=start, **gateway)

    def replica(self, *, start: bool = True, **gateway: Any) -> RunningGateway:
        made = RunningGateway(self.cloud, self.valkey.url, seal_key=self.seal_key, **gateway)
        self._gateways.append(made)
        return made.start() if start else made

    def close(self) -> None:
        for gateway in self._gateways:
            gateway.close()
        self.valkey.close()
        self.cloud.close()


def _passing(listening: socket.socket) -> list[str]:
    return [sys.executable, "-c", _PASS, str(listening.fileno())]


_PASS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


def make_seal_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def make_config(cloud: CloudProcess, redis_url: str, port: int, admin_port: int) -> dict[str, Any]:
    return {
        "listen": {"host": "127.0.0.1", "port": port},
        "admin": {"host": "127.0.0.1", "port": admin_port},
        "issuers": [
            {
                "name": "corp",
                "issuer": cloud.issuer,
                "audience": [AUDIENCE],
                "keys": {"discovery": cloud.issuer},
                "unknown_kid_cooldown_s": 1,
            }
        ],
        "policy_file": "policy.yaml",
        "accounts": [
            {
                "name": "prod",
                "endpoint": cloud.upstream,
                "projects": [cloud.project],
                "login": {
                    "method": "password",
                    "iam_endpoint": cloud.iam,
                    "user": iam.USER,
                    "domain": iam.DOMAIN,
                    "password": {"file": "iam-password"},
                },
                "timeouts": {
                    "connect_s": CALL_TIMEOUT_S,
                    "read_s": CALL_TIMEOUT_S,
                    "total_s": CALL_TIMEOUT_S,
                },
                "breaker": {"calls_min": 100},
                "budget": {
                    "console": {"requests": 200, "per_s": 1, "burst": 5},
                    "iam": {"requests": 50, "per_s": 1, "burst": 5},
                    "wait_max_s": QUEUE_WAIT_MAX_S,
                },
            }
        ],
        "caller_limits": {"requests": 6000, "per_s": 60, "burst": 2000},
        "request": {"deadline_s": REQUEST_DEADLINE_S, "drain_s": DRAIN_S},
        "store": {
            "redis": {"url": redis_url},
            "seal_keys": [{"file": "seal-key"}],
            "timeout_s": STORE_TIMEOUT_S,
            "connect_timeout_s": STORE_TIMEOUT_S,
        },
        "audit": {"directory": "audit"},
    }


def make_policy(cloud: CloudProcess) -> dict[str, Any]:
    """Operators may open all consoles except that of the last server; viewers may open none."""
    return {
        "roles": {"operator": ["console:open", "server:read"], "viewer": ["server:read"]},
        "grants": [
            {
                "role": "operator",
                "to": {"groups": ["operators"]},
                "on": {"servers": cloud.servers[:-1]},
            },
            {"role": "viewer", "to": {"groups": ["viewers"]}, "on": {"projects": [cloud.project]}},
        ],
    }


def console_path(project: str, server: str) -> str:
    return f"/v1/{project}/physicalservers/{server}/remote-console-address"


def eventually(condition: Any, describe: Any = lambda: "", *, within_s: float = TIMEOUT_S) -> None:
    """Wait until `condition()` is true; after the timeout fail with `describe()`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.03)
    raise AssertionError(f"timeout: {describe()}")


def send_raw(base: str, raw: bytes) -> bytes:
    """Send raw bytes and return the whole response."""
    parts = urlsplit(base)
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(raw)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
        return received


def _whole_lines(text: str) -> list[str]:
    """Return the lines of a file without the one that is being written."""
    return text[: text.rfind("\n") + 1].splitlines()


def _replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)
