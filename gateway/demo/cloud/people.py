"""`python -m gateway.demo.cloud.people`: people who ask gateways for consoles, until SIGTERM.

They make dashboards move: operators get links, viewers and one with a forged token are refused.
"""

import argparse
import asyncio
import random
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from gateway.demo.cloud.simulated_cloud import SimulatedCloudSettings

_ASK_WITHIN_S = 35.0
_AWAY_S = 2.0
_TOKEN_LIFE_S = 600.0
_QUESTIONS_PER_TOKEN = 40
_FRESH_PART = 0.1
_LIST_PART = 0.15


@dataclass(frozen=True, slots=True)
class Place:
    """Where people get their tokens, and whom they ask."""

    issuer: str
    gateways: Sequence[str]
    project: str
    think_s: float
    """Between two questions of one person, on average."""


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    group: str
    forged: str | None = None

    async def live(self, place: Place, http: aiohttp.ClientSession) -> None:
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, ValueError):
                await self._use_a_token(place, http)
            await asyncio.sleep(_AWAY_S)

    async def _use_a_token(self, place: Place, http: aiohttp.ClientSession) -> None:
        token = await self._fetch_token(place, http)
        servers: list[str] = []
        for _ in range(_QUESTIONS_PER_TOKEN):
            headers = {"Authorization": f"Bearer {token}"}
            base = f"{random.choice(place.gateways)}/v1/{place.project}/physicalservers"
            if not servers or random.random() < _LIST_PART:
                seen = await _ask(http, f"{base}?limit=100", headers)
                servers = [one["id"] for one in seen.get("servers", ())] or servers
            if servers or self.forged:
                if random.random() < _FRESH_PART:
                    headers["Cache-Control"] = "no-cache"
                server = random.choice(servers or [place.project])
                await _ask(http, f"{base}/{server}/remote-console-address", headers)
            await asyncio.sleep(random.expovariate(1 / place.think_s))

    async def _fetch_token(self, place: Place, http: aiohttp.ClientSession) -> str:
        asked = {"subject": self.name, "groups": [self.group], "life_s": _TOKEN_LIFE_S}
        if self.forged:
            asked["forged"] = self.forged
        async with http.post(f"{place.issuer}/_box/tokens", json=asked) as answer:
            return str((await answer.json())["token"])


PEOPLE = (
    *(Person(name, "operators") for name in ("olga", "omar", "otis", "ouida", "orla", "oskar")),
    *(Person(name, "web-team") for name in ("wanda", "walid", "wim")),
    *(Person(name, "viewers") for name in ("victor", "vera")),
    Person("mallory", "operators", forged="foreign_key"),
)


async def _ask(http: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> Any:
    async with http.get(url, headers=headers) as answer:
        return await answer.json() if answer.status == 200 else {}


async def _run(place: Place) -> None:
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, me.cancel if me else sys.exit)
    timeout = aiohttp.ClientTimeout(total=_ASK_WITHIN_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=False) as http,
        asyncio.TaskGroup() as group,
    ):
        for person in PEOPLE:
            group.create_task(person.live(place, http))


def main() -> None:
    parser = argparse.ArgumentParser(prog="gateway.demo.cloud.people", description=__doc__)
    parser.add_argument("--issuer", required=True, metavar="URL", help="the box's")
    parser.add_argument("--project", default=SimulatedCloudSettings().project)
    parser.add_argument("--think", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("gateways", nargs="+", metavar="GATEWAY", help="URL")
    options = parser.parse_args()
    place = Place(options.issuer, options.gateways, options.project, options.think)
    with suppress(asyncio.CancelledError):
        asyncio.run(_run(place))


if __name__ == "__main__":
    main()
