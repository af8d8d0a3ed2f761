"""Outgoing connections through a forward proxy, to servers with a private authority."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_commands import run
from tests.support.stack import RunningGateway, Stack, eventually
from tests.support.tls import Authority, TlsProxy
from tests.support.valkey import free_port

_USER, _PASSWORD = "gw", "canary-proxy"


class Tinyproxy:
    """A forward proxy that requires a user, and its log of requests."""

    def __init__(self, directory: Path) -> None:
        program = shutil.which("tinyproxy")
        if program is None:
            pytest.skip("Debian's package tinyproxy-bin is not installed")
        self.port = free_port()
        self._log = directory / "proxy.log"
        config = directory / "tinyproxy.conf"
        config.write_text(
            f"Port {self.port}\nListen 127.0.0.1\nTimeout 30\nLogLevel Connect\n"
            f'LogFile "{self._log}"\nBasicAuth {_USER} {_PASSWORD}\nMaxClients 50\n'
        )
        self._process = subprocess.Popen(
            [program, "-d", "-c", str(config)], stdout=subprocess.DEVNULL
        )
        try:
            eventually(self._accepts)
        except AssertionError:
            self.close()
            raise

    def _accepts(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def text(self) -> str:
        return self._log.read_text()

    @property
    def options(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}"
        return {"url": url, "username": _USER, "password": {"file": "proxy-password"}}

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Tinyproxy]:
    started = Tinyproxy(tmp_path)
    yield started
    started.close()


def test_cloud_iam_and_issuer_are_reached_through_the_proxy(
    own_stack: Stack, proxy: Tinyproxy
) -> None:
    cloud = own_stack.cloud
    store = {**own_stack.gateway.config["store"], "namespace": "egress"}
    gateway = own_stack.replica(
        start=False, change={"egress": {"proxy": proxy.options}, "store": store}
    )
    (gateway.directory / "proxy-password").write_text(_PASSWORD)
    gateway.start()
    assert gateway.console(cloud.token()).status == 200
    for address in (cloud.upstream, cloud.iam, cloud.issuer):
        assert address.removeprefix("http://") in proxy.text
    assert _PASSWORD not in gateway.log_text()
    code, output = run("check", "--config", str(gateway.config_file), "--online")
    assert code == 0, output


def test_named_hosts_and_accounts_are_reached_directly(own_stack: Stack, proxy: Tinyproxy) -> None:
    cloud = own_stack.cloud
    store = {**own_stack.gateway.config["store"], "namespace": "egress"}
    account = {"proxy": "direct"}
    change = {"egress": {"proxy": proxy.options, "no_proxy": ["localhost"]}, "store": store}
    gateway = own_stack.replica(start=False, change=change, account=account)
    (gateway.directory / "proxy-password").write_text(_PASSWORD)
    gateway.start()
    assert gateway.console(cloud.token()).status == 200
    assert cloud.issuer.removeprefix("http://") in proxy.text
    assert cloud.upstream.removeprefix("http://") not in proxy.text


def test_check_names_an_unreachable_proxy(own_stack: Stack) -> None:
    store = {**own_stack.gateway.config["store"], "namespace": "egress"}
    egress = {"proxy": f"http://127.0.0.1:{free_port()}"}
    gateway = own_stack.replica(start=False, change={"egress": egress, "store": store})
    code, output = run("check", "--config", str(gateway.config_file), "--online")
    assert code == 1
    assert output.count("no connection to the proxy: connection refused") >= 2, "keys and login"


def test_check_names_a_proxy_that_rejects(own_stack: Stack, proxy: Tinyproxy) -> None:
    issuer = own_stack.gateway.config["issuers"][0]
    keys = {"jwks": f"https://127.0.0.1:{free_port()}/jwks"}
    egress = {"proxy": f"http://127.0.0.1:{proxy.port}"}
    change = {"egress": egress, "issuers": [{**issuer, "keys": keys}]}
    gateway = own_stack.replica(start=False, change=change)
    code, output = run("check", "--config", str(gateway.config_file), "--online")
    assert code == 1
    assert "the proxy rejects the connection: 407" in output


def test_client_commands_follow_the_proxy_variables(
    proxy: Tinyproxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CONSOLE_GATEWAY_TOKEN", "canary")
    command = ("console", "--gateway", f"https://127.0.0.1:{port}", "--wait", "2", "p/s")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{_USER}:{_PASSWORD}@127.0.0.1:{proxy.port}")
    run(*command)
    assert f"CONNECT 127.0.0.1:{port}" in proxy.text
    requests = proxy.text.count("CONNECT")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    run(*command)
    assert proxy.text.count("CONNECT") == requests


@dataclass(frozen=True, slots=True)
class PrivateIssuer:
    """A gateway whose issuer has a private authority and requires a client certificate."""

    gateway: RunningGateway
    authority: Authority
    tls: TlsProxy

    def check(self, **issuer: object) -> tuple[int, str]:
        """Run `check --online` with other keys of the issuer; None removes one."""
        config = json.loads(self.gateway.config_file.read_text())
        merged = {**config["issuers"][0], **issuer}
        config["issuers"] = [{key: value for key, value in merged.items() if value is not None}]
        file = self.gateway.directory / "other.yaml"
        file.write_text(json.dumps(config))
        return run("check", "--config", str(file), "--online")


@pytest.fixture
def private_issuer(own_stack: Stack) -> Iterator[PrivateIssuer]:
    gateway = own_stack.replica(start=False)
    authority, directory = Authority(), gateway.directory
    (directory / "ca.crt").write_bytes(authority.certificate)
    for name, days in (("server", 1), ("client", 20)):
        pair = authority.issue(name, days=(-1, days))
        pair.write(directory / f"{name}.crt", directory / f"{name}.key")
    port = int(own_stack.cloud.issuer.rpartition(":")[2])
    server = (directory / "server.crt", directory / "server.key")
    tls = TlsProxy(*server, port, client_ca=directory / "ca.crt").start()
    gateway.config["issuers"][0] |= {
        "keys": {"jwks": f"https://127.0.0.1:{tls.port}/jwks"},
        "ca_file": "ca.crt",
        "certificate": {"certificate_file": "client.crt", "key_file": "client.key"},
    }
    gateway.write_config()
    yield PrivateIssuer(gateway, authority, tls)
    tls.close()


def test_issuer_with_private_authority_and_client_certificate(
    own_stack: Stack, private_issuer: PrivateIssuer
) -> None:
    gateway = private_issuer.gateway.start()
    assert gateway.console(own_stack.cloud.token()).status == 200
    code, output = private_issuer.check()
    assert code == 0, output
    assert "certificate of issuer corp: ok, until " in output
    series = 'gateway_client_certificate_expires_timestamp_seconds{use="issuer corp"}'
    days = (gateway.metric(series) - time.time()) / 86_400
    assert 19.9 < days < 20

    renewed = private_issuer.authority.issue("client", days=(-1, 40))
    renewed.write(gateway.directory / "client.crt", gateway.directory / "client.key")
    eventually(lambda: gateway.metric(series) == renewed.ends_at, gateway.log_text)
    assert gateway.console(own_stack.cloud.token()).status == 200


def test_check_names_what_an_issuer_with_private_tls_lacks(
    own_stack: Stack, private_issuer: PrivateIssuer
) -> None:
    gateway = private_issuer.gateway
    code, output = private_issuer.check(ca_file=None)
    assert code == 1
    assert "certificate is not trusted" in output
    code, output = private_issuer.check(certificate=None)
    assert code == 1
    assert "keys of corp: keys of issuer corp were not refreshed: https://127.0.0.1:" in output

    stranger = Authority().issue("client")
    stranger.write(gateway.directory / "client.crt", gateway.directory / "client.key")
    assert private_issuer.check()[0] == 1
    expired = private_issuer.authority.issue("client", days=(-3, -1))
    expired.write(gateway.directory / "client.crt", gateway.directory / "client.key")
    code, output = private_issuer.check()
    assert code == 1
    assert "issuers[0].certificate.certificate_file: " in output
    assert "client.crt expired " in output

    gateway.start(wait=False)
    token = own_stack.cloud.token()
    eventually(lambda: _status(gateway, token) == 503, gateway.log_text)
    assert gateway.console(token).error_code == "CGW.5034"


def _status(gateway: RunningGateway, token: str) -> int:
    try:
        return gateway.console(token).status
    except OSError:
        return 0
