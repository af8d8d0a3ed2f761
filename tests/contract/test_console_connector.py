"""Connections to the cloud's console WebSockets, against a real TLS server on loopback."""

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest
from aiohttp import web

from gateway.config.egress import EgressProxy, EgressSettings
from gateway.domain.consoles.shapes import ConsoleShape, configured_shapes
from gateway.domain.errors import ConsoleUnavailable
from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import Secret
from gateway.drivers.cloud.console_connector import CloudConsoles, open_console_route
from gateway.drivers.network.egress import EgressRoute
from gateway.drivers.valkey.console_shapes import ValkeyShapeMemory
from gateway.flow.consoles.frame_channel import ChannelClosed, FrameChannel
from tests.contract.test_shared_store import a_valkey
from tests.support.tls import Authority
from tests.support.valkey import RealValkey

GREETING = b"RFB 003.008\n"
TOKEN = "c0nsole-t0ken"
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def greet(request: web.Request) -> web.StreamResponse:
    """Answer as websockify with a valid token, and echo what comes."""
    socket = web.WebSocketResponse(protocols=("binary",), compress=False)
    await socket.prepare(request)
    await socket.send_bytes(GREETING[:3])
    await socket.send_bytes(GREETING[3:])
    async for message in socket:
        await socket.send_bytes(message.data)
    return socket


@dataclass
class Cloud:
    """A console host. `serve` by path; other paths answer 404."""

    port: int = 0
    serve: dict[str, Serve] = field(default_factory=dict)
    seen: list[web.Request] = field(default_factory=list)
    links: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        serve = self.serve.get(request.path)
        return await serve(request) if serve else web.Response(status=404)

    async def fetch_url(self) -> Secret:
        self.links += 1
        return Secret(f"https://127.0.0.1:{self.port}/vnc/A.eu/vnc_auto.html?token={TOKEN}")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory, authority = tmp_path_factory.mktemp("tls"), Authority()
    (directory / "ca.crt").write_bytes(authority.certificate)
    authority.issue("server").write(directory / "server.crt", directory / "server.key")
    return directory


@pytest.fixture
async def cloud(files: Path) -> AsyncIterator[Cloud]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files / "server.crt", files / "server.key")
    found, app = Cloud(), web.Application()
    app.router.add_get("/{path:.*}", found.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


class Memory:
    def __init__(self) -> None:
        self.shape = ""

    async def recall(self, account: str) -> str:
        return self.shape

    async def remember(self, account: str, shape: str) -> None:
        self.shape = shape


@asynccontextmanager
async def consoles(
    files: Path,
    memory: Memory | None = None,
    *,
    template: str = "root",
    subprotocol: str = "none",
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
    private: tuple = LOOPBACK,
    trusted: bool = True,
    proxy: EgressProxy | None = None,
) -> AsyncIterator[CloudConsoles]:
    egress = EgressRoute(
        EgressSettings(),
        proxy=proxy,
        ca_file=files / "ca.crt" if trusted else None,
        certificate=None,
    )
    shapes = configured_shapes(template, subprotocol)
    async with open_console_route(ConsoleAddresses(hosts), shapes, egress, private) as route:
        yield CloudConsoles({"acme": route}, memory or Memory())


async def connect(found: CloudConsoles, cloud: Cloud, *, timeout_s: float = 30.0) -> FrameChannel:
    return await found.connect(cloud.fetch_url, "acme", timeout_s=timeout_s)


async def refusal(found: CloudConsoles, cloud: Cloud, *, timeout_s: float = 30.0) -> str:
    with pytest.raises(ConsoleUnavailable) as error:
        await connect(found, cloud, timeout_s=timeout_s)
    assert TOKEN not in str(error.value)
    assert error.value.__cause__ is None
    return str(error.value)


async def test_greeting_is_the_first_message_and_frames_pass(cloud: Cloud, files: Path) -> None:
    cloud.serve["/websockify"] = greet
    async with consoles(files) as found:
        channel = await connect(found, cloud)
        assert (await channel.receive()) == GREETING[:3] + GREETING[3:]
        await channel.send(b"\x00\xff" * 40_000)
        assert await channel.receive() == b"\x00\xff" * 40_000
        await channel.close(1000, "")
        assert isinstance(await channel.receive(), ChannelClosed)
    (request,) = cloud.seen
    assert request.query["token"] == TOKEN
    assert request.headers["Origin"] == f"https://127.0.0.1:{cloud.port}"
    assert "Sec-WebSocket-Extensions" not in request.headers


@pytest.mark.parametrize(
    ("path", "offers"), [("/vnc/A.eu/websockify", True), ("/websockify", False)]
)
async def test_auto_tries_shapes_with_a_fresh_link_each_and_remembers(
    cloud: Cloud, files: Path, path: str, offers: object
) -> None:
    async def picky(request: web.Request) -> web.StreamResponse:
        if ("Sec-WebSocket-Protocol" in request.headers) is not offers:
            return web.Response(status=400)
        return await greet(request)

    cloud.serve[path], memory = picky, Memory()
    async with consoles(files, memory, template="auto", subprotocol="auto") as found:
        await (await connect(found, cloud)).close(1000, "")
        tried = len(cloud.seen)
        assert cloud.links == tried >= 1
        assert memory.shape == str(
            ConsoleShape("directory" if "vnc" in path else "root", "binary" if offers else "")
        )
        await (await connect(found, cloud)).close(1000, "")
        assert (len(cloud.seen), cloud.links) == (tried + 1, tried + 1)


async def test_shape_that_stopped_working_is_tried_first_and_then_forgotten(
    cloud: Cloud, files: Path
) -> None:
    memory = Memory()
    memory.shape = str(ConsoleShape("root", ""))
    cloud.serve["/vnc/A.eu/websockify"] = greet
    async with consoles(files, memory, template="auto", subprotocol="auto") as found:
        await (await connect(found, cloud)).close(1000, "")
        assert [one.path for one in cloud.seen] == ["/websockify", "/vnc/A.eu/websockify"]
        assert memory.shape == str(ConsoleShape("directory", "binary"))


async def test_all_shapes_refused_names_the_last(cloud: Cloud, files: Path) -> None:
    async with consoles(files, template="auto", subprotocol="auto") as found:
        assert await refusal(found, cloud) == "root without subprotocol: the cloud answered 404"
    assert cloud.links == 4


async def close_at_once(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.close(code=1008)
    return socket


async def speak_another_protocol(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_bytes(b"SSH-2.0-x\r\n")
    return socket


async def send_text(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str("RFB 003.008\n")
    return socket


async def say_nothing(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await asyncio.sleep(60)
    return socket


async def cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def speak_no_http(request: web.Request) -> web.StreamResponse:
    assert isinstance(request.transport, asyncio.Transport)
    request.transport.write(b"SSH-2.0-x\r\n")
    return await cut(request)


async def redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("https://evil.example.net/websockify?token=1")


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (close_at_once, "closed the WebSocket, or it speaks no RFB"),
        (speak_another_protocol, "speaks no RFB"),
        (send_text, "speaks no RFB"),
        (say_nothing, "no greeting of RFB in time"),
        (cut, "closed the connection"),
        (speak_no_http, "no connection"),
        (redirect, "redirects the WebSocket (302)"),
    ],
)
async def test_faults_of_the_cloud_have_a_reason(
    cloud: Cloud, files: Path, serve: Serve, reason: str
) -> None:
    cloud.serve["/websockify"] = serve
    async with consoles(files) as found:
        assert reason in await refusal(found, cloud, timeout_s=3.0)
    assert len(cloud.seen) == 1


async def test_silent_shape_costs_one_link_and_is_tried_last_then(
    cloud: Cloud, files: Path
) -> None:
    """A console that answers nothing must not cost a link and a time-out for each shape."""
    cloud.serve["/vnc/A.eu/websockify"], cloud.serve["/websockify"] = say_nothing, greet
    async with consoles(files, template="auto", subprotocol="none") as found:
        reason = await refusal(found, cloud, timeout_s=3.0)
        assert reason == "directory without subprotocol: no greeting of RFB in time"
        assert cloud.links == 1
        await (await connect(found, cloud)).close(1000, "")
        assert [one.path for one in cloud.seen] == ["/vnc/A.eu/websockify", "/websockify"]
        cloud.serve["/websockify"] = say_nothing
        await refusal(found, cloud, timeout_s=2.0)
        await refusal(found, cloud, timeout_s=2.0)
        assert [one.path for one in cloud.seen[2:]] == ["/websockify", "/vnc/A.eu/websockify"]
    assert cloud.links == 4


async def test_untrusted_certificate_is_refused_and_no_other_shape_is_tried(
    cloud: Cloud, files: Path
) -> None:
    cloud.serve["/websockify"] = greet
    async with consoles(files, template="auto", trusted=False) as found:
        assert "certificate is not trusted" in await refusal(found, cloud)
    assert (cloud.links, cloud.seen) == (1, [])


async def test_nothing_listens(cloud: Cloud, files: Path) -> None:
    cloud.port = 1
    async with consoles(files, template="auto") as found:
        assert "connection refused" in await refusal(found, cloud)
    assert cloud.links == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_private_address_is_refused_unless_the_config_names_its_network(
    cloud: Cloud, files: Path, host: str
) -> None:
    cloud.serve["/websockify"] = greet

    async def fetch_url() -> Secret:
        return Secret(f"https://{host}:{cloud.port}/v.html?token={TOKEN}")

    async with consoles(files, private=(ip_network("10.0.0.0/8"),)) as found:
        with pytest.raises(ConsoleUnavailable, match="is not a public address"):
            await found.connect(fetch_url, "acme", timeout_s=30.0)
    assert cloud.seen == []


async def test_host_that_is_not_allowed_is_refused(cloud: Cloud, files: Path) -> None:
    async with consoles(files, hosts=("*.example.com",)) as found:
        assert "is not in `accounts[].links.console_hosts`" in await refusal(found, cloud)
    assert cloud.seen == []


@asynccontextmanager
async def connect_proxy(targets: list[str]) -> AsyncIterator[EgressProxy]:
    """Run a proxy of the CONNECT method that leads every name to loopback."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        targets.append(head.split(b" ")[1].decode())
        port = int(targets[-1].rpartition(":")[2])
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, behind_writer))
            group.create_task(pump(behind_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield EgressProxy.model_validate({"url": f"http://127.0.0.1:{port}"})
    server.close()


async def test_through_an_egress_proxy_the_allowed_hosts_decide_alone(
    cloud: Cloud, files: Path
) -> None:
    """The proxy resolves the name, so no address is checked here."""
    cloud.serve["/websockify"], targets = greet, list[str]()

    async def fetch_url() -> Secret:
        return Secret(f"https://console.example.com:{cloud.port}/v.html?token={TOKEN}")

    hosts = ("console.example.com",)
    async with (
        connect_proxy(targets) as proxy,
        consoles(files, hosts=hosts, private=(), proxy=proxy) as found,
    ):
        channel = await found.connect(fetch_url, "acme", timeout_s=30.0)
        assert await channel.receive() == GREETING
        await channel.close(1000, "")
        assert targets == [f"console.example.com:{cloud.port}"]
        with pytest.raises(ConsoleUnavailable, match="is not in"):
            await found.connect(cloud.fetch_url, "acme", timeout_s=30.0)
    assert len(targets) == 1


async def test_error_of_the_link_passes(cloud: Cloud, files: Path) -> None:
    async def fetch_url() -> Secret:
        raise KeyError("queue")

    async with consoles(files, template="auto") as found:
        with pytest.raises(KeyError):
            await found.connect(fetch_url, "acme", timeout_s=30.0)


async def test_shape_is_shared_through_redis(shared_valkey: RealValkey) -> None:
    namespace = f"shapes-{secrets.token_hex(4)}"
    first, second = (a_valkey(shared_valkey, namespace=namespace) for _ in range(2))
    assert await first.probe()
    assert await second.probe()
    await ValkeyShapeMemory(first).remember("acme", "root binary")
    assert await ValkeyShapeMemory(second).recall("acme") == "root binary"
    assert await ValkeyShapeMemory(second).recall("other") == ""
    await ValkeyShapeMemory(second).remember("acme", "")
    assert await ValkeyShapeMemory(first).recall("acme") == ""
    unavailable = a_valkey(shared_valkey, namespace=namespace)
    await ValkeyShapeMemory(unavailable).remember("acme", "root")
    assert await ValkeyShapeMemory(unavailable).recall("acme") == ""
    for one in (first, second, unavailable):
        await one.close()
