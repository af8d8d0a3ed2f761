"""The pages of the admin listener: one static shell without data, at the path of each page."""

from typing import Final

from gateway.domain.errors import OperationUnknown
from gateway.edge.consoles.page_assets import (
    ADMIN_PAGE,
    Contact,
    PageAsset,
    PageAssets,
    script_json,
)
from gateway.edge.json_endpoint import JsonEndpoint
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.mount import require_read

PAGE_PATHS: Final = ("/", "/budgets", "/locks", "/requests", "/policy", "/audit")
"""`/` shows the live consoles and the tokens in use."""


class AdminPages:
    """Implements `Mount`."""

    def __init__(self, assets: PageAssets, prefix: str, contact: Contact | None) -> None:
        """`prefix` is the path of `admin.public_url`, without a final slash."""
        html = assets.files[ADMIN_PAGE]
        html = html.replace(b"{{assets}}", f"{prefix}/console/assets/{assets.version}".encode())
        html = html.replace(b"{{config}}", script_json({"base": prefix, "contact": contact}))
        self._shell = PageAsset("admin_page", "text/html; charset=utf-8", html, "no-store")
        self._paths = frozenset(prefix + path for path in PAGE_PATHS)

    def owns(self, path: str) -> bool:
        return path.partition("?")[0] in self._paths

    def find_asset(self, request: ListenerRequest) -> PageAsset | None:
        require_read(request)
        return self._shell

    def find_endpoint(self, request: ListenerRequest) -> JsonEndpoint:
        del request
        raise OperationUnknown
