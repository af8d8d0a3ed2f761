"""Rooms (IDCs), racks and tags.

Assumed: an unknown rack or room returns iMetal.0001, because the error table has no other code.
"""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gateway.demo.cloud.fleet import REGION, Rack
from gateway.demo.cloud.operation_call import (
    OperationCall,
    as_tag_list,
    invalid_parameter,
    missing_parameter,
    paginate,
)

_KEY_MAX, _VALUE_MAX = 128, 255
_DESCRIPTION_BYTES_MAX = 512
_SET_MAX = 100
_TYPES = ("physicalservers",)
"""Values of `resource_type` that can have tags."""


def create_tags(call: OperationCall) -> web.Response:
    return _tag(call, _tagged(call))


def delete_tags(call: OperationCall) -> web.Response:
    return _untag(call, _tagged(call))


def create_rack_tags(call: OperationCall) -> web.Response:
    return _tag(call, _rack(call, "id").tags)


def delete_rack_tags(call: OperationCall) -> web.Response:
    return _untag(call, _rack(call, "id").tags)


def list_rooms(call: OperationCall) -> dict[str, Any]:
    project = call.project
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
    return _listed(call, "idcs", rooms)


def list_racks(call: OperationCall) -> dict[str, Any]:
    racks = {rack.id: _describe(rack) for rack in call.project.racks.values()}
    return _listed(call, "iracks", racks)


def update_rooms(call: OperationCall) -> web.Response:
    """Apply a list of `{id, description}`, all or none."""
    if not isinstance(call.body, list) or not 1 <= len(call.body) <= _SET_MAX:
        raise invalid_parameter("body")
    for one in call.body:
        if not isinstance(one, dict) or one.get("id") not in call.project.rooms:
            raise invalid_parameter("id")
        _check_description(one.get("description"))
    for one in call.body:
        call.project.rooms[one["id"]].description = one["description"]
    return web.Response(text="The rooms are updated.")


def update_rack(call: OperationCall) -> web.Response:
    rack = _rack(call, "irack_id")
    description = call.member("description", str)
    _check_description(description)
    rack.description = description
    return web.Response(text="The rack is updated.")


def _tagged(call: OperationCall) -> dict[str, str]:
    if call.path["resource_type"] not in _TYPES:
        raise invalid_parameter("resource_type")
    return call.server("resource_id").tags


def _tag(call: OperationCall, tags: dict[str, str]) -> web.Response:
    """Set tags; an existing key gets the new value."""
    added = {}
    for tag in _read_tags(call):
        if "value" not in tag:
            raise missing_parameter("value")
        if not isinstance(tag["value"], str) or len(tag["value"]) > _VALUE_MAX:
            raise invalid_parameter("value")
        added[tag["key"]] = tag["value"]
    tags.update(added)
    return web.Response(status=204)


def _untag(call: OperationCall, tags: dict[str, str]) -> web.Response:
    """Remove tags by key. Assumed: the value is ignored and a missing tag is not an error."""
    for tag in _read_tags(call):
        tags.pop(tag["key"], None)
    return web.Response(status=204)


def _read_tags(call: OperationCall) -> list[dict[str, Any]]:
    tags: list[Any] = call.member("tags", list)
    if not tags:
        raise missing_parameter("tags")
    for tag in tags:
        key = tag.get("key") if isinstance(tag, dict) else None
        if not isinstance(key, str) or not 1 <= len(key) <= _KEY_MAX or key != key.strip():
            raise invalid_parameter("key")
        if key.startswith("_sys_"):
            raise invalid_parameter("key")
    return tags


def _rack(call: OperationCall, name: str) -> Rack:
    rack = call.project.racks.get(call.path[name])
    if rack is None:
        raise invalid_parameter(name)
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
        "tags": as_tag_list(rack.tags),
        "order_status": "normal",
        "is_cloud_based": "true",
        "operation_status": 0,
        "freeze_effect": 0,
        "scene": "",
    }


def _listed(
    call: OperationCall, name: str, entries: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    # `region` is mandatory on the newer page and optional in the SDK: use it as a filter.
    ids = sorted(entries) if call.query.get("region", REGION) == REGION else []
    marker = call.query.get("marker", "")
    if marker and marker not in entries:
        raise invalid_parameter("marker")
    cut, info = paginate(ids, marker, call.limit(1, 2000, 2000))
    return {name: [entries[one] for one in cut], "page_info": info, "count": len(ids)}


def _check_description(description: object) -> None:
    if not isinstance(description, str) or len(description.encode()) > _DESCRIPTION_BYTES_MAX:
        raise invalid_parameter("description")
