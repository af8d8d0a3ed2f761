"""`gateway admin`: wrong usage is rejected before a request is sent."""

from typing import Any, cast, get_args

import pytest

from gateway.commands import admin
from gateway.commands.parser import build_parser, main
from gateway.domain.model import Logger
from tests.support.admin_client import RecordingAdminClient, RequestRecorded

REVOKE = ("revoke", "--issuer", "corp")
NOW = ("--before", "2026-11-24T12:00:00Z")


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, expect exit code 2 and return its message."""
    try:
        code = main(["admin", *arguments, "--gateway", "http://127.0.0.1:1", "--token-env", "PATH"])
    except SystemExit as end:
        code = int(str(end.code))
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, ""), captured
    return captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        (*REVOKE, "--subject", "", *NOW),
        (*REVOKE, "--subject", " ", *NOW),
        (*REVOKE, "--token-id", ""),
        ("revoke", "--issuer", "", "--subject", "mallory"),
        ("drop-links", "--project", "p", "--server", ""),
        ("drop-links", "--server", "s", "--project", ""),
        ("drop-links", "--issuer", "corp", "--subject", ""),
        ("drop-links", "--issuer", "", "--subject", "mallory"),
        ("clear", ""),
        ("rate-ceiling", "", "5"),
    ],
)
def test_empty_argument_is_rejected(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert "must not be empty" in usage_error(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((*REVOKE, "--before", "0001-01-01T00:00:00+14:00"), "must be in the years 1970 to 9999"),
        ((*REVOKE, "--before", "9999-12-31T23:59:59-14:00"), "must be in the years 1970 to 9999"),
        ((*REVOKE, "--before", "1969-12-31T23:59:59Z"), "must be in the years 1970 to 9999"),
        (("overrides", "--wait", "nan"), "must be from 0.1"),
        (("overrides", "--wait", "inf"), "must be from 0.1"),
        (("overrides", "--wait", "1e12"), "must be from 0.1"),
        (("overrides", "--wait", "0"), "must be from 0.1"),
        (("overrides", "--wait", "soon"), "must be 30s, 15m, 1h, 7d, or a number of seconds"),
        (("overrides", "--wait", "2d"), "must be from 0.1 to 86,400 seconds"),
        (("lock", "--subject", "x", "--for", "366d"), "must be from 1 to 31,536,000 seconds"),
        (("lock", "--subject", "x", "--for", "1 h"), "must be 30s, 15m, 1h, 7d, or a number"),
        (("rate-ceiling", "prod", "nan"), "must be from 0.001"),
        (("rate-ceiling", "prod", "1e-320"), "must be from 0.001"),
        (("rate-ceiling", "prod", "5", "--for", "inf"), "must be from 1 "),
        (("log-level", "gateway=info", "--for", "nan"), "must be from 1 "),
        (("log-level", "gateway=info", "--for", "1e9"), "must be from 1 to 2,592,000 seconds\n"),
    ],
)
def test_value_out_of_bounds_names_the_bounds(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in usage_error(capsys, *arguments)


def test_unknown_option_shows_the_usage_of_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = usage_error(capsys, "unlock", "--issuer", "corp", "0123")
    assert error.startswith("usage: gateway admin unlock ")
    assert "gateway admin unlock: error: unrecognized arguments: --issuer" in error


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["show", "abc"], "must have 32 hexadecimal digits, as `gateway requests list`"),
        (["approve", "a" * 32, "--hash", "abc"], "must have 64 hexadecimal digits, as `gateway re"),
    ],
)
def test_malformed_id_of_a_request_is_rejected(
    capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["requests", *arguments])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_help_names_a_permission_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["admin", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "or end one (permission: requests)" in text
    assert "(permission: read, consoles to end)" in text
    assert "(permission: read, override with --reload)" in text
    assert "or try them again (permission: read, requests to replay)" in text
    assert "lift a lock (permission: lock)" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("drop-links",),
        ("drop-links", "--all", "--server", "s"),
        ("drop-links", "--subject", "mallory"),
        ("drop-links", "--issuer", "corp", "--server", "s"),
        REVOKE,
        (*REVOKE, "--token-id", "x", "--subject", "mallory"),
    ],
)
def test_selection_of_tokens_or_links_is_required(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert "Specify " in usage_error(capsys, *arguments)


def test_help_lists_loggers_and_levels(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["admin", "log-level", "--help"])
    help_text = capsys.readouterr().out
    assert all(f"\n  {name}\n" in help_text for name in get_args(Logger))
    assert "levels: debug, info, warning, error\n" in help_text


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("queue",), "/admin/queue"),
        (("queue", "--reason", "on call"), "/admin/queue?reason=on+call"),
        (
            ("sessions", "--subject", "olga", "--reason", "r"),
            "/admin/sessions?subject=olga&reason=r",
        ),
    ],
)
def test_queries_send_filters_and_reason(arguments: tuple[str, ...], path: str) -> None:
    client = RecordingAdminClient()
    options = build_parser().parse_args(["admin", *arguments, "--gateway", "http://127.0.0.1:1"])
    with pytest.raises(RequestRecorded):
        admin._perform(options, cast(Any, client))
    assert (client.method, client.path) == ("GET", path)


@pytest.mark.parametrize("count", ["x", "0", "-1", "1.5", ""])
def test_workers_must_be_an_integer(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--config", "gateway.yaml", f"--workers={count}"])
    assert "must be an integer, 1 or more\n" in capsys.readouterr().err
