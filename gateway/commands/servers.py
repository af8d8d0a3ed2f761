"""`gateway servers`: list the visible servers and the caller's permissions on them."""

import argparse

from gateway.commands.arguments import CommandParser
from gateway.commands.client_options import add_client_options, run_client_command
from gateway.commands.exit_codes import OK
from gateway.commands.gateway_client import GatewayClient, require_member
from gateway.commands.terminal import print_error, print_json, print_table


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.add_argument(
        "projects",
        nargs="*",
        metavar="PROJECT",
        help="project to list (default: all projects visible to you)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_client_command(options, _servers)


def _servers(options: argparse.Namespace, gateway: GatewayClient) -> int:
    projects = options.projects or [
        require_member(one, "id", str)
        for one in require_member(gateway.request("/v3/projects").data, "projects", list)
    ]
    servers = [
        {
            "project_id": project,
            **{name: one.get(name) for name in ("id", "name", "power_state", "health_state")},
            "permissions": permissions,
        }
        for project in projects
        for one, permissions in gateway.servers_with_permissions(project)
    ]
    if options.json:
        print_json({"servers": servers})
    elif not servers:
        print_error("No server is visible to you.")
    else:
        print_table(
            ("PROJECT", "SERVER", "NAME", "POWER", "HEALTH", "PERMISSIONS"),
            [(*list(one.values())[:-1], " ".join(one["permissions"])) for one in servers],
        )
    return OK
