"""Log exports: start, status, and download of the whole file or a range."""

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from gateway.demo.cloud import cloud_errors
from gateway.demo.cloud.clock import now
from gateway.demo.cloud.fleet import LogExport
from gateway.demo.cloud.operation_call import OperationCall, OperationFailed, invalid_parameter

_CHUNK_BYTES = 65_536
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def start_export(call: OperationCall) -> web.Response:
    server = call.server()
    export_id = str(uuid.uuid4())
    export = call.project.exports[export_id] = LogExport(server.id, now())
    # The page documents the download's headers here as well; they do not fit a JSON body.
    return web.json_response(_describe(export_id, export, percentage=0), status=202)


def show_export(call: OperationCall, *, polls: int) -> dict[str, Any]:
    """Return the progress; the first `polls` requests report an unfinished export."""
    export_id, export = _find(call)
    export.status_requests += 1
    done = export.status_requests > polls
    return _describe(
        export_id, export, percentage=100 if done else 100 * export.status_requests // polls - 1
    )


def download(call: OperationCall, *, size: int, polls: int) -> "web.Response | LogDownload":
    """Return 200, 206, 304 or 416 for a file of `size` bytes; fail until the export is finished."""
    export_id, export = _find(call)
    if export.status_requests < polls + 1 and polls:
        raise OperationFailed(cloud_errors.SERVER_NOT_READY)
    headers = {
        "ETag": f'"{hashlib.sha256(f"{export_id}/{size}".encode()).hexdigest()[:32]}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename={call.server().sn}-dump.tar.gz",
        "Content-Transfer-Encoding": "binary",
        "Content-Type": "application/octet-stream;charset=UTF-8",
    }
    if headers["ETag"] in _etags(call.headers.get("If-None-Match", "")):
        return web.Response(status=304, headers={"ETag": headers["ETag"]})
    range_header = _RANGE.fullmatch(call.headers.get("Range", ""))
    if range_header is None or call.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
        return LogDownload(200, headers, export_id, 0, size)
    bounds = _read_range(range_header, size)
    if bounds is None:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
    start, stop = bounds
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return LogDownload(206, headers, export_id, start, stop)


@dataclass(frozen=True, slots=True)
class LogDownload:
    """A streamed response; memory use is independent of its size."""

    status: int
    headers: Mapping[str, str]
    export_id: str
    start: int
    stop: int

    async def send(self, request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(status=self.status, headers={**self.headers, **headers})
        response.content_length = self.stop - self.start
        await response.prepare(request)
        for chunk in content(self.export_id, self.start, self.stop):
            await response.write(chunk)
        await response.write_eof()
        return response


def content(export_id: str, start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes of an export's file from `start` to before `stop`, in chunks."""
    block = hashlib.shake_256(export_id.encode()).digest(_CHUNK_BYTES)
    while start < stop:
        at = start % _CHUNK_BYTES
        chunk = block[at : at + stop - start]
        yield chunk
        start += len(chunk)


def _find(call: OperationCall) -> tuple[str, LogExport]:
    server, export_id = call.server(), call.path["export_id"]
    export = call.project.exports.get(export_id)
    if export is None or export.server_id != server.id:
        raise invalid_parameter("export_id")  # no source documents a 404 for it
    return export_id, export


def _describe(export_id: str, export: LogExport, percentage: int) -> dict[str, Any]:
    return {
        "export_id": export_id,
        "status": "completed" if percentage == 100 else "processing",
        "percentage": f"{percentage}%",
        "created_at": f"{datetime.fromtimestamp(export.created_at, UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def _etags(text: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in text.split(",")]


def _read_range(call: re.Match[str], size: int) -> tuple[int, int] | None:
    first, last = call.groups()
    if not first:
        length = int(last or 0)
        return (max(0, size - length), size) if length and size else None
    start, stop = int(first), min(size, int(last) + 1) if last else size
    return (start, stop) if start < stop else None
