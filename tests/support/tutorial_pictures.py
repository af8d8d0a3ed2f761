"""`make pictures`: the pictures of docs/tutorial, taken from a running demo."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, expect

from tests.support.browser import open_browser

_DIRECTORY: Final = Path(__file__).parents[2] / "docs" / "images"
_SIZE: Final[Any] = {"width": 1000, "height": 760}
_TIMEOUT_MS: Final = 30_000


class Visitor:
    """A person with a browser of their own."""

    def __init__(self, browser: Browser, base: str, person: str) -> None:
        context = browser.new_context(viewport=_SIZE, color_scheme="light", locale="en-GB")
        context.set_default_timeout(_TIMEOUT_MS)
        self.page = context.new_page()
        self._base = base
        self._person = person

    def log_in(self, *, picture: str = "") -> None:
        self.page.goto(f"{self._base}/login?return=/")
        button = self.page.get_by_role("button", name="Log in with")
        expect(button).to_be_visible()
        if picture:
            self.take(picture)
        button.click()
        self.page.get_by_role("link", name=self._person).click()
        expect(self.page.get_by_role("heading", level=1)).to_have_text("My servers")

    def click(self, name: str, *, role: Any = "button") -> None:
        self.page.get_by_role(role, name=name, exact=True).first.click()

    def see(self, text: str) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=_TIMEOUT_MS)

    def take(self, name: str, page: Page | None = None, *, is_whole: bool = False) -> None:
        """Take a picture of what is visible, or of the whole page."""
        shown = page or self.page
        shown.wait_for_timeout(300)  # the last change has been painted
        path = _DIRECTORY / f"{name}.png"
        shown.screenshot(path=path, animations="disabled", full_page=is_whole)


@contextmanager
def demo() -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "gateway", "demo", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def take_all(browser: Browser, facts: dict[str, Any]) -> None:
    victor, anna = (Visitor(browser, facts["gateway"], one) for one in ("victor", "anna"))
    live = facts["proxied"]
    victor.log_in(picture="tutorial-login")
    victor.see("servers")
    victor.take("tutorial-servers")

    victor.page.goto(f"{facts['gateway']}/page/servers/{live['project_id']}/{live['server']}")
    victor.click("Request access", role="link")
    victor.page.get_by_label("Reason").fill("Replace a disk, ticket OPS-4711")
    victor.take("tutorial-request", is_whole=True)
    victor.click("Send request")
    victor.see("Waiting")

    anna.log_in()
    anna.page.goto(f"{facts['gateway']}/page/requests")
    anna.click("operator", role="link")
    anna.see("Replace a disk")
    anna.take("tutorial-approve")
    anna.click("Approve")
    anna.page.get_by_role("dialog").get_by_role("button", name="Approve", exact=True).click()
    anna.see("Active")

    victor.page.goto(f"{facts['gateway']}/page/servers/{live['project_id']}/{live['server']}")
    with victor.page.expect_popup() as opened:
        victor.click("Open console")
    console = opened.value
    console.get_by_role("button", name="Connect", exact=True).click(timeout=_TIMEOUT_MS)
    expect(console.locator("body")).to_have_attribute("data-state", "live", timeout=_TIMEOUT_MS)
    console.locator("#screen canvas").click()
    for line in ("victor", "", "help"):
        console.keyboard.type(line)
        console.keyboard.press("Enter")
    victor.take("tutorial-console", console)
    anna.click("End access")
    anna.page.get_by_role("dialog").get_by_role("button", name="End access", exact=True).click()
    expect(console.locator("body")).to_have_attribute("data-state", "ended", timeout=_TIMEOUT_MS)
    victor.take("tutorial-ended", console)


def main() -> None:
    with demo() as facts, open_browser() as browser:
        take_all(browser, facts)


if __name__ == "__main__":
    main()
