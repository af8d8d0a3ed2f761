"""The policy file, reloaded when its content changes (port `ReloadedPolicies`)."""

import asyncio
import gc
import logging
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import parse, read
from gateway.config.policy_loader import policy_digest, policy_file_digest, policy_version
from gateway.config.policy_names import KnownNames
from gateway.config.policy_parser import make_policy, read_policy
from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import AuditLogUnavailable
from gateway.domain.policy.policy import Policy
from gateway.drivers.files.policy_compiler import policy_name
from gateway.drivers.files.policy_process import PARSED_HERE_BYTES_MAX, PolicyCompiler
from gateway.drivers.files.writers import being_written, is_open_for_writing
from gateway.drivers.host.handover import Handover
from gateway.flow.audit_log import AuditLog
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.policy")

_CHECK_INTERVAL_S = 0.1
_READ_INTERVAL_S = 1.0
"""How often the content is compared where the file's times and size say that nothing changed."""
_SETTLE_S = 0.1
"""A changed file is loaded if its content is the same after so long."""
_TURN_INTERVAL_S = 0.02
_FORGOTTEN_AT_ONCE = 200
_FORGET_INTERVAL_S = 0.001
_PENDING_RECORDS_MAX = 100
_LOGGED_ERRORS_MAX = 50


@dataclass(frozen=True, slots=True)
class _PolicyFileContent:
    """One reading of the file: a policy's version is the digest of the text it was parsed from."""

    at: float
    """Monotonic seconds, before the reading."""
    digest: str
    """Empty if the file is unreadable."""
    content: bytes = b""
    unreadable: InvalidConfig | None = None


class PolicyFile:
    """Holds the policy in force. An invalid file never replaces it.

    A worker that starts while the file is invalid uses the last policy that a worker accepted.
    """

    def __init__(
        self,
        file: Path,
        *,
        known: KnownNames,
        clock: Clock,
        telemetry: Telemetry,
        handover: Handover,
    ) -> None:
        """Load the file; raise InvalidConfig if it is invalid and no worker accepted one before."""
        self._file = file
        self._known = known
        self._clock = clock
        self._telemetry = telemetry
        self._handover = handover
        self._compiler = PolicyCompiler(file, known, handover)
        self._digest = ""
        found = self._read(or_written=handover.get(policy_name(file)) is None)
        self._digest = found.digest
        try:
            self._apply(self._accept(found))
            self._hand_over(found)
        except InvalidConfig as invalid:
            if (accepted := handover.get(policy_name(file))) is None:
                raise
            self._apply(self._parse(accepted.text, at=accepted.at))
            self._reject(invalid)
        self._audit_log: AuditLog | None = None
        self._pending_records: deque[AuditRecord] = deque()
        self._replaced: Policy | None = None
        self._loading = asyncio.Lock()
        """Held from the reading until its policy is in force: otherwise an older reading that takes
        long to parse could replace a newer one."""
        self._writing_records = asyncio.Lock()

    def current(self) -> Policy:
        return self._policy

    async def run(self) -> None:
        """Reload when the content changes, until cancelled.

        The content decides: a ConfigMap is replaced through a symlink, and an editor may write
        twice within the time resolution of the file system. The file's times and size only decide
        when to read it sooner.
        """
        seen, read_at = None, -math.inf
        while True:
            await self._clock.sleep(_CHECK_INTERVAL_S)
            signature = await asyncio.to_thread(_signature, self._file)
            now = self._clock.monotonic()
            if signature != seen or now - read_at >= _READ_INTERVAL_S:
                seen, read_at = signature, now
                await self._load_if_changed()
                await self._write_records()
                await self._forget_replaced()

    async def _load_if_changed(self) -> None:
        first = await asyncio.to_thread(self._read_digest)
        if first == self._digest:
            return
        await self._clock.sleep(_SETTLE_S)
        async with self._loading:
            found = await asyncio.to_thread(self._read)
            if first == found.digest != self._digest:
                await self._load(found)

    async def reload(self) -> bool:
        """Load the file now. Return False, count and log the errors if it is invalid."""
        async with self._loading:
            loaded = await self._load(await asyncio.to_thread(self._read))
        await self._write_records()
        await self._forget_replaced()
        return loaded

    async def attach_audit_log(self, audit_log: AuditLog) -> None:
        """Record the policy in force now, and each change from now on."""
        self._audit_log = audit_log
        self._add_record("policy_loaded", f"{self._policy.size} rules", at=self._clock.now())
        await self._write_records()

    async def _load(self, found: _PolicyFileContent) -> bool:
        try:
            policy, is_handed_over = await self._accept_change(found)
        except InvalidConfig as invalid:
            self._digest = found.digest
            self._reject(invalid)
            self._add_record("policy_rejected", self.error, at=self._clock.now())
            return False
        self._digest = found.digest
        self._replaced = self._policy
        self._apply(policy)
        log.info("policy_loaded", extra={"version": policy.version, "rules": policy.size})
        if not is_handed_over:
            await asyncio.to_thread(self._hand_over, found)
        self._add_record("policy_loaded", f"{policy.size} rules", at=self.loaded_at)
        return True

    def _apply(self, policy: Policy) -> None:
        self._policy, self.error = policy, ""
        self.loaded_at = self._clock.now()
        self._telemetry.policy_reloaded("ok", policy.size)

    def _reject(self, invalid: InvalidConfig) -> None:
        self._telemetry.policy_reloaded("rejected", 0)
        errors = [str(error) for error in invalid.errors[:_LOGGED_ERRORS_MAX]]
        self.error = errors[0]
        log.error("policy_rejected", extra={"errors": errors})

    def _add_record(self, event: str, detail: str, *, at: float) -> None:
        if self._audit_log is None:
            return
        if len(self._pending_records) >= _PENDING_RECORDS_MAX:
            self._pending_records.popleft()
            self._telemetry.audit_record_missing()
        self._pending_records.append(
            AuditRecord(
                event=event,
                at=at,
                policy_version=self._policy.version,
                detail=detail,
            )
        )

    async def _write_records(self) -> None:
        """Write the pending records; a new policy is in force before its record is written."""
        async with self._writing_records:
            while self._pending_records and self._audit_log is not None:
                try:
                    await self._audit_log.record(self._pending_records[0])
                except AuditLogUnavailable:
                    return  # the next check tries again
                self._pending_records.popleft()

    async def _forget_replaced(self) -> None:
        """Free what the policy of before has cached, in slices."""
        replaced, self._replaced = self._replaced, None
        while replaced is not None and replaced.forget(_FORGOTTEN_AT_ONCE):
            await self._clock.sleep(_FORGET_INTERVAL_S)

    def _read(self, *, or_written: bool = False) -> _PolicyFileContent:
        """Read the file; a changed file that is being written is unreadable, unless `or_written`.

        The part that is already written may be valid, and lack the denials.
        """
        at = self._clock.monotonic()
        try:
            content = read(self._file)
        except InvalidConfig as unreadable:
            return _PolicyFileContent(at, "", unreadable=unreadable)
        digest = policy_digest(content)
        if not or_written and self._is_being_written(digest):
            written = InvalidConfig([being_written(str(self._file))])
            return _PolicyFileContent(at, "", unreadable=written)
        return _PolicyFileContent(at, digest, content)

    def _read_digest(self) -> str:
        """Return the digest that `_read` would return now; memory for the text costs time too."""
        try:
            digest = policy_file_digest(self._file)
        except OSError:
            return ""
        return "" if self._is_being_written(digest) else digest

    def _is_being_written(self, digest: str) -> bool:
        """Return whether a file with this digest has changed and is open for writing."""
        return digest != self._digest and is_open_for_writing(self._file)

    async def _accept_change(self, found: _PolicyFileContent) -> tuple[Policy, bool]:
        """Do as `_accept`, while requests are served; report whether the text is handed over."""
        if found.unreadable is None and len(found.content) > PARSED_HERE_BYTES_MAX:
            with suppress(OSError):  # for example out of processes: parse it here
                return await self._accept_large(found), True
        return await asyncio.to_thread(self._accept, found), False

    async def _accept_large(self, found: _PolicyFileContent) -> Policy:
        pause = partial(self._clock.sleep, _TURN_INTERVAL_S)
        index = await self._compiler.compile(found.content, found.digest, pause, at=found.at)
        return Policy(index, version=policy_version(found.digest))

    def _accept(self, found: _PolicyFileContent) -> Policy:
        if found.unreadable is not None:
            raise found.unreadable
        return self._parse(found.content, at=found.at)

    def _hand_over(self, found: _PolicyFileContent) -> None:
        """Store an accepted text, for workers that start while the file is invalid."""
        self._handover.put(policy_name(self._file), found.content, at=found.at)

    def _parse(self, content: bytes, *, at: float) -> Policy:
        version = policy_version(policy_digest(content))
        if len(content) > PARSED_HERE_BYTES_MAX:
            with suppress(OSError):  # as above
                return Policy(self._compiler.compile_now(content, at=at), version=version)
        with _without_garbage_collection():
            parsed = read_policy(parse(self._file, content), self._known)
            return make_policy(parsed, version=version)


def _signature(file: Path) -> tuple[int, int, int, int] | None:
    """Return the values that change with most changes of a file; None without a file."""
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the collector: parsing creates many objects that all live on.

    At 10,000 rules the collector takes more than half of the time, during which no request runs.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
