"""`gateway check`: verify config, policy and certificates; with --online also the connections."""

import argparse
import logging
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

from gateway.commands.arguments import CommandParser, add_config_option
from gateway.commands.interrupts import run_async
from gateway.config.environment import tracing_variable
from gateway.config.errors import ConfigError, InvalidConfig
from gateway.config.located_yaml import Document, load
from gateway.config.policy_loader import load_parsed_policy
from gateway.config.policy_warnings import policy_warnings
from gateway.config.settings import Settings, validate_settings
from gateway.config.store import RedisEmbedded
from gateway.config.warnings import WARNINGS, config_warnings
from gateway.domain.errors import GatewayError, StoreUnavailable
from gateway.domain.timestamps import iso
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.host.handover import Handover
from gateway.drivers.network.listener_tls import CertificateValidity, validity
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.valkey.client import address_of, make_client
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.embedded import EmbeddedValkey
from gateway.process.runtime import Runtime
from gateway.process.startup_checks import require_tracing_packages
from gateway.process.tasks import supervised
from gateway.process.wiring.accounts import open_account
from gateway.process.wiring.budget import open_budget
from gateway.process.wiring.identity import open_identity
from gateway.process.wiring.store import open_single_flight

_ONLINE_WITHIN_S = 15.0


def register(parser: CommandParser) -> None:
    add_config_option(parser)
    parser.add_argument(
        "--online",
        action="store_true",
        help="also connect to Redis, load the issuers' keys and log in to each account",
    )
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors")
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        choices=sorted(WARNINGS),
        metavar="CODE",
        help="do not report the warnings with this code; repeat it for each code",
    )
    parser.exit_codes = {
        0: "no error",
        1: "errors found; with --strict also warnings",
        2: "wrong usage",
    }
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return check(
        options.config,
        online=options.online,
        strict=options.strict,
        accepted=frozenset(options.accept),
    )


def check(
    config_file: Path, *, online: bool, strict: bool = False, accepted: frozenset[str] = frozenset()
) -> int:
    """Print every error and warning in the config and the policy.

    Return 0 if both are valid, else 1; with `strict` also 1 for a warning that is not accepted.
    """
    document = load(config_file)
    config = validate_settings(document)
    policy, parsed = load_parsed_policy(config_file, config)
    require_tracing_packages(tracing_variable())
    certificates = _certificates(config, document)
    print(f"{config_file}: ok")
    print(f"{config.policy_file}: ok, {policy.size} rules, version {policy.version}")
    for listener, dates in certificates:
        print(f"{listener}.tls: ok, until {iso(dates.ends_at)}")
    found = chain(
        config_warnings(config, document),
        policy_warnings(parsed, config.catalogue, SystemClock().now()),
    )
    warnings = [warning for warning in found if warning.code not in accepted]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    problems = run_async(_check_online(config)) if online else 0
    return 1 if problems or (warnings and strict) else 0


def _certificates(config: Settings, document: Document) -> list[tuple[str, CertificateValidity]]:
    """Return each listener's certificate dates; raise InvalidConfig if one is not valid now."""
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
    # Log lines of the components are suppressed: the errors are printed below, with addresses.
    logging.getLogger("gateway").addHandler(logging.NullHandler())
    clock, metrics = SystemClock(), Metrics()
    problems = 0
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
            problems += _report("redis")
        except StoreUnavailable as error:
            problems += _report("redis", f"{address_of(config.store)}: {error}")
        identity = await open_identity(runtime, Handover())
        for keys in identity.keys:
            try:
                await keys.refresh()
                problems += _report(f"keys of {keys.issuer}")
            except GatewayError as error:
                problems += _report(f"keys of {keys.issuer}", str(error))
        flight = open_single_flight(runtime, valkey)
        logins = replace(runtime, tasks={})  # without the tasks that refresh keys
        budget = open_budget(logins, valkey)
        await stack.enter_async_context(supervised(logins.tasks, clock, metrics))
        for account in config.accounts:
            opened = await open_account(logins, account, budget, flight)
            try:
                source = await opened.log_in(clock.monotonic() + _ONLINE_WITHIN_S)
                problems += _report(f"login of account {account.name}", result=f"ok, {source}")
            except GatewayError as error:
                problems += _report(f"login of account {account.name}", str(error))
    return 1 if problems else 0


def _report(subject: str, problem: str = "", *, result: str = "ok") -> int:
    print(f"{subject}: {problem or result}", file=sys.stderr if problem else sys.stdout)
    return 1 if problem else 0
