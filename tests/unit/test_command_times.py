"""Times and durations have one syntax in all commands."""

import argparse
from collections.abc import Iterator

import pytest

from gateway.commands import times
from gateway.commands.arguments import CommandParser
from gateway.commands.parser import build_parser
from gateway.commands.times import duration, rfc3339, time_or_age

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("15m", 900), ("1h", 3_600), ("7d", 604_800), ("90", 90), ("0.5", 0.5)],
)
def test_duration_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert duration(0.1, 1e6)(text) == seconds


@pytest.mark.parametrize("text", ["", "1w", "h", "1.5h", "-1h", "1h30m", "\uff11h", "1 h"])
def test_other_durations_are_rejected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be 30s, 15m, 1h, 7d, or a number"):
        duration(0, 1e6)(text)


@pytest.mark.parametrize("text", ["0s", "8d", "nan", "inf", "-1"])
def test_duration_out_of_bounds_is_rejected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be from 1 to 604,800 seconds"):
        duration(1, 604_800)(text)


def test_time_is_absolute_or_before_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "now", lambda: NOW)
    assert time_or_age("1h") == NOW - 3_600
    assert time_or_age("2027-01-15T09:00:00+01:00") == NOW
    assert rfc3339(time_or_age("2027-01-15T09:00:00+01:00")) == "2027-01-15T08:00:00Z"
    with pytest.raises(argparse.ArgumentTypeError, match="or a time before now such as 30m"):
        time_or_age("3600")


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    if isinstance(parser, CommandParser):
        parser.load()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from options(one)
        else:
            yield action


def test_every_option_with_a_time_reads_the_same_forms() -> None:
    found = [*options(build_parser())]
    kinds = {
        (one.metavar, getattr(one.type, "__qualname__", None))
        for one in found
        if one.metavar in ("TIME", "DURATION", "SECONDS")
    }
    assert kinds == {("TIME", "time_or_age"), ("DURATION", "duration.<locals>.read")}
    named = {name for one in found for name in one.option_strings if one.metavar == "DURATION"}
    assert named == {"--for", "--wait"}
