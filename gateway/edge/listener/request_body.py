"""Read a request body completely, with a size limit and a timeout."""

import asyncio

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.domain.errors import BadRequest, DeadlineExceeded, RequestTooLarge
from gateway.edge.listener.request import ListenerRequest


async def read_body(request: ListenerRequest, limit: int, *, within_s: float) -> bytes:
    """Return the body; raise BadRequest, RequestTooLarge, DeadlineExceeded."""
    if not request.body_exists:
        return b""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise BadRequest("Content-Encoding is not supported; send the body uncompressed.")
    too_large = RequestTooLarge(f"The request body is too large; the limit is {limit} bytes.")
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    await request.send_continue()
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except (web.RequestPayloadError, HttpProcessingError):
        raise BadRequest("The request body is incomplete, or its chunks are malformed.") from None
    except TimeoutError:
        raise DeadlineExceeded("while the request body was read") from None
    return bytes(body)
