from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.browser import open_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium, for a file: Playwright's loop would be in the way of other files' loops."""
    with open_browser() as started:
        yield started
