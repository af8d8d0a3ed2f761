"""A person's servers over all projects: `GET /servers`, the same below `/ui`, and the command."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import programs
from tests.support.browser_login import ENVIRON, LoginBrowser, enable_login
from tests.support.stack import CloudProcess, Response, Stack, eventually, fetch


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack(CloudProcess("--rate", "1000", "--burst", "1000"), start=False, environ=ENVIRON)
    stack.gateway.config["page"] = {"enabled": True}
    stack.gateway.config["accounts"][0]["region"] = "cn-east-3"
    stack.gateway.config["store"]["timeout_s"] = 1
    enable_login(stack.gateway)
    stack.gateway.start()
    eventually(lambda: bool(servers_of(listing(stack, "victor", "viewers"))))
    yield stack
    stack.close()


def listing(stack: Stack, subject: str, group: str, **headers: str) -> Response:
    token = stack.cloud.token(subject, groups=[group])
    authorization = {"Authorization": f"Bearer {token}", **headers}
    return fetch(stack.gateway.url, "GET", "/servers", authorization)


def servers_of(response: Response) -> dict[str, Any]:
    assert response.status == 200, response.body
    projects = json.loads(response.body)["projects"]
    return {one["id"]: one for project in projects for one in project["servers"]}


def console(stack: Stack, server: str) -> tuple[int, str]:
    environ = {
        "CONSOLE_GATEWAY_URL": stack.gateway.url,
        "CONSOLE_GATEWAY_TOKEN": stack.cloud.token("olga", groups=["operators"]),
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
