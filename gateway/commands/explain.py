"""`gateway explain`: which rule of the policy, or which lock, decides; offline by default."""

import argparse
from collections.abc import Sequence
from math import inf

from gateway.commands.arguments import CommandParser, add_config_option
from gateway.commands.client_options import add_connection_options, open_client, print_failure
from gateway.commands.described_rules import describe_request_rule
from gateway.commands.exit_codes import USAGE, CommandFailed
from gateway.commands.explain_locks import (
    KnownLocks,
    describe_lock,
    locks_from_file,
    locks_from_gateway,
)
from gateway.commands.explain_requests import with_requests, with_requests_of_gateway
from gateway.commands.policy_question import (
    OfflinePolicy,
    add_attribute_options,
    given_attributes,
)
from gateway.commands.terminal import print_error, print_line
from gateway.commands.times import TIME_HELP, time_or_age
from gateway.config.policy_schema import POLICY_PERMISSIONS
from gateway.domain.model import Principal, ServerId
from gateway.domain.policy.inventory import NO_INVENTORY, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.request_rules import RequestRule
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
        "--at", type=time_or_age, metavar="TIME", help=f"{TIME_HELP} (default: now)"
    )
    add_attribute_options(parser)
    add_connection_options(
        parser,
        "options that query a running gateway for locks and access requests",
        prefix="CONSOLE_GATEWAY_ADMIN",
        url="ask this admin listener for locks and access requests (default: read them from"
        " `overrides.file` and `requests.file`)",
    )
    parser.add_argument("target", metavar="PROJECT/SERVER", help="server by ID, or a project")
    parser.exit_codes = {
        0: "allowed",
        1: "invalid config or policy, or the gateway did not answer",
        2: "wrong usage",
        3: "denied",
    }
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the lock or the rule that decides; return 0 if it allows, else 3.

    Only files are read, unless --gateway is given.
    """
    offline, given = OfflinePolicy.load(options.config), given_attributes(options)
    now = options.at if options.at is not None else SystemClock().now()
    try:
        principal = _principal(options, offline, now)
        project, server = offline.target(options.target, given)
        known = _known_locks(options, offline, now)
        policy, requests = _requested_policy(options, offline, known)
    except ValueError as error:
        print_error(error)
        return USAGE
    except CommandFailed as failure:
        print_failure(failure)
        return USAGE if failure.code == USAGE else 1
    inventory = offline.inventory(project, server, given, now)
    explanation = policy.explain(principal, options.permission, project, server, now, inventory)
    locks = [describe_lock(one) for one in known.overrides.locks_on(principal, project, server)]
    for lock in locks:
        print_line(f"DENIED by {lock}")
    _print_explanation(explanation, now, head="  without locks: " if locks else "")
    rules = policy.requests_on(options.permission, project, server, now, inventory)
    _print_requestable(explanation, [one for one in rules if one.may_request(principal, now)])
    for source in (known.source, requests if policy.request_rules else ""):
        _print_source(source)
    if given.any or any(rule.selector is not None for rule in explanation.matching):
        _print_attributes(inventory, server, now)
    if offline.config.admin.api is not None:
        print_line("  revocations of tokens are not considered; see `gateway admin overrides`")
    return 0 if explanation.decision.allowed and not locks else 3


def _print_source(source: str) -> None:
    if source:
        print_line(f"  {source}")


def _principal(options: argparse.Namespace, offline: OfflinePolicy, now: float) -> Principal:
    """Return the person of the question; raise ValueError for a wrong option."""
    names = [one.name for one in offline.config.issuers]
    issuer = options.issuer
    if issuer is None and len(names) == 1:
        issuer = names[0]
    if issuer not in names:
        raise ValueError(f"--issuer must be one of: {', '.join(names)}")
    if options.permission not in POLICY_PERMISSIONS:
        known = ", ".join(sorted(POLICY_PERMISSIONS))
        raise ValueError(f"--permission must be one of: {known}")
    groups = offline.groups(options.group)
    return Principal(issuer, options.user, groups, now, now, None)


def _known_locks(options: argparse.Namespace, offline: OfflinePolicy, at: float) -> KnownLocks:
    """Return the locks of the gateway that the command names, else of the snapshot file."""
    if options.gateway is not None:
        return locks_from_gateway(open_client(options), options.gateway, at)
    return locks_from_file(offline.config.overrides.file, SystemClock().now(), at)


def _requested_policy(
    options: argparse.Namespace, offline: OfflinePolicy, known: KnownLocks
) -> tuple[Policy, str]:
    """Return the policy with the access requests in force, and where those are from."""
    if options.gateway is not None:
        return with_requests_of_gateway(open_client(options), options.gateway, offline.policy)
    return with_requests(offline.config, offline.policy, known.overrides)


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
    location = "/".join(part or "unknown" for part in (known.dc, known.rack, known.unit))
    rest = f"model {known.model or 'unknown'}; name {known.name or 'unknown'}"
    print_line(f"  tags {tags}; location {location}; {rest}; {age}")


def _print_explanation(explanation: Explanation, now: float, *, head: str) -> None:
    decision = explanation.decision
    if decision.rule is None:
        print_line(f"{head}DENIED: no grant applies")
    else:
        verdict = "ALLOWED" if decision.allowed else "DENIED"
        rule = decision.rule
        print_line(f"{head}{verdict} by {rule.location}: {rule.label}")
    for other in explanation.matching:
        if other.ref != decision.rule:
            print_line(f"  also {other.ref.location}: {other.ref.label}{_when(other, now)}")


def _print_requestable(explanation: Explanation, rules: Sequence[RequestRule]) -> None:
    """Print the rules by which the person may request what is denied."""
    for rule in () if explanation.decision.allowed else rules:
        print_line(f"  may request it: {describe_request_rule(rule)}")


def _when(rule: Rule, now: float) -> str:
    if now < rule.valid_from:
        return f" (not before {iso(rule.valid_from)})"
    if now >= rule.valid_until:
        return f" (ended {iso(rule.valid_until)})"
    return ""
