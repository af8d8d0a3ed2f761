"""`gateway check` and `gateway explain`: what an operator asks before and after a change."""

import asyncio
import logging
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from gateway.config.environment import tracing_variable
from gateway.config.errors import ConfigError, InvalidConfig
from gateway.config.located_yaml import Document, load
from gateway.config.settings import Settings, load_settings
from gateway.config.store import RedisEmbedded
from gateway.domain.errors import GatewayError, StoreUnavailable
from gateway.domain.model import PERMISSIONS, SERVER_ID, Principal, ProjectId, ServerId
from gateway.domain.policy.inventory import NO_INVENTORY, Inventory, parse_inventory
from gateway.domain.policy.policy import Explanation, Rule
from gateway.domain.timestamps import iso
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.host.handover import Handover
from gateway.drivers.network.listener_tls import CertificateValidity, validity
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.valkey.client import address_of, make_client
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.embedded import EmbeddedValkey
from gateway.process.runtime import Runtime
from gateway.process.startup_checks import load_policy, require_tracing_packages
from gateway.process.tasks import supervised
from gateway.process.wiring.accounts import configured_projects, open_account
from gateway.process.wiring.budget import open_budget
from gateway.process.wiring.identity import open_identity
from gateway.process.wiring.store import open_single_flight

_ONLINE_WITHIN_S = 15.0


def check(config_file: Path, *, online: bool) -> int:
    """Print every mistake in the config and the policy; return 0 when there is none."""
    config = load_settings(config_file)
    policy = load_policy(config_file, config)
    require_tracing_packages(tracing_variable())
    certificates = _certificates(config, load(config_file))
    print(f"{config_file}: ok")
    print(f"{config.policy_file}: ok, {policy.size} rules, version {policy.version}")
    for listener, dates in certificates:
        print(f"{listener}.tls: ok, until {iso(dates.ends_at)}")
    return asyncio.run(_check_online(config)) if online else 0


def _certificates(config: Settings, document: Document) -> list[tuple[str, CertificateValidity]]:
    """Return what the listeners show and until when; raise InvalidConfig for wrong dates."""
    found: list[tuple[str, CertificateValidity]] = []
    errors: list[ConfigError] = []
    for listener, tls in (("listen", config.listen.tls), ("admin", config.admin.tls)):
        if tls is not None:
            found.append((listener, validity(tls.certificate_file)))
            if problem := found[-1][1].problem(SystemClock().now()):
                path = (listener, "tls", "certificate_file")
                errors.append(document.error(path, f"{tls.certificate_file} {problem}"))
    if errors:
        raise InvalidConfig(errors)
    return found


async def _check_online(config: Settings) -> int:
    # What the parts log for a process that serves is said below, with its address.
    logging.getLogger("gateway").addHandler(logging.NullHandler())
    clock, metrics = SystemClock(), Metrics()
    faults = 0
    async with AsyncExitStack() as stack:
        runtime = Runtime(config, stack, clock, metrics)
        embedded_url = None
        if isinstance(config.store.redis, RedisEmbedded):
            embedded_url = stack.enter_context(EmbeddedValkey()).url
        valkey = Valkey(
            config.store,
            make_client(config.store, embedded_url),
            process_id=None,
            clock=clock,
            telemetry=metrics,
        )
        stack.push_async_callback(valkey.close)
        try:
            await valkey.ping()
            faults += _say("redis")
        except StoreUnavailable as error:
            faults += _say("redis", f"{address_of(config.store)}: {error}")
        identity = await open_identity(runtime, Handover())
        for keys in identity.keys:
            try:
                await keys.refresh()
                faults += _say(f"keys of {keys.issuer}")
            except GatewayError as error:
                faults += _say(f"keys of {keys.issuer}", str(error))
        flight = open_single_flight(runtime, valkey)
        logins = replace(runtime, tasks={})  # without the tasks that refresh keys
        budget = open_budget(logins, valkey)
        await stack.enter_async_context(supervised(logins.tasks, clock, metrics))
        for account in config.accounts:
            opened = await open_account(logins, account, budget, flight)
            try:
                source = await opened.log_in(clock.monotonic() + _ONLINE_WITHIN_S)
                faults += _say(f"login of account {account.name}", how=f"ok, {source}")
            except GatewayError as error:
                faults += _say(f"login of account {account.name}", str(error))
    return 1 if faults else 0


def _say(what: str, fault: str = "", *, how: str = "ok") -> int:
    print(f"{what}: {fault or how}", file=sys.stderr if fault else sys.stdout)
    return 1 if fault else 0


def explain(  # noqa: PLR0913 - the parts of the question, and what may be wrong with each
    config_file: Path,
    *,
    issuer: str | None,
    subject: str,
    groups: frozenset[str],
    permission: str,
    target: str,
    at: float | None,
) -> int:
    """Print what decides and where it stands; return 0 when it is allowed, 3 when it is not.

    It reads files only: neither Redis nor the network is asked.
    """
    config = load_settings(config_file)
    policy = load_policy(config_file, config)
    names = [one.name for one in config.issuers]
    if issuer is None and len(names) == 1:
        issuer = names[0]
    project, _, server = target.partition("/")
    projects = [one.id for one in configured_projects(config)]
    if issuer not in names:
        return _usage(f"--issuer must be one of: {', '.join(names)}")
    if permission not in PERMISSIONS:
        return _usage(f"--permission must be one of: {', '.join(sorted(PERMISSIONS))}")
    if project not in projects:
        return _usage(f"no account has this project; there are: {', '.join(projects)}")
    if server and not SERVER_ID.fullmatch(server.lower()):
        return _usage("a server's id is a UUID; `gateway servers` tells those of names")
    now = at if at is not None else SystemClock().now()
    principal = Principal(issuer, subject, groups, now, now, None)
    asked = ServerId(server.lower()) if server else None
    inventory = _inventory(config, project)
    explanation = policy.explain(principal, permission, ProjectId(project), asked, now, inventory)
    _print_explanation(explanation, now)
    if any(rule.selector is not None for rule in explanation.matching):
        _print_attributes(inventory, asked, now)
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
    """Say what rules by attributes went by, and how old it is."""
    unknown = "grants by attributes give nothing, denials by attributes deny"
    if inventory is NO_INVENTORY:
        print(f"  no inventory is at hand (accounts: inventory.directory): {unknown}")
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
