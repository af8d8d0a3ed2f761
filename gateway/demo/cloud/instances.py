"""Instances: operating systems installed on servers, linked to them only by `server_id`."""

import random
import uuid
from typing import Any

from aiohttp import web

from gateway.demo.cloud import cloud_errors
from gateway.demo.cloud.fleet import Instance, Server
from gateway.demo.cloud.operation_call import (
    OperationCall,
    OperationFailed,
    invalid_parameter,
    paginate,
)

_REINSTALLED_MAX = 10
_SET_MAX = 100
"""Assumed: the size limit of sets for which no source documents one."""
_AT = "2026-03-02T10:00:00Z"
_SPECIALS = frozenset("!@$%^-_=+[{}]:,./?")


def list_instances(call: OperationCall) -> dict[str, Any]:
    known, limit = call.project.instances, call.limit(10, 1000, 1000)
    by_id, by_server = call.comma_list("instance_id"), call.comma_list("server_id")
    if by_id is not None and by_server is not None:
        raise invalid_parameter("server_id")
    marker = call.query.get("marker", "")
    if marker and marker not in known:
        raise invalid_parameter("marker")
    # Assumed, because the page has no 404: unknown IDs match nothing.
    fitting = known.values() if by_id is None else [known[one] for one in by_id if one in known]
    if by_server is not None:
        fitting = [one for one in fitting if one.server_id in by_server]
    if (state := call.query.get("instance_state")) and state != "running":
        fitting = []
    ids = sorted({one.id for one in fitting})
    cut, info = paginate(ids, marker, limit)
    shown = [_describe(known[one]) for one in cut]
    return {"instances": shown, "page_info": info, "count": len(ids)}


def show_status(call: OperationCall) -> dict[str, Any]:
    if call.path["id"] in call.project.terminated:
        return {"state": "terminated", "operation_state": "uninstall-succeed"}
    return {"state": "running", "operation_state": call.instance().operation_state}


def create(call: OperationCall) -> dict[str, Any]:
    placement = call.member("placement", dict, default={})
    details = _read_details(call)
    server_id = placement.get("server_id")
    if not server_id:
        (server,) = _pick(call, 1)
    elif isinstance(server_id, str):
        (server,) = _ready(call.servers([server_id]))
    else:
        raise invalid_parameter("placement.server_id")
    return {"instance_id": _install(call, server, details).id}


def run(call: OperationCall) -> dict[str, Any]:
    placement = call.member("placement", dict, default={})
    details = _read_details(call)
    wanted = placement.get("server_id_set") or []
    if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted):
        raise invalid_parameter("placement.server_id_set")
    least = call.member("min_count", int, default=1)
    most = call.member("max_count", int, default=max(least, len(wanted)))
    if not 1 <= least <= most or len(wanted) > _SET_MAX:
        raise invalid_parameter("min_count")
    if wanted:
        servers = _ready(call.servers(list(dict.fromkeys(wanted))))[:most]
    else:
        servers = _pick(call, least, most)
    if len(servers) < least:
        raise invalid_parameter("min_count")
    return {"instances": [{"id": _install(call, server, details).id} for server in servers]}


def delete(call: OperationCall) -> web.Response:
    call.project.terminate(call.instance().id)
    return web.Response(status=204)


def delete_set(call: OperationCall) -> dict[str, Any]:
    instances = call.instances(call.id_set("instance_id_set", _SET_MAX))
    for instance in instances:
        call.project.terminate(instance.id)
    return _ids(instances)


def reinstall(call: OperationCall) -> dict[str, Any]:
    instances = call.instances(call.id_set("instance_id_set", _REINSTALLED_MAX))
    _check_password(call, "password")
    image = call.member("image_id", str, default="")
    for instance in instances:
        instance.image_id = image or instance.image_id
        instance.reinstalls += 1
        instance.operation_state = "reinstall-succeed"
    return _ids(instances)


def change_password(call: OperationCall) -> dict[str, Any]:
    instances = call.instances(call.id_set("instance_id_set", _SET_MAX))
    _check_password(call, "new_password")
    for instance in instances:
        instance.password_changes += 1
    return _ids(instances)


def modify_ip(call: OperationCall) -> web.Response:
    instance = call.instance()
    vpc = call.member("vpc_id", str)
    instance.networks = [
        {"subnet_id": nic["subnet_id"], "ipv4_address": nic.get("ip_address") or "192.168.254.9"}
        for nic in _read_networks(call, "nics")
    ]
    instance.vpc_id, instance.operation_state = vpc, "modify-ip-succeed"
    return web.Response(status=202)


def summarize(instance: Instance) -> dict[str, Any]:
    """Return the public fields and the counters that tests read."""
    counts = {"reinstalls": instance.reinstalls, "password_changes": instance.password_changes}
    return _describe(instance) | counts


def _describe(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "name": instance.name,
        "vpc_id": instance.vpc_id,
        "network_interfaces": instance.networks,
        "tags": [],
        "image": {"id": instance.image_id, "name": "demo-linux", "os_type": "Linux"},
        "description": instance.description,
        "state": "running",
        "operation_state": instance.operation_state,
        "metadata": instance.metadata,
        "server_id": instance.server_id,
        "created_at": _AT,
        "updated_at": _AT,
        "launched_at": _AT,
    }


def _read_details(call: OperationCall) -> dict[str, Any]:
    """Read the properties of a new instance; only description and metadata are optional."""
    details = {
        "name": call.member("name", str),
        "image_id": call.member("image_id", str),
        "vpc_id": call.member("vpc_id", str),
        "description": call.member("description", str, default=""),
        "metadata": call.member("metadata", dict, default={}),
    }
    if not 1 <= len(details["name"]) <= 63:
        raise invalid_parameter("name")
    networks = _read_networks(call, "network_interfaces")
    _check_password(call, "password")
    return details | {"networks": networks}


def _read_networks(call: OperationCall, name: str) -> list[dict[str, str]]:
    networks: list[Any] = call.member(name, list)
    fits = [isinstance(one, dict) and isinstance(one.get("subnet_id"), str) for one in networks]
    if not 1 <= len(networks) <= 2 or not all(fits):
        raise invalid_parameter(name)
    return networks


def _check_password(call: OperationCall, name: str) -> None:
    password = call.member(name, str)
    kinds = (str.islower, str.isupper, str.isdigit, _SPECIALS.__contains__)
    if not 8 <= len(password) <= 26 or sum(any(map(kind, password)) for kind in kinds) < 3:
        raise invalid_parameter(name)


def _install(call: OperationCall, server: Server, details: dict[str, Any]) -> Instance:
    instance = call.project.install(server, str(uuid.uuid4()), details["name"])
    own_networks = instance.networks
    for name, value in details.items():
        setattr(instance, name, value)
    # Without an address in the request, the instance gets the default one.
    instance.networks = [
        {"ipv4_address": own_networks[0]["ipv4_address"]} | network
        for network in details["networks"]
    ]
    return instance


def _pick(call: OperationCall, least: int, most: int = 1) -> list[Server]:
    """Pick random idle servers, as the scheduler does without a placement (upstream-api.md#1.1)."""
    idle = call.project.idle()
    if len(idle) < least:
        raise OperationFailed(cloud_errors.SERVER_NOT_READY)
    return random.sample(idle, min(most, len(idle)))


def _ready(servers: list[Server]) -> list[Server]:
    if any(server.manage_state != "ready" for server in servers):
        raise OperationFailed(cloud_errors.SERVER_NOT_READY)
    return servers


def _ids(instances: list[Instance]) -> dict[str, Any]:
    return {"instances": [{"id": instance.id} for instance in instances]}
