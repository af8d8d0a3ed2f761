"""Recordings where no account is recorded any more, and those of another host: a real gateway."""

import asyncio
import base64
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.store import RedisServer, StoreSettings
from gateway.domain.consoles.model import ConsoleTarget
from gateway.domain.model import ProjectId, Secret, ServerId
from gateway.domain.recordings.model import RecordingDetails, RecordingInfo
from gateway.domain.recordings.records import RecordKind, json_record, screen_record
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.file_recordings import RecordingFiles, open_recording_part
from gateway.drivers.recordings.recording_directory import read_info
from gateway.drivers.valkey.client import client_factory
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.recording_catalogue import ValkeyRecordingCatalogue
from tests.e2e.test_commands import run
from tests.support.recorded_live import allow, api
from tests.support.recordings import OTHER_KEY, RecordingScene, a_recording
from tests.support.stack import Stack, eventually
from tests.support.telemetry import RecordingTelemetry

END = json_record(9_000, RecordKind.END, {"end": "person", "detail": ""})


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Start a gateway with recordings, and an account that delivers the cloud's URLs again."""
    stack = Stack(start=False)
    gateway = stack.gateway
    key = gateway.directory / "recording.key"
    key.write_text(base64.b64encode(os.urandom(32)).decode())
    (gateway.directory / "recordings").mkdir(mode=0o700)
    gateway.config["listen"]["public_url"] = gateway.url
    gateway.config["recordings"] = {"directory": "recordings", "keys": [{"file": str(key)}]}
    gateway.write_config()
    allow(gateway, "nora")
    record(stack, details_of(stack, 1))
    gateway.start()
    yield stack
    stack.close()


def details_of(stack: Stack, number: int) -> RecordingDetails:
    server = ServerId(stack.cloud.servers[number])
    target = ConsoleTarget("prod", ProjectId(stack.cloud.project), server)
    return a_recording(number, target=target)


def listed(stack: Stack, number: int) -> dict[str, Any]:
    """Return the only recording of a server."""
    path = f"/console/recordings?server={stack.cloud.servers[number]}"
    (found,) = api(stack.gateway, "GET", path).json["recordings"]
    return dict(found)


def record(stack: Stack, details: RecordingDetails, key: Secret | None = None) -> RecordingInfo:
    """Record a session as the gateway has done before."""
    directory = stack.gateway.directory
    key = key or Secret((directory / "recording.key").read_text())
    scene = RecordingScene(directory / "recordings", clock=SystemClock(), keys=[key])
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    part = open_recording_part(files, details, scene.clock.now())
    part.append([screen_record(0, b"x"), END])
    part.close()
    scene.closer.recover([part.file.parent])
    scene.index.close()
    return read_info(part.file.parent)


async def publish(stack: Stack, info: RecordingInfo) -> list[str]:
    """Publish a recording as host-b; return the hosts that have published the first one."""
    settings = StoreSettings(
        redis=RedisServer(url=stack.valkey.url), seal_keys=(Secret(stack.seal_key),), timeout_s=10
    )
    valkey = Valkey(
        settings,
        client_factory(settings),
        process_id="host-b",
        clock=SystemClock(),
        telemetry=RecordingTelemetry(),
    )
    assert await valkey.probe()
    sealer = Sealer(settings.seal_keys)
    catalogue = ValkeyRecordingCatalogue(valkey, sealer, host="host-b", ttl_s=600)
    await catalogue.publish(info)
    found = await catalogue.find(a_recording(1).id)
    await valkey.close()
    return [one.host for one in found]


def test_recordings_stay_when_no_account_is_recorded(stack: Stack) -> None:
    name = a_recording(1).id
    found = listed(stack, 1)
    assert (found["id"], found["here"], found["problems"]) == (name, True, [])
    reply = api(stack.gateway, "POST", f"/console/recordings/{name}/views", "nora", {})
    assert reply.status == 200
    assert reply.json["url"].startswith(f"{stack.gateway.url}/console/player#")
    exported = api(stack.gateway, "POST", f"/console/recordings/{name}/export", "nora", {})
    assert exported.status == 200
    # The account's consoles are still the cloud's.
    url = stack.gateway.console(stack.cloud.token("anna"), stack.cloud.servers[0]).json["url"]
    assert not url.startswith(stack.gateway.url)


def test_recording_of_another_host_is_named_and_not_played(stack: Stack) -> None:
    gateway, other = stack.gateway, details_of(stack, 2)
    info = read_info(next((gateway.directory / "recordings").glob(f"*/{a_recording(1).id}")))
    parts = tuple(replace(one, host="host-b") for one in info.parts)
    published = replace(info, details=other, parts=parts)
    eventually(lambda: socket.gethostname() in asyncio.run(publish(stack, published)))
    path = f"/console/recordings/{other.id}"
    found = listed(stack, 2)
    assert (found["id"], found["here"], found["hosts"]) == (other.id, False, ["host-b"])
    assert api(gateway, "GET", path).json["hosts"] == ["host-b"]
    for name in ("views", "export"):
        reply = api(gateway, "POST", f"{path}/{name}", "nora", {})
        assert (reply.status, reply.json["error_code"]) == (409, "CGW.4094")
        assert "are on host-b" in reply.json["error_msg"]
    environ = {
        "CONSOLE_GATEWAY_URL": gateway.url,
        "CONSOLE_GATEWAY_TOKEN": stack.cloud.token("nora"),
    }
    _, output = run("recordings", "list", environ=environ)
    assert "NOT HERE: its files are on host-b" in output
    code, output = run("recordings", "play", other.id, environ=environ)
    assert code != 0
    assert "are on host-b" in output


def test_forbidden_and_unknown_look_the_same_on_every_host(stack: Stack) -> None:
    gateway = stack.gateway
    answers = []
    for name in (a_recording(1).id, a_recording(2).id, "f" * 32):
        for path in (f"{name}/views", f"{name}/export"):
            reply = api(gateway, "POST", f"/console/recordings/{path}", "anna", {})
            answers.append((reply.status, json.dumps(reply.json)))
        reply = api(gateway, "GET", f"/console/recordings/{name}", "anna")
        answers.append((reply.status, json.dumps(reply.json)))
    assert {status for status, _ in answers} == {404}
    assert len({*answers}) == 1
    assert api(gateway, "GET", "/console/recordings", "anna").json["recordings"] == []


def test_recording_without_its_key_is_refused_in_words(stack: Stack) -> None:
    details = details_of(stack, 3)
    record(stack, details, OTHER_KEY)
    token = stack.cloud.token("nora")
    environ = {"CONSOLE_GATEWAY_URL": stack.gateway.url, "CONSOLE_GATEWAY_TOKEN": token}
    target = str(stack.gateway.directory / "export.html")
    for command in (("play", details.id), ("export", details.id, target)):
        code, output = run("recordings", *command, environ=environ)
        assert code != 0
        assert "encrypted with a key that the gateway does not have" in output
    _, output = run("recordings", "list", environ=environ)
    assert details.id in output
    assert not Path(target).exists()
    code, output = run("check", "--config", str(stack.gateway.config_file), environ=environ)
    assert "recordings_key_missing" in output
