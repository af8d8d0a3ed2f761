"""Control paths /_box/fleet and /_box/servers: read and change the simulated fleet."""

import uuid
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gateway.demo.cloud import instances, servers
from gateway.demo.cloud.fleet import CloudProject, Server

_TEXTS = ("name", "dc", "rack", "unit", "model", "manage_state", "power_state", "health_state")


class FleetControl:
    def __init__(self, app: web.Application, projects: Mapping[str, CloudProject]) -> None:
        """Use the first of `projects` where a request names none."""
        self._projects = projects
        app.router.add_get("/_box/fleet", self._show)
        app.router.add_post("/_box/servers", self._change)

    async def _show(self, request: web.Request) -> web.Response:
        """Return every project, or only the one in `?project=`."""
        wanted = request.query.get("project", "")
        projects = [self._projects[wanted]] if wanted else self._projects.values()
        return web.json_response({"projects": {one.id: _describe(one) for one in projects}})

    async def _change(self, request: web.Request) -> web.Response:
        """Apply `{id, project, remove, tags, …}`, all optional. An unknown ID adds a server."""
        changes = await request.json()
        project = self._projects[changes.pop("project", next(iter(self._projects)))]
        server_id = changes.pop("id", None) or str(uuid.uuid4())
        if changes.pop("remove", False):
            project.remove(server_id)
            return web.json_response({"removed": server_id})
        _validate(changes)
        server = project.servers.get(server_id) or project.add(server_id)
        for name, value in changes.items():
            setattr(server, name, value)
        return web.json_response(_describe_server(project, server))


def _validate(changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if name == "tags":
            is_valid = all(isinstance(one, str) for pair in value.items() for one in pair)
        elif name in _TEXTS:
            is_valid = isinstance(value, str)
        else:
            raise ValueError(f"unknown {name!r}; known: tags, {', '.join(_TEXTS)}")
        if not is_valid:
            raise ValueError(f"{name}: {value!r}")


def _describe(project: CloudProject) -> dict[str, Any]:
    return {
        "servers": [_describe_server(project, one) for one in project.servers.values()],
        "instances": [instances.summarize(one) for one in project.instances.values()],
        "racks": {rack.id: [rack.dc, rack.name] for rack in project.racks.values()},
        "rooms": {room.id: room.name for room in project.rooms.values()},
    }


def _describe_server(project: CloudProject, server: Server) -> dict[str, Any]:
    """Return the body of ShowServer, with tags as a mapping."""
    return {**servers.describe(project, server), "tags": server.tags}
