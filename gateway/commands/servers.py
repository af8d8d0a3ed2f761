"""`gateway servers`: list the visible servers and the caller's permissions on them."""

import argparse
from collections.abc import Iterator, Sequence

from gateway.commands.arguments import CommandParser
from gateway.commands.client_options import add_client_options, run_client_command
from gateway.commands.completion_names import ServerNames
from gateway.commands.exit_codes import OK
from gateway.commands.gateway_client import GatewayClient, require_member
from gateway.commands.server_list import ListedServer, list_servers
from gateway.commands.server_lookup import PROJECT_ID
from gateway.commands.terminal import print_error, print_json, print_table


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.add_argument(
        "query",
        nargs="*",
        metavar="QUERY",
        help="part of a name, ID, region, account, location or tag, or the ID of a project"
        " (default: all servers visible to you)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_client_command(options, _servers)


def _servers(options: argparse.Namespace, gateway: GatewayClient) -> int:
    projects = [one for one in options.query if PROJECT_ID.fullmatch(one)]
    words = [one.lower() for one in options.query if one not in projects]
    listed = None if projects else list_servers(gateway)
    if listed is None:
        listed = [*_by_project(gateway, projects)]
    else:
        ServerNames.of(gateway).remember(listed)
    found = [one for one in listed if one.matches(words)]
    if options.json:
        print_json({"servers": [one.fields for one in found]})
    elif not found:
        print_error(
            "No server is visible to you." if not words else "No such server is visible to you."
        )
    else:
        _print(found)
    return OK


def _by_project(gateway: GatewayClient, projects: Sequence[str]) -> Iterator[ListedServer]:
    """Yield the servers of projects, by default of all: without `page.enabled`."""
    ids = projects or [
        require_member(one, "id", str)
        for one in require_member(gateway.request("/v3/projects").data, "projects", list)
    ]
    for project in ids:
        for server, permissions in gateway.servers_with_permissions(project):
            yield ListedServer.parse(project, server, tuple(permissions))


def _print(servers: Sequence[ListedServer]) -> None:
    has_regions = any(one.region for one in servers)
    print_table(
        (
            "PROJECT",
            "SERVER",
            "NAME",
            *(["REGION"] if has_regions else []),
            "POWER",
            "HEALTH",
            "PERMISSIONS",
        ),
        [
            (
                one.project,
                one.id,
                one.name,
                *([one.region] if has_regions else []),
                one.power,
                one.health,
                " ".join(one.permissions),
            )
            for one in servers
        ],
    )
