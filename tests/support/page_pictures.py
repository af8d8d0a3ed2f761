"""One person's tab with a page of the gateway: what it shows, in words and in pictures."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from axe_playwright_python.base import AXE_SCRIPT  # type: ignore[import-untyped]
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from tests.support.browser import LIVE_TIMEOUT_MS, has_failed

PICTURES: Final = Path(__file__).parent.parent / "e2e" / "pictures"
_TAKES_PICTURES: Final = "PAGE_PICTURES" in os.environ
"""Pictures are for the eyes; they take a third of the CPU time of `show`."""
_STAYS_ACTIVE: Final = (
    "Object.defineProperty(UserActivation.prototype, 'isActive', { get: () => true })"
)
"""A page may open a tab for five seconds after a click: a busy machine takes longer."""
_SIZES: Final = {"phone": (390, 844), "laptop": (1280, 800), "wide": (1920, 1080)}


class Site(Protocol):
    @property
    def address(self) -> str: ...


_Site = TypeVar("_Site", bound=Site)


class PageVisitor(Generic[_Site]):
    """A browser tab, and everything that went wrong in it."""

    def __init__(self, page: Page, site: _Site) -> None:
        self.page = page
        self.site = site
        self.problems: list[str] = []
        self.allowed = re.compile(r"(?!)")
        page.on("console", self._log)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("requestfailed", self._note_failure)

    @classmethod
    @contextmanager
    def visiting(cls, browser: Browser, site: _Site, **options: Any) -> Iterator[Self]:
        """Open a tab; at the end nothing unexpected may have gone wrong in it."""
        context = browser.new_context(
            viewport={"width": 1280, "height": 800}, locale="en-GB", **options
        )
        context.set_default_timeout(LIVE_TIMEOUT_MS)
        context.add_init_script(_STAYS_ACTIVE)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        visitor = cls(context.new_page(), site)
        yield visitor
        problems = visitor.unexpected()
        context.close()
        assert problems == [], problems

    def _log(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _note_failure(self, request: Request) -> None:
        if has_failed(request):
            self.problems.append(f"failed: {request.url}")

    def unexpected(self) -> list[str]:
        return [one for one in self.problems if not self.allowed.search(one)]

    def expect_state(self, state: str) -> None:
        expect(self.page.locator("body")).to_have_attribute("data-state", state)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait for what the server received."""
        for _ in range(3_000):
            if condition():
                return
            self.page.wait_for_timeout(20)
        raise AssertionError("the server did not receive it")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def buttons(self) -> list[str]:
        """Return the buttons that the page shows now, all at one time."""
        self.page.wait_for_load_state()  # the style sheet hides some
        names: list[str] = self.page.get_by_role("button").evaluate_all(
            "(all) => all.map((one) => one.innerText.trim() || one.getAttribute('aria-label'))"
        )
        return names

    def title(self) -> Locator:
        return self.page.get_by_role("heading", level=1)

    def facts(self, where: str = "#card-facts") -> dict[str, str]:
        """Return the facts that the page shows now, all at one time."""
        self.page.wait_for_load_state()  # without the style sheet there are no line breaks
        pairs: list[tuple[str, str]] = self.page.locator(where).evaluate(
            "(list) => [...list.querySelectorAll('dt')]"
            ".map((name) => [name.innerText, name.nextElementSibling.innerText])"
        )
        return dict(pairs)

    def show(self, name: str, *, checks_accessibility: bool = True) -> None:
        """Check the screen in each size and colour scheme; save it if PAGE_PICTURES is set."""
        PICTURES.mkdir(exist_ok=True)
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            for size, (width, height) in _SIZES.items():
                self.page.set_viewport_size({"width": width, "height": height})
                self.page.wait_for_function("(width) => innerWidth === width", arg=width)
                assert self.page.evaluate("() => document.documentElement.scrollWidth") <= width
                if _TAKES_PICTURES:
                    self.page.screenshot(path=PICTURES / f"{name}-{size}-{scheme}.png")
            if checks_accessibility:
                self.check_accessibility()
        self.page.emulate_media(color_scheme="light")

    def check_accessibility(self) -> None:
        if self.page.evaluate("() => !window.axe"):  # one document needs the script once
            self.page.evaluate(AXE_SCRIPT)
        checked = self.page.evaluate("() => axe.run({resultTypes: ['violations']})")
        found = checked["violations"]
        grave = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not grave, json.dumps(grave, indent=1)[:2_000]
