"""A worker: one process that opens the components, listens, drains and closes."""

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from aiohttp import web

from gateway.drivers.host.clock import SystemClock
from gateway.drivers.issuers.issuer_keys import load_initial_keys
from gateway.drivers.network.listener_tls import ServedCertificate
from gateway.drivers.telemetry import log as logs
from gateway.drivers.telemetry.line_writer import LineWriter
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.valkey.client import client_factory
from gateway.edge.admin.handler import AdminHandler
from gateway.edge.listener.proxy_protocol import ProxyProtocolListener
from gateway.edge.listener.server import ListenerServer
from gateway.flow.consoles.session_drain import SessionDrain
from gateway.process.client_certificates import ClientCertificates
from gateway.process.components import Components, open_components
from gateway.process.tasks import BackgroundTask, supervised
from gateway.process.wiring.consoles import OpenConsoles
from gateway.process.wiring.listeners import trusted_proxies
from gateway.process.worker_plan import RETIRE, TAKE_OVER, WorkerPlan

log = logging.getLogger("gateway.worker")

_FIRST_KEYS_TIMEOUT_S = 3.0
_LAST_ACCEPT_S = 0.2
"""How long a stopping worker accepts after the supervisor stopped new connections."""
_CANCEL_TIMEOUT_S = 1.0
_TLS_HANDSHAKE_TIMEOUT_S = 10.0
_TLS_SHUTDOWN_TIMEOUT_S = 2.0
"""Many clients do not answer a TLS shutdown before they next use the connection."""
_LAG_INTERVAL_S = 0.5
_ACCOUNTS_INTERVAL_S = 0.25
_THREAD_SWITCH_S = 0.001
"""How long a thread, such as the one that renders metrics, may hold the interpreter lock."""


def run_worker(plan: WorkerPlan, *, embedded_url: str | None) -> int:
    """Run one worker until a signal stops it; return the exit code."""
    with (
        closing(LineWriter(sys.stdout.fileno())) as lines,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        logs.set_up(plan.config.log.levels, plan.config.log.format, lines)
        runner.run(Worker(plan, lines, embedded_url=embedded_url).run())
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not available on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


class Worker:
    """Opens the components, listens, drains and closes, in this order."""

    def __init__(self, plan: WorkerPlan, lines: LineWriter, *, embedded_url: str | None) -> None:
        self._plan = plan
        self._lines = lines
        self._embedded_url = embedded_url
        self._config = plan.config
        self._clock = SystemClock()
        self._metrics = Metrics(plan.config.metrics.teams)
        counters = plan.counters
        self._metrics.counter("gateway_config_rejections_total", lambda: counters.config_rejections)
        self._metrics.gauge("gateway_config_rejected", lambda: counters.is_config_rejected)
        self._metrics.counter("gateway_worker_deaths_total", lambda: counters.worker_deaths)
        self._metrics.gauge("gateway_workers_retired", lambda: counters.workers_retired)
        self._metrics.counter("gateway_log_lines_dropped_total", lambda: lines.dropped)
        self._stop = asyncio.Event()
        self._reload_requested = asyncio.Event()
        self._owns_admin_port = asyncio.Event()
        self._terminated = asyncio.Event()
        """The whole gateway stops; a replaced worker no longer waits for its live consoles."""
        self._draining = False
        self._proxied: ProxyProtocolListener | None = None
        self._replaced = False
        self._certificates = {
            listener: ServedCertificate(listener, tls, self._clock)
            for listener, tls in (
                ("public", self._config.listen.tls),
                ("admin", self._config.admin.tls),
            )
            if tls is not None
        }

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        loop.add_signal_handler(signal.SIGHUP, self._reload_requested.set)
        loop.add_signal_handler(RETIRE, self._retire)
        loop.add_signal_handler(TAKE_OVER, self._owns_admin_port.set)
        if not self._plan.takes_over:
            self._owns_admin_port.set()
        loop.add_reader(self._plan.parent_fd, self._on_parent_exit)
        try:
            new_client = client_factory(self._config.store, self._embedded_url)
            async with open_components(
                self._config,
                new_client,
                self._clock,
                self._metrics,
                self._lines,
                self._plan.handovers,
            ) as components:
                # Now, because a full collection blocks the loop for longer than the budget slot
                # of the first login is valid.
                gc.collect()
                gc.freeze()  # later collections skip the objects that exist now
                gc.set_threshold(5_000, 20, 50)
                sys.setswitchinterval(_THREAD_SWITCH_S)
                delivery = self._plan.delivery
                await delivery.drop_links(components.overrides, now=self._clock.now())
                await self._run_tasks(components)
        finally:
            loop.remove_reader(self._plan.parent_fd)

    def _on_parent_exit(self) -> None:
        # The pipe stays readable at its end: with the reader in place, the loop would spin.
        asyncio.get_running_loop().remove_reader(self._plan.parent_fd)
        self._terminate()

    def _terminate(self) -> None:
        self._terminated.set()
        self._request_stop()

    def _retire(self) -> None:
        self._replaced = True
        self._request_stop()

    def _request_stop(self) -> None:
        self._stop.set()
        self._owns_admin_port.set()

    async def _run_tasks(self, components: Components) -> None:
        tasks: dict[str, BackgroundTask] = {
            **components.tasks,
            "reload": lambda: self._reload_on_request(components),
            "loop lag": self._measure_lag,
        }
        consoles = components.consoles
        if consoles is not None:
            tasks["console accounts"] = lambda: self._watch_accounts(consoles)
            self._export_connections(consoles)
        for listener, certificate in self._certificates.items():
            tasks[f"certificate of {listener}"] = certificate.run
            self._metrics.gauge(
                "gateway_certificate_expires_timestamp_seconds",
                partial(getattr, certificate, "expires_at"),
                listener=listener,
            )
        client_certificates = ClientCertificates(self._config, self._clock, self._metrics)
        tasks["client certificates"] = client_certificates.run
        server = ListenerServer(
            components.handler,
            idle_timeout_s=self._config.listen.idle_timeout_s,
            # A disconnected caller must leave the queue at once (invariant 8).
            cancels_on_disconnect=True,
            exact_requests=components.handler.hit_path,
        )
        if self._config.listen.proxy_protocol:
            self._proxied = self._proxy_protocol_listener(server)
            tasks["PROXY protocol"] = self._proxied.run
        async with supervised(tasks, self._clock, self._metrics):
            await self._serve(components, server)

    async def _serve(self, components: Components, server: ListenerServer) -> None:
        await load_initial_keys(components.keys, within_s=_FIRST_KEYS_TIMEOUT_S)
        public = web.ServerRunner(server, shutdown_timeout=_CANCEL_TIMEOUT_S)
        admin = web.ServerRunner(self._admin_server(components), shutdown_timeout=_CANCEL_TIMEOUT_S)
        await public.setup()
        await admin.setup()
        public_listener = await self._listen_to_callers(public)
        os.write(self._plan.ready_fd, b"1")
        os.close(self._plan.ready_fd)
        log.info("serving", extra={"worker": self._plan.index})
        await self._owns_admin_port.wait()
        admin_listener = await self._listen("admin", self._plan.admin, admin)
        await self._stop.wait()
        self._draining = True
        log.info("draining", extra={"worker": self._plan.index})
        server.begin_drain()
        if self._replaced:  # the replacement serves both ports
            admin_listener.close()
            await admin.cleanup()
            components.valkey.leave()
        else:
            await self._clock.sleep(self._config.request.drain_delay_s + _LAST_ACCEPT_S)
        public_listener.close()
        async with asyncio.TaskGroup() as draining:
            within_s = self._config.request.drain_s
            _ = draining.create_task(server.drain(self._clock, within_s=within_s))
            if components.consoles is not None:
                _ = draining.create_task(self._drain_consoles(components.consoles.drain))
        await public.cleanup()
        admin_listener.close()
        await admin.cleanup()

    async def _drain_consoles(self, drain: SessionDrain) -> None:
        """Move the live consoles to other processes; after a reload, not before they had time."""
        console = self._config.console
        if self._replaced:
            await drain.keep(for_s=console.reload_drain_s, unless=self._terminated)
        await drain.run(within_s=console.drain_s)

    def _export_connections(self, consoles: OpenConsoles) -> None:
        """Export the live consoles of each account; the first worker adds the replaced ones'."""
        plan, sessions = self._plan, consoles.sessions

        def connected(account: str) -> int:
            retired = 0 if plan.index else plan.retired_consoles.counts.get(account, 0)
            return sessions.counts()[account] + retired

        for one in self._config.accounts:
            if one.delivers_proxied:
                gauge = partial(connected, one.name)
                self._metrics.gauge("gateway_console_connections", gauge, account=one.name)

    async def _watch_accounts(self, consoles: OpenConsoles) -> None:
        """End the live consoles on accounts that a newer config has removed."""
        while True:
            names = self._plan.accounts.names
            if names is not None:
                consoles.sessions.end_other_accounts(names)
            if self._replaced:
                self._plan.consoles.set(consoles.sessions.counts())
            await self._clock.sleep(_ACCOUNTS_INTERVAL_S)

    def _admin_server(self, components: Components) -> ListenerServer:
        handler = AdminHandler(
            self._metrics.exposition,
            lambda: self._readiness(components),
            components.administration,
            self._is_tls_in_force,
            components.admin_ui,
        )
        return ListenerServer(
            handler,
            idle_timeout_s=self._config.admin.idle_timeout_s,
            cancels_on_disconnect=False,  # an action that is recorded is also performed
        )

    def _is_tls_in_force(self, context: ssl.SSLContext) -> bool:
        served = self._certificates.get("admin")
        return served is not None and served.is_in_force(context)

    def _proxy_protocol_listener(self, server: ListenerServer) -> ProxyProtocolListener:
        return ProxyProtocolListener(
            self._plan.public,
            server,
            trusted_proxies(self._config.listen),
            self._clock,
            count_rejected=self._metrics.proxy_header_rejected,
            tls=self._tls_options("public"),
        )

    async def _listen_to_callers(
        self, runner: web.BaseRunner
    ) -> asyncio.AbstractServer | ProxyProtocolListener:
        if self._proxied is None:
            return await self._listen("public", self._plan.public, runner)
        self._proxied.begin()
        return self._proxied

    async def _listen(
        self, listener: str, bound: socket.socket, runner: web.BaseRunner
    ) -> asyncio.AbstractServer:
        if runner.server is None:
            raise RuntimeError("the runner is not set up")
        loop, options = asyncio.get_running_loop(), self._tls_options(listener)
        if bound.family == socket.AF_UNIX:
            if sys.version_info >= (3, 13):
                options["cleanup_socket"] = False  # the supervisor removes it: workers share it
            return await loop.create_unix_server(runner.server, sock=bound, backlog=1024, **options)
        return await loop.create_server(runner.server, sock=bound, backlog=1024, **options)

    def _tls_options(self, listener: str) -> dict[str, Any]:
        certificate = self._certificates.get(listener)
        if certificate is None:
            return {}
        return {
            "ssl": certificate.context,
            "ssl_handshake_timeout": _TLS_HANDSHAKE_TIMEOUT_S,
            "ssl_shutdown_timeout": _TLS_SHUTDOWN_TIMEOUT_S,
        }

    async def _reload_on_request(self, components: Components) -> None:
        while True:
            await self._reload_requested.wait()
            self._reload_requested.clear()
            await components.policies.reload()

    async def _measure_lag(self) -> None:
        while True:
            self._plan.watchdog.beat()
            due_at = self._clock.monotonic() + _LAG_INTERVAL_S
            await self._clock.sleep(_LAG_INTERVAL_S)
            self._metrics.loop_late(max(0.0, self._clock.monotonic() - due_at))

    def _readiness(self, components: Components) -> tuple[bool, Mapping[str, str]]:
        keys = {keys.issuer: keys.loaded for keys in components.keys}
        state = {
            "serving": "draining" if self._draining else "ok",
            # Without Redis each process serves with its share of the budget.
            "redis": "ok" if components.valkey.available else "degraded",
            "overrides": components.overrides.state,
            "audit": "ok" if components.audit_log.durable else "not durable",
            **{f"keys of {name}": "ok" if ok else "unavailable" for name, ok in keys.items()},
        }
        may_record = components.audit_log.durable or self._config.audit.on_unavailable == "allow"
        serves = components.overrides.allows_callers and may_record and any(keys.values())
        return serves and not self._draining, state
