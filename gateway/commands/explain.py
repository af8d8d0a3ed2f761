"""`gateway explain`: which rule of the policy decides, offline."""

import argparse
import sys
from pathlib import Path

from gateway.commands.arguments import CommandParser, add_config_option, instant
from gateway.config.policy_loader import load_policy
from gateway.config.settings import Settings, load_settings
from gateway.domain.model import PERMISSIONS, SERVER_ID, Principal, ProjectId, ServerId
from gateway.domain.policy.inventory import NO_INVENTORY, Inventory, parse_inventory
from gateway.domain.policy.rules import Explanation, Rule
from gateway.domain.timestamps import iso
from gateway.drivers.host.clock import SystemClock


def register(parser: CommandParser) -> None:
    add_config_option(parser)
    parser.add_argument(
        "--issuer", metavar="NAME", help="name in the config (default: the only issuer)"
    )
    parser.add_argument("--user", required=True, metavar="SUBJECT", help="subject of the token")
    parser.add_argument(
        "--group", action="append", default=[], metavar="GROUP", help="repeat it for each group"
    )
    parser.add_argument(
        "--permission", default="console:open", help="permission (default: %(default)s)"
    )
    parser.add_argument(
        "--at", type=instant, metavar="TIME", help="ISO 8601 with time zone (default: now)"
    )
    parser.add_argument("target", metavar="PROJECT/SERVER", help="server by ID, or a project")
    parser.exit_codes = {
        0: "allowed",
        1: "invalid config or policy",
        2: "wrong usage",
        3: "denied",
    }
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return explain(
        options.config,
        issuer=options.issuer,
        subject=options.user,
        groups=frozenset(options.group),
        permission=options.permission,
        target=options.target,
        at=options.at,
    )


def explain(  # noqa: PLR0913 - one argument per option
    config_file: Path,
    *,
    issuer: str | None,
    subject: str,
    groups: frozenset[str],
    permission: str,
    target: str,
    at: float | None,
) -> int:
    """Print the rule that decides, with file and line; return 0 if it allows, else 3.

    Only files are read: no connection is made, neither to Redis nor to the cloud.
    """
    config = load_settings(config_file)
    policy = load_policy(config_file, config)
    names = [one.name for one in config.issuers]
    if issuer is None and len(names) == 1:
        issuer = names[0]
    project, _, server = target.partition("/")
    projects = config.project_ids
    if issuer not in names:
        return _usage(f"--issuer must be one of: {', '.join(names)}")
    if permission not in PERMISSIONS:
        return _usage(f"--permission must be one of: {', '.join(sorted(PERMISSIONS))}")
    if project not in projects:
        return _usage(f"no account has this project; known: {', '.join(projects)}")
    if server and not SERVER_ID.fullmatch(server.lower()):
        return _usage(
            "the server must be given by its ID (a UUID); list IDs with `gateway servers`"
        )
    now = at if at is not None else SystemClock().now()
    principal = Principal(issuer, subject, groups, now, now, None)
    server_id = ServerId(server.lower()) if server else None
    inventory = _inventory(config, project)
    explanation = policy.explain(
        principal, permission, ProjectId(project), server_id, now, inventory
    )
    _print_explanation(explanation, now)
    if any(rule.selector is not None for rule in explanation.matching):
        _print_attributes(inventory, server_id, now)
    if config.admin.api is not None:
        print("  revocations are not considered; list them with `gateway admin overrides`")
    return 0 if explanation.decision.allowed else 3


def _inventory(config: Settings, project: str) -> Inventory:
    for account in config.accounts:
        file = account.inventory.inventory_file(project)
        if project in account.projects and file is not None:
            try:
                return parse_inventory(
                    file.read_bytes(),
                    now=SystemClock().now(),
                    age_max_s=account.inventory.age_max_s,
                )
            except (OSError, ValueError):
                break
    return NO_INVENTORY


def _print_attributes(inventory: Inventory, server: ServerId | None, now: float) -> None:
    """Print the attributes that rules were compared with, and their age."""
    unknown = "grants by attributes do not apply, denials by attributes do"
    if inventory is NO_INVENTORY:
        print(f"  no inventory (set `accounts[].inventory.directory`): {unknown}")
        return
    age = f"taken {iso(inventory.taken_at)}, {now - inventory.taken_at:.0f} s before"
    if now >= inventory.good_until:
        print(f"  the inventory is too old, {age}: {unknown}")
        return
    known = inventory.attributes(server, now)
    if known is None:
        print(f"  the inventory, {age}, does not know this server: {unknown}")
        return
    tags = "unknown"
    if known.tags is not None:
        tags = ", ".join(f"{key}={value}" for key, value in sorted(known.tags)) or "none"
    place = "/".join(part or "unknown" for part in (known.dc, known.rack, known.unit))
    print(f"  tags {tags}; location {place}; model {known.model or 'unknown'}; {age}")


def _print_explanation(explanation: Explanation, now: float) -> None:
    decision = explanation.decision
    if decision.rule is None:
        print("DENIED: no grant applies")
    else:
        verdict = "ALLOWED" if decision.allowed else "DENIED"
        rule = decision.rule
        print(f"{verdict} by {rule.place}: {rule.label}")
    for other in explanation.matching:
        if other.ref != decision.rule:
            print(f"  also {other.ref.file}:{other.ref.line}: {other.ref.label}{_when(other, now)}")


def _when(rule: Rule, now: float) -> str:
    if now < rule.valid_from:
        return f" (not before {iso(rule.valid_from)})"
    if now >= rule.valid_until:
        return f" (ended {iso(rule.valid_until)})"
    return ""


def _usage(message: str) -> int:
    print(message, file=sys.stderr)
    return 2
