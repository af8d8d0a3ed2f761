"""The pages of a person: servers, access requests, live consoles, recordings.

    GET P/                             the person's servers
    GET P/page/servers/PROJECT/SERVER  one server
    GET P/page/requests[/ID]           access requests
    GET P/page/sessions                the person's live consoles
    GET P/page/recordings              recordings that the person may see

P is the path of `listen.public_url`. All of them are one static shell without data of a person;
its script reads the data below `/ui/`. They are below `/page`, because the API has `/requests`.
"""

import re
from collections.abc import Sequence
from typing import Final

from gateway.domain.errors import OperationUnknown
from gateway.edge.consoles.page_assets import (
    PEOPLE_PAGE,
    Contact,
    PageAsset,
    PageAssets,
    script_json,
)
from gateway.edge.json_endpoint import JsonEndpoint
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.mount import require_read

_PATHS: Final = r"/|/page(/.*)?"
"""The script says which of them are pages."""


class PeoplePage:
    """Implements `Mount`."""

    def __init__(
        self, assets: PageAssets, prefix: str, pages: Sequence[str], contact: Contact | None
    ) -> None:
        """`prefix` is the path of `listen.public_url`; `pages`: names of those with data."""
        self._pattern = re.compile(rf"{re.escape(prefix)}({_PATHS})")
        template = assets.files[PEOPLE_PAGE]
        config = {"base": prefix, "pages": pages, "contact": contact}
        page = template.replace(
            b"{{assets}}", f"{prefix}/console/assets/{assets.version}".encode()
        ).replace(b"{{config}}", script_json(config))
        self._shell = PageAsset("people_page", "text/html; charset=utf-8", page, "no-store")

    def owns(self, path: str) -> bool:
        return self._pattern.fullmatch(path.partition("?")[0]) is not None

    def find_asset(self, request: ListenerRequest) -> PageAsset:
        require_read(request)
        return self._shell

    def find_endpoint(self, request: ListenerRequest) -> JsonEndpoint:
        del request
        raise OperationUnknown
