"""Where the admin listener serves the operators' pages."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from gateway.domain.errors import MethodNotAllowed
from gateway.edge.admin.pages import PAGE_PATHS, AdminPages
from gateway.edge.consoles.page_assets import ADMIN_PAGE, PageAssets

CONTACT = {"text": "</script><b>", "url": "https://help.example"}


def pages(prefix: str) -> AdminPages:
    assets = SimpleNamespace(version="v1", files={ADMIN_PAGE: b"{{assets}} {{config}}"})
    return AdminPages(cast("PageAssets", assets), prefix, CONTACT)


def request(path: str, method: str = "GET") -> Any:
    return SimpleNamespace(method=method, raw_path=path, headers={})


@pytest.mark.parametrize("prefix", ["", "/gateway"])
def test_pages_are_below_the_prefix(prefix: str) -> None:
    found = pages(prefix)
    for path in PAGE_PATHS:
        assert found.owns(prefix + path)
        assert found.owns(f"{prefix}{path}?a=b")
    for path in ("/locks/", "/lock", "/metrics", "/readyz", "/admin/locks", "/ui/session", "//"):
        assert not found.owns(prefix + path)
    assert not pages("/gateway").owns("/locks")


def test_shell_has_no_data_and_escapes_its_config() -> None:
    asset = pages("/gateway").find_asset(request("/gateway/"))
    assert asset is not None
    response = asset.response(request("/gateway/"), CIMultiDict())
    body = cast("bytes", response.body)
    assert b"/gateway/console/assets/v1 " in body
    assert b"</script>" not in body
    assert response.headers["Cache-Control"] == "no-store"
    with pytest.raises(MethodNotAllowed):
        pages("").find_asset(request("/", "POST"))
