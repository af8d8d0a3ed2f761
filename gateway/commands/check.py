"""`gateway check`: verify config, policy and certificates; with --online also the connections."""

import argparse
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.commands.arguments import CommandParser, add_config_option
from gateway.commands.exit_codes import CommandFailed
from gateway.commands.interrupts import run_async
from gateway.commands.terminal import print_error, print_line
from gateway.config.environment import tracing_variable
from gateway.config.errors import ConfigError, ConfigWarning, InvalidConfig
from gateway.config.located_yaml import Document, load
from gateway.config.policy_loader import load_parsed_policy
from gateway.config.policy_warnings import policy_warnings
from gateway.config.request_warnings import request_warnings
from gateway.config.settings import Settings, client_certificates, validate_settings
from gateway.config.warnings import WARNINGS, config_warnings
from gateway.domain.timestamps import iso
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.network.listener_tls import CertificateValidity, validity
from gateway.process.tracing_packages import require_tracing_packages

if TYPE_CHECKING:
    from gateway.commands.online_check import OnlineCheck


def register(parser: CommandParser) -> None:
    add_config_option(parser)
    parser.add_argument(
        "--online",
        action="store_true",
        help="also connect to Redis, load the issuers' keys, try their logins, log in to the cloud"
        " and list servers per project",
    )
    parser.add_argument(
        "--console",
        metavar="PROJECT/SERVER",
        help="as --online, and try which WebSocket address reaches the console of this server",
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
    try:
        return _check(options)
    except CommandFailed as failure:
        print_error(str(failure))
        return failure.code


def _check(options: argparse.Namespace) -> int:
    return check(
        options.config,
        online=options.online or options.console is not None,
        console=options.console,
        strict=options.strict,
        accepted=frozenset(options.accept),
    )


def check(
    config_file: Path,
    *,
    online: bool,
    console: str | None = None,
    strict: bool = False,
    accepted: frozenset[str] = frozenset(),
) -> int:
    """Print every error and warning in the config and the policy.

    Return 0 if both are valid, else 1; with `strict` also 1 for a warning that is not accepted.
    """
    document = load(config_file)
    config = validate_settings(document)
    policy, parsed = load_parsed_policy(config_file, config)
    require_tracing_packages(tracing_variable())
    online_check = _online_check(config, console) if online else None
    certificates = _certificates(config, document)
    print_line(f"{config_file}: ok")
    print_line(f"{config.policy_file}: ok, {policy.size} rules, version {policy.version}")
    for name, dates in certificates:
        print_line(f"{name}: ok, until {iso(dates.ends_at)}")
    found = chain(
        config_warnings(config, document),
        _recording_warnings(config, document),
        request_warnings(config, document, parsed),
        policy_warnings(
            parsed,
            config.catalogue,
            SystemClock().now(),
            delivers_proxied=config.delivers_proxied,
        ),
    )
    warnings = [warning for warning in found if warning.code not in accepted]
    for warning in warnings:
        print_error(f"warning: {warning}")
    failed = bool(warnings) and strict
    if online_check is not None:
        failed |= bool(run_async(online_check.run()))
        for code, message in online_check.warnings:
            if code not in accepted:
                print_error(f"warning: {message} [{code}]")
                failed |= strict
    return 1 if failed else 0


def _online_check(config: Settings, console: str | None) -> "OnlineCheck":
    # Without --online, a check loads neither the HTTP client nor that of Redis.
    from gateway.commands.console_check import ConsoleCheck, console_target
    from gateway.commands.online_check import OnlineCheck

    if console is None:
        return OnlineCheck(config)
    target = console_target(console, config)
    return OnlineCheck(config, ConsoleCheck(config, target, SystemClock()))


def _recording_warnings(config: Settings, document: Document) -> Iterable[ConfigWarning]:
    if config.recordings.directory is None:
        return ()
    from gateway.commands.recordings_warnings import recording_warnings

    return recording_warnings(config, document, SystemClock().now())


def _certificates(config: Settings, document: Document) -> list[tuple[str, CertificateValidity]]:
    """Return the dates of each certificate; raise InvalidConfig if one is not valid now."""
    found: list[tuple[str, CertificateValidity]] = []
    errors: list[ConfigError] = []
    for listener, tls in (("listen", config.listen.tls), ("admin", config.admin.tls)):
        if tls is not None:
            found.append((f"{listener}.tls", validity(tls.certificate_file)))
            if problem := found[-1][1].problem(SystemClock().now()):
                path = (listener, "tls", "certificate_file")
                errors.append(document.error(path, f"{tls.certificate_file} {problem}"))
    for use, key, file in client_certificates(config):
        found.append((f"certificate of {use}", validity(file)))
        if problem := found[-1][1].problem(SystemClock().now()):
            errors.append(document.error(key, f"{file} {problem}"))
    if errors:
        raise InvalidConfig(errors)
    return found
