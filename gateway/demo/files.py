"""The files of a demo: config, policy, keys and shell variables in one temporary directory."""

import base64
import json
import secrets
import shlex
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

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
from gateway.demo.cloud.idp_login import (
    ADMIN_CLIENT,
    ADMIN_SECRET,
    CLI_CLIENT,
    WEB_CLIENT,
    WEB_SECRET,
)
from gateway.demo.cloud.simulated_cloud import SimulatedCloud, SimulatedCloudSettings
from gateway.demo.instructions import INSTRUCTIONS

_LIVE_PROJECT = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
DEMO_CLOUD = SimulatedCloudSettings(other_projects=(_LIVE_PROJECT,), live_projects=(_LIVE_PROJECT,))
"""A cloud with a second project, whose consoles are live."""
DRAIN_S = 3.0
_TOKEN_LIFETIME_S = 43_200.0
_ADMIN_AUDIENCE = "console-gateway-admin"
_ALLOWED_SERVERS = 4
_LOG_LINES = 20


class DemoFiles:
    """The demo's files, addresses and tokens."""

    def __init__(self, directory: Path, cloud: SimulatedCloud, redis_url: str) -> None:
        self.config = directory / "gateway.yaml"
        self.log = directory / "gateway.log"
        self._directory = directory
        self._cloud = cloud
        self._redis_url = redis_url
        self._port = self._admin_port = 0
        self._allowed = cloud.servers[:_ALLOWED_SERVERS]
        self._denied = cloud.servers[_ALLOWED_SERVERS:]
        self._live_server = next(iter(cloud.upstream.projects[_LIVE_PROJECT].servers))
        self._tokens = _issue_tokens(cloud)

    def write(self, port: int, admin_port: int) -> None:
        """Write all files for a gateway on these ports."""
        self._port, self._admin_port = port, admin_port
        files = {
            "iam-password": iam.PASSWORD,
            "seal-key": base64.b64encode(secrets.token_bytes(32)).decode(),
            "login-secret": WEB_SECRET,
            "operators-secret": ADMIN_SECRET,
            "console-authority.pem": self._cloud.consoles.authority_pem,
            **_make_audit_keys(),
            # JSON is YAML.
            "gateway.yaml": json.dumps(self._make_config(), indent=2),
            "policy.yaml": self._make_policy(),
            "env": self._make_variables(),
        }
        for name, text in files.items():
            (self._directory / name).write_text(text)

    def log_tail(self) -> str:
        """Return the last lines of the gateway's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def addresses(self) -> dict[str, Any]:
        """Return the content of `gateway demo --json`."""
        return {
            "gateway": f"http://127.0.0.1:{self._port}",
            "admin": f"http://127.0.0.1:{self._admin_port}",
            "issuer": self._cloud.idp.url,
            "iam": self._cloud.iam.url,
            "upstream": self._cloud.upstream.url,
            "redis": self._redis_url,
            "project_id": self._cloud.project,
            "servers": {"allowed": self._allowed, "denied": self._denied},
            "proxied": {"project_id": _LIVE_PROJECT, "server": self._live_server},
            "tokens": self._tokens,
        }

    def instructions(self) -> str:
        """Return the output of `gateway demo` without --json."""
        tokens = "\n".join(f"  {name:9} {token}" for name, token in self._tokens.items())
        values = {
            "tokens": tokens,
            "directory": self._directory,
            "config": self.config,
            "consoles": self._cloud.consoles.url,
            "live": f"{_LIVE_PROJECT}/{self._live_server}",
        }
        return INSTRUCTIONS.format(**self.addresses() | values)

    def _make_config(self) -> dict[str, Any]:
        return {
            "listen": {
                "host": "127.0.0.1",
                "port": self._port,
                "public_url": f"http://127.0.0.1:{self._port}",
            },
            "admin": {
                "host": "127.0.0.1",
                "port": self._admin_port,
                "api": {
                    "audience": _ADMIN_AUDIENCE,
                    "groups": {"console-admins": "all", "helpdesk": ["read", "audit"]},
                },
                "public_url": f"http://127.0.0.1:{self._admin_port}",
                "login": {
                    "issuer": "demo",
                    "client_id": ADMIN_CLIENT,
                    "client_secret": {"file": "operators-secret"},
                    "scopes": ["openid", "groups"],
                    "label": "the simulated identity provider",
                },
            },
            "overrides": {"file": "overrides.json"},
            "requests": {"file": "requests.json"},
            "page": {"enabled": True},
            "contact": {
                "text": "the operators of this demo",
                "url": "mailto:console-operators@example.com",
            },
            "request": {"drain_s": DRAIN_S},
            "issuers": [
                {
                    "name": "demo",
                    "issuer": self._cloud.idp.url,
                    "audience": [AUDIENCE],
                    "keys": {"discovery": self._cloud.idp.url},
                    "unknown_kid_cooldown_s": 2,
                    "login": {
                        "client_id": WEB_CLIENT,
                        "client_secret": {"file": "login-secret"},
                        "scopes": ["openid", "groups"],
                        "label": "the simulated identity provider",
                    },
                    "cli": {"client_id": CLI_CLIENT},
                }
            ],
            "policy_file": "policy.yaml",
            "accounts": [self._make_account(), self._make_live_account()],
            # The simulated console host is on this machine.
            "console": {"private_networks": ["127.0.0.0/8"]},
            "store": {"redis": {"url": self._redis_url}, "seal_keys": [{"file": "seal-key"}]},
            "audit": {
                "directory": "audit",
                "signing_key": {"file": "audit-key"},
                "checkpoint_s": 5,
            },
        }

    def _make_account(self) -> dict[str, Any]:
        return {
            "name": "demo",
            "endpoint": self._cloud.upstream.url,
            "projects": [self._cloud.project],
            "login": self._make_login(),
            "region": REGION,
            "budget": {"console": {"requests": 9, "per_s": 1, "burst": 5}},
            "inventory": {"poll_s": 5, "age_max_s": 60, "directory": "."},
        }

    def _make_live_account(self) -> dict[str, Any]:
        """Return the account whose consoles run through the gateway."""
        consoles = self._cloud.consoles
        return {
            "name": "live",
            "endpoint": self._cloud.upstream.url,
            "projects": [_LIVE_PROJECT],
            "ca_file": "console-authority.pem",
            "login": self._make_login(),
            "console": {"delivery": "proxied"},
            "links": {"console_hosts": [f"{consoles.host}:{consoles.port}"]},
            "budget": {"console": {"requests": 1, "per_s": 1, "burst": 5}},
        }

    def _make_login(self) -> dict[str, Any]:
        return {
            "method": "password",
            "iam_endpoint": self._cloud.iam.url,
            "user": iam.USER,
            "domain": iam.DOMAIN,
            "password": {"file": "iam-password"},
        }

    def _make_policy(self) -> str:
        return dedent(f"""\
            # Try it: give viewers the role operator, save, and repeat a request. No restart needed.
            roles:
              operator: [console:open, server:read, server:power, instance:read]
              viewer: [server:read]

            grants:
              - role: operator
                to: {{groups: [operators]}}
                on: {{servers: [{", ".join(self._allowed)}]}}

              - role: viewer
                to: {{groups: [viewers]}}
                on: {{projects: [{self._cloud.project}, {_LIVE_PROJECT}]}}

              - role: operator
                to: {{groups: [operators]}}
                on: {{projects: [{_LIVE_PROJECT}]}}

            requests:
              - role: operator
                to: {{groups: [viewers]}}
                on: {{projects: [{_LIVE_PROJECT}]}}
                for_max: 2h
                approvers: {{groups: [approvers]}}
                break_glass: {{per_day: 2}}
            """)

    def _make_variables(self) -> str:
        """Return the shell variables that the printed commands use."""
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
            f"LIVE={_LIVE_PROJECT}/{self._live_server}",
            f"SERVERS={servers}",
            'JSON="Content-Type: application/json"',
            f"OFF={shlex.quote(json.dumps(power_off))}",
            f"export CONSOLE_GATEWAY_URL=http://127.0.0.1:{self._port}",
            "export CONSOLE_GATEWAY_TOKEN=$OPERATOR",
            f"export CONSOLE_GATEWAY_ADMIN_URL=http://127.0.0.1:{self._admin_port}",
            "export CONSOLE_GATEWAY_ADMIN_TOKEN=$ADMIN",
            f"AUDIT={shlex.quote(str(self._directory / 'audit'))}",
            f"CONFIG={shlex.quote(str(self.config))}",
            # PYTHONPATH finds a checkout that is not installed, from any directory.
            f'gateway() {{ PYTHONPATH={shlex.quote(str(root))} {python} -m gateway "$@"; }}',
        ]
        return "\n".join(lines) + "\n"


def _issue_tokens(cloud: SimulatedCloud) -> dict[str, str]:
    """Return a token for each role of the demo."""
    issue, life_s = cloud.idp.token, _TOKEN_LIFETIME_S
    admin_claims = {"aud": _ADMIN_AUDIENCE}
    return {
        "operator": issue("olga", groups=["operators"], life_s=life_s),
        "viewer": issue("victor", groups=["viewers"], life_s=life_s),
        "outsider": issue("otto", life_s=life_s),
        "approver": issue("anna", groups=["approvers"], life_s=life_s),
        "admin": issue("ada", groups=["console-admins"], life_s=life_s, claims=admin_claims),
    }


def _make_audit_keys() -> dict[str, str]:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {"audit-key": private.decode(), "audit-key.pub": public.decode()}
