"""The policy in force, read from its file and read again when the file changes."""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import parse, read
from gateway.config.policy_parser import parse_policy
from gateway.domain.errors import AuditLogUnavailable
from gateway.domain.policy.policy import Policy
from gateway.drivers.host.handover import Handover
from gateway.flow.ports import AuditLog, AuditRecord, Clock, Telemetry

log = logging.getLogger("gateway.policy")

_LOOK_EVERY_S = 1.0
_UNRECORDED_MAX = 100


@dataclass(frozen=True, slots=True)
class _PolicyFileContent:
    """What was in the file at one look, so that a policy bears the digest of its own text."""

    at: float
    """Monotonic, before the look."""
    digest: str
    """"": it could not be read."""
    content: bytes = b""
    unreadable: InvalidConfig | None = None


class PolicyFile:
    """Implements ports.Policies. A file with mistakes never replaces a policy that is in force.

    Nor does a worker's death: the next one begins with what a worker accepted last.
    """

    def __init__(
        self,
        file: Path,
        *,
        issuers: Collection[str],
        projects: Collection[str],
        clock: Clock,
        telemetry: Telemetry,
        handover: Handover,
    ) -> None:
        """Load the file; raise InvalidConfig when it has mistakes and no worker left a policy."""
        self._file = file
        self._issuers = issuers
        self._projects = projects
        self._clock = clock
        self._telemetry = telemetry
        self._handover = handover
        found = self._look()
        self._seen = found.digest
        try:
            self._put_in_force(self._accepted(found))
        except InvalidConfig as refusal:
            if (left := handover.get(self._handover_name)) is None:
                raise
            self._put_in_force(self._policy_of(left.text))
            self._refuse(refusal)
        self._audit_log: AuditLog | None = None
        self._unrecorded: deque[AuditRecord] = deque()
        self._taking = asyncio.Lock()
        """From the look until its policy is in force: else a long one, read before a short one,
        would come into force after it."""
        self._recording = asyncio.Lock()

    def current(self) -> Policy:
        return self._policy

    async def run(self) -> None:
        """Reload whenever the content changes, for ever.

        The content is compared, not the file's times: a ConfigMap is swapped by a symlink, and an
        editor may write twice within one tick of the file system's clock.
        """
        while True:
            await self._clock.sleep(_LOOK_EVERY_S)
            async with self._taking:
                found = await asyncio.to_thread(self._look)
                if found.digest != self._seen:
                    await self._take(found)
            await self._record_all()

    async def reload(self) -> bool:
        """Take the file over as a whole, or refuse it, count and log why, and change nothing."""
        async with self._taking:
            taken = await self._take(await asyncio.to_thread(self._look))
        await self._record_all()
        return taken

    async def record_in(self, audit_log: AuditLog) -> None:
        """Put on record which policy is in force, now and at each change."""
        self._audit_log = audit_log
        self._to_record("policy_loaded", f"{self._policy.size} rules")
        await self._record_all()

    async def _take(self, found: _PolicyFileContent) -> bool:
        try:
            policy = await asyncio.to_thread(self._accepted, found)
        except InvalidConfig as refusal:
            self._seen = found.digest
            self._refuse(refusal)
            self._to_record("policy_rejected", self.error)
            return False
        self._seen = found.digest
        self._put_in_force(policy)
        log.info("policy_loaded", extra={"version": policy.version, "rules": policy.size})
        self._to_record("policy_loaded", f"{policy.size} rules")
        return True

    def _put_in_force(self, policy: Policy) -> None:
        self._policy, self.error = policy, ""
        self.loaded_at = self._clock.now()
        self._telemetry.policy_reloaded("ok", policy.size)

    def _refuse(self, refusal: InvalidConfig) -> None:
        self._telemetry.policy_reloaded("rejected", 0)
        errors = [str(error) for error in refusal.errors[:50]]
        self.error = errors[0]
        log.error("policy_rejected", extra={"errors": errors})

    def _to_record(self, event: str, detail: str) -> None:
        if self._audit_log is None:
            return
        if len(self._unrecorded) >= _UNRECORDED_MAX:
            self._unrecorded.popleft()
            self._telemetry.audit_record_missing()
        self._unrecorded.append(
            AuditRecord(
                event=event,
                at=self._clock.now(),
                policy_version=self._policy.version,
                detail=detail,
            )
        )

    async def _record_all(self) -> None:
        """Put on record what is not yet; a policy that takes rights away waits for no disk."""
        async with self._recording:
            while self._unrecorded and self._audit_log is not None:
                try:
                    await self._audit_log.record(self._unrecorded[0])
                except AuditLogUnavailable:
                    return  # the next look tries again
                self._unrecorded.popleft()

    def _look(self) -> _PolicyFileContent:
        at = self._clock.monotonic()
        try:
            content = read(self._file)
        except InvalidConfig as unreadable:
            return _PolicyFileContent(at, "", unreadable=unreadable)
        return _PolicyFileContent(at, _digest(content), content)

    def _accepted(self, found: _PolicyFileContent) -> Policy:
        """Return the policy of a text that is good, and leave that to the workers after this."""
        if found.unreadable is not None:
            raise found.unreadable
        policy = self._policy_of(found.content)
        self._handover.put(self._handover_name, found.content, at=found.at)
        return policy

    @property
    def _handover_name(self) -> str:
        return f"policy {self._file}"

    def _policy_of(self, content: bytes) -> Policy:
        return parse_policy(
            parse(self._file, content),
            issuers=self._issuers,
            projects=self._projects,
            version=_digest(content)[:12],
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
