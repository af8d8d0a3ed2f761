"""Each of the 32 operations, called on the simulated cloud with the vendor's SDK."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import huaweicloudsdkclouddc.v1 as sdk
import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException

from gateway.demo.cloud import iam, logs
from gateway.demo.cloud.clouddc import _OPERATIONS
from gateway.demo.cloud.fleet import IMAGE, SUBNET, VPC, CloudProject, Instance
from gateway.demo.cloud.simulated_cloud import SimulatedCloud, SimulatedCloudSettings

# Without dateutil, which it does not require, the SDK leaves a time as the text that it is.
pytestmark = pytest.mark.filterwarnings("ignore:Unable to convert string:ImportWarning")

PASSWORD = "Correct-Horse-7"
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


class Cloud:
    """The SDK's client and the simulated cloud behind it."""

    def __init__(self, simulated: SimulatedCloud) -> None:
        credentials = BasicCredentials(iam.ACCESS_KEY, iam.SECRET_KEY, simulated.project)
        builder = sdk.CloudDCClient.new_builder().with_credentials(credentials)
        self.client = builder.with_endpoint(simulated.upstream.url).build()
        self.simulated = simulated
        self.servers = simulated.servers

    @property
    def project(self) -> CloudProject:
        return self.simulated.upstream.projects[self.simulated.project]

    async def call(self, operation: str, body: Any = None, **named: Any) -> Any:
        """Call `operation` with the SDK's request of the same name."""
        name = "".join(word.capitalize() for word in operation.split("_"))
        request = getattr(sdk, f"{name}Request")(**named)
        if body is not None:
            request.body = body
        return await asyncio.to_thread(getattr(self.client, operation), request)

    def instance_on(self, index: int) -> Instance:
        """Return the instance of the server at an index."""
        every = self.project.instances.values()
        return next(one for one in every if one.server_id == self.servers[index])


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    settings = SimulatedCloudSettings(servers=12, latency_s=(0.0, 0.0), rate=1000, burst=1000)
    async with SimulatedCloud(settings) as simulated:
        yield Cloud(simulated)


async def error_of(pending: Any) -> tuple[int, str, str]:
    with pytest.raises(ClientRequestException) as caught:
        await pending
    error = caught.value
    return error.status_code, error.error_code, error.error_msg


def ids(entries: list[Any]) -> list[str]:
    return [entry.id for entry in entries]


def test_all_sdk_operations_are_called() -> None:
    offered = {
        name for name in vars(sdk.CloudDCClient) if f"{name}_invoker" in dir(sdk.CloudDCClient)
    }
    text = Path(__file__).read_text()
    assert len(offered) <= len(_OPERATIONS)
    assert [name for name in offered if f'cloud.call("{name}"' not in text] == []


async def test_servers_are_listed_with_tags(cloud: Cloud) -> None:
    page = await cloud.call("list_servers", limit=100)
    assert (page.count, ids(page.servers)) == (12, sorted(cloud.servers))
    tags = {one.id: {tag.key: tag.value for tag in one.tags} for one in page.servers}
    assert [tags[one]["tier"] for one in cloud.servers[:4]] == ["web", "db", "web", "db"]
    assert {one["env"] for one in tags.values()} == {"prod", "test"}
    assert {one.hardware_attributes.model for one in page.servers} == {"B1", "B2"}
    assert {one.location.dc for one in page.servers} == {"dc-1", "dc-2"}


async def test_server_is_shown(cloud: Cloud) -> None:
    shown = await cloud.call("show_server", id=cloud.servers[7])
    assert shown.id == cloud.servers[7]
    assert (shown.health_state, shown.manage_state) == ("Warning", "in-use")


async def test_console_is_shown(cloud: Cloud) -> None:
    shown = await cloud.call("show_remote_console", id=cloud.servers[0])
    assert "/vnc_auto.html?token=" in shown.url


async def test_hardware_and_firmware_are_shown(cloud: Cloud) -> None:
    hardware = await cloud.call("show_server_hardware_attributes", id=cloud.servers[2])
    assert hardware.summary.model == "B2"
    assert hardware.memorys[0].capacity_mib == 65_536
    assert hardware.fans[0].status.health == "OK"
    assert hardware.network_adapters[0].network_ports[0].link_status == "LinkUp"
    firmware = await cloud.call("show_server_firmware_attributes", id=cloud.servers[2])
    assert [one.component_name for one in firmware.body] == ["BMC", "BIOS", "CPLD"]


async def test_power_action_affects_named_servers(cloud: Cloud) -> None:
    two = cloud.servers[3:5]
    body = sdk.PowerAction(action="power off", server_id_set=two)
    assert ids((await cloud.call("change_server_power_state", body)).physical_servers) == two
    states = {
        one.id: one.power_state for one in (await cloud.call("list_servers", limit=100)).servers
    }
    assert [one for one in cloud.servers if states[one] == "off"] == two


@pytest.mark.parametrize("no_servers", [None, []])
async def test_power_action_without_servers_affects_all(
    cloud: Cloud, no_servers: list[str] | None
) -> None:
    body = sdk.PowerAction(action="power off", server_id_set=no_servers)
    switched = (await cloud.call("change_server_power_state", body)).physical_servers
    assert ids(switched) == sorted(cloud.servers)
    assert {one.power_state for one in cloud.project.servers.values()} == {"off"}


async def test_log_is_exported_and_downloaded(cloud: Cloud) -> None:
    cloud.simulated.upstream.change(export_polls=1, log_bytes=200_000)
    server = cloud.servers[0]
    begun = await cloud.call("export_server_logs", id=server)
    assert (begun.status_code, begun.status, begun.percentage) == (202, "processing", "0%")
    named = {"id": server, "export_id": begun.export_id}
    early = cloud.call("download_server_logs", **named)
    assert (await error_of(early))[:2] == (400, "iMetal.0101")
    result = [await cloud.call("show_logs_export_status", **named) for _ in range(2)]
    assert [one.status for one in result] == ["processing", "completed"]
    assert [one.percentage for one in result] == ["99%", "100%"]
    downloaded = await cloud.call("download_server_logs", **named)
    got: list[bytes] = []
    downloaded.consume_download_stream(lambda response: got.append(response.content))
    whole = b"".join(logs.content(begun.export_id, 0, 200_000))
    assert hashlib.sha256(got[0]).digest() == hashlib.sha256(whole).digest()


async def test_export_belongs_to_its_server(cloud: Cloud) -> None:
    begun = await cloud.call("export_server_logs", id=cloud.servers[0])
    other = {"id": cloud.servers[1], "export_id": begun.export_id}
    for operation in ("show_logs_export_status", "download_server_logs"):
        assert (await error_of(cloud.call(operation, **other)))[:2] == (400, "iMetal.0001")


async def test_fleet_status_is_counted(cloud: Cloud) -> None:
    result = await cloud.call("show_server_status")
    status = result.server_status
    assert status.total.dc_stats == {"dc-1": 6, "dc-2": 6}
    assert (status.total.count, status.ok.count, status.warning.count) == (12, 11, 1)
    power = result.server_power_status
    assert (power.on, power.off, power.unknown) == (12, 0, 0)


async def test_alarms_are_found_by_server(cloud: Cloud) -> None:
    every = await cloud.call("list_alarms")
    assert every.count == len(every.alarms) == 24
    times = [alarm.begin_time for alarm in every.alarms]
    assert times == sorted(times, reverse=True)
    two = cloud.servers[1:3]
    found = await cloud.call("list_alarms", resource_id=",".join(two))
    named = [alarm.metric.dimensions[0].value for alarm in found.alarms]
    assert (found.count, sorted(named)) == (4, sorted(two * 2))


async def test_alarms_are_paged_and_filtered(cloud: Cloud) -> None:
    every = (await cloud.call("list_alarms")).alarms
    page = await cloud.call("list_alarms", offset=5, limit=7)
    assert page.count == 24
    assert [one.alarm_record_id for one in page.alarms] == [
        one.alarm_record_id for one in every[5:12]
    ]
    some = every[3]
    for name, value in {
        "alarm_record_id": some.alarm_record_id,
        "alarm_status": some.alarm_status,
        "alarm_level": some.alarm_level,
    }.items():
        found = await cloud.call("list_alarms", **{name: value})
        expected = [one.alarm_record_id for one in every if getattr(one, name) == value]
        assert [one.alarm_record_id for one in found.alarms] == expected
    assert (await cloud.call("list_alarms", alarm_type="metric")).count == 12
    then = {"_from": str(every[9].begin_time), "to": str(every[2].begin_time)}
    assert (await cloud.call("list_alarms", **then)).count == 8


async def test_summary_and_trend_name_servers(cloud: Cloud) -> None:
    summary = await cloud.call("show_alarm_summary")
    assert len(summary.alarm_hosts) == 10
    assert {host.resource_id for host in summary.alarm_hosts} <= set(cloud.servers)
    assert sum(level.alarm_number for level in summary.alarm_levels) == 12
    sns = {server.sn for server in cloud.project.servers.values()}
    assert {sn for group in summary.alarm_groups for sn in group.sns} == sns
    trend = await cloud.call("show_alarm_trend")
    assert {sn for day in trend.fault_hosts for sn in day.fault_host} == sns
    numbers = [
        level.alarm_number for day in trend.alarm_daily_new_trends for level in day.alarm_levels
    ]
    assert sum(numbers) == 24


async def test_events_name_server_and_definition(cloud: Cloud) -> None:
    every = await cloud.call("list_events")
    assert every.count == len(every.events) == 36
    found = await cloud.call("list_events", resource_id=cloud.servers[4], limit=2)
    assert (found.count, len(found.events)) == (3, 2)
    assert {event.resource_id for event in found.events} == {cloud.servers[4]}
    definition = await cloud.call("show_event", event_id=found.events[0].event_id)
    assert definition.name_en == found.events[0].event_message
    major = await cloud.call("list_events", event_level="major")
    assert {event.event_level for event in major.events} == {"major"}
    times = [event.time for event in every.events]
    then = await cloud.call("list_events", _from=str(times[7]), to=str(times[0]))
    assert then.count == 8


def options(**more: Any) -> dict[str, Any]:
    network = sdk.NetworkInterface(subnet_id=SUBNET, ipv4_address="192.168.7.7")
    base = {"name": "new", "image_id": IMAGE, "vpc_id": VPC, "password": PASSWORD}
    return {**base, "network_interfaces": [network], **more}


async def test_instance_is_created_on_named_server(cloud: Cloud) -> None:
    idle = cloud.servers[2]
    placement = sdk.CreateInstanceOpitonsPlacement(server_id=idle)
    body = sdk.CreateInstanceOpitons(**options(placement=placement, metadata={"a": "b"}))
    created = (await cloud.call("create_instance", body)).instance_id
    (found,) = (await cloud.call("list_instances", instance_id=created)).instances
    assert (found.server_id, found.name, found.state) == (idle, "new", "running")
    assert found.network_interfaces[0].ipv4_address == "192.168.7.7"
    assert cloud.project.servers[idle].manage_state == "in-use"
    assert (await error_of(cloud.call("create_instance", body)))[:2] == (400, "iMetal.0101")


async def test_instance_without_placement_uses_idle_server(cloud: Cloud) -> None:
    idle = set(cloud.servers[2::3])
    for _ in range(4):
        body = sdk.CreateInstanceOpitons(**options())
        created = (await cloud.call("create_instance", body)).instance_id
        idle.remove(cloud.project.instances[created].server_id)
    assert not idle
    assert (await error_of(cloud.call("create_instance", body)))[:2] == (400, "iMetal.0101")


async def test_instances_are_created_in_batch(cloud: Cloud) -> None:
    two = [cloud.servers[2], cloud.servers[5]]
    placement = sdk.RunInstancesOptionsPlacement(server_id_set=two)
    network = [sdk.RunInstancesOptionsNetworkInterfaces(subnet_id=SUBNET)]
    named = options(placement=placement, network_interfaces=network, min_count=2, max_count=2)
    made = await cloud.call("run_instances", sdk.RunInstancesOptions(**named))
    assert [cloud.project.instances[one].server_id for one in ids(made.instances)] == two
    anywhere = options(network_interfaces=network, min_count=1, max_count=9)
    made = await cloud.call("run_instances", sdk.RunInstancesOptions(**anywhere))
    hosts = {cloud.project.instances[one].server_id for one in ids(made.instances)}
    assert hosts == {cloud.servers[8], cloud.servers[11]}


async def test_instances_are_listed_by_page_and_server(cloud: Cloud) -> None:
    every = await cloud.call("list_instances")
    assert every.count == len(every.instances) == 8
    two = cloud.servers[0:2]
    found = await cloud.call("list_instances", server_id=",".join(two))
    assert {one.server_id for one in found.instances} == set(two)
    body = sdk.RunInstancesOptions(**options(min_count=4, max_count=4))
    await cloud.call("run_instances", body)
    page = await cloud.call("list_instances", limit="3")
    assert (page.count, page.page_info.current_count) == (12, 10)
    rest = await cloud.call("list_instances", limit="3", marker=page.page_info.next_marker)
    assert (len(rest.instances), rest.page_info.next_marker) == (2, None)
    assert len(set(ids(page.instances) + ids(rest.instances))) == 12
    assert (await cloud.call("list_instances", instance_state="stopped")).count == 0
    both = cloud.call("list_instances", server_id=two[0], instance_id=every.instances[0].id)
    assert (await error_of(both))[:2] == (400, "iMetal.0001")


async def test_deleted_instance_reports_terminated(cloud: Cloud) -> None:
    instance = cloud.instance_on(0)
    assert (await cloud.call("show_instance_status", id=instance.id)).state == "running"
    assert (await cloud.call("delete_instance", id=instance.id)).status_code == 204
    assert (await cloud.call("show_instance_status", id=instance.id)).state == "terminated"
    assert cloud.project.servers[cloud.servers[0]].manage_state == "ready"
    again = await error_of(cloud.call("delete_instance", id=instance.id))
    assert again[:2] == (404, "iMetal.0200")
    assert instance.id in again[2]


async def test_batch_delete_is_all_or_none(cloud: Cloud) -> None:
    two = [cloud.instance_on(0).id, cloud.instance_on(1).id]
    wrong = sdk.BatchDeleteOptions(instance_id_set=[*two, UNKNOWN_ID])
    result = await error_of(cloud.call("delete_instances", wrong))
    assert result[:2] == (404, "iMetal.0200")
    assert f"[{UNKNOWN_ID}]" in result[2]
    assert set(two) <= cloud.project.instances.keys()
    right = sdk.BatchDeleteOptions(instance_id_set=two)
    assert ids((await cloud.call("delete_instances", right)).instances) == two
    assert not set(two) & cloud.project.instances.keys()


async def test_instance_reinstall_password_and_address_change(cloud: Cloud) -> None:
    instance = cloud.instance_on(3)
    body = sdk.ReinstallOSOptions(
        image_id="another", password=PASSWORD, instance_id_set=[instance.id]
    )
    assert ids((await cloud.call("reinstall_os", body)).instances) == [instance.id]
    assert (instance.image_id, instance.reinstalls) == ("another", 1)
    changed = sdk.ChangeInstancePasswordOptions(
        new_password=PASSWORD, instance_id_set=[instance.id]
    )
    result = await cloud.call("change_instance_password", changed)
    assert ids(result.instances) == [instance.id]
    assert instance.password_changes == 1
    nic = sdk.ModifyInstanceIpRequestBodyNics(subnet_id=SUBNET, ip_address="192.168.9.9")
    moved = sdk.ModifyInstanceIpRequestBody(vpc_id=VPC, nics=[nic])
    assert (await cloud.call("modify_instance_ip", moved, id=instance.id)).status_code == 202
    assert instance.networks == [{"subnet_id": SUBNET, "ipv4_address": "192.168.9.9"}]


async def test_reinstall_is_limited_to_ten_instances(cloud: Cloud) -> None:
    many = [f"i{number}" for number in range(11)]
    body = sdk.ReinstallOSOptions(password=PASSWORD, instance_id_set=many)
    assert (await error_of(cloud.call("reinstall_os", body)))[:2] == (400, "iMetal.0001")


async def test_server_tags_are_created_and_deleted(cloud: Cloud) -> None:
    server = cloud.servers[0]
    where = {"resource_type": "physicalservers", "resource_id": server}

    async def shown() -> dict[str, str]:
        page = await cloud.call("list_servers", limit=100)
        (found,) = [one for one in page.servers if one.id == server]
        return {tag.key: tag.value for tag in found.tags}

    before = await shown()
    new = [sdk.Tag(key="owner", value="ann"), sdk.Tag(key="tier", value="db")]
    made = await cloud.call("batch_create_tags", sdk.ResourceTags(tags=new), **where)
    assert made.status_code == 204
    assert await shown() == {**before, "owner": "ann", "tier": "db"}
    old = [sdk.Tag(key="owner", value="ann")]
    gone = await cloud.call("batch_delete_tags", sdk.ResourceTags(tags=old), **where)
    assert gone.status_code == 204
    assert await shown() == {**before, "tier": "db"}
    other = {"resource_type": "volumes", "resource_id": server}
    wrong = cloud.call("batch_create_tags", sdk.ResourceTags(tags=new), **other)
    assert (await error_of(wrong))[:2] == (400, "iMetal.0001")


async def test_racks_are_listed_updated_and_tagged(cloud: Cloud) -> None:
    page = await cloud.call("list_i_racks", region="cn-east-3", limit="10")
    assert (page.count, page.page_info.current_count) == (16, 10)
    rack = page.iracks[0]
    request = sdk.IRackRequest(description="hot")
    result = await cloud.call("update_i_rack", request, irack_id=rack.id)
    assert result.body
    tags = sdk.ResourceTags(tags=[sdk.Tag(key="row", value="a"), sdk.Tag(key="col", value="b")])
    await cloud.call("batch_create_irack_tags", tags, id=rack.id)
    gone = sdk.ResourceTags(tags=[sdk.Tag(key="col", value="b")])
    await cloud.call("batch_delete_irack_tags", gone, id=rack.id)
    after = (await cloud.call("list_i_racks", region="cn-east-3")).iracks[0]
    assert (after.id, after.description) == (rack.id, "hot")
    assert [(tag.key, tag.value) for tag in after.tags] == [("row", "a")]
    wrong = cloud.call("batch_create_irack_tags", tags, id=UNKNOWN_ID)
    assert (await error_of(wrong))[:2] == (400, "iMetal.0001")


async def test_rooms_are_listed_and_described(cloud: Cloud) -> None:
    rooms = (await cloud.call("list_i_dcs", region="cn-east-3")).idcs
    assert {(room.name, room.irack_num) for room in rooms} == {("dc-1", 8), ("dc-2", 8)}
    result = await cloud.call("update_i_dcs", [{"id": rooms[0].id, "description": "north"}])
    assert result.body
    after = (await cloud.call("list_i_dcs", region="cn-east-3")).idcs
    assert [room.description for room in after] == ["north", ""]
    assert (await cloud.call("list_i_dcs", region="elsewhere")).count == 0
