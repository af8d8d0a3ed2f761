"""The page of servers in Chromium with 10,000 servers: first paint and keystrokes."""

from statistics import median

from playwright.sync_api import Browser, expect

from tests.support.browser import CHROMIUM, open_browser
from tests.support.people_site import PeopleSite, project, server

_SERVERS = 10_000
_ROUNDS = 20
_WORDS = ("web-0", "env=prod", "dc-1 r7", "09")

_NOTE_ROWS = """
addEventListener("DOMContentLoaded", () => {
  new MutationObserver((_, observer) => {
    if (!document.querySelector(".server-row")) return;
    observer.disconnect();
    afterPaint((now) => { window.rowsAt = now; });
  }).observe(document.body, { childList: true, subtree: true });
});
function afterPaint(note) {
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => note(performance.now());
    channel.port2.postMessage(null);
  });
}
window.keys = [];
addEventListener("keydown", ({ timeStamp }) => {
  afterPaint((now) => window.keys.push(now - timeStamp));
}, true);
"""
_FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    if CHROMIUM is None:
        print("the page of servers: not measured without Chromium")
        return
    site = PeopleSite()
    site.projects = [project([server(one) for one in range(_SERVERS)])]
    try:
        with open_browser() as browser:
            paints, rows = zip(*(_open(browser, site) for _ in range(_ROUNDS)), strict=True)
            keys = _type(browser, site)
    finally:
        site.close()
    print(
        f"the page of {_SERVERS:,} servers in Chromium, medians of {_ROUNDS}:"
        f" first paint {median(paints):.0f} ms, rows painted {median(rows):.0f} ms"
        f"  (target: 1,000); a keystroke {median(keys):.0f} ms, the slowest {max(keys):.0f} ms"
        "  (target: 50)"
    )


def _open(browser: Browser, site: PeopleSite) -> tuple[float, float]:
    """Return when a new browser painted first, and when it painted rows, in milliseconds."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(_NOTE_ROWS)
    page.goto(site.address)
    page.wait_for_function("() => window.rowsAt")
    found = page.evaluate(_FIRST_PAINT), page.evaluate("() => window.rowsAt")
    context.close()
    return found


def _type(browser: Browser, site: PeopleSite) -> list[float]:
    """Return the milliseconds from each keystroke to the next painted frame."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(_NOTE_ROWS)
    page.goto(site.address)
    search = page.get_by_role("searchbox")
    expect(search).to_be_focused()
    for word in _WORDS:
        search.fill("")
        search.press_sequentially(word, delay=60)
    page.wait_for_function(f"() => window.keys.length >= {_ROUNDS}")
    keys: list[float] = page.evaluate("() => window.keys")
    context.close()
    return keys


if __name__ == "__main__":
    main()
