"""A person's servers over all projects: `GET /servers`, the same below `/ui`, and the command."""

import gzip
import json
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import programs
from tests.support.browser_login import ENVIRON, LoginBrowser, enable_login
from tests.support.stack import (
    CloudProcess,
    Response,
    Stack,
    eventually,
    fetch,
    make_policy,
)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack(CloudProcess("--rate", "1000", "--burst", "1000"), start=False, environ=ENVIRON)
    stack.gateway.config["page"] = {"enabled": True}
    stack.gateway.config["accounts"][0]["region"] = "cn-east-3"
    enable_login(stack.gateway)
    policy = make_policy(stack.cloud)
    policy["roles"]["switcher"] = ["server:power"]
    switchers = {"role": "switcher", "to": {"groups": ["switchers"]}, "on": "everything"}
    policy["grants"].append(switchers)
    stack.gateway.write_policy(policy)
    stack.gateway.start()
    eventually(lambda: bool(servers_of(listing(stack, "victor", "viewers"))))
    yield stack
    stack.close()


def listing(
    stack: Stack, subject: str, group: str, *, path: str = "/servers", **headers: str
) -> Response:
    token = stack.cloud.token(subject, groups=[group])
    authorization = {"Authorization": f"Bearer {token}", **headers}
    return fetch(stack.gateway.url, "GET", path, authorization)


def servers_of(response: Response) -> dict[str, Any]:
    assert response.status == 200, response.body
    projects = json.loads(response.body)["projects"]
    return {one["id"]: one for project in projects for one in project["servers"]}


def console(stack: Stack, server: str) -> tuple[int, str]:
    environ = {
        "CONSOLE_GATEWAY_URL": stack.gateway.url,
        "CONSOLE_GATEWAY_TOKEN": stack.cloud.token("olga", groups=["operators"]),
        "XDG_CACHE_HOME": str(stack.gateway.directory),
    }
    ran = programs.run("gateway", "console", "--json", server, environ=environ)
    return ran.returncode, ran.stdout + ran.stderr


def test_each_person_sees_their_own_servers(stack: Stack) -> None:
    """No rule of this policy selects by attributes: the switch alone has the servers listed."""
    cloud = stack.cloud
    of_olga = servers_of(listing(stack, "olga", "operators"))
    assert set(of_olga) == set(cloud.servers[:-1])
    one = of_olga[cloud.servers[0]]
    assert one["permissions"] == ["console:open", "server:read"]
    assert (one["name"], one["power_state"]) == (f"bms-{cloud.servers[0][:8]}", "on")
    assert set(servers_of(listing(stack, "victor", "viewers"))) == set(cloud.servers)
    assert json.loads(listing(stack, "otto", "nobody").body) == {"projects": []}
    assert fetch(stack.gateway.url, "GET", "/servers").status == 401
    assert fetch(stack.gateway.url, "POST", "/servers").status == 405


def test_unchanged_list_is_not_sent_again(stack: Stack) -> None:
    first = listing(stack, "olga", "operators")
    again = listing(stack, "olga", "operators", **{"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    foreign = listing(stack, "victor", "viewers", **{"If-None-Match": first.headers["etag"]})
    assert foreign.status == 200


def test_long_list_is_compressed(stack: Stack) -> None:
    """The simulated cloud has enough servers for that."""
    plain = listing(stack, "olga", "operators")
    coded = listing(stack, "olga", "operators", **{"Accept-Encoding": "gzip"})
    assert coded.headers["content-encoding"] == "gzip"
    assert gzip.decompress(coded.body) == plain.body
    assert coded.headers["etag"] == plain.headers["etag"][:-1] + '-gzip"'


def test_state_says_how_old_the_list_is(stack: Stack) -> None:
    shown = json.loads(listing(stack, "victor", "viewers", path="/servers/state").body)
    assert f'"{shown["list"]}"' == listing(stack, "victor", "viewers").headers["etag"]
    (project,) = shown["projects"]
    assert (project["region"], project["is_current"], project["problem"]) == (
        *("cn-east-3", True, None),
    )
    assert project["listed_at"] is not None
    assert shown["consoles"] is None, "no account delivers live consoles"


def test_changed_power_is_shown_soon(stack: Stack) -> None:
    """The next list would be read after a minute."""
    cloud, server = stack.cloud, stack.cloud.servers[5]  # whose power no other test reads
    body = {"action": "power off", "server_id_set": [server]}
    headers = {
        "Authorization": f"Bearer {cloud.token('paula', groups=['switchers'])}",
        "Content-Type": "application/json",
    }
    path = f"/v1/{cloud.project}/physicalservers/power-state"
    changed = fetch(stack.gateway.url, "PUT", path, headers, json.dumps(body))
    assert changed.status == 200, changed.body

    def power() -> list[dict[str, str]]:
        state = listing(stack, "victor", "viewers", path="/servers/state")
        shown: list[dict[str, str]] = json.loads(state.body)["power"]
        return shown

    eventually(power)
    (one,) = power()
    assert (one["server_id"], one["power_state"]) == (server, "off")


def test_browser_session_reads_the_same_list(stack: Stack) -> None:
    browser = LoginBrowser(stack.gateway.url)
    assert browser.ui("GET", "/ui/servers").status == 401
    browser.log_in("olga")
    shown = browser.ui("GET", "/ui/servers")
    assert shown.status == 200
    assert shown.json == json.loads(listing(stack, "olga", "operators").body)


@pytest.mark.parametrize("form", ["{name}", "{id}", "cn-east-3/{name}", "{project}/{name}"])
def test_console_finds_the_server(stack: Stack, form: str) -> None:
    cloud, server = stack.cloud, stack.cloud.servers[1]
    text = form.format(name=f"bms-{server[:8]}", id=server, project=cloud.project)
    code, output = console(stack, text)
    assert code == 0, output
    assert json.loads(output)["server_id"] == server


def test_console_does_not_find_hidden_servers(stack: Stack) -> None:
    hidden = console(stack, f"bms-{stack.cloud.servers[-1][:8]}")
    missing = console(stack, "bms-00000000")
    assert hidden[0] == missing[0] == 2
    assert "No server visible to you is called" in hidden[1]


def offered(
    stack: Stack, home: Path, prefix: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    everything = {
        "CONSOLE_GATEWAY_URL": stack.gateway.url,
        "CONSOLE_GATEWAY_TOKEN": stack.cloud.token("olga", groups=["operators"]),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        **environ,
    }
    ran = programs.run("gateway", "completion", "--servers", prefix, environ=everything)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran


def test_completion_offers_own_servers_from_a_cache(stack: Stack, tmp_path: Path) -> None:
    cloud = stack.cloud
    names = {f"bms-{one[:8]}" for one in cloud.servers[:-1]}
    # On a busy machine, the list may come after the time that a completion has.
    eventually(lambda: set(offered(stack, tmp_path).stdout.split()) == names)
    (file,) = (tmp_path / "cache/console-gateway").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    by_id = offered(stack, tmp_path, cloud.servers[0][:20]).stdout
    assert by_id == f"{cloud.servers[0]}\n"
    with file.open("a") as text:
        text.write("zzz-cached\nzzz $(touch harmed)\n")
    assert offered(stack, tmp_path, "zzz").stdout == "zzz-cached\n"
    other = {"CONSOLE_GATEWAY_TOKEN": stack.cloud.token("victor", groups=["viewers"])}
    assert offered(stack, tmp_path, "zzz", **other).stdout == ""
    logged_out = {
        "CONSOLE_GATEWAY_URL": stack.gateway.url,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    assert programs.run("gateway", "logout", environ=logged_out).returncode == 0
    assert [*file.parent.iterdir()] == []


def test_completion_shows_no_error_and_does_not_hang(stack: Stack, tmp_path: Path) -> None:
    for environ in (
        {"CONSOLE_GATEWAY_URL": ""},
        {"CONSOLE_GATEWAY_URL": "ftp://x"},
        {"CONSOLE_GATEWAY_URL": "http://127.0.0.1:9"},
        {"CONSOLE_GATEWAY_TOKEN": ""},
        {"CONSOLE_GATEWAY_TOKEN": "not a token"},
    ):
        assert offered(stack, tmp_path, **environ).stdout == ""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert offered(stack, tmp_path, CONSOLE_GATEWAY_URL=url).stdout == ""
        assert time.monotonic() - began < 40  # on a busy machine; the limit is 2 s


def test_servers_are_searched_by_words(stack: Stack) -> None:
    cloud, server = stack.cloud, stack.cloud.servers[1]
    environ = {
        "CONSOLE_GATEWAY_URL": stack.gateway.url,
        "CONSOLE_GATEWAY_TOKEN": cloud.token("olga", groups=["operators"]),
        "XDG_CACHE_HOME": str(stack.gateway.directory),
    }
    for words in ((server[:8].upper(),), ("BMS", "cn-east-3", server), (cloud.project, server[:8])):
        ran = programs.run("gateway", "servers", "--output", "json", *words, environ=environ)
        (found,) = json.loads(ran.stdout)["servers"]
        assert (found["id"], found["project_id"]) == (server, cloud.project)
    table = programs.run("gateway", "servers", "--output", "table", "bms", environ=environ).stdout
    assert table.splitlines()[0].split()[3] == "REGION"
    assert len(table.splitlines()) == len(cloud.servers)
    missing = programs.run("gateway", "servers", "bms", "no-such-word", environ=environ)
    assert (missing.returncode, missing.stdout) == (0, "")
    assert "No such server is visible to you." in missing.stderr


def logged_in(stack: Stack, person: str) -> LoginBrowser:
    browser = LoginBrowser(stack.gateway.url)
    browser.log_in(person)
    assert browser.session().status == 200
    return browser


def ui_path(stack: Stack, server: str, call: str) -> str:
    return f"/ui/servers/{stack.cloud.project}/{server}/{call}"


def test_page_exists_beside_the_api(stack: Stack) -> None:
    base, server = stack.gateway.url, stack.cloud.servers[0]
    for path in ("/", f"/page/servers/{stack.cloud.project}/{server}", "/page/requests"):
        shell = fetch(base, "GET", path)
        assert (shell.status, shell.headers["content-type"][:9]) == (200, "text/html"), path
        assert b"bms-" not in shell.body
    assert fetch(base, "POST", "/").status == 405
    assert fetch(base, "GET", "/servers").status == 401
    assert fetch(base, "GET", "/requests").status == 401


def test_page_requests_a_console_as_the_api_does(stack: Stack) -> None:
    """Same link, permission and record; a page of another origin, or without token, gets none."""
    olga, server = logged_in(stack, "olga"), stack.cloud.servers[3]
    path = ui_path(stack, server, "console")
    opened = olga.ui("POST", path)
    assert opened.status == 200, opened.body
    assert opened.json["delivery"] == "direct"
    assert opened.json["expires_in"] > 0
    assert dict(opened.headers)["Cache-Control"] == "no-store"
    by_jwt = stack.gateway.console(stack.cloud.token("olga", groups=["operators"]), server)
    assert by_jwt.json["url"] == opened.json["url"]
    records = stack.gateway.audit("console_link_issued")[-2:]
    names = ("subject", "operation", "servers", "rule", "link_fingerprint")
    assert {name: records[0][name] for name in names} == {name: records[1][name] for name in names}
    assert olga.ui("POST", path, {"fresh": True}).json["url"] != opened.json["url"]
    for headers in ({"X-CSRF-Token": "x"}, {"Origin": "https://evil.example"}):
        assert olga.ui("POST", path, headers=headers).status == 403
    assert olga.ui("POST", path, {"fresh": "yes"}).status == 400
    assert olga.ui("GET", path).status == 405
    assert LoginBrowser(stack.gateway.url).ui("POST", path).status == 401


def test_logout_while_a_link_waits_gives_no_link(stack: Stack) -> None:
    """The session is checked again before the reply, in one place for all paths below `/ui`."""
    olga, server = logged_in(stack, "olga"), stack.cloud.servers[4]
    other_tab = LoginBrowser(olga.base, cookies=dict(olga.cookies), csrf_token=olga.csrf_token)
    stack.cloud.fail(stack.cloud.upstream, "hang", path="remote-console-address")
    try:
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(olga.ui, "POST", ui_path(stack, server, "console"))
            eventually(lambda: stack.gateway.metric("gateway_fetches_in_flight") == 1)
            assert other_tab.ui("POST", "/logout").status == 200
            assert not waiting.done()
            stack.cloud.heal()
            answer = waiting.result()
    finally:
        stack.cloud.heal()
    assert (answer.status, answer.json["error_code"]) == (401, "CGW.4011")
    assert b"url" not in answer.body
    assert logged_in(stack, "olga").ui("POST", ui_path(stack, server, "console")).status == 200


def test_page_gets_no_more_than_the_policy_gives(stack: Stack) -> None:
    """A hidden server is answered as one that does not exist."""
    olga = logged_in(stack, "olga")
    hidden, missing = stack.cloud.servers[-1], "7d1f0c52-0000-4000-8000-000000000000"
    for call, body in (("console", {}), ("power", {"action": "off"})):
        answers = [olga.ui("POST", ui_path(stack, one, call), body) for one in (hidden, missing)]
        assert answers[0].status == answers[1].status == 403
        assert answers[0].body == answers[1].body
    refused = stack.gateway.audit("refused")[-1]
    assert (refused["subject"], refused["operation"]) == ("olga", "ChangeServerPowerState")
    allowed = ui_path(stack, stack.cloud.servers[0], "power")
    assert olga.ui("POST", allowed, {"action": "off"}).status == 403
    assert olga.ui("POST", allowed, {"action": "explode"}).status == 400
