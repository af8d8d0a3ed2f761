"""The recordings of all hosts in Redis, sealed (port `RecordingCatalogue`).

In the clear are the IDs of recordings, their starts and the names of hosts.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from gateway.domain.recordings.model import RecordingInfo, RecordingQuery
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.recordings.recording_catalogue import (
    RECORDINGS_MAX,
    REPORTED_S,
    PublishedRecording,
)

_PUBLISH, _REMOVE = LuaScript("publish_recording"), LuaScript("unpublish_recording")
_REPORT, _REPORTING = LuaScript("report_recording_host"), LuaScript("list_recording_hosts")
_LIST, _READ = LuaScript("list_recordings"), LuaScript("read_recordings")
_TAG: Final = "recordings"
_BATCH: Final = 200
"""Recordings in one call, so that a call never blocks the server noticeably."""
_PARTS_MAX: Final = 100
"""Of the parts of a recording that was resumed more often, the last are published."""


class ValkeyRecordingCatalogue:
    def __init__(self, valkey: Valkey, sealer: Sealer, *, host: str, ttl_s: float) -> None:
        """`ttl_s`: when an entry of a host expires that publishes it no more."""
        self._valkey = valkey
        self._sealer = sealer
        self._host = host
        self._ttl_ms = round(ttl_s * 1_000)
        self._all = valkey.key("all", tag=_TAG)
        self._hosts = valkey.key("hosts", tag=_TAG)

    async def publish(self, info: RecordingInfo) -> None:
        name = info.details.id
        entry = msgspec.json.encode(replace(info, parts=info.parts[-_PARTS_MAX:], problems=()))
        sealed = self._sealer.seal(entry, bound_to=_bound_to(name, self._host))
        keys = [self._all, self._key(name)]
        started_at = str(info.details.started_at)
        args: list[str | bytes | int] = [name, started_at]
        args += [self._host, sealed, self._ttl_ms, RECORDINGS_MAX]
        await self._valkey.run_script(_PUBLISH, keys, args)

    async def remove(self, recording: str, host: str | None = None) -> None:
        keys = [self._all, self._key(recording)]
        await self._valkey.run_script(_REMOVE, keys, [recording, host or self._host])

    async def report(self) -> None:
        await self._valkey.run_script(_REPORT, [self._hosts], [self._host, self._ttl_ms])

    async def reporting(self) -> Collection[str]:
        args = [round(REPORTED_S * 1_000)]
        return {
            one.decode() for one in await self._valkey.run_script(_REPORTING, [self._hosts], args)
        }

    async def list(
        self, query: RecordingQuery, limit: int
    ) -> tuple[Sequence[PublishedRecording], float | None]:
        since = "-inf" if query.since is None else str(query.since)
        until = "+inf" if query.until is None else f"({query.until}"
        found: list[PublishedRecording] = []
        for begin in range(0, RECORDINGS_MAX, _BATCH):
            names = await self._valkey.run_script(_LIST, [self._all], [until, since, begin, _BATCH])
            published = await self._read([name.decode() for name in names])
            found += [one for one in published if query.matches(one.info.details)]
            if len(names) < _BATCH:
                break
            if len(found) >= limit:
                return found, min(one.info.details.started_at for one in found)
        return found, None

    async def find(self, recording: str) -> Sequence[PublishedRecording]:
        return await self._read([recording])

    async def _read(self, names: Sequence[str]) -> Sequence[PublishedRecording]:
        if not names:
            return []
        replies = await self._valkey.run_script(_READ, [self._key(one) for one in names], [])
        return [
            one
            for name, reply in zip(names, replies, strict=True)
            for one in self._opened(name, reply)
        ]

    def _opened(self, name: str, reply: Sequence[bytes]) -> Iterator[PublishedRecording]:
        for host, sealed in zip(reply[::2], reply[1::2], strict=True):
            entry = self._sealer.open(sealed, bound_to=_bound_to(name, host.decode()))
            if entry is None:
                continue  # sealed with a key that is gone; its host publishes it again
            try:
                info = msgspec.json.decode(entry, type=RecordingInfo)
            except msgspec.DecodeError:  # from another version of the gateway
                continue
            yield PublishedRecording(host.decode(), info)

    def _key(self, recording: str) -> str:
        return self._valkey.key("one", recording, tag=_TAG)


def _bound_to(recording: str, host: str) -> bytes:
    return f"recording {recording} {host}".encode()
