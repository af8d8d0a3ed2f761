"""Checks that a config can be served, before anything is opened."""

import os
from contextlib import suppress
from pathlib import Path

from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import load
from gateway.config.policy_loader import load_policy
from gateway.config.settings import Settings, load_settings
from gateway.drivers.audit.directory import make_directory
from gateway.drivers.files.policy_process import PARSED_HERE_BYTES_MAX, PolicyCompiler
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.host.handover import Handover
from gateway.edge.consoles.page_assets import page_problem


def load_config(config_file: Path, *, workers: int) -> Settings:
    """Read the config and create the directories that the gateway writes to.

    Raises InvalidConfig, also if live consoles need the page and it is not built. Only `gateway
    serve` calls it: `gateway check` may run as another user or on another machine.
    """
    config = load_settings(config_file, workers=workers)
    document = load(config_file)
    problems = [(one, _directory_problem(one.directory)) for one in config.writable_directories]
    if errors := [
        document.error(one.key, problem) for one, problem in problems if problem and one.is_required
    ]:
        raise InvalidConfig(errors)
    if (key := _page_key(config)) and (problem := page_problem()):
        raise InvalidConfig([document.error(key, f"cannot be served: {problem}")])
    return config


def _page_key(config: Settings) -> tuple[str | int, ...]:
    """Return a key that needs the built pages; () if none does."""
    for i, account in enumerate(config.accounts):
        if account.delivers_proxied:
            return ("accounts", i, "console", "delivery")
    for i, issuer in enumerate(config.issuers):
        if issuer.login is not None:
            return ("issuers", i, "login")
    if config.admin.login is not None:
        return ("admin", "login")
    return () if config.recordings.directory is None else ("recordings", "directory")


def check_policy(config_file: Path, config: Settings, policies: Handover) -> None:
    """Raise InvalidConfig if the policy is unreadable or invalid; hand a large one over."""
    file = config.policy_file
    with suppress(OSError):  # unreadable: the next lines say so; or no process starts
        at = SystemClock().monotonic()
        content = file.read_bytes()
        if len(content) > PARSED_HERE_BYTES_MAX:
            compiler = PolicyCompiler(file, config.policy_names, policies)
            compiler.compile_now(content, at=at)
            return
    load_policy(config_file, config)


def _directory_problem(directory: Path) -> str:
    try:
        make_directory(directory)
    except OSError as error:
        return f"{directory} cannot be made: {error.strerror}"
    return "" if os.access(directory, os.W_OK | os.X_OK) else f"{directory} cannot be written"
