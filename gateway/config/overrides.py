"""Config section `overrides`: revocations and other changes made at runtime."""

from typing import Literal

from gateway.config.files import FileInDirectory
from gateway.config.values import Section


class OverrideSettings(Section):
    """Overrides: revocations and the other changes that administrators make at runtime."""

    file: FileInDirectory | None = None
    """Snapshot of all overrides, for a process that starts while Redis is unavailable. Unset: no
    snapshot."""
    on_unavailable: Literal["deny", "allow"] = "deny"
    """Effect on requests while a process has loaded the overrides neither from Redis nor from the
    file: `deny` answers 503, `allow` answers as if no override existed."""
    enabled: bool = True
    """`false` only if no process that shares this Redis has `admin.api`: a start then requires
    neither Redis nor the file."""
