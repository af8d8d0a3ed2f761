"""The path to which a login returns."""

import pytest

from gateway.domain.login.return_path import safe_return_path


@pytest.mark.parametrize("path", ["/", "/console", "/servers/a-1/b_2?tab=x&y=1", "/a/"])
def test_path_of_the_gateway_stays(path: str) -> None:
    assert safe_return_path(path, prefix="", default="/home") == path
    assert safe_return_path(f"/gw{path}", prefix="/gw", default="/home") == f"/gw{path}"
    assert safe_return_path(path, prefix="/gw", default="/home") == "/home"


@pytest.mark.parametrize(
    "path",
    [
        None, "", "console", "//host", "///host", "/\\host", "\\\\host", "/%2f/host", "/%5chost",
        "https://host", "/https://host", "javascript:alert(1)", "/a/../b", "/./a", "/a//b",
        "/a\n", "/a\tb", "/a\x00", "/a#b", "/a b", "/@host", "/a:80", "/a;b", "/ä", "/" + "a" * 600,
        "/login", "/login/corp", "/logout", "/ui/session", "/a?b=//host", "/a?b=%0a", '/a"b', "/<",
    ],
)  # fmt: skip
def test_everything_else_is_dropped(path: str | None) -> None:
    assert safe_return_path(path, prefix="", default="/home") == "/home"
