"""Operations on servers: list, show, power (upstream-api.md#1.1, #1.4 and #1.5)."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from gateway.demo.cloud.fleet import DCS, CloudProject, Server
from gateway.demo.cloud.operation_call import (
    OperationCall,
    as_tag_list,
    invalid_parameter,
    paginate,
)

DOMAIN_ID = "d78cbac186b744899480f25bd022f468"
_SWITCHED_MAX = 50
_SWITCHED = {
    "power on": ("on", "power-on-succeed"),
    "power off": ("off", "power-off-succeed"),
    "rebooting": ("on", "reboot-succeed"),
}


def list_servers(call: OperationCall) -> dict[str, Any]:
    project, limit = call.project, call.limit(10, 1000, 10)
    marker = call.query.get("marker", "")
    if marker and marker not in project.servers:
        raise invalid_parameter("marker")
    fitting = project.server_ids
    if state := call.query.get("manage_state"):
        fitting = [one for one in fitting if project.servers[one].manage_state == state]
    cut, info = paginate(fitting, marker, limit)
    shown = [describe(project, project.servers[one]) for one in cut]
    return {"servers": shown, "page_info": info, "count": len(fitting)}


def show_server(call: OperationCall) -> dict[str, Any]:
    return describe(call.project, call.server())


def describe(project: CloudProject, server: Server) -> dict[str, Any]:
    """Return the body of ShowServer (upstream-api.md#1.5)."""
    return {
        "id": server.id,
        "name": server.name,
        "project_id": project.id,
        "domain_id": DOMAIN_ID,
        "manage_state": server.manage_state,
        "power_state": server.power_state,
        "operation_state": server.operation_state,
        "health_state": server.health_state,
        "onboard_time": "2026-03-02T09:30:00Z",
        "location": {"dc": server.dc, "rack": server.rack, "unit": server.unit},
        "hardware_attributes": _summarize(server),
        "tags": as_tag_list(server.tags),
    }


def change_power_state(call: OperationCall) -> dict[str, Any]:
    action = call.member("action", str)
    if action not in _SWITCHED:
        raise invalid_parameter("action")
    ids = call.id_set("server_id_set", _SWITCHED_MAX, required=False)
    # The page does not mark the set as mandatory (upstream-api.md#1.1). Assume the worst: an
    # absent set means all servers.
    switched = call.servers(ids or call.project.server_ids)
    for server in switched:
        server.power_state, server.operation_state = _SWITCHED[action]
    return {"physical_servers": [{"id": server.id} for server in switched]}


def show_status(call: OperationCall) -> dict[str, Any]:
    servers = list(call.project.servers.values())
    by_health = {
        state: [server for server in servers if server.health_state == state]
        for state in ("OK", "Warning", "Critical", "Unknown")
    }
    return {
        "server_status": {
            "total": _count(servers),
            "ok": _count(by_health["OK"]),
            "warning": _count(by_health["Warning"]),
            "unknown": _count(by_health["Unknown"]),
            "critical": _count(by_health["Critical"]),
            "health": _count(by_health["OK"]),
            "unHealth": _count(by_health["Warning"] + by_health["Critical"]),
            "isolation": _count(()),
        },
        "server_power_status": {
            "on": sum(server.power_state == "on" for server in servers),
            "off": sum(server.power_state == "off" for server in servers),
            "unknown": 0,
        },
        # The SDK's model has no fields. Assumed: a count per state.
        "server_manage_state": dict(Counter(server.manage_state for server in servers)),
    }


def show_hardware(call: OperationCall) -> dict[str, Any]:
    """Return a few of the fields of the SDK's models."""
    server = call.server()
    maker = {"manufacturer": "Demo", "health": "OK"}
    healthy = {"state": "Enabled", "health": "OK"}
    return {
        "summary": _summarize(server),
        "memorys": [
            {"name": f"mem{i}", "capacity_mib": 65_536, "serial_number": f"{server.sn}m{i}"} | maker
            for i in range(2)
        ],
        "processors": [
            {"name": f"cpu{i}", "model": "C1", "total_cores": 64, "socket": i} | maker
            for i in range(2)
        ],
        "network_adapters": [
            {
                "name": "nic0",
                "model": "N1",
                "slot_number": 1,
                "network_ports": [{"physical_port_number": "1", "link_status": "LinkUp"}],
            }
            | maker
        ],
        "fans": [{"name": "fan0", "reading": 4_200, "reading_units": "RPM", "status": healthy}],
        "powers": [{"name": "psu0", "power_capacity_watts": 2_000, "status": healthy}],
        "storage_controllers": [
            {"name": "raid0", "model": "S1", "drives": ["disk0", "disk1"], "volumes": []} | maker
        ],
        "metrics": [{"metric_name": "temperature", "metric_devices": ["cpu0", "cpu1"]}],
    }


def show_firmware(call: OperationCall) -> list[dict[str, str]]:
    model = call.server().model
    return [
        {"component_name": name, "model": model, "manufacturer": "Demo", "version": version}
        for name, version in (("BMC", "3.11.2"), ("BIOS", "8.05"), ("CPLD", "1.04"))
    ]


def _summarize(server: Server) -> dict[str, str]:
    return {"sn": server.sn, "manufacturer": "Demo", "model": server.model}


def _count(servers: Iterable[Server]) -> dict[str, Any]:
    by_dc = Counter(server.dc for server in servers)
    return {"count": by_dc.total(), "dc_stats": {dc: by_dc[dc] for dc in sorted({*DCS, *by_dc})}}
