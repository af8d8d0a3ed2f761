"""`gateway demo`: the whole product on loopback, with nothing installed but Python.

A simulated cloud, an embedded Valkey and a real `gateway serve` beside each other; tokens for
three people, and the commands to try. When it stops, no process, socket or file is left.
"""

import asyncio
import base64
import json
import os
import secrets
import shlex
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from textwrap import dedent
from typing import Any, NoReturn, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.demo.cloud import iam
from gateway.demo.cloud.fleet import REGION
from gateway.demo.cloud.idp import AUDIENCE
from gateway.demo.cloud.simulated_cloud import SimulatedCloud
from gateway.drivers.valkey.embedded import EmbeddedValkey, end_with_parent

_READY_TIMEOUT_S = 20.0
_POLL_S = 0.02
_DRAIN_S = 3.0
_TOKEN_LIFETIME_S = 43_200.0
_ADMIN_AUDIENCE = "console-gateway-admin"
_ALLOWED_SERVERS = 4


class _PortTaken(Exception):
    """Another process took the port between our look and the gateway's."""


class _GatewayFailed(Exception):
    """Its text is what the gateway said last."""


def run_demo(*, as_json: bool, port: int = 8080) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP; return the exit code.

    `port` is where the gateway listens, or any free port where that one is taken.
    """
    os.umask(0o077)  # tokens and keys are written below, for nobody else's eyes
    return asyncio.run(_Demo(as_json=as_json, port=port).run())


class _Demo:
    def __init__(self, *, as_json: bool, port: int) -> None:
        self._as_json = as_json
        self._port = port
        self._stopping = False

    async def run(self) -> int:
        loop, task = asyncio.get_running_loop(), cast("asyncio.Task[int]", asyncio.current_task())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop, task)
        try:
            with (
                EmbeddedValkey() as valkey,
                tempfile.TemporaryDirectory(prefix="gateway-demo-") as name,
            ):
                async with SimulatedCloud() as cloud:
                    await self._serve(_DemoFiles(Path(name), cloud, valkey.url))
        except asyncio.CancelledError:
            return 0
        except _GatewayFailed as failure:
            sys.stderr.write(f"the gateway ended by itself:\n{failure}\n")
            return 1

    def _stop(self, task: asyncio.Task[int]) -> None:
        if not self._stopping:  # cleaning up must not be cut short by an impatient second Ctrl-C
            self._stopping = True
            task.cancel()

    async def _serve(self, files: "_DemoFiles") -> NoReturn:
        """Go on until cancelled, or raise _GatewayFailed."""
        for port in (self._port, 0, 0):
            try:
                async with _gateway(files, _free_port(port), _free_port(0)) as gateway:
                    addresses = files.addresses()
                    print(
                        json.dumps(addresses) if self._as_json else files.instructions(addresses),
                        flush=True,
                    )
                    await gateway.wait()
                    raise _GatewayFailed(files.log_tail())
            except _PortTaken:
                continue
        raise _GatewayFailed("every port that was free was taken a moment later")


@asynccontextmanager
async def _gateway(files: "_DemoFiles", port: int, admin_port: int) -> AsyncIterator[Process]:
    """Run `gateway serve` and enter when it is ready; leave when nothing of it is left."""
    files.write(port, admin_port)
    with files.log.open("wb") as log:
        gateway = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway", "serve", "--config", str(files.config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we drain it when we are done
            preexec_fn=end_with_parent(signal.SIGTERM),
        )
    try:
        await _wait_until_ready(gateway, files, admin_port)
        yield gateway
    finally:
        await _end(gateway)


async def _wait_until_ready(gateway: Process, files: "_DemoFiles", admin_port: int) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_READY_TIMEOUT_S):
            while gateway.returncode is None:
                if await _is_ready(admin_port):
                    return
                await asyncio.sleep(_POLL_S)
    output = files.log_tail()
    raise _PortTaken if "listen_failed" in output else _GatewayFailed(output)


async def _is_ready(admin_port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", admin_port)
    except OSError:
        return False
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


async def _end(gateway: Process) -> None:
    if gateway.returncode is None:
        gateway.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S + 7.0):
                await gateway.wait()
    with suppress(ProcessLookupError):
        os.killpg(gateway.pid, signal.SIGKILL)  # whatever of it is left
    await gateway.wait()


class _DemoFiles:
    """The demo's files, and what is told about them."""

    def __init__(self, directory: Path, cloud: SimulatedCloud, redis_url: str) -> None:
        self.config = directory / "gateway.yaml"
        self.log = directory / "gateway.log"
        self._directory = directory
        self._cloud = cloud
        self._redis_url = redis_url
        self._port = self._admin_port = 0
        self._allowed = cloud.servers[:_ALLOWED_SERVERS]
        self._denied = cloud.servers[_ALLOWED_SERVERS:]
        life_s = _TOKEN_LIFETIME_S
        self._tokens = {
            "operator": cloud.idp.token("olga", groups=["operators"], life_s=life_s),
            "viewer": cloud.idp.token("victor", groups=["viewers"], life_s=life_s),
            "outsider": cloud.idp.token("otto", life_s=life_s),
            "admin": cloud.idp.token(
                "ada", groups=["console-admins"], life_s=life_s, claims={"aud": _ADMIN_AUDIENCE}
            ),
        }

    def write(self, port: int, admin_port: int) -> None:
        self._port, self._admin_port = port, admin_port
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        files = {
            "iam-password": iam.PASSWORD,
            "seal-key": key,
            **_audit_keys(),
            # JSON is YAML.
            "gateway.yaml": json.dumps(self._settings(), indent=2),
            "policy.yaml": self._policy(),
            "env": self._env(),
        }
        for name, text in files.items():
            (self._directory / name).write_text(text)

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def addresses(self) -> dict[str, Any]:
        return {
            "gateway": f"http://127.0.0.1:{self._port}",
            "admin": f"http://127.0.0.1:{self._admin_port}",
            "issuer": self._cloud.idp.url,
            "iam": self._cloud.iam.url,
            "upstream": self._cloud.upstream.url,
            "redis": self._redis_url,
            "project_id": self._cloud.project,
            "servers": {"allowed": self._allowed, "denied": self._denied},
            "tokens": self._tokens,
        }

    def instructions(self, addresses: dict[str, Any]) -> str:
        tokens = "\n".join(f"  {name:9} {token}" for name, token in self._tokens.items())
        return _INSTRUCTIONS.format(
            **addresses | {"tokens": tokens, "directory": self._directory, "config": self.config}
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "listen": {"host": "127.0.0.1", "port": self._port},
            "admin": {
                "host": "127.0.0.1",
                "port": self._admin_port,
                "api": {"audience": _ADMIN_AUDIENCE, "groups": ["console-admins"]},
            },
            "overrides": {"file": "overrides.json"},
            "request": {"drain_s": _DRAIN_S},
            "issuers": [
                {
                    "name": "demo",
                    "issuer": self._cloud.idp.url,
                    "audience": [AUDIENCE],
                    "keys": {"discovery": self._cloud.idp.url},
                    "unknown_kid_cooldown_s": 2,
                }
            ],
            "policy_file": "policy.yaml",
            "accounts": [
                {
                    "name": "demo",
                    "endpoint": self._cloud.upstream.url,
                    "projects": [self._cloud.project],
                    "login": {
                        "method": "password",
                        "iam_endpoint": self._cloud.iam.url,
                        "user": iam.USER,
                        "domain": iam.DOMAIN,
                        "password": {"file": "iam-password"},
                    },
                    "region": REGION,
                    "budget": {"console": {"requests": 9, "per_s": 1, "burst": 5}},
                    "inventory": {"poll_s": 5, "age_max_s": 60, "directory": "."},
                }
            ],
            "store": {"redis": {"url": self._redis_url}, "seal_keys": [{"file": "seal-key"}]},
            "audit": {
                "directory": "audit",
                "signing_key": {"file": "audit-key"},
                "checkpoint_s": 5,
            },
        }

    def _policy(self) -> str:
        return dedent(f"""\
            # Try it: give viewers the role operator, save, and ask again. No restart is needed.
            roles:
              operator: [console:open, server:read, server:power, instance:read]
              viewer: [server:read]

            grants:
              - role: operator
                to: {{groups: [operators]}}
                on: {{servers: [{", ".join(self._allowed)}]}}

              - role: viewer
                to: {{groups: [viewers]}}
                on: {{projects: [{self._cloud.project}]}}
            """)

    def _env(self) -> str:
        root, python = Path(__file__).parents[2], shlex.quote(sys.executable)
        servers = f"http://127.0.0.1:{self._port}/v1/{self._cloud.project}/physicalservers"
        power_off = {"action": "power off", "server_id_set": self._allowed[-1:]}
        lines = [f"export {name.upper()}={token}" for name, token in self._tokens.items()]
        lines += [
            f"ALLOWED={servers}/{self._allowed[0]}/remote-console-address",
            f"DENIED={servers}/{self._denied[0]}/remote-console-address",
            f"PROJECT={self._cloud.project}",
            f"SERVER={self._allowed[0]}",
            "TARGET=$PROJECT/$SERVER",
            f"SERVERS={servers}",
            f"POWER_OFF={shlex.quote(json.dumps(power_off))}",
            f"export CONSOLE_GATEWAY_URL=http://127.0.0.1:{self._port}",
            "export CONSOLE_GATEWAY_TOKEN=$OPERATOR",
            f"export CONSOLE_GATEWAY_ADMIN_URL=http://127.0.0.1:{self._admin_port}",
            "export CONSOLE_GATEWAY_ADMIN_TOKEN=$ADMIN",
            f"AUDIT={shlex.quote(str(self._directory / 'audit'))}",
            f"CONFIG={shlex.quote(str(self.config))}",
            # A checkout that is not installed is found from any directory.
            f'gateway() {{ PYTHONPATH={shlex.quote(str(root))} {python} -m gateway "$@"; }}',
        ]
        return "\n".join(lines) + "\n"


_INSTRUCTIONS = """\
Console Gateway is up. Ctrl-C ends it and leaves nothing behind.

  gateway              {gateway}
  admin                {admin}    /metrics /healthz /readyz /admin/openapi.json
  Valkey               {redis}
  config and policy    {directory}    edit policy.yaml: no restart

The simulated cloud:

  identity provider    {issuer}
  IAM                  {iam}
  physical servers     {upstream}    10 calls a second, then 429

In another terminal, first the names and tokens that the commands use:

  . {directory}/env

A console for olga, an operator: 200 and the link. Again: the same link, from memory.

  curl -si -H "Authorization: Bearer $OPERATOR" $ALLOWED

The token where an unchanged cloud client puts it, and a fresh link:

  curl -si -H "X-Auth-Token: $OPERATOR" -H "Cache-Control: no-cache" $ALLOWED

Not for victor, a viewer, nor for otto, nor for olga on another server: 403, three times.

  curl -si -H "Authorization: Bearer $VIEWER" $ALLOWED
  curl -si -H "Authorization: Bearer $OUTSIDER" $ALLOWED
  curl -si -H "Authorization: Bearer $OPERATOR" $DENIED

The same by the gateway's own client, as olga: what may I see and do, and the link.

  gateway servers
  gateway console --print $TARGET

The rest of the physical-servers API: a list that shows what the caller may see, a switch that is
all or nothing, and the page that tells all operations.

  curl -s -H "Authorization: Bearer $OPERATOR" "$SERVERS?limit=10"
  curl -si -X PUT -H "Authorization: Bearer $OPERATOR" -d "$POWER_OFF" $SERVERS/power-state

All of it is told at {gateway}/docs

Why may olga, and victor not? Is the config good, and does everything answer? What was counted?

  gateway explain --config $CONFIG --user olga --group operators $TARGET
  gateway explain --config $CONFIG --user victor --group viewers $TARGET
  gateway check --config $CONFIG --online
  curl -s {admin}/metrics | grep ^gateway_links_total

For ada, an administrator: who holds what, and victor is cut off at once and for all replicas.

  gateway admin sessions
  gateway admin revoke --issuer demo --subject victor --reason "left us"
  gateway admin overrides

Search the audit log, and verify it:

  gateway audit search --subject olga $AUDIT
  gateway audit verify --public-key $AUDIT-key.pub $AUDIT

The tokens, good for 12 hours:

{tokens}
"""


def _audit_keys() -> dict[str, str]:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {"audit-key": private.decode(), "audit-key.pub": public.decode()}


def _free_port(wanted: int) -> int:
    """Return `wanted`, or any free port where that one is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
