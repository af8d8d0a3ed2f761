"""A program that is written like the examples of the vendor's SDK, without mention of a gateway.

`python sdk_walkthrough.py STEP ARGUMENT...` prints one JSON document. Endpoint and credentials come
from the SDK's environment variables.
"""

import json
import sys
from typing import Any

from huaweicloudsdkclouddc.v1 import (
    ChangeServerPowerStateRequest,
    CloudDCClient,
    ListAlarmsRequest,
    ListEventsRequest,
    ListInstancesRequest,
    ListServersRequest,
    PowerAction,
    ReinstallOSOptions,
    ReinstallOsRequest,
    ShowRemoteConsoleRequest,
    ShowServerRequest,
    ShowServerStatusRequest,
)
from huaweicloudsdkclouddc.v1.region.clouddc_region import CloudDCRegion
from huaweicloudsdkcore.exceptions.exceptions import ServiceResponseException


def _walk(client: CloudDCClient, limit: str) -> dict[str, Any]:
    seen: list[str] = []
    counts: set[int] = set()
    marker: str | None = None
    while True:
        page = client.list_servers(ListServersRequest(limit=int(limit), marker=marker))
        seen += [one.id for one in page.servers]
        counts.add(page.count)
        marker = page.page_info.next_marker
        if marker is None:
            return {"servers": seen, "counts": sorted(counts)}


def _show(client: CloudDCClient, server: str) -> dict[str, Any]:
    server_details = client.show_server(ShowServerRequest(id=server))
    return {
        "id": server_details.id,
        "power_state": server_details.power_state,
        "tags": len(server_details.tags),
    }


def _power(client: CloudDCClient, action: str, *servers: str) -> dict[str, Any]:
    body = PowerAction(action=action, server_id_set=list(servers) or None)
    client.change_server_power_state(ChangeServerPowerStateRequest(body=body))
    return {"done": action}


def _console(client: CloudDCClient, server: str) -> dict[str, Any]:
    return {"url": client.show_remote_console(ShowRemoteConsoleRequest(id=server)).url}


def _watch(client: CloudDCClient) -> dict[str, Any]:
    alarms = client.list_alarms(ListAlarmsRequest(limit=100))
    events = client.list_events(ListEventsRequest(limit=100))
    return {
        "alarms": [one.metric.dimensions[0].value for one in alarms.alarms],
        "events": [one.resource_id for one in events.events],
        "counts": [alarms.count, events.count],
    }


def _instances(client: CloudDCClient) -> dict[str, Any]:
    listed = client.list_instances(ListInstancesRequest(limit="100"))
    return {"servers": [one.server_id for one in listed.instances], "count": listed.count}


def _reinstall(client: CloudDCClient, *instances: str) -> dict[str, Any]:
    body = ReinstallOSOptions(
        image_id="image", password="P@ssw0rd-123", instance_id_set=list(instances)
    )
    client.reinstall_os(ReinstallOsRequest(body=body))
    return {"done": "reinstall"}


def _status(client: CloudDCClient) -> dict[str, Any]:
    return {"status": client.show_server_status(ShowServerStatusRequest()).to_json_object()}


_STEPS = {
    "walk": _walk,
    "show": _show,
    "power": _power,
    "console": _console,
    "watch": _watch,
    "instances": _instances,
    "reinstall": _reinstall,
    "status": _status,
}


def main() -> None:
    step, *arguments = sys.argv[1:]
    client = CloudDCClient.new_builder().with_region(CloudDCRegion.value_of("cn-east-3")).build()
    try:
        output = _STEPS[step](client, *arguments)
    except ServiceResponseException as error:
        output = {
            "exception": type(error).__name__,
            "status": error.status_code,
            "error_code": error.error_code,
            "error_msg": error.error_msg,
            "request_id": error.request_id,
        }
    sys.stdout.write(json.dumps(output))


if __name__ == "__main__":
    main()
