"""The servers that a person sees over all projects, as `GET /servers` lists them."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from gateway.commands.exit_codes import CommandFailed
from gateway.commands.gateway_client import GatewayClient, require_member

_OPENING = frozenset({"console:open", "console:view"})


@dataclass(frozen=True, slots=True)
class ListedServer:
    project: str
    id: str
    name: str
    areas: tuple[str, ...]
    """Region, account and name of the project."""
    region: str
    power: str
    health: str
    permissions: tuple[str, ...]
    details: tuple[str, ...] = ()
    """Location and tags, as text."""

    @classmethod
    def parse(
        cls, project: str, server: dict[str, Any], permissions: tuple[str, ...], **areas: Any
    ) -> "ListedServer":
        """Read a server of the cloud's list or of the gateway's; `areas` are of its project."""
        named = (areas.get(key) for key in ("region", "account", "project_name"))
        return cls(
            project,
            require_member(server, "id", str),
            _text(server.get("name")),
            tuple(dict.fromkeys(str(one) for one in named if one and one != project)),
            _text(areas.get("region")),
            _text(server.get("power_state")),
            _text(server.get("health_state")),
            permissions,
            _details(server),
        )

    @property
    def line(self) -> str:
        return f"{self.project}/{self.id} ({', '.join(self.areas)})"

    @property
    def can_open(self) -> bool:
        return not _OPENING.isdisjoint(self.permissions)

    @property
    def fields(self) -> dict[str, Any]:
        """Return the server as JSON."""
        return {
            "project_id": self.project,
            "id": self.id,
            "name": self.name or None,
            "region": self.region or None,
            "power_state": self.power or None,
            "health_state": self.health or None,
            "permissions": list(self.permissions),
        }

    def is_called(self, text: str) -> bool:
        return text == self.name or text.lower() == self.id

    def is_at(self, area: str, name: str) -> bool:
        return name == self.name and area in (self.project, *self.areas)

    def matches(self, words: list[str]) -> bool:
        """Return whether each word, in lower case, is in its name, ID, place or tags."""
        text = "\n".join((self.project, self.id, self.name, *self.areas, *self.details)).lower()
        return all(word in text for word in words)


def list_servers(gateway: GatewayClient) -> list[ListedServer] | None:
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
        areas = {key: project.get(key) for key in ("region", "account", "project_name")}
        for server in require_member(project, "servers", list):
            permissions = tuple(map(str, require_member(server, "permissions", list)))
            found.append(ListedServer.parse(project_id, server, permissions, **areas))
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _details(server: dict[str, Any]) -> tuple[str, ...]:
    location, tags = server.get("location"), server.get("tags")
    texts = [str(one) for one in location.values()] if isinstance(location, dict) else []
    pairs = [tag for tag in (tags if isinstance(tags, list) else []) if isinstance(tag, dict)]
    return (*texts, *(f"{tag.get('key')}={tag.get('value')}" for tag in pairs))
