"""Descriptions of connection errors from the operating system and TLS.

A library's own error text may quote request or response data, so it is never used.
"""

import os
import re
import socket
import ssl

_ERRNO = re.compile(r"\[Errno (\d+)\]")


def describe_error(error: OSError) -> str:
    """Return why a connection failed, in words that hold no secret."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"the server's certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS error: {(error.reason or type(error).__name__).replace('_', ' ').lower()}"
        case socket.gaierror():
            return "the host name does not resolve"
        case TimeoutError():
            return "no response in time"
        case _:
            # When every address of a host fails, asyncio puts their errors in one text.
            found = _ERRNO.search(str(error))
            number = error.errno or (int(found[1]) if found else None)
            return os.strerror(number).lower() if number else type(error).__name__
