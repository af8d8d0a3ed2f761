"""Config section `contact`: the contact for people whose request is rejected."""

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from gateway.config.values import Section, text_schema

_URL: Final = r"(?:https://[!-~]+|mailto:[!-~]+@[!-~]+)"
_LINK_BREAKERS: Final = frozenset('<>"')
"""Characters that end the address in a `Link` header or in a page; URLs write them as %XX."""


def _one_line(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must be one line of text")
    return text.strip()


def _contact_url(url: str) -> str:
    if not re.fullmatch(_URL, url) or not _LINK_BREAKERS.isdisjoint(url) or len(url) > 500:
        raise ValueError("must be an https or mailto address of at most 500 characters")
    if url.startswith("https:") and not urlsplit(url).hostname:
        raise ValueError("must have a host")
    return url


class ContactSettings(Section):
    """The contact for people. It is public: pages and `/.well-known/console-gateway` show it."""

    text: Annotated[str, AfterValidator(_one_line), Field(min_length=1, max_length=200)]
    """Text of the link, such as `Platform on-call, channel #console`."""
    url: Annotated[str, AfterValidator(_contact_url), text_schema(_URL)]
    """Address of the link: https or mailto. Errors of the public listener have it as
    `Link: <URL>; rel="help"`."""
