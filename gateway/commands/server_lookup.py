"""Find the server that a person means, over all projects that they may see."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from gateway.commands.exit_codes import NoSuchServer, usage_error
from gateway.commands.gateway_client import GatewayClient
from gateway.commands.server_list import ListedServer, list_servers

PROJECT_ID: Final = re.compile(r"[0-9a-f]{32}")
_LISTED_MAX: Final = 20
_EXACT: Final = "PROJECT/SERVER"


class FoundServer(NamedTuple):
    project: str
    id: str


def find_server(gateway: GatewayClient, text: str) -> FoundServer:
    """Return the server that `text` names.

    `text` is NAME, ID, AREA/NAME or PROJECT/ID; an area is a region, account or project. Raises
    CommandFailed if there is no such server or if there are several.
    """
    area, slash, name = text.rpartition("/")
    if not name or (slash and not area):
        raise usage_error(f"Specify the server as NAME, ID, REGION/NAME or {_EXACT}.")
    if slash and (PROJECT_ID.fullmatch(area) or _is_uuid(name)):
        return _in_project(gateway, area, name)
    servers = list_servers(gateway)
    if servers is None and slash:
        return _in_project(gateway, area, name)
    if servers is None:
        raise usage_error(
            f"Specify the server as {_EXACT}: this gateway does not list the servers of all"
            " projects (`page.enabled`)."
        )
    found = [one for one in servers if one.is_called(text) or (slash and one.is_at(area, name))]
    one = _only([one for one in found if one.can_open] or found, text)
    return FoundServer(one.project, one.id)


def _only(found: Sequence[ListedServer], text: str) -> ListedServer:
    if len(found) == 1:
        return found[0]
    if not found:
        raise NoSuchServer(
            f"No server visible to you is called {text}. `gateway servers` lists them."
        )
    shown = "; ".join(one.line for one in found[:_LISTED_MAX])
    more = f"; and {len(found) - _LISTED_MAX} more" if len(found) > _LISTED_MAX else ""
    raise usage_error(
        f"{len(found)} servers visible to you are called {text}. Specify one of them as {_EXACT}:"
        f" {shown}{more}."
    )


def _in_project(gateway: GatewayClient, project: str, server: str) -> FoundServer:
    if _is_uuid(server):
        return FoundServer(project, server)
    ids = [str(one["id"]) for one in gateway.servers(project) if one.get("name") == server]
    if len(ids) == 1:
        return FoundServer(project, ids[0])
    if not ids:
        raise NoSuchServer(
            f"No server visible to you has the name {server}. `gateway servers {project}` lists"
            " those of the project."
        )
    raise usage_error(
        f"{len(ids)} servers visible to you have the name {server}: {', '.join(ids)}."
        " Specify the server by ID."
    )


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False
