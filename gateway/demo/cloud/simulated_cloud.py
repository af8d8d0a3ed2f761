"""The simulated cloud: identity provider, IAM, physical-servers API and console host.

For the demo and tests, on loopback by default. No production module imports it.
"""

import asyncio
import uuid
from dataclasses import dataclass
from typing import Self

from gateway.demo.cloud.clouddc import CloudDc
from gateway.demo.cloud.fleet import REGION
from gateway.demo.cloud.iam import Iam
from gateway.demo.cloud.idp import IdentityProvider
from gateway.demo.cloud.listener import Listener


@dataclass(frozen=True, slots=True)
class SimulatedCloudSettings:
    """Initial settings of the simulated cloud; most can be changed at runtime."""

    project: str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
    servers: int = 6
    other_projects: tuple[str, ...] = ()
    """Further projects with three servers each."""
    host: str = "127.0.0.1"
    idp_port: int = 0
    iam_port: int = 0
    cloud_port: int = 0
    console_port: int = 0
    live_projects: tuple[str, ...] = ()
    """Projects whose console links lead to the simulated console host."""
    rate: float = 10.0
    """Accepted calls per second."""
    burst: float = 10.0
    latency_s: tuple[float, float] = (0.05, 0.15)
    """Minimum and maximum."""
    token_bytes: int = 2_048
    token_life_s: float = 86_400.0


class SimulatedCloud:
    def __init__(self, settings: SimulatedCloudSettings | None = None) -> None:
        settings = settings or SimulatedCloudSettings()
        self.project = settings.project
        self.servers = _servers(settings.project, settings.servers)
        projects = {settings.project: self.servers}
        projects |= {project: _servers(project, 3) for project in settings.other_projects}
        names = {
            project: REGION if not i else f"{REGION}_{i}" for i, project in enumerate(projects)
        }
        self.idp = IdentityProvider(port=settings.idp_port)
        self.iam = Iam(
            projects=names,
            port=settings.iam_port,
            token_bytes=settings.token_bytes,
            token_life_s=settings.token_life_s,
        )
        self.upstream = CloudDc(
            self.iam,
            projects=projects,
            rate=settings.rate,
            burst=settings.burst,
            port=settings.cloud_port,
        )
        self.upstream.latency_s = settings.latency_s
        self.upstream.live_projects = settings.live_projects
        self.consoles = self.upstream.console_host
        self.consoles.port = settings.console_port
        self._listeners: tuple[Listener, ...] = (
            self.idp,
            self.iam,
            self.upstream,
            self.consoles,
        )
        for listener in self._listeners:
            listener.host = settings.host

    async def __aenter__(self) -> Self:
        try:
            for listener in self._listeners:
                await listener.start()
        except OSError:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        for listener in self._listeners:
            listener.heal()  # release requests that hang
        await asyncio.gather(*(listener.stop() for listener in self._listeners))


def _servers(project: str, count: int) -> list[str]:
    return [str(uuid.uuid5(uuid.NAMESPACE_URL, f"{project}/{i}")) for i in range(count)]
