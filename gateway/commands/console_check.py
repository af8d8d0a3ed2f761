"""`gateway check --console`: which WebSocket address reaches the console of one server."""

from dataclasses import dataclass
from typing import Final

from gateway.commands.exit_codes import usage_error
from gateway.commands.terminal import print_error, print_line
from gateway.config.accounts import Account
from gateway.config.settings import Settings
from gateway.domain.catalogue.catalogue import parse_server_id
from gateway.domain.consoles.shapes import ConsoleShape
from gateway.domain.errors import BadRequest, GatewayError
from gateway.domain.links.console_link import console_url
from gateway.domain.model import QueueRequest, Secret, ServerId, UpstreamRequest
from gateway.drivers.cloud.console_connector import ConsoleRoute, connect_console
from gateway.drivers.host.clock import SystemClock
from gateway.process.wiring.accounts import OpenAccount
from gateway.process.wiring.consoles import console_operation, console_route

_WITHIN_S: Final = 15.0
_GREETING_WITHIN_S: Final = 10.0
_NORMAL_CLOSURE: Final = 1000


@dataclass(frozen=True, slots=True)
class ConsoleTargetOption:
    """The value of `--console`."""

    project: str
    server: ServerId


def console_target(text: str, config: Settings) -> ConsoleTargetOption:
    """Parse PROJECT/SERVER; raise CommandFailed."""
    project, _, server = text.partition("/")
    if project not in config.project_ids:
        known = ", ".join(config.project_ids)
        raise usage_error(f"--console: no account has the project. Projects: {known}.")
    try:
        return ConsoleTargetOption(project, ServerId(parse_server_id(server)))
    except BadRequest:
        raise usage_error("--console must be PROJECT/SERVER, with the server's ID.") from None


class ConsoleCheck:
    def __init__(self, config: Settings, target: ConsoleTargetOption, clock: SystemClock) -> None:
        self._config = config
        self._target = target
        self._clock = clock

    def concerns(self, account: Account) -> bool:
        return self._target.project in account.projects

    async def run(self, account: Account, opened: OpenAccount) -> bool:
        """Fetch a link for each shape and connect to it, up to the greeting of RFB.

        Prints the result of each shape; returns whether one of them works.
        """
        works = False
        async with console_route(self._config, account) as route:
            for shape in route.shapes:
                try:
                    greeting = await self._connect(opened, route, shape)
                except GatewayError as error:
                    print_error(f"console by {shape}: {error}")
                else:
                    works = True
                    print_line(f"console by {shape}: ok, {greeting}")
        return works

    async def _connect(self, opened: OpenAccount, route: ConsoleRoute, shape: ConsoleShape) -> str:
        url = await self._fetch_url(opened)
        channel = await connect_console(url, route, shape, _GREETING_WITHIN_S)
        greeting = await channel.receive()
        await channel.close(_NORMAL_CLOSURE, "")
        text = greeting if isinstance(greeting, bytes) else b""
        return text[:12].decode("ascii", "replace").strip()

    async def _fetch_url(self, opened: OpenAccount) -> Secret:
        operation = console_operation(self._config)
        path = operation.path.replace("{server_id}", self._target.server)
        response = await opened.console.exchange.call(
            UpstreamRequest(operation.method, f"/v1/{self._target.project}{path}"),
            project=self._target.project,
            queue_request=QueueRequest(""),
            budget=operation.budget,
            deadline=self._clock.monotonic() + _WITHIN_S,
        )
        return console_url(response, opened.console.addresses)
