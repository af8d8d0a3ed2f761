"""The cloud's answer on its way to the caller: whole with a validator of ours, or as it comes."""

import asyncio
import hashlib
import re
from http import HTTPStatus

from aiohttp import web

from gateway.domain.catalogue.headers import VIA
from gateway.domain.errors import DeadlineExceeded
from gateway.domain.model import SAFE_METHODS, BodyStream, Headers
from gateway.flow.forwarding import Forwarded

_WRITE_TIMEOUT_S = 60.0
"""A reader that takes no more for so long holds a connection to the cloud for nothing."""
_DOWNLOAD_TIMEOUT_S = 600.0
"""A reader that takes little for ever holds one, too."""
_COMMON_HEADERS = (
    ("Via", VIA),
    # Whatever the cloud sends is data: a browser that is shown it runs nothing of it.
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
)
_READ_HEADERS = (
    ("Cache-Control", "private, no-cache"),
    ("Vary", "Authorization, X-Auth-Token, Accept-Encoding"),
)
_WRITE_HEADERS = (("Cache-Control", "no-store"),)


class ValidatedResponse:
    """An answer that is here whole, its headers, and whether the caller has it already.

    The validator is of the body that this caller is given: the cloud's own would change with
    what is hidden from them.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, request: web.BaseRequest, forwarded: Forwarded) -> None:
        self.status, self.body = forwarded.status, forwarded.body
        self.headers = forwarded_headers(forwarded, request.method)
        if request.method not in SAFE_METHODS or forwarded.status != HTTPStatus.OK:
            return
        digest = hashlib.blake2b(self.body, digest_size=12).hexdigest()
        conditions = request.headers.getall("If-None-Match", None)
        if conditions is not None and _matches_etag(digest, ",".join(conditions)):
            self.status, self.body = HTTPStatus.NOT_MODIFIED, b""
            self.headers = _COMMON_HEADERS + _READ_HEADERS
        self.headers += (("ETag", f'"{digest}"'),)


def forwarded_headers(forwarded: Forwarded, method: str) -> Headers:
    """Return what the cloud said of its answer, and what we say of it."""
    return (
        forwarded.headers
        + _COMMON_HEADERS
        + (_READ_HEADERS if method in SAFE_METHODS else _WRITE_HEADERS)
    )


def _matches_etag(digest: str, listed: str) -> bool:
    return listed.strip() == "*" or digest in re.findall(r'"([^"]*)"', listed)


async def stream_body(
    request: web.BaseRequest, response: web.StreamResponse, body: BodyStream
) -> None:
    """Pass the body on as it comes.

    Raises the Upstream errors, DeadlineExceeded and, where the caller is gone, ConnectionError.
    The answer has begun by then, so the connection is broken off: nobody takes a part for the
    whole.
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
