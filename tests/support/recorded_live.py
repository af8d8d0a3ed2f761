"""Gateways that record live consoles, and Chromium with the player of their recordings."""

import base64
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, expect

from gateway.demo.cloud.screen.font import HEIGHT, WIDTH, glyph
from tests.support.browser import ConsoleTab
from tests.support.stack import CloudProcess, Response, RunningGateway, eventually, fetch

_WAIT_MS: Final = 60_000
VIEWER: Final = "nora"
"""The only person that may view recordings, unless a test permits others."""
_STILL_MS: Final = 3_000
"""A real screen without changes for this long shows all that was typed."""
_PIXELS: Final = """() => {
  const canvas = document.querySelector('#screen canvas');
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const bits = [...new Uint32Array(data.buffer)].map((one) => (one & 0xffffff ? 1 : 0));
  return [canvas.width, canvas.height, bits.join('')];
}"""


def record(gateway: RunningGateway, directory: Path | None = None) -> None:
    """Record the account's consoles, also those of replicas with the same directory."""
    directory = directory or gateway.directory / "recordings"
    key = directory.with_name("recording.key")
    if not directory.exists():
        key.write_text(base64.b64encode(os.urandom(32)).decode())
        key.chmod(0o600)
        directory.mkdir(mode=0o700)
    gateway.config["recordings"] = {"directory": str(directory), "keys": [{"file": str(key)}]}
    gateway.config["accounts"][0]["console"]["recording"] = "required"
    gateway.write_config()
    allow(gateway, VIEWER)


def allow(gateway: RunningGateway, *viewers: str, with_keystrokes: str = "") -> None:
    """Let these persons, and no others, view recordings; one of them also the keystrokes."""
    policy = json.loads(gateway.policy_file.read_text())
    policy["roles"]["auditor"] = ["recording:view"]
    policy["roles"]["reader"] = ["recording:keys"]
    grants = [one for one in policy["grants"] if one["role"] not in ("auditor", "reader")]
    grants += [{"role": "auditor", "to": {"users": [one]}, "on": "everything"} for one in viewers]
    if with_keystrokes:
        to = {"users": [with_keystrokes]}
        grants.append({"role": "reader", "to": to, "on": "everything"})
    gateway.write_policy({**policy, "grants": grants})


def served_at(gateway: RunningGateway, operation: str, *, since: float) -> float:
    """Return when a request that began before `since` has ended, by the gateway's clock."""

    def found() -> list[float]:
        lines = [one for one in gateway.log_lines("request") if one.get("operation") == operation]
        times = [datetime.fromisoformat(one["time"]).timestamp() for one in lines]
        return [one for one in times if one >= since]

    eventually(found)
    return found()[0]


def picture(page: Page) -> str:
    """Return the picture of a console or a player without loss, for a comparison by pixel."""
    return str(page.evaluate("() => document.querySelector('#screen canvas').toDataURL()"))


def still_picture(tab: ConsoleTab) -> str:
    """Return the picture of a real server when it does not change any more."""
    seen = [""]

    def is_still() -> bool:
        seen.append(picture(tab.page))
        tab.page.wait_for_timeout(_STILL_MS)
        return picture(tab.page) == seen[-1]

    tab.wait_until(is_still)
    return seen[-1]


def typed_picture(tab: ConsoleTab, cloud: CloudProcess, server: str, typed: str) -> str:
    """Return the picture when it shows all that a simulated server printed for what was typed."""

    def is_shown() -> bool:
        screen = cloud.screen(server)
        return screen["typed"] == typed and _shows(tab.page, screen["lines"])

    tab.wait_until(is_shown)
    return picture(tab.page)


def _shows(page: Page, lines: list[str]) -> bool:
    """Return whether the picture has these lines; the cursor is on a blank."""
    width, height, bits = page.evaluate(_PIXELS)
    cursors = 0
    for row in range(height // HEIGHT):
        for column, wanted in enumerate(lines[row].ljust(width // WIDTH)):
            first = row * HEIGHT * width + column * WIDTH
            starts = range(first, first + HEIGHT * width, width)
            shown = [bits[start : start + WIDTH] for start in starts]
            if shown != [f"{one:08b}" for one in glyph(ord(wanted))]:
                cursors += 1
                if wanted != " " or cursors > 1:
                    return False
    return True


def api(
    gateway: RunningGateway, method: str, path: str, subject: str = VIEWER, body: object = None
) -> Response:
    headers = {"Authorization": f"Bearer {gateway.cloud.token(subject)}"}
    if body is None:
        return fetch(gateway.url, method, path, headers)
    headers["Content-Type"] = "application/json"
    return fetch(gateway.url, method, path, headers, json.dumps(body))


def newest(gateway: RunningGateway, server: str) -> str:
    """Return the ID of the newest recording of a server when it has ended."""

    def find() -> str:
        found = api(gateway, "GET", f"/console/recordings?server={server}").json["recordings"]
        return str(found[0]["id"]) if found and found[0]["ended_at"] else ""

    eventually(find, gateway.log_text)
    return find()


def open_player(
    gateway: RunningGateway,
    browser: Browser,
    recording: str,
    subject: str = VIEWER,
    *,
    with_keystrokes: bool = False,
) -> Page:
    """Open a recording; it is paused at its start."""
    page = browser.new_page()
    page.set_default_timeout(_WAIT_MS)
    body = {"keys": True} if with_keystrokes else {}
    reply = api(gateway, "POST", f"/console/recordings/{recording}/views", subject, body)
    assert reply.status == 200, reply.body
    page.goto(reply.json["url"])
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.locator("body")).to_have_attribute("data-state", "paused", timeout=_WAIT_MS)
    return page


def jump(page: Page, second: float) -> str:
    """Jump to a second of the recording; return the picture."""
    expect(page.locator("body")).to_have_attribute("data-state", "paused", timeout=_WAIT_MS)
    page.locator("#position").fill(str(second))
    page.wait_for_function("() => document.body.dataset.jump === 'false'")
    return picture(page)


def jump_to_end(page: Page) -> str:
    expect(page.locator("body")).to_have_attribute("data-state", "paused", timeout=_WAIT_MS)
    return jump(page, float(page.locator("#position").get_attribute("max") or "0"))
