"""The servers of people over all accounts, and where they are served."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.domain.model import ProjectId
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.reading_store import ValkeyReadingStore
from gateway.edge.json_endpoint import Bearer, Paths
from gateway.edge.mount import ApiMount
from gateway.edge.people.browser_gate import identify_by_session
from gateway.edge.people.people_page import PeoplePage
from gateway.edge.people.server_actions import ServerActions
from gateway.edge.servers.servers_handler import PATH, ServersHandler
from gateway.flow.console_links import ConsoleAccount
from gateway.flow.consoles.live_sessions import LiveSessions
from gateway.flow.pipeline import Gateway
from gateway.flow.servers.console_presence import ConsolePresence
from gateway.flow.servers.power_readings import PowerReadings
from gateway.flow.servers.server_lists import ServerLists
from gateway.flow.servers.server_states import ServerStates
from gateway.flow.servers.visible_servers import ListedProject, VisibleServers
from gateway.process.runtime import Runtime
from gateway.process.wiring.login import OpenLogin
from gateway.process.wiring.requests import Stages


def open_power_readings(
    runtime: Runtime, valkey: Valkey, accounts: Mapping[ProjectId, ConsoleAccount]
) -> PowerReadings | None:
    """Return None unless the config enables the list of a person's servers."""
    if not runtime.config.page.enabled:
        return None
    readings = PowerReadings(
        {project: account.exchange for project, account in accounts.items()},
        ValkeyReadingStore(valkey, Sealer(runtime.config.store.seal_keys)),
        runtime.clock,
    )
    runtime.tasks["power of servers"] = readings.run
    return readings


@dataclass(frozen=True, slots=True)
class OpenServers:
    mount: ApiMount
    page: PeoplePage | None
    """None: no issuer has a login."""
    ui_paths: tuple[str, Paths]
    """Below `/ui`, for our own pages."""


def open_servers(
    runtime: Runtime,
    stages: Stages,
    live: LiveSessions | None,
    gateway: Gateway,
    login: OpenLogin | None,
) -> OpenServers | None:
    """Return None unless the config enables the list; `live`: None without live consoles."""
    config = runtime.config
    if stages.readings is None:
        return None
    servers = VisibleServers(
        [
            ListedProject(
                ProjectId(project),
                account.project_name(project),
                account.name,
                account.region,
                account.console.delivery,
            )
            for account in config.accounts
            for project in account.projects
        ],
        policies=stages.policies,
        inventories=stages.inventories,
        clock=runtime.clock,
    )
    lists = ServerLists(servers, stages.identify, runtime.clock)
    states = ServerStates(
        lists,
        policies=stages.policies,
        inventories=stages.inventories,
        presence=None if live is None else ConsolePresence(live.listed, runtime.clock),
        readings=stages.readings,
        clock=runtime.clock,
    )
    bearer = Bearer(stages.credentials, stages.identify, stages.limits)
    prefix = urlsplit(config.listen.public_url or "").path
    actions = ServerActions(gateway, identify_by_session, runtime.clock)
    return OpenServers(
        ApiMount([PATH, prefix + PATH], ServersHandler(lists, states, bearer).paths),
        None if login is None else _open_page(runtime, login, prefix),
        (PATH, (*ServersHandler(lists, states, identify_by_session).paths, *actions.paths)),
    )


def _open_page(runtime: Runtime, login: OpenLogin, prefix: str) -> PeoplePage:
    config = runtime.config
    pages = ["servers", "requests"]
    if config.delivers_proxied:
        pages.append("sessions")
        if config.recordings.directory is not None:
            pages.append("recordings")
    return PeoplePage(login.assets, prefix, pages, config.public_contact)
