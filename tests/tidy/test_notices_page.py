"""docs/reference/notices.md has every event, member and pause of the notices."""

import json
import re
from pathlib import Path

from gateway.domain.requests import notices
from gateway.domain.requests.notices import RETRY_DELAYS_S, Notice, notice_body
from tests.support.access_requests import NOW, an_access_request

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "notices.md").read_text()


def test_page_has_every_event() -> None:
    listed = re.findall(r"^\| `([a-z_]+)` \| (?!seconds|ID of)", PAGE, re.MULTILINE)
    assert set(notices._TEXTS) == set(listed)


def test_page_has_every_member() -> None:
    notice = Notice(id="msg_1", webhook="w", event="requested", request=an_access_request(), at=NOW)
    body = json.loads(notice_body(notice, "json"))
    members = set(body) - {"data"} | {f"data.{one}" for one in body["data"]}
    assert members == set(re.findall(r"`(type|timestamp|data\.[a-z_]+)`[,| ]", PAGE))


def test_page_has_the_pauses() -> None:
    assert RETRY_DELAYS_S == (5, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 28800)
    assert "after 5 s, 1, 5, 15 and 30 min, 1, 2, 4, 8 and 8 h" in PAGE
