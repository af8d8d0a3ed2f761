"""`gateway explain`: which rule of the policy decides, offline."""

import argparse
from math import inf

from gateway.commands.arguments import CommandParser, add_config_option, instant
from gateway.commands.policy_question import (
    OfflinePolicy,
    add_attribute_options,
    given_attributes,
)
from gateway.commands.terminal import print_error, print_line
from gateway.config.policy_schema import POLICY_PERMISSIONS
from gateway.domain.model import Principal, ServerId
from gateway.domain.policy.inventory import NO_INVENTORY, Inventory
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
    add_attribute_options(parser)
    parser.add_argument("target", metavar="PROJECT/SERVER", help="server by ID, or a project")
    parser.exit_codes = {
        0: "allowed",
        1: "invalid config or policy",
        2: "wrong usage",
        3: "denied",
    }
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the rule that decides, with file and line; return 0 if it allows, else 3.

    Only files are read: no connection is made, neither to Redis nor to the cloud.
    """
    offline, given = OfflinePolicy.load(options.config), given_attributes(options)
    names = [one.name for one in offline.config.issuers]
    issuer = options.issuer
    if issuer is None and len(names) == 1:
        issuer = names[0]
    if issuer not in names:
        return _usage(f"--issuer must be one of: {', '.join(names)}")
    if options.permission not in POLICY_PERMISSIONS:
        return _usage(f"--permission must be one of: {', '.join(sorted(POLICY_PERMISSIONS))}")
    try:
        project, server = offline.target(options.target, given)
    except ValueError as error:
        return _usage(str(error))
    now = options.at if options.at is not None else SystemClock().now()
    groups = offline.groups(options.group)
    principal = Principal(issuer, options.user, groups, now, now, None)
    inventory = offline.inventory(project, server, given, now)
    explanation = offline.policy.explain(
        principal, options.permission, project, server, now, inventory
    )
    _print_explanation(explanation, now)
    if given.any or any(rule.selector is not None for rule in explanation.matching):
        _print_attributes(inventory, server, now)
    if offline.config.admin.api is not None:
        print_line(
            "  revocations and locks are not considered; list them with `gateway admin overrides`"
        )
    return 0 if explanation.decision.allowed else 3


def _print_attributes(inventory: Inventory, server: ServerId | None, now: float) -> None:
    """Print the attributes that rules were compared with, and their age."""
    unknown = "grants by attributes do not apply, denials by attributes do"
    if inventory is NO_INVENTORY:
        print_line(f"  no inventory (set `accounts[].inventory.directory`): {unknown}")
        return
    age = (
        "as given"
        if inventory.good_until == inf
        else f"taken {iso(inventory.taken_at)}, {now - inventory.taken_at:.0f} s before"
    )
    if now >= inventory.good_until:
        print_line(f"  the inventory is too old, {age}: {unknown}")
        return
    known = inventory.attributes(server, now)
    if known is None:
        print_line(f"  the inventory, {age}, does not know this server: {unknown}")
        return
    tags = "unknown"
    if known.tags is not None:
        tags = ", ".join(f"{key}={value}" for key, value in sorted(known.tags)) or "none"
    place = "/".join(part or "unknown" for part in (known.dc, known.rack, known.unit))
    rest = f"model {known.model or 'unknown'}; name {known.name or 'unknown'}"
    print_line(f"  tags {tags}; location {place}; {rest}; {age}")


def _print_explanation(explanation: Explanation, now: float) -> None:
    decision = explanation.decision
    if decision.rule is None:
        print_line("DENIED: no grant applies")
    else:
        verdict = "ALLOWED" if decision.allowed else "DENIED"
        rule = decision.rule
        print_line(f"{verdict} by {rule.place}: {rule.label}")
    for other in explanation.matching:
        if other.ref != decision.rule:
            print_line(
                f"  also {other.ref.file}:{other.ref.line}: {other.ref.label}{_when(other, now)}"
            )


def _when(rule: Rule, now: float) -> str:
    if now < rule.valid_from:
        return f" (not before {iso(rule.valid_from)})"
    if now >= rule.valid_until:
        return f" (ended {iso(rule.valid_until)})"
    return ""


def _usage(message: str) -> int:
    print_error(message)
    return 2
