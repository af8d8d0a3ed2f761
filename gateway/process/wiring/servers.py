"""The servers of people over all accounts, and where they are served."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.domain.model import ProjectId
from gateway.edge.json_endpoint import Bearer, Paths
from gateway.edge.mount import ApiMount
from gateway.edge.people.browser_gate import identify_by_session
from gateway.edge.servers.servers_handler import PATH, ServersHandler
from gateway.flow.visible_servers import ListedProject, VisibleServers
from gateway.process.runtime import Runtime
from gateway.process.wiring.requests import Stages


@dataclass(frozen=True, slots=True)
class OpenServers:
    mount: ApiMount
    ui_paths: tuple[str, Paths]
    """Below `/ui`, for our own pages."""


def open_servers(runtime: Runtime, stages: Stages) -> OpenServers | None:
    """Return None unless the config enables the list."""
    config = runtime.config
    if not config.page.enabled:
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
        identify=stages.identify,
        clock=runtime.clock,
    )
    bearer = Bearer(stages.credentials, stages.identify, stages.limits)
    prefix = urlsplit(config.listen.public_url or "").path
    return OpenServers(
        ApiMount([PATH, prefix + PATH], ServersHandler(servers, bearer).paths),
        (PATH, ServersHandler(servers, identify_by_session).paths),
    )
