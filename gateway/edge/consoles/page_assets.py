"""The page of live consoles, the player of recordings, and their assets: files of `make page`.

The pages have no inline script or style. Their configuration is a JSON block, which browsers never
execute: the texts of the ends are in one table, `gateway/domain/consoles/ends.py`.
"""

import gzip
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.consoles.ends import SESSION_ENDS
from gateway.domain.consoles.model import RESUME_WITHIN_S, TICKET_LIFETIME_S

PAGE_PATH: Final = "/console"
PLAYER_PATH: Final = f"{PAGE_PATH}/player"
_ASSETS_PATH: Final = f"{PAGE_PATH}/assets"
_ASSET: Final = re.compile(rf"{_ASSETS_PATH}/([0-9a-f]{{16}})/([a-z]+\.[a-z]+)")
_BUILT: Final = Path(__file__).parent / "page" / "dist"
_INDEX: Final = "index.html"
_PLAYER: Final = "player.html"
LOGIN_PAGE: Final = "login.html"
PEOPLE_PAGE: Final = "people.html"
ADMIN_PAGE: Final = "operators.html"
_CONTENT_TYPES: Final = {
    "icon.svg": "image/svg+xml",
    "licenses.txt": "text/plain; charset=utf-8",
    "login.js": "text/javascript; charset=utf-8",
    "operators.css": "text/css; charset=utf-8",
    "operators.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "people.css": "text/css; charset=utf-8",
    "people.js": "text/javascript; charset=utf-8",
    "player.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
}
_FILES: Final = (_INDEX, _PLAYER, LOGIN_PAGE, PEOPLE_PAGE, ADMIN_PAGE, *_CONTENT_TYPES)
_YEAR: Final = "public, max-age=31536000, immutable"
_NO_STORE: Final = "no-store"
PAGE_HEADERS: Final = {
    # noVNC draws the server's cursor through a data: address, and pictures through blob:.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none';"
    " form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With `no-referrer`, browsers send `Origin: null` with the page's own POST.
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


Contact = Mapping[str, str]
"""`text` and `url` of the config section `contact`."""


class PageNotBuilt(Exception):
    """The built files of the page are missing; the text says what to run."""


def page_problem(directory: Path = _BUILT) -> str:
    """Return what is missing of the page and what to run, or "" if it is built."""
    missing = next((name for name in _FILES if not (directory / name).is_file()), None)
    if missing is None:
        return ""
    return (
        f"the page of live consoles is not built ({directory / missing} is missing). Run"
        " `make page` in the checkout, or install a wheel that was built after it"
    )


class PageAsset:
    """One response of the page, prepared at start."""

    __slots__ = ("_body", "_compressed", "_headers", "name")

    def __init__(self, name: str, content_type: str, body: bytes, cache: str) -> None:
        """`name` is the operation in metrics and logs."""
        self.name = name
        self._body = body
        self._compressed = gzip.compress(body, mtime=0)
        self._headers = {
            "Content-Type": content_type,
            "Cache-Control": cache,
            "Vary": "Accept-Encoding",
            **PAGE_HEADERS,
        }

    def response(self, request: web.BaseRequest, headers: CIMultiDict[str]) -> web.Response:
        """Return the response to GET or HEAD; `headers` are the common ones of the listener."""
        headers.update(self._headers)
        body = self._body
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = self._compressed
        return web.Response(body=body, headers=headers)


class PageAssets:
    """The page at `/console` and its files at `/console/assets/VERSION/`, below a prefix."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        prefix: str,
        *,
        has_logins: bool = False,
        has_pages: bool = False,
        contact: Contact | None = None,
    ) -> None:
        """`prefix` is the path of `listen.public_url`, without a final slash."""
        digest = hashlib.sha256(b"".join(files[name] for name in sorted(files)))
        self._prefix = prefix
        self._config = page_config(has_logins=has_logins, has_pages=has_pages, contact=contact)
        self.version = digest.hexdigest()[:16]
        self.files = files
        # The addresses are relative to the page's own: they are right below any prefix.
        self._pages = {
            PAGE_PATH: self._page("console_page", files[_INDEX], f"console/assets/{self.version}"),
            PLAYER_PATH: self._page("player_page", files[_PLAYER], f"assets/{self.version}"),
        }
        self._current = self._assets(files, _YEAR)
        self._fallback = self._assets(files, _NO_STORE)

    @classmethod
    def load(
        cls,
        prefix: str,
        directory: Path = _BUILT,
        *,
        has_logins: bool = False,
        has_pages: bool = False,
        contact: Contact | None = None,
    ) -> Self:
        """Read the built files. Raises PageNotBuilt."""
        if problem := page_problem(directory):
            raise PageNotBuilt(problem)
        files = {name: (directory / name).read_bytes() for name in _FILES}
        return cls(files, prefix, has_logins=has_logins, has_pages=has_pages, contact=contact)

    def find(self, path: str) -> PageAsset | None:
        """Return what the page has at a request's path, which includes the prefix."""
        if not path.startswith(self._prefix):
            return None
        below, _, _ = path.removeprefix(self._prefix).partition("?")
        if below in self._pages:
            return self._pages[below]
        found = _ASSET.fullmatch(below)
        if found is None:
            return None
        # Replicas of two releases run side by side during an update. A page of the other release
        # works with these files; no browser may keep them under the other version.
        files = self._current if found[1] == self.version else self._fallback
        return files.get(found[2])

    @staticmethod
    def _assets(files: Mapping[str, bytes], cache: str) -> dict[str, PageAsset]:
        return {
            name: PageAsset("console_asset", content_type, files[name], cache)
            for name, content_type in _CONTENT_TYPES.items()
        }

    def _page(self, name: str, template: bytes, assets: str) -> PageAsset:
        html = template.replace(b"{{assets}}", assets.encode()).replace(b"{{config}}", self._config)
        return PageAsset(name, "text/html; charset=utf-8", html, _NO_STORE)


def page_config(
    *, has_logins: bool = False, has_pages: bool = False, contact: Contact | None = None
) -> bytes:
    """Return what the pages know of the gateway, as JSON that is safe in a script element.

    `has_logins`: people can log in, so a ticket can be parked. `has_pages`: people have pages for
    access requests.
    """
    ends = [
        {"name": end.name, "code": end.code, "title": end.title, "advice": end.advice}
        for end in SESSION_ENDS
    ]
    config = {
        "ends": ends,
        "resume_within_s": RESUME_WITHIN_S,
        "ticket_lifetime_s": TICKET_LIFETIME_S,
        "has_logins": has_logins,
        "has_pages": has_pages,
        "contact": contact,
    }
    return script_json(config)


def script_json(value: Any) -> bytes:
    """Return a value as JSON that is safe in a script element."""
    return orjson.dumps(value).replace(b"<", b"\\u003c")
