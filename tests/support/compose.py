"""docker-compose.yml as processes on loopback: its commands and configs with other addresses."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.stack import TIMEOUT_S, eventually, fetch
from tests.support.valkey import SERVER, free_port

ROOT = Path(__file__).parents[2]
REPLICAS = ("gateway-1", "gateway-2")


def compose_file() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def make_secrets(directory: Path) -> None:
    subprocess.run(
        ["make", "--silent", "compose-secrets", f"SECRETS={directory}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )


@dataclass(frozen=True, slots=True)
class RunningCompose:
    gateways: Mapping[str, str]
    """Public URL by service."""
    admins: Mapping[str, str]
    issuer: str
    valkey_port: int
    secrets: Path


@contextmanager
def running_compose() -> Iterator[RunningCompose]:
    """Run the services of this repository and Valkey, without Prometheus and Grafana."""
    services = compose_file()["services"]
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compose-test-")))
        make_secrets(base / "secrets")
        ports = {name: free_port() for name in ("valkey:6379", *_cloud_addresses(services))}
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        _start_valkey(stack, services["valkey"], base, ports["valkey:6379"])
        _start_cloud(stack, services["cloud"], ports)
        gateways, admins = {}, {}
        for name in REPLICAS:
            gateways[name], admins[name] = _start_gateway(stack, services[name], base, addresses)
        for name in REPLICAS:
            eventually(lambda at=admins[name]: _is_ready(at))
        traffic = services["traffic"]
        urls = {f"http://{name}:8080": url for name, url in gateways.items()}
        options = [_replace(_replace(one, addresses), urls) for one in traffic["command"]]
        _spawn(stack, [sys.executable, *traffic["entrypoint"][1:], "--think=0.2", *options])
        issuer = f"http://{addresses[_cloud_addresses(services)[0]]}"
        yield RunningCompose(gateways, admins, issuer, ports["valkey:6379"], base / "secrets")


def _cloud_addresses(services: Mapping[str, Any]) -> list[str]:
    options = dict(one.removeprefix("--").split("=") for one in services["cloud"]["command"])
    return [f"{options['host']}:{options[f'{name}-port']}" for name in ("idp", "iam", "cloud")]


def _start_valkey(stack: ExitStack, service: Mapping[str, Any], base: Path, port: int) -> None:
    (base / "data").mkdir()
    paths = {"/run/secrets": str(base / "secrets"), "/data": str(base / "data")}
    options = [_replace(one, paths) for one in service["command"][1:]]
    _spawn(stack, [str(SERVER), "--port", str(port), "--bind", "127.0.0.1", *options])


def _start_cloud(stack: ExitStack, service: Mapping[str, Any], ports: Mapping[str, int]) -> None:
    by_port = {name.partition(":")[2]: str(port) for name, port in ports.items()}
    changes = {"=cloud": "=127.0.0.1", **by_port}
    options = [_replace(one, changes) for one in service["command"]]
    _spawn(stack, [sys.executable, *service["entrypoint"][1:], *options])


def _start_gateway(
    stack: ExitStack, service: Mapping[str, Any], base: Path, addresses: Mapping[str, str]
) -> tuple[str, str]:
    directory = Path(tempfile.mkdtemp(dir=base))
    public, admin = free_port(), free_port()
    shipped = ROOT / "deploy" / "compose" / "gateway"
    text = yaml.safe_dump(yaml.safe_load((shipped / "gateway.yaml").read_text()))
    changes = {
        "host: 0.0.0.0\n  port: 8080": f"host: 127.0.0.1\n  port: {public}",
        "host: 0.0.0.0\n  port: 9090": f"host: 127.0.0.1\n  port: {admin}",
        "/run/secrets": str(base / "secrets"),
        "/var/lib/console-gateway": str(directory),
        **addresses,
    }
    for old in changes:
        assert old in text or old == "/var/lib/console-gateway", old
    (directory / "gateway.yaml").write_text(_replace(text, changes))
    (directory / "policy.yaml").write_text((shipped / "policy.yaml").read_text())
    assert service["tmpfs"]
    config = str(directory / "gateway.yaml")
    _spawn(stack, [sys.executable, "-m", "gateway", "serve", "--config", config])
    return f"http://127.0.0.1:{public}", f"http://127.0.0.1:{admin}"


def _replace(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def _is_ready(admin: str) -> bool:
    try:
        return fetch(admin, "GET", "/readyz").status == 200
    except OSError:
        return False


def _spawn(stack: ExitStack, command: list[str]) -> None:
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
