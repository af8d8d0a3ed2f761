"""The caller's preference in the `Prefer` header (RFC 7240). Pure."""

import re
from collections.abc import Iterable

_BLANKS = " \t"
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_QUOTES_END = re.compile(rf'(?:[^"]|{_QUOTED})*+')
_PREFERENCE = re.compile(rf'(?:[^",]|{_QUOTED})++')
_SECONDS = re.compile(r'("?)([0-9]{1,9})\1')


def preferred_wait_s(values: Iterable[str]) -> int | None:
    """Return N of the first `wait=N`, in seconds; None if the header is absent or malformed."""
    text = ",".join(values)
    if _QUOTES_END.fullmatch(text) is None:
        return None
    for preference in _PREFERENCE.findall(text):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip(_BLANKS).lower() == "wait":  # RFC 7240, 2: the first one counts
            found = _SECONDS.fullmatch(value.strip(_BLANKS))
            return int(found[2]) if found else None
    return None
