"""The console's page in a real browser: each screen, in words, focus, buttons and pictures."""

import json
import re
import struct
from collections.abc import Awaitable, Iterator

import pytest
from playwright.sync_api import Browser, expect

from gateway.domain.consoles import ends
from gateway.domain.rfb.encodings import Encoding
from gateway.edge.consoles.page_assets import PageAssets
from tests.support.browser import needs_chromium
from tests.support.page_pictures import PageVisitor
from tests.support.page_server import PREFIX
from tests.support.page_site import (
    OFFER,
    PERSON,
    SERVER,
    SID,
    Behaviour,
    PageSite,
    PageSocket,
    after,
    show_screen,
)
from tests.support.small_rfb import SmallScreen
from tests.support.stack import eventually

pytestmark = needs_chromium
TICKET = "#t0"


class Visitor(PageVisitor[PageSite]):
    def open(self, ticket: str = TICKET) -> None:
        self.page.goto(f"{self.site.address}{ticket}")

    def connect(self) -> None:
        self.open()
        expect(self.button("Connect")).to_be_focused()
        self.page.keyboard.press("Enter")

    def go_live(self, behaviour: Behaviour | None = None) -> SmallScreen:
        if behaviour is not None:
            self.site.behaviours = [behaviour]
        self.connect()
        self.expect_state("live")
        return self.site.screens[-1]


@pytest.fixture(scope="module")
def site() -> Iterator[PageSite]:
    running = PageSite()
    yield running
    running.close()


@pytest.fixture
def visitor(site: PageSite, browser: Browser) -> Iterator[Visitor]:
    site.reset()
    with Visitor.visiting(browser, site) as visitor:
        yield visitor


OTHER = {"subject": "ben", "issuer": "https://login.example.com"}
IN_USE = {
    "since": after(-600),
    "by": OTHER,
    "may_take_over": True,
    "may_view": True,
    "own": False,
}
CONTROLS = [
    "Keyboard", "Keys", "Paste", "View only", "1:1", "Full screen", "Session", "Disconnect",
]  # fmt: skip
CONTROL, ALT, SHIFT, DELETE, ESCAPE, TAB, UP = (
    0xFFE3,
    0xFFE9,
    0xFFE1,
    0xFFFF,
    0xFF1B,
    0xFF09,
    0xFF52,
)


def presses(*keys: int) -> list[tuple[int, bool]]:
    """Return the events of keys pressed in this order and released in reverse order."""
    return [(key, True) for key in keys] + [(key, False) for key in reversed(keys)]


async def wait_in_queue(socket: PageSocket) -> None:
    await socket.attach()
    await socket.state("waiting", expected_wait_s=4.2)


async def stay_connecting(socket: PageSocket) -> None:
    await socket.attach()
    await socket.state("connecting")


def showing(screen: SmallScreen, **attached: object) -> Behaviour:
    async def show(socket: PageSocket) -> None:
        await socket.attach(**attached)
        await socket.live(screen)

    return show


def ending(code: int, reason: str, **more: object) -> Behaviour:
    async def end(socket: PageSocket) -> None:
        await socket.attach()
        await socket.ended(code, reason, **more)

    return end


# Before the session


def test_ready_names_server_person_and_mode(visitor: Visitor) -> None:
    visitor.site.describe = [(200, OFFER | {"expires_in": 55.0}, {})]
    visitor.open()
    expect(visitor.title()).to_have_text("Open the console of db-primary-01?")
    expect(visitor.button("Connect")).to_be_focused()
    facts = visitor.facts()
    assert facts["Server"].split("\n") == [SERVER["name"], SERVER["id"]]
    assert facts["You are"].split("\n") == [PERSON["subject"], PERSON["issuer"]]
    assert facts["You get"] == "Screen, keyboard and mouse"
    assert re.fullmatch(r"Works once, for \d+ s more", facts["Address"])
    assert visitor.buttons() == ["Connect"]
    assert visitor.page.title() == "db-primary-01 · Ready · Console"
    visitor.show("ready")
    assert visitor.site.posts == [("/gw/console/ticket", {"ticket": "t0"})]


def test_ticket_leaves_address_and_history_at_once(visitor: Visitor) -> None:
    visitor.open()
    expect(visitor.button("Connect")).to_be_visible()
    assert visitor.page.url == visitor.site.address
    assert "t0" not in visitor.page.content()
    assert "t0" not in visitor.page.evaluate(
        "() => JSON.stringify([sessionStorage, history.state])"
    )


def test_page_without_ticket_requests_an_address(visitor: Visitor) -> None:
    visitor.open("")
    expect(visitor.title()).to_have_text("This page needs a fresh address.")
    command = visitor.page.locator("#card-command-text")
    expect(command).to_have_text("gateway console PROJECT/SERVER")
    expect(visitor.title()).to_be_focused()
    assert visitor.buttons() == []
    visitor.show("empty")
    assert visitor.site.posts == []


def test_page_links_to_the_license_texts(visitor: Visitor) -> None:
    visitor.open("")
    with visitor.page.expect_popup() as opened:
        visitor.page.get_by_role("link", name="Licenses").click()
    for text in ("noVNC 1.7.0", "Mozilla Public License Version 2.0", "github.com/novnc/noVNC"):
        expect(opened.value.locator("body")).to_contain_text(text)


def test_ticket_in_a_second_address_opens_in_the_same_tab(visitor: Visitor) -> None:
    visitor.open("")
    expect(visitor.title()).to_have_text("This page needs a fresh address.")
    visitor.open()  # only the fragment changes: no load
    expect(visitor.button("Connect")).to_be_focused()


def test_rejected_ticket_shows_the_gateways_words(visitor: Visitor) -> None:
    visitor.allowed = re.compile("status of 410")
    error = {"error_code": "CGW.4100", "error_msg": "The ticket was used before."}
    visitor.site.describe = [(410, error, {})]
    visitor.open()
    expect(visitor.title()).to_have_text("This address does not work any more.")
    expect(visitor.page.locator("#card-lead")).to_have_text("Request a new address to try again.")
    assert visitor.facts() == {"Message": error["error_msg"], "Code": error["error_code"]}
    visitor.show("rejected")


def test_unavailable_replica_is_tried_again(visitor: Visitor) -> None:
    visitor.allowed = re.compile("status of (429|503)")
    later = {"Retry-After": "0"}
    visitor.site.describe = [(503, {}, later), (429, {}, later), (200, OFFER, {})]
    visitor.site.redeem.insert(0, (503, {}, later))
    visitor.go_live()
    paths = [path.rpartition("/")[2] for path, _ in visitor.site.posts]
    assert paths == ["ticket"] * 3 + ["redeem"] * 2


def test_expired_ticket_offers_the_command_for_a_new_one(visitor: Visitor) -> None:
    visitor.site.describe = [(200, OFFER | {"expires_in": 0.2}, {})]
    visitor.open()
    expect(visitor.title()).to_have_text("This address has expired.")
    visitor.button("Copy command").click()
    expect(visitor.page.locator("#card-notice")).to_have_text("Copied.")
    command = f"gateway console {SERVER['project_id']}/{SERVER['name']}"
    expect(visitor.page.locator("#card-command-text")).to_have_text(command)
    assert visitor.page.evaluate("() => navigator.clipboard.readText()") == command
    visitor.show("expired")


def test_server_without_a_name_is_shown_by_id(visitor: Visitor) -> None:
    server = SERVER | {"name": None}
    visitor.site.describe = [(200, OFFER | {"server": server}, {})]
    visitor.site.behaviours = [showing(SmallScreen(), server=server)]
    visitor.open()
    expect(visitor.title()).to_have_text(f"Open the console of {SERVER['id']}?")
    assert visitor.facts()["Server"] == SERVER["id"]
    visitor.show("ready-unnamed")
    visitor.page.keyboard.press("Enter")
    visitor.expect_state("live")
    expect(visitor.page.locator("#bar-server")).to_have_text(SERVER["id"])
    visitor.show("live-unnamed")


# A console in use


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("Take over", {"mode": "control", "take_over": True}),
        ("View only", {"mode": "view", "take_over": False}),
    ],
)
def test_console_in_use_is_taken_over_or_viewed(
    visitor: Visitor, choice: str, expected: dict[str, object]
) -> None:
    visitor.site.describe = [(200, OFFER | {"in_use": IN_USE}, {})]
    visitor.connect()
    dialog = visitor.page.get_by_role("dialog", name="This console is in use.")
    expect(dialog).to_contain_text(re.compile(r"Since \d\d:\d\d, by ben"))
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    if choice == "Take over":
        visitor.show("in-use")
    dialog.get_by_role("button", name=choice).click()
    visitor.expect_state("live")
    assert visitor.site.posts[-1] == ("/gw/console/redeem", {"ticket": "t0"} | expected)


def test_own_console_in_another_place_is_taken_over(visitor: Visitor) -> None:
    own = IN_USE | {"by": PERSON, "own": True, "may_view": False}
    visitor.site.describe = [(200, OFFER | {"in_use": own}, {})]
    visitor.connect()
    dialog = visitor.page.get_by_role("dialog", name="You have this console open already.")
    expect(dialog).to_contain_text(re.compile(r"Since \d\d:\d\d, by yourself"))
    expect(dialog).to_contain_text("Taking over ends your other session of this console.")
    assert "person" not in dialog.inner_text()
    visitor.show("in-use-own")
    dialog.get_by_role("button", name="Take over").click()
    visitor.expect_state("live")


def test_takeover_by_the_same_person_has_its_own_words(visitor: Visitor) -> None:
    code, name = ends.TAKEN_OVER.code, ends.TAKEN_OVER.name
    visitor.site.behaviours = [ending(code or 0, name, by=PERSON)]
    visitor.connect()
    expect(visitor.title()).to_have_text("You have opened this console in another place.")


def test_failed_redemption_that_spent_the_ticket_is_explained(visitor: Visitor) -> None:
    """The record could not be written, or an answer of the store was lost."""
    visitor.allowed = re.compile("status of (410|503)")
    gone = {"error_code": "CGW.4100", "error_msg": "The ticket was used before."}
    visitor.site.redeem = [(503, {}, {"Retry-After": "0"}), (410, gone, {})]
    visitor.connect()
    lead = visitor.page.locator("#card-lead")
    expect(lead).to_contain_text("The gateway failed while it opened the console")


def test_console_in_use_meanwhile_keeps_the_ticket(visitor: Visitor) -> None:
    """A 409 at the redemption spends no ticket; without rights only Cancel is left."""
    visitor.allowed = re.compile("status of 409")
    use = IN_USE | {"by": None, "may_take_over": False, "may_view": False}
    visitor.site.redeem = [(409, {"in_use": use}, {})]
    visitor.connect()
    dialog = visitor.page.get_by_role("dialog", name="This console is in use.")
    expect(dialog).to_contain_text("by another person")
    expect(dialog).to_contain_text("You may not take it over.")
    assert dialog.get_by_role("button").all_inner_texts() == ["Cancel"]
    visitor.page.keyboard.press("Escape")
    expect(visitor.button("Connect")).to_be_focused()
    assert visitor.facts()["In use"].endswith("by another person")


def test_reached_limit_leaves_the_ticket_for_another_try(visitor: Visitor) -> None:
    visitor.allowed = re.compile("status of 409")
    error = {"error_code": "CGW.4091", "error_msg": "The limit on live consoles is reached."}
    visitor.site.redeem.insert(0, (409, error, {}))
    visitor.connect()
    expect(visitor.title()).to_have_text("This console cannot be opened now.")
    assert visitor.facts()["Message"] == error["error_msg"]
    assert visitor.buttons() == ["Try again", "Copy command"]
    visitor.button("Try again").click()
    visitor.button("Connect").click()
    visitor.expect_state("live")


# From the redemption to the picture


def test_waiting_names_the_expected_time(visitor: Visitor) -> None:
    visitor.site.behaviours = [wait_in_queue]
    visitor.connect()
    expect(visitor.title()).to_have_text("Waiting for the cloud")
    expect(visitor.page.locator("#card-lead")).to_contain_text("Yours opens in about 5 s.")
    expect(visitor.title()).to_be_focused()
    assert visitor.buttons() == ["Disconnect"]
    assert visitor.facts()["Server"].startswith(SERVER["name"])
    visitor.show("waiting")
    visitor.button("Disconnect").click()
    expect(visitor.title()).to_have_text(ends.PERSON.title)
    visitor.wait_for(lambda: visitor.site.texts == [{"type": "end"}])


def test_connecting_names_the_next_step(visitor: Visitor) -> None:
    visitor.site.behaviours = [stay_connecting]
    visitor.connect()
    expect(visitor.title()).to_have_text("Connecting to the server")
    assert visitor.buttons() == ["Disconnect"]
    visitor.show("connecting")


def test_vnc_password_is_not_stored(visitor: Visitor) -> None:
    screen = SmallScreen(requires_password=True)
    visitor.site.behaviours = [showing(screen)]
    visitor.connect()
    dialog = visitor.page.get_by_role("dialog", name="VNC password")
    expect(dialog.get_by_label("Password")).to_be_focused()
    visitor.show("password")
    visitor.page.keyboard.type("s3cret-pw")
    visitor.page.keyboard.press("Enter")
    visitor.expect_state("live")
    assert screen.challenges == 1
    assert visitor.page.locator("#password").input_value() == ""
    stored = visitor.page.evaluate("() => JSON.stringify([sessionStorage, localStorage])")
    assert "s3cret-pw" not in stored + visitor.page.content()


def test_rejected_vnc_password_shows_the_servers_text(visitor: Visitor) -> None:
    screen = SmallScreen(requires_password=True, rejects_password=True)
    visitor.allowed = re.compile("Security negotiation failed")
    visitor.site.behaviours = [showing(screen)]
    visitor.connect()
    visitor.page.get_by_label("Password", exact=True).fill("x")
    visitor.page.keyboard.press("Enter")
    expect(visitor.title()).to_have_text(ends.CLOUD_CLOSED.title)
    message = "The console's server rejected the password. wrong <b>password</b>"
    assert visitor.facts()["Message"] == message


# Live


def test_live_types_into_the_console(visitor: Visitor) -> None:
    screen = visitor.go_live()
    canvas = visitor.page.get_by_role("application")
    expect(canvas).to_be_focused()
    expect(canvas).to_have_attribute("aria-label", re.compile("Keys go to the server"))
    visitor.page.keyboard.type("ls -L")
    visitor.page.keyboard.press("Tab")
    visitor.wait_for(lambda: (TAB, False) in screen.keys)
    assert screen.typed() == "ls -L"
    canvas.click(position={"x": 40, "y": 40})
    visitor.wait_for(lambda: screen.pointers > 0)
    assert visitor.buttons() == CONTROLS
    expect(visitor.page.locator("#time-left")).to_have_text("7 h 57 min left")
    assert visitor.page.title() == "db-primary-01 · Live · Console"
    visitor.show("live")


def test_chord_leaves_the_console_for_the_controls(visitor: Visitor) -> None:
    """WCAG 2.1.2: the keyboard is not trapped, and Tab returns to the console."""
    screen = visitor.go_live()
    for key in ("Control", "Alt", "Shift"):
        visitor.page.keyboard.down(key)
    expect(visitor.button("Keyboard")).to_be_focused()
    for key in ("Shift", "Alt", "Control"):
        visitor.page.keyboard.up(key)
    visitor.wait_for(lambda: {(CONTROL, False), (ALT, False)} <= set(screen.keys))
    for _ in CONTROLS:
        visitor.page.keyboard.press("Tab")
    expect(visitor.page.get_by_role("application")).to_be_focused()


def test_chords_are_sent_from_the_menu(visitor: Visitor) -> None:
    screen = visitor.go_live()
    visitor.button("Keys").click()
    panel = visitor.page.get_by_role("group", name="Send keys")
    expect(panel).to_be_visible()
    visitor.show("keys")
    panel.get_by_role("button", name="Ctrl + Alt + Del").click()
    visitor.wait_for(lambda: len(screen.keys) == 6)
    assert screen.keys == presses(CONTROL, ALT, DELETE)
    expect(panel).to_be_hidden()
    expect(visitor.page.get_by_role("application")).to_be_focused()


def test_pasted_text_is_typed_key_by_key(visitor: Visitor) -> None:
    screen = visitor.go_live()
    visitor.button("Paste").click()
    visitor.page.get_by_label("Text for the server").fill("Echo ~é\n世")
    visitor.show("paste")
    visitor.button("Type it").click()
    expect(visitor.page.locator("#text-notice")).to_have_text("Typed 9 characters.")
    visitor.wait_for(lambda: (0x01004E16, False) in screen.keys)
    pressed = [key for key, down in screen.keys if down]
    assert pressed == [
        SHIFT, ord("E"), *map(ord, "cho "), SHIFT, ord("~"), 0xE9, 0xFF0D, 0x01004E16,
    ]  # fmt: skip
    visitor.page.get_by_label("Text for the server").fill("x" * 4097)
    visitor.button("Type it").click()
    expect(visitor.page.locator("#text-notice")).to_have_text(
        "Too long to type: at most 4096 characters."
    )


def test_clipboard_passes_by_click_only_and_bounded(visitor: Visitor) -> None:
    """The server sends 1 MB of clipboard text with markup."""
    text = b"<img src=x onerror=alert(1)>" + b"y" * 1_000_000
    cut_text = bytes([3, 0, 0, 0]) + len(text).to_bytes(4, "big") + text
    screen = visitor.go_live(showing(SmallScreen(extra=cut_text)))
    visitor.page.evaluate("() => navigator.clipboard.writeText('mine')")
    visitor.button("Paste").click()
    shown = visitor.page.get_by_label("The server's clipboard")
    expect(shown).to_have_value(re.compile("^<img src=x"))
    assert len(shown.input_value()) == 65_536
    expect(visitor.page.locator("#text-notice")).to_have_text("Only the first 64 KiB are shown.")
    assert visitor.page.evaluate("() => navigator.clipboard.readText()") == "mine"
    visitor.button("Copy to my clipboard").click()
    expect(visitor.page.locator("#text-notice")).to_have_text("Copied.")
    assert len(visitor.page.evaluate("() => navigator.clipboard.readText()")) == 65_536
    visitor.page.get_by_label("Text for the server").fill("to the server")
    visitor.button("To the server's clipboard").click()
    visitor.wait_for(lambda: screen.cut_texts == ["to the server"])


@pytest.mark.parametrize(
    ("setting", "to_server", "from_server"),
    [("to_server", True, False), ("from_server", False, True), ("none", False, False)],
)
def test_clipboard_setting_hides_its_direction(
    visitor: Visitor, setting: str, *, to_server: bool, from_server: bool
) -> None:
    visitor.go_live(showing(SmallScreen(), clipboard=setting))
    visitor.button("Paste").click()
    expect(visitor.button("Type it")).to_be_visible()
    assert visitor.button("To the server's clipboard").is_visible() is to_server
    assert visitor.page.get_by_label("The server's clipboard").is_visible() is from_server


def test_phone_keyboard_and_extra_keys(visitor: Visitor) -> None:
    screen = visitor.go_live()
    visitor.button("Keyboard").click()
    field = visitor.page.get_by_label("Type into the console")
    expect(field).to_be_focused()
    visitor.show("typing")
    for name in ("Esc", "Tab", "Arrow up"):
        visitor.button(name).click()
        expect(field).to_be_focused()
    visitor.wait_for(lambda: len(screen.keys) == 6)
    assert screen.keys == [*presses(ESCAPE), *presses(TAB), *presses(UP)]
    screen.keys.clear()
    visitor.button("Ctrl").click()
    expect(visitor.button("Ctrl")).to_have_attribute("aria-pressed", "true")
    visitor.page.keyboard.insert_text("c")
    visitor.wait_for(lambda: len(screen.keys) == 4)
    assert screen.keys == presses(CONTROL, ord("c"))
    expect(visitor.button("Ctrl")).to_have_attribute("aria-pressed", "false")
    screen.keys.clear()
    visitor.page.keyboard.press("Backspace")
    visitor.page.keyboard.press("Enter")
    visitor.wait_for(lambda: len(screen.keys) == 4)
    assert screen.keys == [*presses(0xFF08), *presses(0xFF0D)]


def test_composed_text_arrives_when_it_is_complete(visitor: Visitor) -> None:
    screen = visitor.go_live()
    visitor.button("Keyboard").click()
    expect(visitor.page.get_by_label("Type into the console")).to_be_focused()
    browser = visitor.page.context.new_cdp_session(visitor.page)
    for text in ("s", "sh", "shi"):
        composed = {"text": text, "selectionStart": len(text), "selectionEnd": len(text)}
        browser.send("Input.imeSetComposition", composed)
    browser.send("Input.insertText", {"text": "世"})
    visitor.page.keyboard.insert_text("界")
    visitor.wait_for(lambda: len(screen.keys) == 4)
    assert [key for key, down in screen.keys if down] == [0x01004E16, 0x0100754C]


POWER_OFFERED = bytes([250, 0, 1, 1])


def test_power_is_sent_after_a_confirmation(visitor: Visitor) -> None:
    screen = SmallScreen(extra=POWER_OFFERED)
    visitor.go_live(showing(screen, power=True))
    visitor.button("Power").click()
    panel = visitor.page.get_by_role("group", name="Power")
    assert panel.get_by_role("button").all_inner_texts() == ["Shut down", "Restart", "Reset"]
    visitor.show("power")
    panel.get_by_role("button", name="Reset").click()
    dialog = visitor.page.get_by_role("dialog", name="Reset the server?")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    visitor.show("power-confirm")
    visitor.page.keyboard.press("Enter")
    visitor.button("Power").click()
    panel.get_by_role("button", name="Restart").click()
    dialog = visitor.page.get_by_role("dialog", name="Restart the server?")
    dialog.get_by_role("button", name="Restart").click()
    visitor.wait_for(lambda: bool(screen.power))
    assert screen.power == [3]
    rejected = {"type": "power_rejected", "error_code": "CGW.5035", "error_msg": "No audit log."}
    visitor.site.call(lambda socket: socket.send(rejected))
    warning = "The power operation has not reached the server. No audit log."
    expect(visitor.page.locator("#warning-text")).to_have_text(warning)
    visitor.show("power-rejected")
    visitor.site.call(lambda socket: socket.send({"type": "power_ended"}))
    expect(visitor.button("Power")).to_be_hidden()


@pytest.mark.parametrize(
    ("screen", "attached"),
    [
        (SmallScreen(), {"power": True}),
        (SmallScreen(extra=POWER_OFFERED), {"power": False}),
        (SmallScreen(extra=POWER_OFFERED), {"power": True, "mode": "view"}),
    ],
    ids=["not offered", "not permitted", "view only"],
)
def test_power_is_hidden_where_it_cannot_be_used(
    visitor: Visitor, screen: SmallScreen, attached: dict[str, object]
) -> None:
    visitor.go_live(showing(screen, **attached))
    visitor.page.get_by_role("application").click()
    visitor.page.wait_for_timeout(100)
    expect(visitor.button("Power")).to_be_hidden()


def test_page_announces_no_extended_clipboard(visitor: Visitor) -> None:
    """A server answers the announcement with such a message, which ends the session."""
    screen = visitor.go_live()
    eventually(lambda: Encoding.RAW in screen.encodings)
    assert Encoding.EXTENDED_CLIPBOARD not in screen.encodings


def test_view_only_switch_sends_nothing(visitor: Visitor) -> None:
    screen = visitor.go_live()
    visitor.button("View only").click()
    expect(visitor.page.locator("#bar-mode")).to_have_text("View only")
    for name in ("Keyboard", "Keys", "Paste"):
        expect(visitor.button(name)).to_be_disabled()
    visitor.page.get_by_role("application").click()
    visitor.page.keyboard.type("quiet")
    visitor.button("View only").click()
    visitor.page.get_by_role("application").click()
    visitor.page.keyboard.type("l")
    visitor.wait_for(lambda: "l" in screen.typed())
    assert screen.typed() == "l"


def test_gateways_view_mode_leaves_only_viewing_controls(visitor: Visitor) -> None:
    visitor.go_live(showing(SmallScreen(), mode="view"))
    viewing = ["1:1", "Full screen", "Session", "Disconnect"]
    assert [one for one in CONTROLS if visitor.button(one).is_visible()] == viewing
    expect(visitor.page.locator("#bar-mode")).to_be_visible()
    canvas = visitor.page.get_by_role("application")
    expect(canvas).to_have_attribute("aria-label", "Console of db-primary-01, view only.")
    visitor.show("view")
    visitor.site.call(lambda socket: socket.send({"type": "mode", "mode": "control"}))
    expect(visitor.button("Keyboard")).to_be_visible()
    expect(visitor.page.locator("#announcement")).to_contain_text("are sent to the server")


def test_watchers_are_named(visitor: Visitor) -> None:
    visitor.go_live(showing(SmallScreen(name="tty1 \x1b[31m<i>on\u202e</i>")))
    watcher = OTHER | {"since": after(-5)}
    visitor.site.call(lambda socket: socket.send({"type": "watchers", "watchers": [watcher]}))
    expect(visitor.page.locator("#bar-watchers")).to_have_text("1 watching")
    visitor.button("Session").click()
    facts = visitor.facts("#info-facts")
    assert facts["Watched by"].startswith("ben")
    assert facts["Screen"] == "tty1 [31m<i>on </i>"
    assert facts["Session"] == SID
    visitor.show("session")


def test_scale_and_full_screen_toggle(visitor: Visitor) -> None:
    visitor.go_live()
    visitor.page.wait_for_function(
        "() => document.querySelector('canvas[role]').getBoundingClientRect().width > 900"
    )
    visitor.button("1:1").click()
    expect(visitor.button("1:1")).to_have_attribute("aria-pressed", "true")
    visitor.page.wait_for_function(
        "() => document.querySelector('canvas[role]').style.width === '800px'"
    )
    visitor.button("Full screen").click()
    expect(visitor.button("Full screen")).to_have_attribute("aria-pressed", "true")
    assert visitor.page.evaluate("() => document.fullscreenElement !== null")


def test_second_address_leaves_a_live_console_alone(visitor: Visitor) -> None:
    visitor.go_live()
    visitor.open("#t1")
    expect(visitor.page.get_by_role("alert")).to_contain_text("in another tab")
    visitor.expect_state("live")
    assert visitor.page.url == visitor.site.address
    assert len(visitor.site.posts) == 2


# Warnings


@pytest.mark.parametrize(
    ("reason", "words", "action"),
    [
        ("idle", "The console closes soon unless you use it.", "Stay connected"),
        ("time_limit", "Save your work", None),
        ("token", "Your sign-in has expired.", "Enter a new token"),
    ],
)
def test_warning_shows_its_action(
    visitor: Visitor, reason: str, words: str, action: str | None
) -> None:
    screen = visitor.go_live()
    warning = {"type": "warning", "reason": reason, "ends_at": after(59)}
    visitor.site.call(lambda socket: socket.send(warning))
    expect(visitor.page.get_by_role("alert")).to_contain_text(words)
    expect(visitor.page.locator("#warning-left")).to_have_text(re.compile(r"^\d+ s left$"))
    assert visitor.page.locator("#warning").get_by_role("button").all_inner_texts() == (
        [action] if action else []
    )
    visitor.show(f"warned-{reason}")
    if reason == "idle":
        visitor.button("Stay connected").click()
        visitor.wait_for(lambda: screen.keys == presses(SHIFT))
        expect(visitor.page.get_by_role("application")).to_be_focused()
    if reason == "token":
        visitor.button("Enter a new token").click()
        visitor.page.get_by_label("Token (JWT)").fill("a.b.c")
        visitor.page.keyboard.press("Enter")
        visitor.wait_for(lambda: visitor.site.texts == [{"type": "token", "token": "a.b.c"}])
    visitor.site.call(lambda socket: socket.send({"type": "warning_over", "reason": reason}))
    expect(visitor.page.locator("#warning")).to_be_hidden()


RIGHT_ENDS = {"type": "warning", "reason": "right_ended", "request": None}


@pytest.mark.parametrize(
    ("request_id", "query"),
    [
        ("ab" * 16, f"from={'ab' * 16}"),
        (None, f"project={SERVER['project_id']}&server={SERVER['id']}"),
    ],
)
def test_end_of_access_leads_to_the_page_for_more_time(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, request_id: str | None, query: str
) -> None:
    monkeypatch.setattr(visitor.site, "_assets", PageAssets.load(PREFIX, has_pages=True))
    visitor.go_live()
    visitor.button("Session").click()
    assert visitor.facts("#info-facts")["Ends at"].endswith("Time limit of the session")
    visitor.page.keyboard.press("Escape")
    expect(visitor.page.locator("#time-left")).to_have_text(re.compile("^7 h"))
    expected = {"type": "expected_end", "ends_at": after(290), "ends_by": "right_ended"}
    visitor.site.call(lambda socket: socket.send(expected))
    expect(visitor.page.locator("#time-left")).to_have_text("4 min left")
    expect(visitor.page.locator("#time-left")).to_have_attribute("title", re.compile("access$"))
    warning = RIGHT_ENDS | {"ends_at": after(290), "may_request": True, "request": request_id}
    visitor.site.call(lambda socket: socket.send(warning))
    expect(visitor.page.get_by_role("alert")).to_contain_text("Your access ends at ")
    visitor.show("warned-right")
    address = visitor.site.address.replace("console", f"page/requests/new?{query}")
    visitor.page.context.route(address, lambda route: route.fulfill(body="the form"))
    with visitor.page.expect_popup() as popup:
        visitor.button("Request more time").click()
    popup.value.wait_for_url(address)
    popup.value.close()
    visitor.expect_state("live")


def test_end_of_access_names_the_command_where_there_is_no_page(visitor: Visitor) -> None:
    visitor.go_live()
    alert = visitor.page.get_by_role("alert")
    for may_request in (True, False):
        warning = RIGHT_ENDS | {"ends_at": after(290), "may_request": may_request}
        visitor.site.call(lambda socket, sent=warning: socket.send(sent))
        expect(alert).to_contain_text("the console closes. Save your work.")
        if may_request:
            expect(alert).to_contain_text("gateway requests create")
        else:
            expect(alert).not_to_contain_text("gateway requests create")
        assert visitor.page.locator("#warning").get_by_role("button").all_inner_texts() == []


# Lost and resumed


async def never_answer(socket: PageSocket) -> None:
    await socket.closed.wait()


def test_lost_connection_resumes_with_the_newest_key(visitor: Visitor) -> None:
    visitor.go_live()
    visitor.site.call(_drop)
    visitor.wait_for(lambda: len(visitor.site.screens) == 2)
    visitor.expect_state("live")
    assert visitor.site.attached_with == ["key-1", "key-2"]
    visitor.page.keyboard.type("again")
    visitor.wait_for(lambda: visitor.site.screens[1].typed() == "again")


def test_lost_connection_keeps_the_last_picture(visitor: Visitor) -> None:
    visitor.site.behaviours = [show_screen, never_answer]
    visitor.connect()
    visitor.expect_state("live")
    visitor.site.call(_drop)
    expect(visitor.title()).to_have_text("The connection was lost.")
    expect(visitor.page.locator("#last-picture")).to_be_visible()
    visitor.show("lost")


def test_move_to_another_process_resumes(visitor: Visitor) -> None:
    visitor.go_live()
    visitor.site.call(lambda socket: socket.ended(4007, "move"))
    visitor.wait_for(lambda: len(visitor.site.screens) == 2)
    visitor.expect_state("live")


def test_reload_resumes_the_session(visitor: Visitor) -> None:
    visitor.go_live()
    visitor.page.reload()
    visitor.wait_for(lambda: len(visitor.site.screens) == 2)
    visitor.expect_state("live")
    assert visitor.site.attached_with == ["key-1", "key-2"]
    assert len(visitor.site.posts) == 2


def test_tab_that_is_restored_long_after_its_session_does_not_wait(visitor: Visitor) -> None:
    """The gateway may not know any more that the session has ended: it only says `move`."""

    async def move(socket: PageSocket) -> None:
        await socket.ended(4007, "move")

    visitor.go_live()
    visitor.site.behaviours = [move]
    visitor.page.add_init_script(
        "const stored = JSON.parse(sessionStorage.getItem('console-session'));"
        "sessionStorage.setItem('console-session',"
        " JSON.stringify({...stored, left_at: stored.left_at - 31000}));"
    )
    visitor.page.reload()
    expect(visitor.title()).to_have_text(ends.ABANDONED.title)
    assert len(visitor.site.sockets) == 2


def test_duplicated_tab_takes_nothing_over(visitor: Visitor) -> None:
    """A duplicated tab has a copy of the storage; the person may move the console to it."""
    visitor.go_live()
    stored = visitor.page.evaluate("() => sessionStorage.getItem('console-session')")
    copy = Visitor(visitor.page.context.new_page(), visitor.site)
    copy.page.add_init_script(f"sessionStorage.setItem('console-session', {json.dumps(stored)})")
    copy.open("")
    expect(copy.title()).to_have_text("This console is open in another tab.")
    expect(copy.button("Continue here")).to_be_focused()
    copy.show("elsewhere")
    assert len(visitor.site.sockets) == 1
    visitor.expect_state("live")
    copy.button("Continue here").click()
    copy.expect_state("live")
    assert copy.unexpected() == []


def _drop(socket: PageSocket) -> Awaitable[None]:
    async def drop() -> None:
        socket.drop()

    return drop()


# Ends


@pytest.mark.parametrize("end", [end for end in ends.SESSION_ENDS if end.code not in {None, 4007}])
def test_end_shows_reason_and_advice(visitor: Visitor, end: ends.SessionEnd) -> None:
    assert end.code is not None
    visitor.site.behaviours = [
        ending(
            end.code,
            end.name,
            by=OTHER if end in (ends.OPERATOR, ends.TAKEN_OVER) else None,
            error_code="CloudDC.0042" if end is ends.CLOUD_UNAVAILABLE else None,
            error_msg="The server is powered off." if end is ends.CLOUD_UNAVAILABLE else None,
            request_id="req-0123",
        )
    ]
    visitor.connect()
    expect(visitor.title()).to_have_text(end.title)
    expect(visitor.page.locator("#card-lead")).to_have_text(end.advice)
    expect(visitor.title()).to_be_focused()
    assert visitor.buttons() == ["Copy command"]
    facts = visitor.facts()
    assert facts["Lasted"] == "2 min"
    assert facts["Request ID"] == "req-0123"
    if end is ends.CLOUD_UNAVAILABLE:
        assert facts["Message"] == "The server is powered off."
    if end is ends.TAKEN_OVER:
        assert facts["By"].startswith("ben")
    assert visitor.page.title() == "db-primary-01 · Ended · Console"
    assert visitor.page.evaluate("() => sessionStorage.length") == 0
    name = f"ended-{end.code}-{end.name}"
    visitor.show(name, checks_accessibility=end is ends.CLOUD_UNAVAILABLE)


def test_close_code_alone_names_the_end(visitor: Visitor) -> None:
    visitor.go_live()
    visitor.site.call(lambda socket: socket.close(4009))
    expect(visitor.title()).to_have_text(ends.STALE_PAGE.title)


def test_disconnect_ends_the_session(visitor: Visitor) -> None:
    visitor.go_live()
    visitor.button("Disconnect").click()
    expect(visitor.title()).to_have_text(ends.PERSON.title)
    visitor.wait_for(lambda: visitor.site.texts == [{"type": "end"}])
    visitor.page.reload()
    expect(visitor.title()).to_have_text("This page needs a fresh address.")


# A hostile server


def _rectangle(x: int, y: int, width: int, height: int, encoding: int) -> bytes:
    return struct.pack(">BxHHHHHi", 0, 1, x, y, width, height, encoding)


EXTENDED_TEXT = struct.pack(">BxxxiI", 3, -8, 1 << 24 | 1) + bytes(4)
"""An extended clipboard message, which no page has announced: its text would be inflated."""


@pytest.mark.parametrize(
    ("screen", "message"),
    [
        (SmallScreen(width=65_535, height=65_535), "The server's screen is larger"),
        (SmallScreen(extra=_rectangle(0, 0, 9_000, 4_000, -223)), "The server's screen is larger"),
        (SmallScreen(extra=_rectangle(700, 0, 400, 1, 0)), "The page does not understand"),
        (SmallScreen(extra=bytes([77])), "The page does not understand"),
        (SmallScreen(extra=EXTENDED_TEXT), "The page does not understand"),
    ],
    ids=["initial size", "new size", "rectangle outside", "unknown message", "extended text"],
)
def test_hostile_screen_ends_the_session(
    visitor: Visitor, screen: SmallScreen, message: str
) -> None:
    visitor.allowed = re.compile("Failed (while|when) connect")
    visitor.site.behaviours = [showing(screen)]
    visitor.connect()
    expect(visitor.title()).to_have_text(ends.PROTOCOL_ERROR.title)
    assert visitor.facts()["Message"].startswith(message)
    visitor.wait_for(lambda: visitor.site.texts == [{"type": "end"}])


def test_hostile_cursor_is_not_drawn(visitor: Visitor) -> None:
    side = 300
    pixels = bytes(4 * side * side) + b"\xff" * ((side + 7) // 8 * side)
    screen = SmallScreen(extra=_rectangle(0, 0, side, side, -239) + pixels + bytes([2]))
    visitor.go_live(showing(screen))
    visitor.page.keyboard.type("x")
    visitor.wait_for(lambda: screen.typed() == "x")
    style = visitor.page.get_by_role("application").get_attribute("style") or ""
    assert len(style) < 500  # noVNC's own dot, not the server's picture


def test_page_says_that_keys_are_recorded(visitor: Visitor) -> None:
    visitor.go_live(showing(SmallScreen(), recorded=True, keys_recorded=True))
    expect(visitor.page.locator("#bar-recorded")).to_have_text("Recorded with keys")
    visitor.button("Session").click()
    assert visitor.facts("#info-facts")["Recorded"] == (
        "The screen of this session and what you type are recorded, passwords included."
    )


def test_recorded_session_says_so_until_recording_fails(visitor: Visitor) -> None:
    visitor.go_live(showing(SmallScreen(), recorded=True))
    mark = visitor.page.locator("#bar-recorded")
    expect(mark).to_be_visible()
    visitor.button("Session").click()
    assert visitor.facts("#info-facts")["Recorded"] == "The screen of this session is recorded."
    visitor.show("live-recorded")
    visitor.site.call(lambda socket: socket.send({"type": "recording", "recorded": False}))
    expect(mark).to_be_hidden()
    expect(visitor.page.locator("#announcement")).to_have_text(
        "Recording has failed. This session is not recorded any more."
    )
