"""Headers of every response of both listeners."""

from typing import Final

COMMON_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Server": "console-gateway",  # aiohttp would add its name and version
}
