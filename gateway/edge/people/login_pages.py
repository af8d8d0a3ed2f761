"""The pages of logins: static shells of one template, which `make page` copies.

Their texts and the addresses of the issuers are a JSON block. None has data of a person.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.login.model import LoginProblem
from gateway.domain.model import Headers
from gateway.edge.consoles.page_assets import (
    LOGIN_PAGE,
    PAGE_HEADERS,
    Contact,
    PageAsset,
    PageAssets,
    script_json,
)
from gateway.edge.json_endpoint import JsonReply

_HTML: Final = "text/html; charset=utf-8"
_HEADERS: Final[Headers] = (("Content-Type", _HTML), *PAGE_HEADERS.items())


@dataclass(frozen=True, slots=True)
class IssuerLink:
    name: str
    """In the config."""
    label: str


class LoginPages:
    def __init__(
        self,
        assets: PageAssets,
        prefix: str,
        issuers: Sequence[IssuerLink],
        contact: Contact | None,
        *,
        home: str,
        is_admin: bool = False,
    ) -> None:
        """`prefix` is the path of the listener's public URL, without a final slash.

        `home` is where a person who is logged in goes on to.
        """
        self._assets = f"{prefix}/console/assets/{assets.version}"
        self._template = assets.files[LOGIN_PAGE]
        self._common = {
            "base": prefix,
            "home": home,
            "issuers": [{"name": one.name, "label": one.label} for one in issuers],
            "contact": contact,
            "is_admin": is_admin,
        }
        self.chooser = self._asset("login_page", {"state": "choose"})
        """The issuers, or the person who is logged in."""
        self.logged_out = self._asset("logged_out_page", {"state": "logged_out"})

    def failed(self, problem: LoginProblem, request_id: str) -> JsonReply:
        fields = {
            "state": "failed",
            "title": problem.title,
            "advice": problem.advice,
            "request_id": request_id,
        }
        retry = (("Retry-After", "10"),) if problem.status in (429, 503) else ()
        return JsonReply(problem.status, self._page(fields), (*_HEADERS, *retry))

    def continues(self, path: str) -> JsonReply:
        """Return the page that goes on to a path by itself.

        A redirect would not do: browsers send a Strict cookie on no request that another site has
        begun, redirects included.
        """
        meta = f'<meta http-equiv="refresh" content="0; url={html.escape(path)}">'
        page = self._page({"state": "continue", "path": path}, meta.encode())
        return JsonReply(200, page, _HEADERS)

    def _asset(self, name: str, fields: Mapping[str, Any]) -> PageAsset:
        return PageAsset(name, _HTML, self._page(fields), "no-store")

    def _page(self, fields: Mapping[str, Any], meta: bytes = b"") -> bytes:
        config = {**self._common, **fields}
        return (
            self._template.replace(b"{{assets}}", self._assets.encode())
            .replace(b"{{meta}}", meta)
            .replace(b"{{config}}", script_json(config))
        )
