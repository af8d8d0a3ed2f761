"""The quickly changing data of visible servers: age of each list, power, people on consoles.

They have a separate response: the list itself, which is large, stays the same for longer.
"""

import asyncio
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import orjson

from gateway.domain.consoles.page_messages import person_fields
from gateway.domain.model import CONSOLE_VIEW, SERVER_READ, Principal, ProjectId
from gateway.domain.timestamps import rfc3339
from gateway.flow.clock import Clock
from gateway.flow.decide import Inventories, Policies
from gateway.flow.inventories import ListingProblem
from gateway.flow.servers.console_presence import (
    PRESENCE_AGE_MAX_S,
    ConsolePresence,
    ConsoleUser,
    Presence,
)
from gateway.flow.servers.encoded_body import EncodedBody, encode_small_body
from gateway.flow.servers.power_readings import PowerReading, PowerReadings, Readings
from gateway.flow.servers.server_lists import ServerList, ServerLists
from gateway.flow.servers.visible_servers import ListedProject

_PART_USERS: Final = 500
_OnServer = TypeVar("_OnServer", ConsoleUser, PowerReading)


class ListedInventories(Inventories, Protocol):
    def problem(self, project: ProjectId) -> ListingProblem | None:
        """Return why the last try to list the servers failed; None: it did not."""


@dataclass(frozen=True, slots=True)
class _Version:
    """While it is equal, so is the state for people with the same rights."""

    presence: Presence | None
    readings: Readings
    projects: tuple[tuple[str, bool, ListingProblem | None], ...]


class ServerStates:
    def __init__(
        self,
        lists: ServerLists,
        *,
        policies: Policies,
        inventories: ListedInventories,
        presence: ConsolePresence | None,
        readings: PowerReadings,
        clock: Clock,
    ) -> None:
        """`presence`: None if no account delivers live consoles."""
        self._lists = lists
        self._policies = policies
        self._inventories = inventories
        self._presence = presence
        self._readings = readings
        self._clock = clock
        self._encoded: weakref.WeakKeyDictionary[ServerList, tuple[_Version, EncodedBody]] = (
            weakref.WeakKeyDictionary()
        )

    async def of(self, person: Principal, *, deadline: float) -> EncodedBody:
        """Return the state of the servers in the person's list; raise as `ServerLists.of`."""
        while True:
            shown = await self._lists.of(person, deadline=deadline)
            presence = None
            if self._presence is not None and shown.viewable:
                presence = await self._presence.current()
            readings = await self._readings.current() if shown.readable else {}
            states = tuple(map(self._project_state, shown.projects))
            version = _Version(presence, readings, states)
            known = self._encoded.get(shown)
            if known is not None and known[0] == version:
                body = known[1]
            else:
                fields = await self._fields(person, shown, version)
                body = encode_small_body(orjson.dumps(fields))
            # Otherwise rights have changed meanwhile; other people may still have those of `shown`.
            if self._lists.current(person) is shown:
                self._encoded[shown] = version, body
                return body

    def _project_state(self, project: ListedProject) -> tuple[str, bool, ListingProblem | None]:
        taken_at = self._inventories.last_known(project.id).taken_at
        return (
            rfc3339(int(taken_at)) if math.isfinite(taken_at) else "",
            self._clock.now() < self._inventories.current(project.id).good_until,
            self._inventories.problem(project.id),
        )

    async def _fields(
        self, person: Principal, shown: ServerList, version: _Version
    ) -> dict[str, Any]:
        return {
            "list": shown.body.etag,
            "projects": [
                {
                    "project_id": project.id,
                    "account": project.account,
                    "region": project.region,
                    "listed_at": listed_at or None,
                    "is_current": is_current,
                    "problem": None if problem is None else problem.value,
                }
                for project, (listed_at, is_current, problem) in zip(
                    shown.projects, version.projects, strict=True
                )
            ],
            "power": self._power(person, shown, version.readings),
            "consoles": None
            if version.presence is None
            else await self._consoles(person, shown, version.presence),
        }

    def _power(
        self, person: Principal, shown: ServerList, readings: Readings
    ) -> list[dict[str, Any]]:
        """Return what was read of single servers after their list."""
        found = []
        for project in shown.readable & readings.keys():
            taken_at = self._inventories.last_known(project).taken_at
            newer = [one for one in readings[project] if one.read_at > taken_at]
            visible = self._visible(person, SERVER_READ, project, newer)
            found += [_power_fields(one) for one in visible]
        return found

    async def _consoles(
        self, person: Principal, shown: ServerList, presence: Presence
    ) -> dict[str, Any]:
        sessions = []
        for project in shown.projects:
            users = presence.users.get(project.id, ()) if project.id in shown.viewable else ()
            for at in range(0, len(users), _PART_USERS):
                some = users[at : at + _PART_USERS]
                part = self._visible(person, CONSOLE_VIEW, project.id, some)
                sessions += [_console_fields(project.id, one) for one in part]
                await asyncio.sleep(0)
        return {
            "age_max_s": PRESENCE_AGE_MAX_S,
            "complete": presence.is_complete,
            "sessions": sessions,
        }

    def _visible(
        self, person: Principal, permission: str, project: ProjectId, found: Sequence[_OnServer]
    ) -> Iterator[_OnServer]:
        """Yield what concerns servers of the list on which the person has the permission."""
        now, deciding = self._clock.now(), self._inventories.current(project)
        policy, newest = self._policies.current(), self._inventories.last_known(project)
        scope = policy.scope(person, permission, project, now, deciding)
        return (one for one in found if one.server in newest and scope.allows(one.server))


def _power_fields(reading: PowerReading) -> dict[str, Any]:
    return {
        "project_id": reading.project,
        "server_id": reading.server,
        "power_state": reading.power or None,
        "health_state": reading.health or None,
        "read_at": rfc3339(int(reading.read_at)),
    }


def _console_fields(project: ProjectId, user: ConsoleUser) -> dict[str, Any]:
    return {
        "project_id": project,
        "server_id": user.server,
        "person": person_fields(user.person),
        "mode": user.mode.value,
        "since": rfc3339(int(user.since)),
    }
