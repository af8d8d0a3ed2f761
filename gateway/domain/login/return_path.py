"""The path to which a login returns: a path of the gateway, never a URL. Pure."""

import re
from typing import Final

_CHARS_MAX: Final = 512
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?(?:\?[A-Za-z0-9._~=&-]*)?")
"""No `//`, backslash, `%`, `#`, `:` or control character: nothing that a browser may read as a
host, a scheme or another path."""


def safe_return_path(path: str | None, *, prefix: str, default: str) -> str:
    """Return `path` if it is below `prefix` and not a page of logins; otherwise `default`.

    `prefix` is the path of `listen.public_url`, without a final slash.
    """
    if path is None or len(path) > _CHARS_MAX or not path.startswith(f"{prefix}/"):
        return default
    below = path.removeprefix(prefix)
    pure, _, _ = below.partition("?")
    segments = pure.split("/")[1:]
    is_safe = _PATH.fullmatch(below) and not {".", ".."}.intersection(segments)
    return path if is_safe and segments[0] not in ("login", "logout", "ui") else default
