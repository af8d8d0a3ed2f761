"""Why a connection was not made, or broke: what the operating system and TLS say, and no more.

The texts of libraries hold what was sent, or what came; a name and a reason hold no secret.
"""

import os
import re
import socket
import ssl

_ERRNO = re.compile(r"\[Errno (\d+)\]")


def describe_error(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {(error.reason or type(error).__name__).replace('_', ' ').lower()}"
        case socket.gaierror():
            return "the name is not found"
        case TimeoutError():
            return "no answer in time"
        case _:
            # Of several addresses that all failed asyncio tells the errors in one text.
            found = _ERRNO.search(str(error))
            number = error.errno or (int(found[1]) if found else None)
            return os.strerror(number).lower() if number else type(error).__name__
