"""Alarms and events: two alarms and three events per server, the same in every run.

Lists are sorted newest first, so entries of different servers alternate. An alarm names its server
in `metric.dimensions`, an event in `resource_id`. Summary and trend name servers by ID or serial
number, independent of the caller.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.demo.cloud.fleet import CloudProject, Server
from gateway.demo.cloud.operation_call import OperationCall, invalid_parameter

STARTS_AT = 1_772_409_600
"""2026-03-02T00:00:00Z. All alarms and events are within one week from this time."""
WEEK_S = 604_800
ALARMS_PER_SERVER = 2
EVENTS_PER_SERVER = 3
_EVENTS_SPAN_MS_MAX = 30 * 86_400_000
_DAY_S = 86_400
_TOP_HOSTS = 10
_DEVICES = ("fan", "memory", "disk", "power")
_LEVELS = ("critical", "major", "minor", "info")
_ALARM_FILTERS = {
    "alarm_record_id": "record_id",
    "alarm_status": "status",
    "alarm_type": "type",
    "alarm_level": "level",
}
"""Query parameter to attribute of `_Alarm`."""
_DEFINITIONS = {
    "0x01000001": ("Fan speed low", "critical"),
    "0x02000003": ("Memory correctable errors", "major"),
    "0x03000007": ("Disk replaced", "minor"),
    "0x04000002": ("Power supply redundant again", "info"),
}


@dataclass(frozen=True, slots=True)
class _Alarm:
    server: Server
    index: int
    at: int
    """Seconds since the epoch."""

    @property
    def kind(self) -> int:
        return (self.server.index + self.index) % 4

    @property
    def level(self) -> int:
        """1 (critical) to 4."""
        return self.kind + 1

    @property
    def record_id(self) -> str:
        return f"ah{self.server.id.replace('-', '')[:20]}{self.index:02d}"

    @property
    def status(self) -> str:
        return ("ok", "alarm")[self.index]

    @property
    def type(self) -> str:
        return ("metric", "event")[self.index]


def list_alarms(call: OperationCall) -> dict[str, Any]:
    alarms = _alarms(_chosen(call))
    for name, attribute in _ALARM_FILTERS.items():
        if wanted := call.query.get(name):
            alarms = [alarm for alarm in alarms if str(getattr(alarm, attribute)) == wanted]
    if span := call.time_range():
        alarms = [alarm for alarm in alarms if span[0] <= alarm.at <= span[1]]
    shown = [_describe_alarm(alarm) for alarm in _cut(call, alarms)]
    return {"alarms": shown, "count": len(alarms)}


def show_summary(call: OperationCall) -> dict[str, Any]:
    alarms = [alarm for alarm in _alarms(_all(call.project)) if alarm.status == "alarm"]
    by_server: dict[str, list[_Alarm]] = defaultdict(list)
    for alarm in alarms:
        by_server[alarm.server.id].append(alarm)
    return {
        "alarm_levels": _levels(alarms),
        "alarm_devices": _devices(alarms),
        "alarm_hosts": [
            {
                "resource_name": call.project.servers[server_id].name,
                "resource_id": server_id,
                "alarm_infos": [info | {"alarm_duration": 3_600} for info in _devices(own)],
            }
            for server_id, own in sorted(by_server.items())[:_TOP_HOSTS]
        ],
        "alarm_groups": [
            {
                "label": dc,
                "alarm_devices": _devices([one for one in alarms if one.server.dc == dc]),
                "sns": sorted({one.server.sn for one in alarms if one.server.dc == dc}),
            }
            for dc in sorted({alarm.server.dc for alarm in alarms})
        ],
    }


def show_trend(call: OperationCall) -> dict[str, Any]:
    since, until = call.time_range() or (STARTS_AT, STARTS_AT + WEEK_S)
    by_day: dict[int, list[_Alarm]] = defaultdict(list)
    for alarm in _alarms(_all(call.project)):
        if since <= alarm.at <= until:
            by_day[alarm.at // _DAY_S * _DAY_S].append(alarm)
    hosts = {day: sorted({one.server.sn for one in own}) for day, own in sorted(by_day.items())}
    return {
        "fault_hosts": [
            {"fault_date": _iso(day), "new_fault_host": len(sns), "fault_host": sns}
            for day, sns in hosts.items()
        ],
        "alarm_daily_new_trends": [
            {
                "alarm_date": _iso(day),
                "alarm_devices": _devices(by_day[day]),
                "alarm_levels": _levels(by_day[day]),
            }
            for day in hosts
        ],
    }


def list_events(call: OperationCall) -> dict[str, Any]:
    events = [
        (_time(server, index) * 1000, server, list(_DEFINITIONS)[(server.index + index) % 4])
        for server in _chosen(call)
        for index in range(EVENTS_PER_SERVER)
    ]
    if level := call.query.get("event_level"):
        if level not in _LEVELS:
            raise invalid_parameter("event_level")
        events = [event for event in events if _DEFINITIONS[event[2]][1] == level]
    if span := call.time_range():
        if span[1] - span[0] > _EVENTS_SPAN_MS_MAX:
            raise invalid_parameter("to")
        events = [event for event in events if span[0] <= event[0] <= span[1]]
    events.sort(key=lambda event: (-event[0], event[1].id))
    shown = [_describe_event(*event) for event in _cut(call, events)]
    return {"events": shown, "count": len(events)}


def show_event(call: OperationCall) -> dict[str, str]:
    code = call.path["event_id"]
    if code not in _DEFINITIONS:
        raise invalid_parameter("event_id")  # no source documents a 404 for it
    name, level = _DEFINITIONS[code]
    texts = {"name": name, "effect": level, "suggestion": "Check it.", "reason": "Wear."}
    both = {f"{what}_{tongue}": text for what, text in texts.items() for tongue in ("cn", "en")}
    return {"code": code, "status": "asserted", **both}


def _all(project: CloudProject) -> Iterable[Server]:
    return project.servers.values()


def _chosen(call: OperationCall) -> Iterable[Server]:
    ids = call.comma_list("resource_id")
    if ids is None:
        return _all(call.project)
    known = call.project.servers
    return [known[one] for one in dict.fromkeys(ids) if one in known]


def _alarms(servers: Iterable[Server]) -> list[_Alarm]:
    alarms = [
        _Alarm(server, index, _time(server, index))
        for server in servers
        for index in range(ALARMS_PER_SERVER)
    ]
    alarms.sort(key=lambda alarm: (-alarm.at, alarm.record_id))
    return alarms


def _time(server: Server, index: int) -> int:
    return STARTS_AT + (server.number * 97 + index * 86_413) % WEEK_S


def _cut(call: OperationCall, entries: list[Any]) -> list[Any]:
    # Assumed, because the page does not say: `offset` counts entries; 100 per page, at most 1000.
    offset = call.integer("offset", 0)
    return entries[offset : offset + call.limit(1, 1000, 100)]


def _describe_alarm(alarm: _Alarm) -> dict[str, Any]:
    device = _DEVICES[alarm.kind]
    return {
        "alarm_record_id": alarm.record_id,
        "alarm_id": f"al{1_700_000_000_000 + alarm.kind}",
        "alarm_name": f"alarm-{device}",
        "alarm_status": alarm.status,
        "alarm_level": alarm.level,
        "begin_time": alarm.at,
        "end_time": alarm.at + 3_600 if alarm.status == "ok" else None,
        "last_alarm_time": alarm.at,
        "metric": {
            "metric_name": f"{device}_health",
            # The SDK documents the value as the resource's ID; the name is an assumption.
            "dimensions": [{"name": "server_id", "value": alarm.server.id}],
        },
    }


def _describe_event(at_ms: int, server: Server, code: str) -> dict[str, Any]:
    message, level = _DEFINITIONS[code]
    return {
        "event_id": code,
        "message_id": f"{server.sn}-{at_ms}",
        "event_message": message,
        "event_level": level,
        "status": "asserted",
        "resource_id": server.id,
        "time": at_ms,
        "origin_event": f"{message} on {server.name}",
    }


def _levels(alarms: Iterable[_Alarm]) -> list[dict[str, int]]:
    return _numbered("alarm_level", Counter(alarm.level for alarm in alarms))


def _devices(alarms: Iterable[_Alarm]) -> list[dict[str, Any]]:
    return _numbered("alarm_device", Counter(_DEVICES[alarm.kind] for alarm in alarms))


def _numbered(name: str, counts: Mapping[Any, int]) -> list[dict[str, Any]]:
    return [{name: one, "alarm_number": count} for one, count in sorted(counts.items())]


def _iso(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
