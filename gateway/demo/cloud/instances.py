"""Instances: what is installed on a server. Only `server_id` leads from one to its server."""

import random
import uuid
from typing import Any

from aiohttp import web

from gateway.demo.cloud import refusals
from gateway.demo.cloud.fleet import Instance, Server
from gateway.demo.cloud.request import Asked, Refused, invalid, page

_REINSTALLED_MAX = 10
_SET_MAX = 100
"""Of the sets whose bound the dossier does not know; our reading."""
_AT = "2026-03-02T10:00:00Z"
_SPECIALS = frozenset("!@$%^-_=+[{}]:,./?")


def list_instances(asked: Asked) -> dict[str, Any]:
    known, limit = asked.project.instances, asked.limit(10, 1000, 1000)
    by_id, by_server = asked.listed("instance_id"), asked.listed("server_id")
    if by_id is not None and by_server is not None:
        raise invalid("server_id")
    marker = asked.query.get("marker", "")
    if marker and marker not in known:
        raise invalid("marker")
    # Unknown ids just find nothing: our reading, since the page has no 404.
    fitting = known.values() if by_id is None else [known[one] for one in by_id if one in known]
    if by_server is not None:
        fitting = [one for one in fitting if one.server_id in by_server]
    if (state := asked.query.get("instance_state")) and state != "running":
        fitting = []
    ids = sorted({one.id for one in fitting})
    cut, info = page(ids, marker, limit)
    shown = [_describe(known[one]) for one in cut]
    return {"instances": shown, "page_info": info, "count": len(ids)}


def show_status(asked: Asked) -> dict[str, Any]:
    if asked.path["id"] in asked.project.terminated:
        return {"state": "terminated", "operation_state": "uninstall-succeed"}
    return {"state": "running", "operation_state": asked.instance().operation_state}


def create(asked: Asked) -> dict[str, Any]:
    placement = asked.given("placement", dict, default={})
    details = _read_details(asked)
    server_id = placement.get("server_id")
    if not server_id:
        (server,) = _pick(asked, 1)
    elif isinstance(server_id, str):
        (server,) = _ready(asked.servers([server_id]))
    else:
        raise invalid("placement.server_id")
    return {"instance_id": _install(asked, server, details).id}


def run(asked: Asked) -> dict[str, Any]:
    placement = asked.given("placement", dict, default={})
    details = _read_details(asked)
    wanted = placement.get("server_id_set") or []
    if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted):
        raise invalid("placement.server_id_set")
    least = asked.given("min_count", int, default=1)
    most = asked.given("max_count", int, default=max(least, len(wanted)))
    if not 1 <= least <= most or len(wanted) > _SET_MAX:
        raise invalid("min_count")
    if wanted:
        servers = _ready(asked.servers(list(dict.fromkeys(wanted))))[:most]
    else:
        servers = _pick(asked, least, most)
    if len(servers) < least:
        raise invalid("min_count")
    return {"instances": [{"id": _install(asked, server, details).id} for server in servers]}


def delete(asked: Asked) -> web.Response:
    asked.project.terminate(asked.instance().id)
    return web.Response(status=204)


def delete_set(asked: Asked) -> dict[str, Any]:
    instances = asked.instances(asked.id_set("instance_id_set", _SET_MAX))
    for instance in instances:
        asked.project.terminate(instance.id)
    return _ids(instances)


def reinstall(asked: Asked) -> dict[str, Any]:
    instances = asked.instances(asked.id_set("instance_id_set", _REINSTALLED_MAX))
    _check_password(asked, "password")
    image = asked.given("image_id", str, default="")
    for instance in instances:
        instance.image_id = image or instance.image_id
        instance.reinstalls += 1
        instance.operation_state = "reinstall-succeed"
    return _ids(instances)


def change_password(asked: Asked) -> dict[str, Any]:
    instances = asked.instances(asked.id_set("instance_id_set", _SET_MAX))
    _check_password(asked, "new_password")
    for instance in instances:
        instance.password_changes += 1
    return _ids(instances)


def modify_ip(asked: Asked) -> web.Response:
    instance = asked.instance()
    vpc = asked.given("vpc_id", str)
    instance.networks = [
        {"subnet_id": nic["subnet_id"], "ipv4_address": nic.get("ip_address") or "192.168.254.9"}
        for nic in _read_networks(asked, "nics")
    ]
    instance.vpc_id, instance.operation_state = vpc, "modify-ip-succeed"
    return web.Response(status=202)


def summarize(instance: Instance) -> dict[str, Any]:
    """Say what tests ask for beside what the cloud shows."""
    counts = {"reinstalls": instance.reinstalls, "password_changes": instance.password_changes}
    return _describe(instance) | counts


def _describe(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "name": instance.name,
        "vpc_id": instance.vpc_id,
        "network_interfaces": instance.networks,
        "tags": [],
        "image": {"id": instance.image_id, "name": "box-linux", "os_type": "Linux"},
        "description": instance.description,
        "state": "running",
        "operation_state": instance.operation_state,
        "metadata": instance.metadata,
        "server_id": instance.server_id,
        "created_at": _AT,
        "updated_at": _AT,
        "launched_at": _AT,
    }


def _read_details(asked: Asked) -> dict[str, Any]:
    """Read what a new instance is to be; all but description and metadata must be there."""
    details = {
        "name": asked.given("name", str),
        "image_id": asked.given("image_id", str),
        "vpc_id": asked.given("vpc_id", str),
        "description": asked.given("description", str, default=""),
        "metadata": asked.given("metadata", dict, default={}),
    }
    if not 1 <= len(details["name"]) <= 63:
        raise invalid("name")
    networks = _read_networks(asked, "network_interfaces")
    _check_password(asked, "password")
    return details | {"networks": networks}


def _read_networks(asked: Asked, name: str) -> list[dict[str, str]]:
    networks: list[Any] = asked.given(name, list)
    fits = [isinstance(one, dict) and isinstance(one.get("subnet_id"), str) for one in networks]
    if not 1 <= len(networks) <= 2 or not all(fits):
        raise invalid(name)
    return networks


def _check_password(asked: Asked, name: str) -> None:
    password = asked.given(name, str)
    kinds = (str.islower, str.isupper, str.isdigit, _SPECIALS.__contains__)
    if not 8 <= len(password) <= 26 or sum(any(map(kind, password)) for kind in kinds) < 3:
        raise invalid(name)


def _install(asked: Asked, server: Server, details: dict[str, Any]) -> Instance:
    instance = asked.project.install(server, str(uuid.uuid4()), details["name"])
    own_networks = instance.networks
    for name, value in details.items():
        setattr(instance, name, value)
    # The first network's address is given where the caller gave none.
    instance.networks = [
        {"ipv4_address": own_networks[0]["ipv4_address"]} | network
        for network in details["networks"]
    ]
    return instance


def _pick(asked: Asked, least: int, most: int = 1) -> list[Server]:
    """Take random idle servers, as the scheduler does where none is named (dossier 1.1)."""
    idle = asked.project.idle()
    if len(idle) < least:
        raise Refused(refusals.SERVER_NOT_READY)
    return random.sample(idle, min(most, len(idle)))


def _ready(servers: list[Server]) -> list[Server]:
    if any(server.manage_state != "ready" for server in servers):
        raise Refused(refusals.SERVER_NOT_READY)
    return servers


def _ids(instances: list[Instance]) -> dict[str, Any]:
    return {"instances": [{"id": instance.id} for instance in instances]}
