"""Chromium, driven by Playwright, and a record of everything that a page saw."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, Request, WebSocket, expect, sync_playwright

CHROMIUM: Final = shutil.which("chromium")
needs_chromium: Final = pytest.mark.skipif(
    CHROMIUM is None, reason="not installed: chromium (.ci/system-packages)"
)
LIVE_TIMEOUT_MS: Final = 60_000
_DISABLED_FEATURES: Final = (
    # Chromium would prepare two pages and a process for each window: half of a test's CPU time.
    "SpareRendererForSitePerProcess",
    "WebUIOmniboxAimPopup",
    "WebUIOmniboxPopup",
    # Playwright's own list: Chromium reads only the last of two such options.
    "AimEnabled",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "LensOverlay",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "ThirdPartyStoragePartitioning",
)

# Playwright's default of 5 s is too short for a busy machine.
expect.set_options(timeout=LIVE_TIMEOUT_MS)


@contextmanager
def open_browser() -> Iterator[Browser]:
    # Tabs of one person share a process.
    arguments = [
        "--renderer-process-limit=1",
        f"--disable-features={','.join(_DISABLED_FEATURES)}",
        # A font of a foreign site would delay a page where the network drops packets.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    ]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


def has_failed(request: Request) -> bool:
    """Return whether a request failed, not ended with its page, which went on to another one."""
    return request.failure != "net::ERR_ABORTED"


class ConsoleTab:
    """A tab with the page of a live console."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.set_default_timeout(LIVE_TIMEOUT_MS)
        self.seen: list[bytes] = []
        """URLs, headers, bodies, frames and messages so far."""
        self.problems: list[str] = []
        self.sockets = 0
        """WebSockets that the page has opened so far."""
        page.on("console", lambda message: self._note(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("requestfailed", self._note_failure)
        page.on("request", lambda request: self._note(f"{request.url} {request.headers}"))
        page.on("websocket", self._watch)

    def open(self, address: str) -> None:
        """Open an address of the gateway and connect, as a person does: with Enter."""
        self.page.goto(address)
        button = self.page.get_by_role("button", name="Connect", exact=True)
        expect(button).to_be_focused(timeout=LIVE_TIMEOUT_MS)
        self.page.keyboard.press("Enter")
        self.wait_for_state("live")

    def wait_for_state(self, state: str) -> None:
        body = self.page.locator("body")
        expect(body).to_have_attribute("data-state", state, timeout=LIVE_TIMEOUT_MS)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the page or the gateway did; the page's events arrive meanwhile."""
        for _ in range(LIVE_TIMEOUT_MS // 20):
            if condition():
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"timeout; the page shows: {self.page.locator('body').inner_text()}")

    def type(self, text: str) -> None:
        """Type into the console; a line break presses Enter."""
        self.page.locator("#screen canvas").click()
        for line in text.splitlines(keepends=True):
            self.page.keyboard.type(line.rstrip("\n"))
            if line.endswith("\n"):
                self.page.keyboard.press("Enter")

    def disconnect(self) -> None:
        self.page.get_by_role("button", name="Disconnect", exact=True).click()
        self.wait_for_state("ended")

    def everything(self) -> list[bytes]:
        """Return all that the page saw, with its address, document, storage and cookies."""
        now = [
            self.page.url,
            self.page.content(),
            self.page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}])"),
            self.page.evaluate("() => document.cookie"),
            str(self.page.context.cookies()),
            *self.problems,
        ]
        return self.seen + [text.encode() for text in now]

    def _note_failure(self, request: Request) -> None:
        if has_failed(request):
            self.problems.append(request.url)

    def _note(self, text: str) -> None:
        self.seen.append(text.encode())

    def _watch(self, socket: WebSocket) -> None:
        self.sockets += 1
        self._note(socket.url)
        for event in ("framereceived", "framesent"):
            socket.on(event, self._note_frame)

    def _note_frame(self, frame: str | bytes) -> None:
        self.seen.append(frame.encode() if isinstance(frame, str) else frame)
