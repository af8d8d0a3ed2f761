"""Rooms (IDCs), racks and tags.

The error table has no code for an unknown rack or room: read as iMetal.0001.
"""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gateway.demo.cloud.fleet import REGION, Rack
from gateway.demo.cloud.request import Asked, as_tags, invalid, missing, page

_KEY_MAX, _VALUE_MAX = 128, 255
_DESCRIPTION_BYTES_MAX = 512
_SET_MAX = 100
_TYPES = ("physicalservers",)
"""What can be tagged through /{resource_type}/…."""


def create_tags(asked: Asked) -> web.Response:
    return _tag(asked, _tagged(asked))


def delete_tags(asked: Asked) -> web.Response:
    return _untag(asked, _tagged(asked))


def create_rack_tags(asked: Asked) -> web.Response:
    return _tag(asked, _rack(asked, "id").tags)


def delete_rack_tags(asked: Asked) -> web.Response:
    return _untag(asked, _rack(asked, "id").tags)


def list_rooms(asked: Asked) -> dict[str, Any]:
    project = asked.project
    rooms = {
        room.id: {
            "id": room.id,
            "name": room.name,
            "region": REGION,
            "irack_num": sum(rack.dc == room.name for rack in project.racks.values()),
            "description": room.description,
        }
        for room in project.rooms.values()
    }
    return _listed(asked, "idcs", rooms)


def list_racks(asked: Asked) -> dict[str, Any]:
    racks = {rack.id: _describe(rack) for rack in asked.project.racks.values()}
    return _listed(asked, "iracks", racks)


def update_rooms(asked: Asked) -> web.Response:
    """Take a list of `{id, description}`; all or none."""
    if not isinstance(asked.body, list) or not 1 <= len(asked.body) <= _SET_MAX:
        raise invalid("body")
    for one in asked.body:
        if not isinstance(one, dict) or one.get("id") not in asked.project.rooms:
            raise invalid("id")
        _check_description(one.get("description"))
    for one in asked.body:
        asked.project.rooms[one["id"]].description = one["description"]
    return web.Response(text="The rooms are updated.")


def update_rack(asked: Asked) -> web.Response:
    rack = _rack(asked, "irack_id")
    description = asked.given("description", str)
    _check_description(description)
    rack.description = description
    return web.Response(text="The rack is updated.")


def _tagged(asked: Asked) -> dict[str, str]:
    if asked.path["resource_type"] not in _TYPES:
        raise invalid("resource_type")
    return asked.server("resource_id").tags


def _tag(asked: Asked, tags: dict[str, str]) -> web.Response:
    """Set tags; one that is there already gets the new value."""
    added = {}
    for tag in _read_tags(asked):
        if "value" not in tag:
            raise missing("value")
        if not isinstance(tag["value"], str) or len(tag["value"]) > _VALUE_MAX:
            raise invalid("value")
        added[tag["key"]] = tag["value"]
    tags.update(added)
    return web.Response(status=204)


def _untag(asked: Asked, tags: dict[str, str]) -> web.Response:
    """Remove tags by key, whatever the value, and whether or not they are there: our reading."""
    for tag in _read_tags(asked):
        tags.pop(tag["key"], None)
    return web.Response(status=204)


def _read_tags(asked: Asked) -> list[dict[str, Any]]:
    tags: list[Any] = asked.given("tags", list)
    if not tags:
        raise missing("tags")
    for tag in tags:
        key = tag.get("key") if isinstance(tag, dict) else None
        if not isinstance(key, str) or not 1 <= len(key) <= _KEY_MAX or key != key.strip():
            raise invalid("key")
        if key.startswith("_sys_"):
            raise invalid("key")
    return tags


def _rack(asked: Asked, name: str) -> Rack:
    rack = asked.project.racks.get(asked.path[name])
    if rack is None:
        raise invalid(name)
    return rack


def _describe(rack: Rack) -> dict[str, Any]:
    return {
        "id": rack.id,
        "name": rack.name,
        "dc": rack.dc,
        "region": REGION,
        "location": f"{rack.dc}/{rack.name}",
        "size": "600*1200*2000",
        "unit": "42",
        "power": "8",
        "description": rack.description,
        "tags": as_tags(rack.tags),
        "order_status": "normal",
        "is_cloud_based": "true",
        "operation_status": 0,
        "freeze_effect": 0,
        "scene": "",
    }


def _listed(asked: Asked, name: str, entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    # The newer page has `region` as mandatory, the SDK does not: it is a filter where given.
    ids = sorted(entries) if asked.query.get("region", REGION) == REGION else []
    marker = asked.query.get("marker", "")
    if marker and marker not in entries:
        raise invalid("marker")
    cut, info = page(ids, marker, asked.limit(1, 2000, 2000))
    return {name: [entries[one] for one in cut], "page_info": info, "count": len(ids)}


def _check_description(description: object) -> None:
    if not isinstance(description, str) or len(description.encode()) > _DESCRIPTION_BYTES_MAX:
        raise invalid("description")
