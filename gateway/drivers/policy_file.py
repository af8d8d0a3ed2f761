"""The policy in force, read from its file and read again when the file changes."""

import asyncio
import hashlib
import logging
from collections.abc import Collection
from pathlib import Path

from gateway.errors import JournalUnavailable
from gateway.located_yaml import MistakesFound, load
from gateway.ports import AuditRecord, Clock, Journal, Telemetry
from gateway.rules.policy import Policy
from gateway.rules.policy_text import read_policy

log = logging.getLogger("gateway.policy")

_LOOK_EVERY_S = 1.0


class PolicyFile:
    """Implements ports.Policies. A file with mistakes never replaces a policy that is in force."""

    def __init__(
        self,
        file: Path,
        *,
        issuers: Collection[str],
        projects: Collection[str],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """Load the file; raise MistakesFound when it has mistakes."""
        self._file = file
        self._issuers = issuers
        self._projects = projects
        self._clock = clock
        self._telemetry = telemetry
        self._seen = _digest(file)
        self._policy = self._read()
        self.loaded_at = clock.now()
        self.rejected = False
        self._journal: Journal | None = None
        telemetry.policy_reloaded("ok", self._policy.size)

    def current(self) -> Policy:
        return self._policy

    async def run(self) -> None:
        """Reload whenever the content changes, for ever.

        The content is compared, not the file's times: a ConfigMap is swapped by a symlink, and an
        editor may write twice within one tick of the file system's clock.
        """
        while True:
            await self._clock.sleep(_LOOK_EVERY_S)
            if await asyncio.to_thread(_digest, self._file) != self._seen:
                await self.reload()

    async def reload(self) -> bool:
        """Take the file over as a whole, or refuse it, count and log why, and change nothing."""
        self._seen = await asyncio.to_thread(_digest, self._file)
        try:
            policy = await asyncio.to_thread(self._read)
        except MistakesFound as found:
            self.rejected = True
            self._telemetry.policy_reloaded("rejected", 0)
            mistakes = [str(mistake) for mistake in found.mistakes[:50]]
            log.error("policy_rejected", extra={"mistakes": mistakes})  # noqa: TRY400
            await self._record("policy_rejected", mistakes[0])
            return False
        self._policy, self.rejected = policy, False
        self.loaded_at = self._clock.now()
        self._telemetry.policy_reloaded("ok", policy.size)
        log.info("policy_loaded", extra={"version": policy.version, "rules": policy.size})
        await self._record("policy_loaded", f"{policy.size} rules")
        return True

    async def record_in(self, journal: Journal) -> None:
        """Put on record which policy is in force, now and at each change."""
        self._journal = journal
        await self._record("policy_loaded", f"{self._policy.size} rules")

    async def _record(self, event: str, detail: str) -> None:
        if self._journal is None:
            return
        record = AuditRecord(
            event=event, at=self._clock.now(), policy_version=self._policy.version, detail=detail
        )
        try:
            await self._journal.record(record)
        except JournalUnavailable:  # a policy that takes rights away must not wait for a disk
            self._telemetry.unrecorded()

    def _read(self) -> Policy:
        document = load(self._file)
        return read_policy(
            document,
            issuers=self._issuers,
            projects=self._projects,
            version=_digest(self._file)[:12],
        )


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
