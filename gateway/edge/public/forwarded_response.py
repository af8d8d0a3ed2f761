"""Forward the cloud's response: buffered with an ETag, or streamed."""

import asyncio
import gzip
from functools import partial
from http import HTTPStatus

from aiohttp import web

from gateway.domain.catalogue.headers import VIA, accepts_gzip
from gateway.domain.errors import DeadlineExceeded
from gateway.domain.model import SAFE_METHODS, BodyStream, Headers
from gateway.edge.etag import etag_of, matches_etag
from gateway.flow.forwarding import ForwardedResponse

_WRITE_TIMEOUT_S = 60.0
"""A stalled reader would occupy a connection to the cloud."""
_GZIP_BYTES_MIN = 1_024
_GZIP_LEVEL = 5
_INLINE_BYTES_MAX = 65_536
"""A larger body is compressed in a thread: the event loop must not wait for it."""
_DOWNLOAD_TIMEOUT_S = 600.0
"""A slow reader would occupy a connection to the cloud without limit."""
_COMMON_HEADERS = (
    ("Via", VIA),
    # The body is data: a browser that displays it must not execute scripts.
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
)
_READ_HEADERS = (
    ("Cache-Control", "private, no-cache"),
    ("Vary", "Authorization, X-Auth-Token, Accept-Encoding"),
)
_WRITE_HEADERS = (("Cache-Control", "no-store"),)


class ValidatedResponse:
    """A buffered response; 304 without a body if the caller's ETag matches.

    The ETag is computed from the body that this caller receives. The cloud's ETag would change
    with entries that are hidden from the caller.
    """

    __slots__ = ("_compresses", "body", "headers", "status")

    def __init__(
        self, request: web.BaseRequest, forwarded: ForwardedResponse, *, compresses: bool
    ) -> None:
        """`compresses`: use gzip if the caller accepts it and the body is worth it."""
        self.status, self.body = forwarded.status, forwarded.body
        self.headers = forwarded_headers(forwarded, request.method)
        self._compresses = False
        if request.method not in SAFE_METHODS or forwarded.status != HTTPStatus.OK:
            return
        self._compresses = (
            compresses
            and len(self.body) >= _GZIP_BYTES_MIN
            and accepts_gzip(request.headers.getall("Accept-Encoding", ()))
        )
        digest = etag_of(self.body)
        # RFC 9110, 8.8.1: the bytes differ by coding, so both may have a weak validator only.
        weak = "W/" if self._compresses else ""
        conditions = request.headers.getall("If-None-Match", None)
        if conditions is not None and matches_etag(digest, ",".join(conditions)):
            self.status, self.body = HTTPStatus.NOT_MODIFIED, b""
            self.headers = _COMMON_HEADERS + _READ_HEADERS
        self.headers += (("ETag", f'{weak}"{digest}"'),)

    async def compress(self) -> None:
        if not self._compresses or not self.body:
            return
        gzipped = partial(gzip.compress, self.body, compresslevel=_GZIP_LEVEL, mtime=0)
        if len(self.body) > _INLINE_BYTES_MAX:
            self.body = await asyncio.to_thread(gzipped)
        else:
            self.body = gzipped()
        self.headers += (("Content-Encoding", "gzip"),)


def forwarded_headers(forwarded: ForwardedResponse, method: str) -> Headers:
    """Return the cloud's headers and the gateway's."""
    return (
        forwarded.headers
        + _COMMON_HEADERS
        + (_READ_HEADERS if method in SAFE_METHODS else _WRITE_HEADERS)
    )


async def stream_body(
    request: web.BaseRequest, response: web.StreamResponse, body: BodyStream
) -> None:
    """Send the body chunk by chunk.

    Raises the Upstream errors, DeadlineExceeded, and ConnectionError if the client disconnected.
    The response has begun by then, so the connection is aborted: the client must not take a part
    of the body for all of it.
    """
    try:
        async with asyncio.timeout(_DOWNLOAD_TIMEOUT_S):
            await response.prepare(request)
            async for chunk in body:
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    await response.write(chunk)
            await response.write_eof()
    except BaseException as error:
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, TimeoutError):
            raise DeadlineExceeded("the download took too long") from None
        raise
    finally:
        await body.close()
