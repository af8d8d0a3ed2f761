"""Behind HAProxy: the PROXY protocol, a Unix socket, and both with and without TLS."""

import asyncio
import http.client
import signal
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.haproxy import HAPROXY, NOT_HERE, HAProxy
from tests.support.live_delivery import PROJECT, deliver_live
from tests.support.live_page import LivePage
from tests.support.stack import (
    TIMEOUT_S,
    CloudProcess,
    RunningGateway,
    Stack,
    console_path,
    eventually,
    fetch,
)
from tests.support.tls import write_certificate
from tests.support.valkey import free_port

CLIENT = "127.0.0.5"
"""A loopback address of the client that no proxy has."""

with_haproxy = pytest.mark.skipif(HAPROXY is None, reason=NOT_HERE)


def request(
    stack: Stack,
    port: int,
    *,
    source: str = CLIENT,
    tls: ssl.SSLContext | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Request a console link from a client address; return status and request ID."""
    source_address = (source, 0)
    connection: http.client.HTTPConnection
    if tls is None:
        connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=TIMEOUT_S, source_address=source_address
        )
    else:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=TIMEOUT_S, source_address=source_address, context=tls
        )
    sent = {"Authorization": f"Bearer {stack.cloud.token()}"} | (headers or {})
    try:
        connection.request(
            "GET", console_path(stack.cloud.project, stack.cloud.servers[0]), headers=sent
        )
        response = connection.getresponse()
        response.read()
        return response.status, response.headers["X-Request-Id"]
    finally:
        connection.close()


def logged_client(gateway: RunningGateway, request_id: str) -> str:
    lines = [line for line in gateway.log_lines("request") if line["request_id"] == request_id]
    records = gateway.audit("console_link_issued")
    (record,) = [one for one in records if one["request_id"] == request_id]
    assert record["client_address"] == lines[0]["client"]
    return str(lines[0]["client"])


def start(stack: Stack, listen: dict[str, Any], **options: Any) -> RunningGateway:
    gateway = stack.replica(start=False, **options)
    if "unix_socket" in listen:
        gateway.config["listen"] = listen
    else:
        gateway.config["listen"] |= listen
    gateway.write_config()
    return gateway.start()


@pytest.fixture
def proxied(stack: Stack) -> Iterator[RunningGateway]:
    """Run a gateway that requires the PROXY protocol."""
    gateway = start(stack, {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1/32"]})
    yield gateway
    gateway.close()


@with_haproxy
@pytest.mark.parametrize("workers", [1, 2])
def test_proxy_protocol_reports_the_client(stack: Stack, workers: int) -> None:
    listen = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1/32"]}
    gateway = start(stack, listen, workers=workers)
    with HAProxy(f"127.0.0.1:{gateway.port} send-proxy-v2") as proxy:
        for _ in range(4):
            status, request_id = request(stack, proxy.port)
            assert status == 200
            assert logged_client(gateway, request_id) == CLIENT
    gateway.close()


@with_haproxy
def test_proxy_protocol_precedes_tls(stack: Stack, tmp_path: Path) -> None:
    """A TCP proxy that does not terminate TLS no longer hides the clients."""
    certificate, key = write_certificate(tmp_path, "127.0.0.1")
    listen = {
        "proxy_protocol": True,
        "trusted_proxies": ["127.0.0.1/32"],
        "tls": {"certificate_file": str(certificate), "key_file": str(key)},
    }
    gateway = start(stack, listen)
    tls = ssl.create_default_context(cafile=str(certificate))
    with HAProxy(f"127.0.0.1:{gateway.port} send-proxy-v2") as proxy:
        status, request_id = request(stack, proxy.port, tls=tls)
        assert status == 200
        assert logged_client(gateway, request_id) == CLIENT
    gateway.close()


@with_haproxy
def test_forwarded_for_counts_behind_a_trusted_address_of_the_header(
    stack: Stack, proxied: RunningGateway
) -> None:
    """The chain is client, HTTP proxy, TCP proxy: the header has the HTTP proxy's address."""
    forwarded = {"X-Forwarded-For": "198.51.100.7"}
    with HAProxy(f"127.0.0.1:{proxied.port} send-proxy-v2") as proxy:
        _, by_proxy = request(stack, proxy.port, source="127.0.0.1", headers=forwarded)
        _, by_client = request(stack, proxy.port, headers=forwarded)
    assert logged_client(proxied, by_proxy) == "198.51.100.7"
    assert logged_client(proxied, by_client) == CLIENT


@with_haproxy
def test_health_check_of_the_proxy_is_served(stack: Stack, proxied: RunningGateway) -> None:
    """HAProxy speaks for itself there: the header has the command LOCAL and no address."""
    options = "option httpchk GET /docs"
    check = "send-proxy-v2 check check-send-proxy inter 200ms"
    with HAProxy(f"127.0.0.1:{proxied.port} {check}", options=options) as proxy:
        eventually(
            lambda: any(
                line.get("operation") == "docs" and line["status"] == 200
                for line in proxied.log_lines("request")
            )
        )
        (line, *_) = [one for one in proxied.log_lines("request") if one.get("operation") == "docs"]
        assert line["client"] == "127.0.0.1"

        def is_served() -> bool:
            with suppress(OSError):
                return request(stack, proxy.port)[0] == 200
            return False

        # While the checks fail, because a busy machine has stopped the gateway, none is.
        eventually(is_served, proxy.log_text)


@with_haproxy
@pytest.mark.parametrize("change", ["config", "restart"])
def test_proxy_protocol_survives_new_workers(
    stack: Stack, proxied: RunningGateway, change: str
) -> None:
    with HAProxy(f"127.0.0.1:{proxied.port} send-proxy-v2") as proxy:
        assert request(stack, proxy.port)[0] == 200
        if change == "config":
            proxied.config["request"]["drain_s"] = 4
            proxied.write_config()
            eventually(lambda: proxied.log_lines("config_reloaded"), proxied.log_text)
        else:
            assert proxied.stop() == 0
            proxied.start()
        status, request_id = request(stack, proxy.port)
        assert status == 200
        assert logged_client(proxied, request_id) == CLIENT


def closed_without_response(gateway: RunningGateway, sent: bytes, source: str) -> bool:
    with socket.create_connection(
        ("127.0.0.1", gateway.port), timeout=TIMEOUT_S, source_address=(source, 0)
    ) as connection:
        connection.sendall(sent)
        try:
            return connection.recv(100) == b""
        except ConnectionResetError:
            return True


def test_connection_without_a_header_is_closed_and_counted(proxied: RunningGateway) -> None:
    get = b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n"
    header = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([6, 6, 6, 6]) + bytes(8)
    metric = "gateway_proxy_header_rejections_total"

    assert closed_without_response(proxied, get, "127.0.0.1")
    assert proxied.metric(f'{metric}{{reason="malformed"}}') == 1
    assert closed_without_response(proxied, header + get, "127.0.0.9")
    assert proxied.metric(f'{metric}{{reason="untrusted"}}') == 1
    assert closed_without_response(proxied, header[:14], "127.0.0.1")  # after the time limit
    assert proxied.metric(f'{metric}{{reason="timeout"}}') == 1
    reasons = [line["reason"] for line in proxied.log_lines("proxy_header_rejected")]
    assert reasons == ["malformed", "untrusted", "timeout"]
    assert not proxied.log_lines("request")


@pytest.fixture
def socket_file(tmp_path: Path) -> Path:
    return tmp_path / "public.sock"


def request_on_socket(path: Path, headers: str = "") -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        text = f"GET /docs HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n"
        connection.sendall(text.encode())
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
        return received


@with_haproxy
@pytest.mark.parametrize("uses_proxy_protocol", [False, True])
def test_unix_socket_behind_haproxy(
    stack: Stack, socket_file: Path, *, uses_proxy_protocol: bool
) -> None:
    listen = {
        "unix_socket": str(socket_file),
        "trusted_proxies": ["unix"],
        "proxy_protocol": uses_proxy_protocol,
    }
    gateway = start(stack, listen)
    if uses_proxy_protocol:
        proxy = HAProxy(f"unix@{socket_file} send-proxy-v2")
    else:
        proxy = HAProxy(f"unix@{socket_file}", mode="http", options="option forwardfor")
    with proxy:
        status, request_id = request(stack, proxy.port)
        assert status == 200
        assert logged_client(gateway, request_id) == CLIENT
    gateway.close()


def test_unix_socket_has_its_mode_and_ends_with_the_gateway(
    stack: Stack, socket_file: Path
) -> None:
    listen = {"unix_socket": str(socket_file), "unix_socket_mode": "0600"}
    gateway = start(stack, listen, workers=2)
    assert stat.filemode(socket_file.stat().st_mode) == "srw-------"
    assert request_on_socket(socket_file, "X-Forwarded-For: 6.6.6.6\r\n").startswith(
        b"HTTP/1.1 200 "
    )
    assert gateway.log_lines("request")[-1]["client"] == "unix"

    gateway.config["listen"]["unix_socket_mode"] = "0666"
    gateway.write_config()
    eventually(lambda: gateway.log_lines("config_reloaded"), gateway.log_text)
    assert stat.filemode(socket_file.stat().st_mode) == "srw-rw-rw-"
    assert request_on_socket(socket_file).startswith(b"HTTP/1.1 200 ")

    assert gateway.stop() == 0
    assert not socket_file.exists()
    gateway.close()


def test_unix_socket_of_a_killed_gateway_is_replaced(stack: Stack, socket_file: Path) -> None:
    gateway = start(stack, {"unix_socket": str(socket_file)})
    workers = gateway.workers()
    gateway.signal(signal.SIGKILL)
    assert gateway.stop() == -signal.SIGKILL
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert socket_file.exists()
    gateway.start()
    assert request_on_socket(socket_file).startswith(b"HTTP/1.1 200 ")
    gateway.close()


@pytest.mark.parametrize("occupied_by", ["gateway", "file"])
def test_occupied_unix_socket_is_left_alone(
    stack: Stack, socket_file: Path, occupied_by: str
) -> None:
    listen = {"unix_socket": str(socket_file)}
    first = None
    if occupied_by == "gateway":
        first = start(stack, listen)
    else:
        socket_file.write_text("precious")
    second = stack.replica(start=False)
    second.config["listen"] = listen
    second.write_config()
    second.start(wait=False)
    eventually(lambda: second.log_lines("listen_failed"), second.log_text)
    (line,) = second.log_lines("listen_failed")
    assert (line["listener"], line["host"]) == ("public", str(socket_file))
    if first is None:
        assert socket_file.read_text() == "precious"
    else:
        assert request_on_socket(socket_file).startswith(b"HTTP/1.1 200 ")
        first.close()
    second.close()


def test_unix_socket_of_systemd_is_used(stack: Stack, socket_file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(socket_file))
        listening.listen()
        gateway = stack.replica(start=False)
        gateway.config["listen"] = {"unix_socket": str(socket_file)}
        gateway.write_config()
        gateway.start(passed=listening)
        assert request_on_socket(socket_file).startswith(b"HTTP/1.1 200 ")
        assert not gateway.log_lines("inherited_socket_unused")
        assert gateway.stop() == 0
        assert socket_file.exists(), "it is systemd's"
        gateway.close()


@with_haproxy
async def test_live_console_runs_below_a_path_through_haproxy() -> None:
    """Upgrade, cookie, `Origin` and path pass; both addresses are in the record."""
    port = free_port()
    stack = Stack(CloudProcess("--live-project", PROJECT), start=False)
    gateway, url = stack.gateway, f"http://127.0.0.1:{port}"
    deliver_live(gateway)
    gateway.config["listen"] |= {"public_url": f"{url}/gw", "trusted_proxies": ["127.0.0.1"]}
    gateway.write_config()
    options = {"mode": "http", "options": "option forwardfor"}
    try:
        gateway.start()
        with HAProxy(f"127.0.0.1:{gateway.port}", port=port, **options):
            path = console_path(PROJECT, stack.cloud.servers[0])
            token = {"Authorization": f"Bearer {stack.cloud.token()}"}
            issued = await asyncio.to_thread(fetch, url, "GET", path, token)
            address, _, ticket = issued.json["url"].partition("#")
            assert address == f"{url}/gw/console"
            assert (await asyncio.to_thread(fetch, url, "GET", "/gw/console")).status == 200
            connector = aiohttp.TCPConnector(local_addr=(CLIENT, 0))
            jar = aiohttp.DummyCookieJar()
            async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as client:
                page = LivePage(client, f"{url}/gw", origin=url)
                status, session = await page.redeem(ticket)
                assert (status, session["socket"].startswith("/gw/console/s/")) == (200, True)
                await page.connect(url)
                await page.until_live()
                await page.send({"type": "end"})
                assert await page.until_closed() == 4000
        (started,) = gateway.audit("console_session_started")
        assert (started["ticket_address"], started["client_address"]) == ("127.0.0.1", CLIENT)
    finally:
        stack.close()
