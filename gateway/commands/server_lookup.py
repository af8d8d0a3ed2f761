"""Find the server that a person means, over all projects that they may see."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from uuid import UUID

from gateway.commands.exit_codes import CommandFailed, usage_error
from gateway.commands.gateway_client import GatewayClient, require_member

_PROJECT_ID: Final = re.compile(r"[0-9a-f]{32}")
_LISTED_MAX: Final = 20
_EXACT: Final = "PROJECT/SERVER"


@dataclass(frozen=True, slots=True)
class FoundServer:
    project: str
    id: str
    name: str = ""
    areas: tuple[str, ...] = ()
    """Region, account and name of the project."""
    can_open: bool = True

    @property
    def line(self) -> str:
        return f"{self.project}/{self.id} ({', '.join(self.areas)})"

    def is_called(self, text: str) -> bool:
        return text == self.name or text.lower() == self.id

    def is_at(self, area: str, name: str) -> bool:
        return name == self.name and area in (self.project, *self.areas)


def find_server(gateway: GatewayClient, text: str) -> FoundServer:
    """Return the server that `text` names.

    `text` is NAME, ID, AREA/NAME or PROJECT/ID; an area is a region, account or project. Raises
    CommandFailed if there is no such server or if there are several.
    """
    area, slash, name = text.rpartition("/")
    if not name or (slash and not area):
        raise usage_error(f"Specify the server as NAME, ID, REGION/NAME or {_EXACT}.")
    if slash and (_PROJECT_ID.fullmatch(area) or _is_uuid(name)):
        return _in_project(gateway, area, name)
    servers = _visible(gateway)
    if servers is None and slash:
        return _in_project(gateway, area, name)
    if servers is None:
        raise usage_error(
            f"Specify the server as {_EXACT}: this gateway does not list the servers of all"
            " projects (`page.enabled`)."
        )
    found = [one for one in servers if one.is_called(text) or (slash and one.is_at(area, name))]
    return _only([one for one in found if one.can_open] or found, text)


def _only(found: Sequence[FoundServer], text: str) -> FoundServer:
    if len(found) == 1:
        return found[0]
    if not found:
        raise usage_error(f"No server visible to you is called {text}.")
    shown = "; ".join(one.line for one in found[:_LISTED_MAX])
    more = f"; and {len(found) - _LISTED_MAX} more" if len(found) > _LISTED_MAX else ""
    raise usage_error(
        f"{len(found)} servers visible to you are called {text}. Specify one of them as {_EXACT}:"
        f" {shown}{more}."
    )


def _visible(gateway: GatewayClient) -> list[FoundServer] | None:
    """Return each visible server; None if this gateway does not list them."""
    try:
        projects = require_member(gateway.request("/servers").data, "projects", list)
    except CommandFailed as error:
        if error.fields.get("status") == HTTPStatus.NOT_FOUND:
            return None
        raise
    found = []
    for project in projects:
        project_id = require_member(project, "project_id", str)
        named = (project.get(key) for key in ("region", "account", "project_name"))
        areas = tuple(dict.fromkeys(str(one) for one in named if one and one != project_id))
        for server in require_member(project, "servers", list):
            permissions = map(str, require_member(server, "permissions", list))
            found.append(
                FoundServer(
                    project_id,
                    require_member(server, "id", str),
                    str(server.get("name") or ""),
                    areas,
                    not {"console:open", "console:view"}.isdisjoint(permissions),
                )
            )
    return found


def _in_project(gateway: GatewayClient, project: str, server: str) -> FoundServer:
    if _is_uuid(server):
        return FoundServer(project, server)
    ids = [str(one["id"]) for one in gateway.servers(project) if one.get("name") == server]
    if len(ids) == 1:
        return FoundServer(project, ids[0])
    if not ids:
        raise usage_error(f"No server visible to you has the name {server}.")
    raise usage_error(
        f"{len(ids)} servers visible to you have the name {server}: {', '.join(ids)}."
        " Specify the server by ID."
    )


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
