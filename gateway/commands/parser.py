"""The commands. Each imports what it needs when it runs."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, get_args

from gateway import __version__
from gateway.config.errors import InvalidConfig
from gateway.domain.model import Logger, LogLevel

_EXIT_CODES: Final = """\
exit codes: 0 done, 1 refused, 2 wrong usage, 3 not permitted, 4 not authenticated,
5 try again later, 6 the gateway cannot be reached"""

_CONFIG_VARIABLE: Final = "CONSOLE_GATEWAY_CONFIG"

_YEAR_9999: Final = 253_402_300_799


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except InvalidConfig as found:
        for error in found.errors:
            print(error, file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway", description="A company JWT in, a console link of a physical server out."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the gateway")
    _config_option(serve)
    serve.add_argument(
        "--workers", type=_positive, default=1, help="processes behind the one port (default 1)"
    )
    serve.set_defaults(run=_serve)

    demo = commands.add_parser(
        "demo",
        help="the whole product on loopback, nothing to set up",
        epilog="exit codes: 0 stopped by a signal, 1 gateway failed or demo not installed",
    )
    demo.add_argument("--json", action="store_true", help="print addresses and tokens as one line")
    demo.set_defaults(run=_demo)

    check = commands.add_parser("check", help="find every mistake in the config and the policy")
    _config_option(check)
    check.add_argument(
        "--online", action="store_true", help="also log in to IAM, load issuers' keys, ask Redis"
    )
    check.set_defaults(run=_check)

    console = _client_command(
        commands, "console", "a console on a server: open the link, or print it"
    )
    console.add_argument("server", metavar="PROJECT/SERVER", help="the server by id or by name")
    console.add_argument("--fresh", action="store_true", help="a link nobody was given before")
    how = console.add_mutually_exclusive_group()
    how.add_argument("--print", action="store_true", help="print it (default without a terminal)")
    how.add_argument("--open", action="store_true", help="open it in the browser")
    console.set_defaults(run=_console)

    servers = _client_command(commands, "servers", "what may I see, and what may I do there?")
    servers.add_argument("projects", nargs="*", metavar="PROJECT", help="default: all of mine")
    servers.set_defaults(run=_servers)

    explain = commands.add_parser("explain", help="why may, or may not, this person do this?")
    _config_option(explain)
    explain.add_argument("--issuer", help="the issuer's name in the config (if there are several)")
    explain.add_argument("--user", required=True, metavar="SUBJECT")
    explain.add_argument("--group", action="append", default=[], metavar="GROUP")
    explain.add_argument("--permission", default="console:open")
    explain.add_argument("--at", type=_instant, help="an instant with time zone (default: now)")
    explain.add_argument("target", metavar="PROJECT/SERVER")
    explain.set_defaults(run=_explain)

    _config_commands(commands)
    _audit_commands(commands)
    _admin_commands(commands)
    return parser


def _config_commands(commands: Any) -> None:
    config = commands.add_parser("config", help="print the effective config, or JSON Schemas")
    kinds = config.add_subparsers(required=True, metavar="COMMAND")

    show = kinds.add_parser("show", help="print the config with every default, without secrets")
    _config_option(show)
    show.set_defaults(run=_config_show)

    schema = kinds.add_parser("schema", help="print the JSON Schema of the config, for editors")
    schema.add_argument("--policy", action="store_true", help="of the policy instead")
    schema.set_defaults(run=_config_schema)


def _audit_commands(commands: Any) -> None:
    audit = commands.add_parser("audit", help="search and verify the audit log")
    kinds = audit.add_subparsers(required=True, metavar="COMMAND")
    places: dict[str, Any] = {"type": Path, "nargs": "+", "metavar": "DIR"}
    about = "audit.directory of one gateway host, or of several"

    verify = kinds.add_parser(
        "verify",
        help="was anything removed, changed, reordered or inserted?",
        epilog="exit codes: 0 intact, 1 broken, 2 wrong usage, or no chain there",
    )
    verify.add_argument("directories", help=about, **places)
    verify.add_argument(
        "--public-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="check signatures: the public half of audit.signing_key in PEM; one for each key",
    )
    verify.add_argument(
        "--head",
        type=_head,
        action="append",
        default=[],
        metavar="CHAIN:SEQ:HASH",
        help="this line must be there: a head kept elsewhere, e.g. from a log's audit_checkpoint",
    )
    verify.add_argument("--json", action="store_true", help="one JSON document")
    verify.set_defaults(run=_audit_verify)

    search = kinds.add_parser(
        "search",
        help="records by person, server and time, one a line",
        epilog="exit codes: 0 found, 1 nothing found, 2 wrong usage",
    )
    search.add_argument("directories", help=about, **places)
    search.add_argument("--subject", help="who asked, or whom an administrator meant")
    search.add_argument("--issuer", help="its name in the config")
    search.add_argument("--server", metavar="ID")
    search.add_argument("--project", metavar="ID")
    search.add_argument("--event", help="e.g. console_link_issued, refused")
    search.add_argument(
        "--request-id", metavar="ID", help="of a request's log line, or its X-Request-Id"
    )
    search.add_argument("--since", type=_instant, help="an instant with time zone, included")
    search.add_argument("--until", type=_instant, help="an instant with time zone, not included")
    search.add_argument("--json", action="store_true", help="each record as JSON")
    search.set_defaults(run=_audit_search)

    export = kinds.add_parser(
        "export",
        help="write the Redis stream as chain directories, for verify and search",
        epilog="exit codes: 0 written, 1 nothing to write or Redis is away, 2 wrong usage",
    )
    _config_option(export)
    export.add_argument("directory", type=Path, metavar="DIR", help="one that is not there yet")
    export.set_defaults(run=_audit_export)


def _admin_commands(commands: Any) -> None:
    admin = commands.add_parser("admin", help="inspect and control a running gateway (admin API)")
    kinds = admin.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        parser = _client_command(kinds, name, text, prefix="CONSOLE_GATEWAY_ADMIN")
        parser.add_argument("--reason", default="", help="recorded in the audit log")
        parser.set_defaults(run=_admin, command=name)
        return parser

    command(
        "overrides", "list overrides in force: revocations, dropped links, ceilings, log levels"
    )
    clear = command("clear", "clear an override")
    clear.add_argument("id", type=_text, metavar="ID", help="from `gateway admin overrides`")

    revoke = command(
        "revoke", "revoke a token, a person's tokens, or all tokens issued up to a time"
    )
    revoke.add_argument("--issuer", type=_text, required=True, help="name in the config")
    revoke.add_argument("--token-id", type=_text, metavar="JTI", help="revoke one token")
    revoke.add_argument("--subject", type=_text, help="revoke all tokens of this person")
    revoke.add_argument(
        "--before",
        type=_instant,
        metavar="TIME",
        help="revoke tokens issued up to this time (default with --subject: now)",
    )

    drop = command("drop-links", "drop cached links")
    drop.add_argument("--all", action="store_true", help="drop every link")
    drop.add_argument("--project", type=_text, metavar="ID", help="drop the links of a project")
    drop.add_argument("--server", type=_text, metavar="ID", help="drop the links of a server")
    drop.add_argument("--issuer", type=_text, help="the person's issuer; requires --subject")
    drop.add_argument("--subject", type=_text, help="drop the links of a person")

    sessions = command("sessions", "list the tokens and links in the caches of all processes")
    sessions.add_argument("--issuer", type=_text, help="name in the config")
    sessions.add_argument("--subject", type=_text, help="filter by person")
    sessions.add_argument("--server", type=_text, metavar="ID", help="filter by server")
    command("queue", "show budgets and the calls that wait for them")
    ceiling = command("rate-ceiling", "change the rate ceiling of an account's budget for a time")
    ceiling.add_argument("account", type=_text, metavar="ACCOUNT")
    ceiling.add_argument("rate_per_s", type=_number(0.001, 100_000), metavar="CALLS_PER_SECOND")
    ceiling.add_argument("--budget", choices=("console", "iam"), default="console")
    _duration_option(ceiling, default=86_400.0)

    policy = command("policy", "show the policy in force and when it was loaded")
    policy.add_argument("--reload", action="store_true", help="reload the file in every process")
    levels = command("log-level", "change log levels for a time")
    levels.add_argument("levels", nargs="+", type=_level, metavar="LOGGER=LEVEL")
    _duration_option(levels, default=3_600.0)
    loggers = "\n  ".join(get_args(Logger))
    levels.epilog = (
        f"levels: {', '.join(get_args(LogLevel))}\nloggers:\n  {loggers}\n\n{_EXIT_CODES}"
    )


def _duration_option(parser: argparse.ArgumentParser, *, default: float) -> None:
    parser.add_argument(
        "--for",
        dest="duration_s",
        type=_number(1, 2_592_000),
        default=default,
        metavar="SECONDS",
        help=f"default: {default:g}",
    )


def _client_command(
    commands: Any, name: str, text: str, *, prefix: str = "CONSOLE_GATEWAY"
) -> argparse.ArgumentParser:
    """Add a command that asks a gateway as a client does; `prefix` is of its variables."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gateway", type=_text, metavar="URL", help=f"default: ${prefix}_URL")
    parser.set_defaults(url_variable=f"{prefix}_URL")
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token-env",
        metavar="NAME",
        default=f"{prefix}_TOKEN",
        help=f"the variable that holds it (default: {prefix}_TOKEN)",
    )
    token.add_argument("--token-file", type=Path, metavar="FILE")
    token.add_argument("--token-command", metavar="COMMAND", help="it prints the token")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="whom to trust for TLS")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="your certificate, if asked for")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its key (default: in --cert)")
    parser.add_argument(
        "--wait", type=_number(0.1, 86_400), default=60.0, metavar="SECONDS", help="default: 60"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document, errors too")
    return parser


def _console(options: argparse.Namespace) -> int:
    from gateway.commands.client import console

    return console(options)


def _servers(options: argparse.Namespace) -> int:
    from gateway.commands.client import servers

    return servers(options)


def _admin(options: argparse.Namespace) -> int:
    from gateway.commands.admin import admin

    return admin(options)


def _config_option(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get(_CONFIG_VARIABLE) or None
    parser.add_argument(
        "--config",
        type=Path,
        default=default,
        required=default is None,
        metavar="FILE",
        help=f"the config file (default: ${_CONFIG_VARIABLE})",
    )


def _serve(options: argparse.Namespace) -> int:
    from gateway.process.serve import serve

    return serve(options.config, workers=options.workers)


def _demo(options: argparse.Namespace) -> int:
    from gateway.commands.demo import demo

    return demo(as_json=options.json)


def _check(options: argparse.Namespace) -> int:
    from gateway.commands.check import check

    return check(options.config, online=options.online)


def _explain(options: argparse.Namespace) -> int:
    from gateway.commands.explain import explain

    return explain(
        options.config,
        issuer=options.issuer,
        subject=options.user,
        groups=frozenset(options.group),
        permission=options.permission,
        target=options.target,
        at=options.at,
    )


def _config_show(options: argparse.Namespace) -> int:
    from gateway.commands.config import show

    return show(options.config)


def _config_schema(options: argparse.Namespace) -> int:
    from gateway.commands.config import print_schema

    return print_schema(of_policy=options.policy)


def _audit_verify(options: argparse.Namespace) -> int:
    from gateway.commands.audit import verify_audit_log

    return verify_audit_log(
        options.directories, options.public_key, options.head, as_json=options.json
    )


def _audit_search(options: argparse.Namespace) -> int:
    from gateway.commands.audit import RecordFilter, search_audit_log

    question = RecordFilter(
        subject=options.subject,
        issuer=options.issuer,
        server=options.server,
        project=options.project,
        event=options.event,
        request_id=options.request_id,
        since=options.since,
        until=options.until,
    )
    return search_audit_log(options.directories, question, as_json=options.json)


def _audit_export(options: argparse.Namespace) -> int:
    from gateway.commands.audit_export import export

    return export(options.config, options.directory)


def _head(text: str) -> Any:
    from gateway.domain.audit.chain import Head

    chain, _, rest = text.partition(":")
    seq, _, digest = rest.partition(":")
    if not chain or not seq.isdecimal() or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise argparse.ArgumentTypeError("is no CHAIN:SEQ:HASH")
    return Head(chain, int(seq), digest)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError("is no number") from None
        if not low <= number <= high:  # nor is NaN
            raise argparse.ArgumentTypeError(f"must be from {low:,} to {high:,}")
        return number

    return read


def _text(text: str) -> str:
    # A variable of a script that is not set must not turn one person into all of them.
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text


def _level(text: str) -> tuple[str, str]:
    logger, is_given, level = text.partition("=")
    if not is_given:
        raise argparse.ArgumentTypeError("is no LOGGER=LEVEL, e.g. gateway.policy=debug")
    return logger, level


def _instant(text: str) -> float:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("is no ISO 8601 instant") from None
    if instant.tzinfo is None:
        raise argparse.ArgumentTypeError("needs a time zone, e.g. 2026-11-23T12:00:00+00:00")
    if not 0 <= instant.timestamp() <= _YEAR_9999:
        raise argparse.ArgumentTypeError("is not between the years 1970 and 9999")
    return instant.timestamp()
