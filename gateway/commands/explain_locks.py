"""The locks that `gateway explain` considers: those of the snapshot file, or of a gateway."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.commands.exit_codes import REJECTED, CommandFailed
from gateway.commands.gateway_client import GatewayClient, require_member
from gateway.domain.overrides import (
    UNTIL_LIFTED,
    Lock,
    Override,
    OverrideSet,
    parse_snapshot,
)
from gateway.domain.timestamps import iso

_NOT_CHECKED: Final = "locks were not checked"
_USE_GATEWAY: Final = "query a running gateway with --gateway"


@dataclass(frozen=True, slots=True)
class KnownLocks:
    """Locks at one time."""

    overrides: OverrideSet
    source: str
    """Where they are from, how old they are, or why there are none."""


def locks_from_file(file: Path | None, now: float, at: float) -> KnownLocks:
    """Return the locks of the file that have not ended at `at`."""
    if file is None:
        return KnownLocks(
            OverrideSet(), f"{_NOT_CHECKED}: `overrides.file` is not configured; {_USE_GATEWAY}"
        )
    try:
        written_at, snapshot = file.stat().st_mtime, parse_snapshot(file.read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return KnownLocks(OverrideSet(), f"{_NOT_CHECKED}: {file}: {reason}; {_USE_GATEWAY}")
    except ValueError:
        return KnownLocks(OverrideSet(), f"{_NOT_CHECKED}: {file}: damaged; {_USE_GATEWAY}")
    overrides = OverrideSet().merge(snapshot.overrides, at)
    age_s = max(now - written_at, 0.0)
    source = f"{_count(overrides)} in {file}, last written {iso(written_at)}, {age_s:.0f} s ago"
    if not snapshot.complete:
        source += "; its process had not loaded all overrides, so there may be others"
    return KnownLocks(overrides, source)


def locks_from_gateway(gateway: GatewayClient, url: str, at: float) -> KnownLocks:
    """Ask the admin API for the locks, without those that have ended at `at`.

    Raises CommandFailed.
    """
    response = gateway.request("/admin/locks").data
    try:
        overrides = OverrideSet().merge(_parse(require_member(response, "overrides", list)), at)
    except (ValueError, LookupError, TypeError):
        raise CommandFailed(REJECTED, "Unexpected response. Check --gateway.") from None
    source = f"{_count(overrides)} at {url}"
    if not require_member(response, "loaded", bool):
        source += "; its process has not loaded all overrides, so there may be others"
    return KnownLocks(overrides, source)


def describe_lock(override: Override) -> str:
    """Return ID, target, end, author and reason of a lock."""
    lock = override.effect
    assert isinstance(lock, Lock)
    issuer = f" of issuer {lock.issuer}" if lock.issuer else ""
    until = "it is lifted" if override.expires_at >= UNTIL_LIFTED else iso(override.expires_at)
    reason = f": {override.reason}" if override.reason else ""
    target = f"{lock.target} {getattr(lock, lock.target)}{issuer}"
    return f"lock {override.id} on {target}, until {until}, set by {override.created_by}{reason}"


def _count(overrides: OverrideSet) -> str:
    count = sum(isinstance(one.effect, Lock) for one in overrides.in_force)
    return f"{count} {'lock' if count == 1 else 'locks'}"


def _parse(listed: Iterable[dict[str, Any]]) -> Iterable[Override]:
    for one in listed:
        yield Override(
            id=str(one["id"]),
            created_at=datetime.fromisoformat(one["created_at"]).timestamp(),
            expires_at=datetime.fromisoformat(one["expires_at"]).timestamp(),
            created_by=str(one["created_by"]),
            reason=str(one["reason"]),
            effect=msgspec.convert(one["effect"], Lock),
        )
