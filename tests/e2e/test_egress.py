"""Outgoing connections through a forward proxy, to servers with a private authority."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_commands import run
from tests.support.stack import Stack, eventually
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
    assert "no connection to the proxy: connection refused" in output


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
