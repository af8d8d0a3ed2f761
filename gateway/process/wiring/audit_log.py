"""The audit log: in files, in a Redis stream, or on stdout."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.drivers.audit.directory import lines_after
from gateway.drivers.audit.file_store import ChainFiles, FileStore
from gateway.drivers.audit.group_commit import GroupCommitAuditLog
from gateway.drivers.audit.signing_keys import load_signer
from gateway.drivers.audit.stdout_store import StdoutStore
from gateway.drivers.audit.store import AuditStore
from gateway.drivers.audit.stream_store import AuditStream, StreamFollower, StreamStore
from gateway.drivers.telemetry.line_writer import LineWriter
from gateway.drivers.valkey.connection import Valkey
from gateway.flow.audit_log import BatchAuditLog, BestEffortAuditLog
from gateway.process.runtime import Runtime

_SECONDS_PER_DAY = 86_400

Followers = list[Callable[[Sequence[bytes]], None]]
"""Each is called with the lines that have become durable."""


@dataclass(frozen=True, slots=True)
class OpenAuditLog:
    durable: GroupCommitAuditLog
    best_effort: BestEffortAuditLog
    for_requests: BatchAuditLog
    """The one of the two that `audit.on_unavailable` selects."""


async def open_audit_log(runtime: Runtime, valkey: Valkey, lines: LineWriter) -> OpenAuditLog:
    """Open the audit log; closing it makes all accepted records durable."""
    audit, metrics = runtime.config.audit, runtime.metrics
    keep_s = audit.keep_days * _SECONDS_PER_DAY
    stream = AuditStream(valkey, keep_s=keep_s, bytes_max=audit.stream_bytes_max)
    followers: Followers = []
    if audit.stream:
        runtime.tasks["audit stream's bounds"] = partial(stream.keep_trimmed, runtime.clock)
        metrics.gauge("gateway_audit_stream_bytes", lambda: stream.bytes)
    store = _open_store(runtime, stream, followers)
    if audit.stdout and (audit.stream or audit.directory is not None):
        followers.append(lines.write_all)
    durable = GroupCommitAuditLog(
        store,
        clock=runtime.clock,
        telemetry=metrics,
        checkpoint_s=audit.checkpoint_s,
        follow=followers,
    )
    runtime.stack.push_async_callback(durable.close)
    await durable.open()
    runtime.tasks["audit"] = durable.run
    metrics.gauge("gateway_audit_lag_seconds", lambda: durable.lag_s)
    metrics.gauge("gateway_audit_durable", lambda: float(durable.durable))
    best_effort = BestEffortAuditLog(durable, metrics)
    return OpenAuditLog(
        durable, best_effort, best_effort if audit.on_unavailable == "allow" else durable
    )


def _open_store(runtime: Runtime, stream: AuditStream, followers: Followers) -> AuditStore:
    audit, clock = runtime.config.audit, runtime.clock
    signer = load_signer(audit.signing_key) if audit.signing_key is not None else None
    if audit.directory is not None:
        files = ChainFiles(
            audit.directory,
            clock=clock,
            signer=signer,
            checkpoint_s=audit.checkpoint_s,
            segment_bytes_max=audit.segment_bytes_max,
            keep_s=audit.keep_days * _SECONDS_PER_DAY,
        )
        runtime.metrics.gauge("gateway_audit_disk_free_ratio", lambda: files.disk_free)
        if audit.stream:
            follower = StreamFollower(stream, clock, partial(lines_after, audit.directory))
            runtime.stack.push_async_callback(follower.close)
            runtime.tasks["audit stream"] = follower.run
            followers.append(follower.follow)
        return FileStore(files)
    if audit.stream:
        return StreamStore(stream, clock=clock, signer=signer, checkpoint_s=audit.checkpoint_s)
    return StdoutStore(sys.stdout.fileno(), clock)
