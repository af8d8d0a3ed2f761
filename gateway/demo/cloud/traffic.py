"""`python -m gateway.demo.cloud.traffic`: simulated users that request consoles until SIGTERM.

They fill the dashboards: operators get links; viewers and a user with a forged token are rejected.
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

_TIMEOUT_S = 35.0
_PAUSE_S = 2.0
_TOKEN_LIFE_S = 600.0
_REQUESTS_PER_TOKEN = 40
_FRESH_SHARE = 0.1
_LIST_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """The token issuer and the gateways that receive the requests."""

    issuer: str
    gateways: Sequence[str]
    project: str
    think_s: float
    """Mean time between two requests of one person."""


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    group: str
    forged: str | None = None

    async def run(self, target: LoadTarget, http: aiohttp.ClientSession) -> None:
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, ValueError):
                await self._use_a_token(target, http)
            await asyncio.sleep(_PAUSE_S)

    async def _use_a_token(self, target: LoadTarget, http: aiohttp.ClientSession) -> None:
        token = await self._fetch_token(target, http)
        servers: list[str] = []
        for _ in range(_REQUESTS_PER_TOKEN):
            headers = {"Authorization": f"Bearer {token}"}
            base = f"{random.choice(target.gateways)}/v1/{target.project}/physicalservers"
            if not servers or random.random() < _LIST_SHARE:
                seen = await _get(http, f"{base}?limit=100", headers)
                servers = [one["id"] for one in seen.get("servers", ())] or servers
            if servers or self.forged:
                if random.random() < _FRESH_SHARE:
                    headers["Cache-Control"] = "no-cache"
                server = random.choice(servers or [target.project])
                await _get(http, f"{base}/{server}/remote-console-address", headers)
            await asyncio.sleep(random.expovariate(1 / target.think_s))

    async def _fetch_token(self, target: LoadTarget, http: aiohttp.ClientSession) -> str:
        parameters = {"subject": self.name, "groups": [self.group], "life_s": _TOKEN_LIFE_S}
        if self.forged:
            parameters["forged"] = self.forged
        async with http.post(f"{target.issuer}/_box/tokens", json=parameters) as response:
            return str((await response.json())["token"])


PEOPLE = (
    *(Person(name, "operators") for name in ("olga", "omar", "otis", "ouida", "orla", "oskar")),
    *(Person(name, "web-team") for name in ("wanda", "walid", "wim")),
    *(Person(name, "viewers") for name in ("victor", "vera")),
    Person("mallory", "operators", forged="foreign_key"),
)


async def _get(http: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> Any:
    async with http.get(url, headers=headers) as response:
        return await response.json() if response.status == 200 else {}


async def _run(target: LoadTarget) -> None:
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, me.cancel if me else sys.exit)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=False) as http,
        asyncio.TaskGroup() as group,
    ):
        for person in PEOPLE:
            group.create_task(person.run(target, http))


def main() -> None:
    parser = argparse.ArgumentParser(prog="gateway.demo.cloud.traffic", description=__doc__)
    parser.add_argument(
        "--issuer", required=True, metavar="URL", help="URL of the simulated identity provider"
    )
    parser.add_argument("--project", default=SimulatedCloudSettings().project)
    parser.add_argument("--think", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("gateways", nargs="+", metavar="GATEWAY", help="URL")
    options = parser.parse_args()
    target = LoadTarget(options.issuer, options.gateways, options.project, options.think)
    with suppress(asyncio.CancelledError):
        asyncio.run(_run(target))


if __name__ == "__main__":
    main()
