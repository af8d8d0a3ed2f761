"""The shell of a person's pages: its paths, headers and configuration; the calls of its buttons."""

import json
import re
from typing import Any, cast
from unittest.mock import Mock

import pytest
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.errors import MethodNotAllowed, OperationUnknown
from gateway.edge.consoles.page_assets import PageAssets
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.people.people_page import PeoplePage
from gateway.edge.people.server_actions import ServerActions
from tests.support.clock import FakeClock
from tests.unit.test_page_assets import FILES

CONTACT = {"text": "On-call </script>", "url": "mailto:on-call@example.com"}


def request(method: str = "GET") -> ListenerRequest:
    return cast("ListenerRequest", Mock(method=method, headers={}))


def page(prefix: str = "") -> PeoplePage:
    return PeoplePage(PageAssets(FILES, prefix), prefix, ["servers"], CONTACT)


def shell(prefix: str = "") -> web.Response:
    return page(prefix).find_asset(request()).response(request(), CIMultiDict())


@pytest.mark.parametrize("prefix", ["", "/gw"])
def test_paths_do_not_collide_with_the_api(prefix: str) -> None:
    """Below a prefix, the paths of the API and of live consoles exist as well."""
    found = page(prefix)
    for path in (
        *("/", "/?x=1", "/page/servers/p1/s-1", "/page/servers/p1/s-1/", "/page/sessions"),
        *("/page/recordings", "/page/requests", "/page/requests/ab12", "/page/requests?server=x"),
        *("/page", "/page/other"),
    ):
        assert found.owns(prefix + path), path
    for path in (
        *("//", "/pages", "/requests", "/servers", "/console", "/login", "/ui/servers"),
        *("/v1/p1/physicalservers", "//page", "/Page/requests"),
    ):
        assert not found.owns(prefix + path), path
    assert not page("/gw").owns("/")


def test_shell_is_static_and_has_no_inline_code() -> None:
    response = shell("/gw")
    assert isinstance(response.body, bytes)
    text = response.body.decode()
    assert response.headers["Cache-Control"] == "no-store"
    policy = response.headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    scripts = re.findall(r"<script([^>]*)>", text)
    assert len(scripts) == 2
    assert "src=" in scripts[1]
    assert 'type="application/json"' in scripts[0]
    block = text.partition('id="config">')[2].partition("</script>")[0]
    assert json.loads(block) == {"base": "/gw", "pages": ["servers"], "contact": CONTACT}
    assert "{{" not in text
    addresses = re.findall(r'(?:href|src)="([^"#]+)"', text)
    assert addresses
    assert all(one.startswith("/gw/console/assets/") for one in addresses)


def test_shell_is_read_only() -> None:
    with pytest.raises(MethodNotAllowed):
        page().find_asset(request("POST"))
    with pytest.raises(OperationUnknown):
        page().find_endpoint(request())


def test_every_call_needs_a_fresh_login() -> None:
    """Where `login.fresh_s` is set."""
    anything = cast("Any", None)
    paths = ServerActions(anything, anything, FakeClock()).paths
    actions = [action for _, methods in paths for action in methods.values()]
    assert [action.name for action in actions] == ["ShowRemoteConsole", "ChangeServerPowerState"]
    assert all(action.needs_fresh_login for action in actions)
    assert all(list(methods) == ["POST"] for _, methods in paths)
