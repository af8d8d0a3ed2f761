"""Recordings from a live session to the player: real processes, and Chromium on both ends."""

import array
import base64
import fcntl
import json
import select
import socket
import stat
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from gateway.domain.consoles.model import ConsoleTarget
from gateway.domain.model import ProjectId, Secret, ServerId
from gateway.drivers.recordings.recording_directory import (
    RecordingDirectory,
    delete_removed,
    mark_removed,
)
from tests.e2e.test_commands import run
from tests.support.browser import ConsoleTab, needs_chromium
from tests.support.live_delivery import PROJECT, deliver_live, ticket
from tests.support.long_recording import (
    CHUNKS,
    lines_at,
    shown_lines,
    write_large_recording,
    write_long_recording,
)
from tests.support.recorded_live import (
    allow,
    api,
    jump,
    jump_to_end,
    newest,
    open_player,
    record,
    served_at,
    typed_picture,
)
from tests.support.recordings import a_recording
from tests.support.round_trips import RoundTrips
from tests.support.stack import CloudProcess, Response, RunningGateway, Stack, eventually

pytestmark = needs_chromium
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def live() -> Iterator[Stack]:
    stack = Stack(CloudProcess("--live-project", PROJECT), start=False)
    deliver_live(stack.gateway)
    record(stack.gateway)
    stack.gateway.config["accounts"][0]["console"]["record_keys"] = True
    stack.gateway.write_config()
    stack.gateway.start()
    yield stack
    stack.close()


def record_session(live: Stack, browser: Browser, server: str, *, reload: bool = False) -> str:
    """Type into a console and end it; return the last picture that the person saw."""
    tab = ConsoleTab(browser.new_page())
    token = live.cloud.token("anna")
    tab.open(f"{live.gateway.url}/console#{ticket(live.gateway, token, server)}")
    expect(tab.page.locator("#bar-recorded")).to_be_visible()
    typed = live.cloud.screen(server)["typed"] + "root\n"
    tab.type("root\n")
    if reload:
        typed_picture(tab, live.cloud, server, typed)
        tab.page.reload()
        tab.wait_for_state("live")
        typed += "echo after\n"
        tab.type("echo after\n")
    seen = typed_picture(tab, live.cloud, server, typed)
    tab.disconnect()
    tab.page.close()
    return seen


def of_viewer(live: Stack) -> dict[str, str]:
    """Return the environment of nora's commands."""
    token = live.cloud.token("nora")
    return {"CONSOLE_GATEWAY_URL": live.gateway.url, "CONSOLE_GATEWAY_TOKEN": token}


@pytest.mark.parametrize("reload", [False, True], ids=["at_once", "resumed"])
def test_last_picture_equals_that_of_the_session(
    live: Stack, browser: Browser, *, reload: bool
) -> None:
    server = live.cloud.servers[int(reload)]
    seen = record_session(live, browser, server, reload=reload)
    recording = newest(live.gateway, server)
    page = open_player(live.gateway, browser, recording)
    assert jump_to_end(page) == seen
    parts = json.loads(api(live.gateway, "GET", f"/console/recordings/{recording}").body)
    assert parts["person"] == {"subject": "anna", "issuer": "corp"}
    records = live.gateway.audit("recording_viewed")
    (viewed,) = [one for one in records if one["session"] == recording]
    assert (viewed["subject"], viewed["target"]) == ("nora", "corp:anna")
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-state", "paused", timeout=WAIT_MS)
    eventually(
        lambda: (
            [one["session"] for one in live.gateway.audit("recording_viewed")].count(recording) == 2
        )
    )
    page.close()


def test_right_decides_on_list_view_and_export(live: Stack, browser: Browser) -> None:
    server = live.cloud.servers[0]
    recording = newest(live.gateway, server) if has_any(live, server) else ""
    if not recording:
        record_session(live, browser, server)
        recording = newest(live.gateway, server)
    unknown = "0" * 32
    for subject, name in (("anna", recording), ("ben", recording), ("nora", unknown)):
        for path in (f"{name}/views", f"{name}/export"):
            reply = api(live.gateway, "POST", f"/console/recordings/{path}", subject, {})
            assert (reply.status, reply.json["error_code"]) == (404, "CGW.4048")
        assert api(live.gateway, "GET", f"/console/recordings/{name}", subject).status == 404
    assert api(live.gateway, "GET", "/console/recordings", "anna").json["recordings"] == []
    refused = [one for one in live.gateway.audit("refused") if recording in one["detail"]]
    assert {one["permission"] for one in refused} == {"recording:view"}
    assert {one["subject"] for one in refused} == {"anna", "ben"}


def has_any(live: Stack, server: str) -> bool:
    return bool(api(live.gateway, "GET", f"/console/recordings?server={server}").json["recordings"])


def test_session_in_progress_is_not_played(live: Stack, browser: Browser) -> None:
    tab = ConsoleTab(browser.new_page())
    server = live.cloud.servers[2]
    token = live.cloud.token("anna")
    tab.open(f"{live.gateway.url}/console#{ticket(live.gateway, token, server)}")
    eventually(lambda: has_any(live, server))
    (found,) = api(live.gateway, "GET", f"/console/recordings?server={server}").json["recordings"]
    environ = of_viewer(live)
    code, output = run("recordings", "list", "--server", server, environ=environ)
    assert (code, "  in progress  " in output) == (0, True), output
    reply = api(live.gateway, "POST", f"/console/recordings/{found['id']}/views", "nora", {})
    assert (reply.status, reply.json["error_code"]) == (409, "CGW.4092")
    assert "in progress" in reply.json["error_msg"]
    tab.disconnect()
    tab.page.close()


def test_ticket_opens_one_view(live: Stack, browser: Browser) -> None:
    server = live.cloud.servers[3]
    record_session(live, browser, server)
    recording = newest(live.gateway, server)
    url = api(live.gateway, "POST", f"/console/recordings/{recording}/views", "nora", {}).json[
        "url"
    ]
    page = browser.new_page()
    for state in ("paused", "ended"):
        page.goto("about:blank")
        page.evaluate("() => { try { sessionStorage.clear(); } catch {} }")
        page.goto(url)
        page.get_by_role("button", name="Play", exact=True).click()
        expect(page.locator("body")).to_have_attribute("data-state", state, timeout=WAIT_MS)
    expect(page.locator("h1")).to_have_text("This address does not work any more.")
    page.close()


def test_view_ends_with_its_right(live: Stack, browser: Browser) -> None:
    server = live.cloud.servers[3]
    if not has_any(live, server):
        record_session(live, browser, server)
    page = open_player(live.gateway, browser, newest(live.gateway, server))
    began = time.time()
    with RoundTrips(live.gateway) as trips:
        allow(live.gateway)
        try:
            expect(page.locator("body")).to_have_attribute("data-state", "ended", timeout=WAIT_MS)
            ended_at = served_at(live.gateway, "OpenPlayerSocket", since=began)
            assert page.locator("#screen canvas").count() == 0
        finally:
            allow(live.gateway, "nora")
    assert ended_at - policy_changed_at(live, since=began) <= trips.limit_s(1.0)
    page.close()
    eventually(lambda: has_any(live, server))


def policy_changed_at(live: Stack, *, since: float) -> float:
    return min(one["at"] for one in live.gateway.audit("policy_loaded") if one["at"] >= since)


@pytest.mark.parametrize(
    ("how", "operation"), [("views", "OpenPlayerSocket"), ("export", "ExportRecording")]
)
def test_client_that_does_not_read_is_cut_off_with_its_right(
    live: Stack, how: str, operation: str
) -> None:
    """Neither the end nor the reset waits for it, and what it has not received is dropped."""
    gateway, number = live.gateway, {"views": 21, "export": 22}[how]
    target = ConsoleTarget("prod", ProjectId(live.cloud.project), ServerId(live.cloud.servers[6]))
    details = a_recording(number, target=target, started_at=time.time() - 3_600)
    key = Secret((gateway.directory / "recording.key").read_text())
    write_large_recording(gateway.directory / "recordings", key, details)
    began = time.time()
    with stalled_client(gateway, details.id, how) as client, RoundTrips(gateway) as trips:
        try:
            allow(gateway)
            is_reset = select.poll()
            is_reset.register(client, select.POLLERR)
            assert [event & select.POLLERR for _, event in is_reset.poll(WAIT_MS)] == [
                select.POLLERR
            ]
            ended_at = served_at(gateway, operation, since=began)
        finally:
            allow(gateway, "nora")
        # What the client's own buffer had, and after it a reset.
        assert len(client.recv(1 << 20, socket.MSG_WAITALL)) < 1 << 20
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert ended_at - policy_changed_at(live, since=began) <= trips.limit_s(1.0)
    eventually(lambda: has_any(live, target.server))


@contextmanager
def stalled_client(gateway: RunningGateway, recording: str, how: str) -> Iterator[socket.socket]:
    """Yield a connection whose client reads no more, once the gateway waits for it."""
    path, body = f"/console/recordings/{recording}/{how}", {}
    head = f"POST {path} HTTP/1.1\r\nAuthorization: Bearer {gateway.cloud.token('nora')}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 2\r\n"
    frames = b"{}"
    if how == "views":
        ticket = api(gateway, "POST", path, "nora", body).json["url"].partition("#")[2]
        head = "GET /console/player/socket HTTP/1.1\r\nUpgrade: websocket\r\n"
        head += "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        head += f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n"
        head += f"Sec-WebSocket-Protocol: console-recording.v1\r\nOrigin: {gateway.url}\r\n"
        frames = text_frame({"type": "open", "ticket": ticket})
        for chunk in range(CHUNKS):
            frames += text_frame({"type": "read", "part": 1, "chunk": chunk})
    host, port = urlsplit(gateway.url).hostname, urlsplit(gateway.url).port
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.connect((host, port))
        client.sendall(f"{head}Host: {host}:{port}\r\n\r\n".encode() + frames)
        waiting = [-1, 0]

        def is_stalled() -> bool:
            unread = array.array("i", [0])
            fcntl.ioctl(client, termios.FIONREAD, unread)
            waiting.append(unread[0])
            time.sleep(0.3)
            return waiting[-1] > 0 and waiting[-1] == waiting[-2] == waiting[-3]

        eventually(is_stalled)
        yield client


def text_frame(message: dict[str, object]) -> bytes:
    data = json.dumps(message).encode()
    return struct.pack(">BBHI", 0x81, 0xFE, len(data), 0) + data


def test_keystrokes_are_shown_with_their_own_right(live: Stack, browser: Browser) -> None:
    server, gateway = live.cloud.servers[5], live.gateway
    tab = ConsoleTab(browser.new_page())
    token = live.cloud.token("anna")
    tab.page.goto(f"{gateway.url}/console#{ticket(gateway, token, server)}")
    words = "The screen of this session and what you type are recorded, passwords included."
    expect(tab.page.get_by_text(words)).to_be_visible()
    tab.page.get_by_role("button", name="Connect", exact=True).press("Enter")
    tab.wait_for_state("live")
    tab.type("root\n")
    tab.disconnect()
    tab.page.close()
    recording = newest(gateway, server)
    path = f"/console/recordings/{recording}/views"
    reply = api(gateway, "POST", path, "nora", {"keys": True})
    assert (reply.status, reply.json["error_code"]) == (404, "CGW.4048")
    refused = [one for one in gateway.audit("refused") if recording in one["detail"]]
    assert {(one["subject"], one["permission"]) for one in refused} == {("nora", "recording:keys")}
    began = time.time()
    allow(gateway, "nora", with_keystrokes="nora")
    try:
        eventually(lambda: [one for one in gateway.audit("policy_loaded") if one["at"] >= began])
        page = open_player(gateway, browser, recording, with_keystrokes=True)
        jump_to_end(page)
        expect(page.locator("#keys")).to_have_text("r o o t ⏎")
        page.close()
    finally:
        allow(gateway, "nora")
    details = [one["detail"] for one in gateway.audit("recording_viewed")]
    assert "with keystrokes" in details
    page = open_player(gateway, browser, recording)
    jump_to_end(page)
    expect(page.locator("#keys")).to_be_hidden()
    page.close()


def test_exported_file_plays_offline(live: Stack, browser: Browser, tmp_path: Path) -> None:
    server = live.cloud.servers[4]
    seen = record_session(live, browser, server)
    recording, file = newest(live.gateway, server), tmp_path / "recording.html"
    environ = of_viewer(live)
    code, output = run("recordings", "export", recording, str(file), environ=environ)
    assert code == 0, output
    assert "NOT encrypted" in output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    code, output = run("recordings", "export", recording, str(file), environ=environ)
    assert code != 0
    assert "exists" in output
    assert file.read_bytes() == before
    (exported,) = [
        one for one in live.gateway.audit("recording_exported") if one["session"] == recording
    ]
    assert (exported["subject"], exported["target"]) == ("nora", "corp:anna")
    context = browser.new_context(offline=True)
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(file.as_uri())
    expect(page.get_by_text("Not encrypted", exact=True)).to_be_visible()
    assert jump_to_end(page) == seen
    assert problems == []
    context.close()


def test_command_prints_list_and_address(live: Stack, browser: Browser) -> None:
    server = live.cloud.servers[4]
    if not has_any(live, server):
        record_session(live, browser, server)
    recording = newest(live.gateway, server)
    environ = of_viewer(live)
    code, output = run("recordings", "list", "--server", server, environ=environ)
    assert (code, recording in output, "anna" in output) == (0, True, True)
    code, output = run(
        "recordings", "play", recording, "--at", "2026-11-30T08:12:44Z", environ=environ
    )
    assert code == 0
    assert output.startswith(f"{live.gateway.url}/console/player#")
    assert output.rstrip().endswith("&at=2026-11-30T08:12:44Z")
    assert run("recordings", "play", "x", environ=environ)[0] != 0


def test_list_goes_on_where_a_page_ended(live: Stack, browser: Browser) -> None:
    gateway, environ = live.gateway, of_viewer(live)
    for server in live.cloud.servers[:2]:
        if not has_any(live, server):
            record_session(live, browser, server)
    everything = listing(gateway, "limit=1000")
    assert (everything["more"], everything["until"]) == (False, None)
    listed, query, more = list[str](), "limit=1", True
    while more:
        page = listing(gateway, query)
        listed += [one["id"] for one in page["recordings"]]
        more, query = page["more"], f"limit=1&until={page['until']}"
    assert listed == [one["id"] for one in everything["recordings"]]
    code, output = run("recordings", "list", "--limit", "1", environ=environ)
    assert (code, "There are more: narrow the search" in output) == (0, True), output


def listing(gateway: RunningGateway, query: str) -> Any:
    """Return a page of the list; a busy disk may not have answered in time (503)."""
    found: list[Response] = []
    path = f"/console/recordings?{query}"
    eventually(
        lambda: found.append(api(gateway, "GET", path)) or found[-1].status != 503,
        lambda: found[-1].body,
    )
    assert found[-1].status == 200, found[-1].body
    assert found[-1].json["complete"], "Redis did not answer"
    return found[-1].json


def test_eight_hours_are_played_from_any_second(live: Stack, browser: Browser) -> None:
    """Neither the page nor the gateway keeps all of it in memory."""
    gateway, now = live.gateway, time.time()
    target = ConsoleTarget("prod", ProjectId(live.cloud.project), ServerId(live.cloud.servers[5]))
    details = a_recording(8, target=target, started_at=now - 9 * 3_600)
    key = Secret((gateway.directory / "recording.key").read_text())
    size = write_long_recording(gateway.directory / "recordings", key, details)
    assert size > 140_000_000
    (worker,) = gateway.workers()
    before = peak_bytes(worker)
    environ = of_viewer(live)
    code, output = run("recordings", "list", "--server", target.server, environ=environ)
    assert (code, "  8:00:00  time_limit  " in output) == (0, True), output
    page = open_player(gateway, browser, details.id)
    assert page.locator("#length").inner_text() == "8:00:00"
    for second, clock in ((14_407, "4:00:07"), (28_799, "7:59:59"), (12, "0:12")):
        jump(page, second)
        assert shown_lines(page) == lines_at(second), second
        assert page.locator("#time").inner_text() == clock
    usage = page.context.new_cdp_session(page).send("Runtime.getHeapUsage")
    # It caches chunks of 96 MiB at most.
    assert usage["usedSize"] + usage.get("backingStorageSize", 0) < 0.95 * size, usage
    assert peak_bytes(worker) - before < 0.3 * size
    page.close()


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1_024 * int(status.partition("VmHWM:")[2].split()[0])


def test_recording_that_was_removed_is_not_played(live: Stack, browser: Browser) -> None:
    """An open view goes on; later requests do not find it."""
    server = live.cloud.servers[4]
    if not has_any(live, server):
        record_session(live, browser, server)
    recording = newest(live.gateway, server)
    page = open_player(live.gateway, browser, recording)
    path = RecordingDirectory(live.gateway.directory / "recordings").find(recording)
    assert path is not None
    delete_removed(mark_removed(path))
    for name in ("views", "export"):
        reply = api(live.gateway, "POST", f"/console/recordings/{recording}/{name}", "nora", {})
        assert (reply.status, reply.json["error_code"]) == (404, "CGW.4048")
    found = api(live.gateway, "GET", "/console/recordings").json["recordings"]
    assert recording not in [one["id"] for one in found]
    jump_to_end(page)
    expect(page.locator("#words")).to_be_hidden()
    page.close()


def test_recording_that_is_not_intact_is_named_so(live: Stack, browser: Browser) -> None:
    """The list, the player, the export and the audit record say it; the rest is played."""
    server, gateway = live.cloud.servers[1], live.gateway
    record_session(live, browser, server, reload=True)
    recording = newest(gateway, server)
    path = RecordingDirectory(gateway.directory / "recordings").find(recording)
    assert path is not None
    (path / "part-0001.part").unlink()
    problem = "part 1: missing: its file is missing, and no line records the removal"
    assert api(gateway, "GET", f"/console/recordings/{recording}").json["problems"] == [problem]
    environ = {
        "CONSOLE_GATEWAY_URL": gateway.url,
        "CONSOLE_GATEWAY_TOKEN": live.cloud.token("nora"),
    }
    _, output = run("recordings", "list", "--server", server, environ=environ)
    assert f"NOT INTACT: {problem}" in output
    page = open_player(gateway, browser, recording)
    expect(page.locator("#problems")).to_have_text(f"This recording is not intact. {problem}.")
    jump_to_end(page)
    expect(page.locator("#problems")).to_be_visible()
    page.close()
    records = gateway.audit("recording_viewed")
    assert [one["detail"] for one in records if one["session"] == recording][-1] == problem
    exported = api(gateway, "POST", f"/console/recordings/{recording}/export", "nora", {})
    assert problem in exported.body.decode()
    details = path / "recording.json"
    details.write_bytes(details.read_bytes().replace(b'"anna"', b'"ben"'))
    reply = api(gateway, "POST", f"/console/recordings/{recording}/export", "nora", {})
    assert (reply.status, reply.json["error_code"]) == (409, "CGW.4092")
    assert "was changed or damaged" in reply.json["error_msg"]
