"""The page's files: caching, security headers, prefix, and a checkout without a build."""

import base64
import gzip
import json
import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from aiohttp import web
from multidict import CIMultiDict

from gateway.config.errors import InvalidConfig
from gateway.domain.consoles.ends import SESSION_ENDS
from gateway.edge.consoles.page_assets import PageAsset, PageAssets, PageNotBuilt, page_problem
from gateway.edge.consoles.recording_file import RecordingFile
from gateway.process import startup_checks

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "config"
BUILT = ROOT / "gateway" / "edge" / "consoles" / "page" / "dist"
"""`make page` completes the pages."""
FILES = {
    **{page.name: page.read_bytes() for page in BUILT.glob("*.html")},
    **{script.name: b"export {};" for script in BUILT.glob("*.js")},
    **{style.name: b"body{}" for style in BUILT.glob("*.css")},
    "icon.svg": b"<svg/>",
    "licenses.txt": b"MPL-2.0",
    "player.js": b"export {};</script>",
}


def response(asset: PageAsset | None, accepts: str = "") -> web.Response:
    assert asset is not None
    request = Mock(headers={"Accept-Encoding": accepts})
    return asset.response(request, CIMultiDict())


def text(asset: PageAsset | None) -> str:
    body = response(asset).body
    assert isinstance(body, bytes)
    return body.decode()


class Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.inline: list[str] = []
        self.config: Any = None
        self._in_config = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found |= {str(values[name]) for name in ("href", "src") if name in values}
        self.inline += [name for name in values if name == "style" or name.startswith("on")]
        self._in_config = values.get("id") == "config"
        if tag == "style" or (tag == "script" and "src" not in values and not self._in_config):
            self.inline.append(tag)

    def handle_data(self, data: str) -> None:
        if self._in_config:
            self.config, self._in_config = json.loads(data), False


def test_page_is_found_below_the_prefix_only() -> None:
    page = PageAssets(FILES, "/gw")
    assert page.find("/gw/console") is page.find("/gw/console?utm_source=chat")
    assert text(page.find("/gw/console")).startswith("<!doctype html>")
    for path in ("/console", "/gw/console/", "/gw", "/gw/console/assets/", "/gw/consoles"):
        assert page.find(path) is None


def test_page_names_its_versioned_assets() -> None:
    page = PageAssets(FILES, "/gw")
    parser = Addresses()
    parser.feed(text(page.find("/gw/console")))
    addresses = {one for one in parser.found if not one.startswith("#")}
    assert {one.rpartition("/")[2] for one in addresses} == {
        "icon.svg",
        "licenses.txt",
        "page.js",
        "style.css",
    }
    for address in addresses:
        assert address.startswith(f"console/assets/{page.version}/")
        assert page.find(f"/gw/{address}") is not None
    assert parser.inline == []


def test_page_has_the_table_of_ends() -> None:
    parser = Addresses()
    parser.feed(text(PageAssets(FILES, "").find("/console")))
    assert [one["code"] for one in parser.config["ends"]] == [end.code for end in SESSION_ENDS]
    assert parser.config["ends"][0]["advice"] == SESSION_ENDS[0].advice


def test_assets_are_cached_for_a_year_and_the_page_never() -> None:
    page = PageAssets(FILES, "")
    asset = response(page.find(f"/console/assets/{page.version}/page.js"))
    assert asset.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert asset.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert response(page.find("/console")).headers["Cache-Control"] == "no-store"


def test_changed_file_changes_the_version() -> None:
    changed = PageAssets(FILES | {"style.css": b"p{}"}, "")
    assert changed.version != PageAssets(FILES, "").version


def test_asset_of_another_release_is_served_uncached() -> None:
    page = PageAssets(FILES, "")
    asset = response(page.find("/console/assets/0123456789abcdef/page.js"))
    assert (asset.body, asset.headers["Cache-Control"]) == (FILES["page.js"], "no-store")
    for name in ("other.js", "index.html", "../page.js", "%2e%2e/page.js"):
        assert page.find(f"/console/assets/{page.version}/{name}") is None


def test_player_names_its_assets_from_its_own_path() -> None:
    page = PageAssets(FILES, "/gw")
    html = text(page.find("/gw/console/player"))
    found = Addresses()
    found.feed(html)
    assert not found.inline
    names = {"icon.svg", "style.css", "player.js", "licenses.txt"}
    addresses = {one for one in found.found if not one.startswith("#")}
    assert addresses == {f"assets/{page.version}/{name}" for name in names}


def test_exported_file_runs_only_its_own_script() -> None:
    """Text of the recorded server cannot end a script element, and the policy names the hash."""
    file = RecordingFile(FILES)
    evil = "</script><script>alert(1)</script>"
    whole = file.head({"recording": {"person": evil}, "parts": []})
    whole += file.chunk(1, 0, b"records") + file.tail()
    assert b"<script>alert" not in whole
    assert b"{{" not in whole
    script = re.search(rb'<script type="module">(.*?)</script>', whole, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(sha256(script[1]).digest()).decode()
    assert f"script-src 'sha256-{digest}';".encode() in whole
    packed = re.search(rb'id="chunk-1-0">([^<]*)</script>', whole)
    assert packed is not None
    assert gzip.decompress(base64.b64decode(packed[1])) == b"records"


@pytest.mark.parametrize(
    "path", ["/console", "/console/player", "/console/assets/0123456789abcdef/page.js"]
)
def test_responses_have_security_headers(path: str) -> None:
    headers = response(PageAssets(FILES, "").find(path)).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"unsafe|\*|https?:", policy)
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "same-origin"


def test_asset_is_compressed_on_request() -> None:
    page = PageAssets(FILES, "")
    compressed = response(page.find("/console"), "gzip, br")
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert isinstance(compressed.body, bytes)
    assert gzip.decompress(compressed.body).decode() == text(page.find("/console"))


def test_missing_build_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(PageNotBuilt, match=r"index\.html is missing\)\. Run `make page`"):
        PageAssets.load("", tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    assert PageAssets.load("", tmp_path).find("/console") is not None


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    settings = yaml.safe_load((EXAMPLES / "gateway.yaml").read_text())
    settings["listen"]["public_url"] = "https://consoles.example.com"
    settings["accounts"][0]["console"] = {"delivery": "proxied"}
    settings["audit"] = {"directory": str(tmp_path / "audit")}
    (tmp_path / "secrets").mkdir()
    for name, content in {
        "iam-password": "p",
        "redis-password": "p",
        "seal-key": base64.b64encode(bytes(32)).decode(),
    }.items():
        (tmp_path / "secrets" / name).write_text(content)
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def test_serve_without_the_page_names_key_and_command(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = page_problem(config_file.parent)
    monkeypatch.setattr(startup_checks, "page_problem", lambda: problem)
    with pytest.raises(InvalidConfig) as found:
        startup_checks.load_config(config_file, workers=1)
    (error,) = found.value.errors
    assert (error.key, error.line > 0) == ("accounts[0].console.delivery", True)
    assert "Run `make page`" in error.message
    monkeypatch.setattr(startup_checks, "page_problem", lambda: "")
    assert startup_checks.load_config(config_file, workers=1).delivers_proxied
