"""`gateway check --online`: everything that serving needs, once, and which part fails."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from gateway.commands.console_check import ConsoleCheck
from gateway.commands.login_check import check_login
from gateway.commands.terminal import print_error, print_line
from gateway.config.settings import Settings
from gateway.config.store import RedisEmbedded
from gateway.domain.errors import GatewayError
from gateway.domain.model import BudgetClass, QueueRequest, UpstreamRequest
from gateway.drivers.cloud.login_gate import LoginGates
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.host.handover import Handover
from gateway.drivers.issuers.issuer_keys import IssuerKeys
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.valkey.client import address_of, client_factory
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.embedded import EmbeddedValkey
from gateway.process.runtime import Runtime
from gateway.process.tasks import supervised
from gateway.process.wiring.accounts import OpenAccount, open_account
from gateway.process.wiring.budget import open_budget
from gateway.process.wiring.credentials import Logins
from gateway.process.wiring.identity import open_identity
from gateway.process.wiring.login import admin_client, public_clients
from gateway.process.wiring.store import open_single_flight

_WITHIN_S = 15.0


class OnlineCheck:
    def __init__(self, config: Settings, console: ConsoleCheck | None = None) -> None:
        """`console` also tries the console of one server."""
        self._config = config
        self._console = console
        self._clock = SystemClock()
        self._metrics = Metrics()
        self._problems = 0
        self.warnings: list[tuple[str, str]] = []
        """Code and message of each warning."""

    async def run(self) -> int:
        """Print the result of each part; return 0 if all succeed, else 1."""
        # Log lines of the components are suppressed: the errors are printed, with addresses.
        logging.getLogger("gateway").addHandler(logging.NullHandler())
        async with AsyncExitStack() as stack:
            runtime = Runtime(self._config, stack, self._clock, self._metrics)
            valkey = await self._check_redis(stack)
            await self._check_keys(runtime)
            await self._check_logins()
            await self._check_accounts(replace(runtime, tasks={}), valkey)
        return 1 if self._problems else 0

    async def _check_redis(self, stack: AsyncExitStack) -> Valkey:
        store, embedded_url = self._config.store, None
        if isinstance(store.redis, RedisEmbedded):
            embedded_url = stack.enter_context(EmbeddedValkey()).url
        valkey = Valkey(
            store,
            client_factory(store, embedded_url),
            process_id=None,
            clock=self._clock,
            telemetry=self._metrics,
        )
        stack.push_async_callback(valkey.close)
        if self._config.audit.stream:
            valkey.require_audit_stream()
        is_reachable = await self._try("redis", valkey.check, address=address_of(store))
        is_own = isinstance(store.redis, RedisEmbedded)
        if is_reachable and not is_own and (problem := await valkey.eviction_problem()):
            self.warnings.append(("redis_may_evict", f"redis: {problem}"))
        return valkey

    async def _check_keys(self, runtime: Runtime) -> None:
        identity = await open_identity(runtime, Handover())
        for keys in identity.keys:
            await self._try(f"keys of {keys.issuer}", partial(_load_keys, keys))

    async def _check_logins(self) -> None:
        clients = [
            (f"browser login of {one.issuer.name}", one) for one in public_clients(self._config)
        ]
        if (admin := admin_client(self._config)) is not None:
            clients.append(("login of the admin listener", admin))
        for subject, client in clients:
            result = await check_login(self._config, client, self._clock)
            self._problems += len(result.problems)
            for problem in result.problems:
                print_error(f"{subject}: {problem}")
            if not result.problems:
                print_line(f"{subject}: ok")
            for note in result.notes:
                print_line(f"  {note}")

    async def _check_accounts(self, runtime: Runtime, valkey: Valkey) -> None:
        """Log in to each project and list a server of it, as serving does."""
        single_flight = open_single_flight(runtime, valkey)
        budget = open_budget(runtime, valkey)
        logins = Logins(budget, single_flight, LoginGates(single_flight, self._clock))
        async with supervised(runtime.tasks, self._clock, self._metrics):
            for account in self._config.accounts:
                opened = await open_account(runtime, account, logins)
                for project in account.projects:
                    await self._check_project(opened, project)
                if self._console is not None and self._console.concerns(account):
                    self._problems += not await self._console.run(account, opened)

    async def _check_project(self, opened: OpenAccount, project: str) -> None:
        subject = f"account {opened.console.name}, project {project}"
        deadline = self._clock.monotonic() + _WITHIN_S

        async def log_in() -> str:
            return await opened.credentials[project].log_in(deadline=deadline)

        async def list_servers() -> None:
            await opened.console.exchange.call(
                UpstreamRequest("GET", f"/v1/{project}/physicalservers?limit=10"),
                project=project,
                queue_request=QueueRequest(""),
                budget=BudgetClass.CONSOLE,
                deadline=deadline,
            )

        if await self._try(f"login of {subject}", log_in):
            # Only the cloud knows whether a token from Redis is still valid.
            await self._try(f"servers of {subject}", list_servers, address=opened.endpoint)

    async def _try(
        self, subject: str, act: Callable[[], Awaitable[str | None]], *, address: str = ""
    ) -> bool:
        try:
            result = await act()
        except GatewayError as error:
            self._problems += 1
            print_error(f"{subject}: {': '.join(filter(None, (address, str(error))))}")
            return False
        print_line(f"{subject}: {', '.join(filter(None, ('ok', result)))}")
        return True


async def _load_keys(keys: IssuerKeys) -> str:
    await keys.refresh()
    return keys.summary
