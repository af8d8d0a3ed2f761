"""The player of recordings in a real browser: each state, in words, focus, buttons and pictures."""

import re
import struct
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from gateway.demo.cloud.screen.font import HEIGHT, glyph
from tests.support.browser import needs_chromium
from tests.support.page_pictures import PageVisitor
from tests.support.player_site import (
    INPUT,
    RECORDING_ID,
    STARTED_AT,
    WATCHERS,
    MadePart,
    PlayerSite,
)

pytestmark = needs_chromium
TICKET = "#ticket-0"
WIDTH, ROWS = 640, 24
_FORMAT = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
DARK, BRIGHT = b"\x18\x14\x12\x00", b"\xd4\xd0\xc8\x00"


def handshake(width: int = WIDTH, height: int = ROWS * HEIGHT, *, password: bool = False) -> bytes:
    """Return what a server sends up to its first update, as one frame."""
    security = b"\x01\x02" + bytes(16) if password else b"\x01\x01"
    init = struct.pack(">HH", width, height) + _FORMAT + struct.pack(">I", 6) + b"screen"
    return b"RFB 003.008\n" + security + bytes(4) + init


def rectangle(x: int, y: int, width: int, height: int, pixels: bytes) -> bytes:
    return struct.pack(">BxHHHHHi", 0, 1, x, y, width, height, 0) + pixels


def line(row: int, text: str) -> bytes:
    """Return an update that draws one row of text."""
    pixels = []
    for within in range(HEIGHT):
        bits = "".join(f"{glyph(ord(one))[within]:08b}" for one in text)
        drawn = b"".join(BRIGHT if bit == "1" else DARK for bit in bits)
        pixels.append(drawn + DARK * (WIDTH - len(bits)))
    return rectangle(0, row * HEIGHT, WIDTH, HEIGHT, b"".join(pixels))


def typed(seconds: int, *, start: int = 0) -> list[tuple[int, bytes]]:
    """Return a session that draws one row a second; row 0 has the number of the second."""
    frames = [
        (0, handshake()),
        (0, rectangle(0, 0, WIDTH, ROWS * HEIGHT, DARK * WIDTH * ROWS * HEIGHT)),
    ]
    for second in range(seconds):
        text = f"{start + second:>6} root@db-primary-01:~# systemctl status postgresql"
        frames.append((1000 * second, line(second % ROWS, text)))
    return frames


ANNA = '[{"subject":"ben","issuer":"corp","since":0}]'
MARKS = [
    *((1000 * one, INPUT, "") for one in range(3, 20)),
    (30_000, WATCHERS, ANNA),
    *((1000 * one, INPUT, "") for one in range(70, 90)),
    (60_000, WATCHERS, "[]"),
]
MARKS.sort()


class PlayerVisitor(PageVisitor[PlayerSite]):
    def open(self, ticket: str = TICKET) -> None:
        self.page.goto(f"{self.site.address}{ticket}")

    def play_card(self) -> None:
        """Open the recording from the card, as a person does: with Enter."""
        self.open()
        expect(self.button("Play")).to_be_focused()
        self.page.keyboard.press("Enter")
        self.expect_state("paused")
        self.settled()

    def settled(self) -> None:
        """Wait until a jump has ended."""
        self.page.wait_for_function("() => document.body.dataset.jump !== 'true'")

    def value(self) -> int:
        return int(self.page.locator("#position").input_value())

    def text(self, name: str) -> str:
        return self.page.locator(f"#{name}").inner_text()

    def pixels(self) -> str:
        """Return the picture without loss."""
        text = self.page.evaluate("() => document.querySelector('#screen canvas').toDataURL()")
        return str(text)

    def has_text(self) -> bool:
        """Return whether the picture has more than one colour."""
        count = self.page.evaluate(
            "() => { const c = document.querySelector('#screen canvas');"
            " const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
            " return new Set(new Uint32Array(data.buffer)).size; }"
        )
        return int(count) > 1


@pytest.fixture(scope="module")
def site() -> Iterator[PlayerSite]:
    running = PlayerSite()
    yield running
    running.close()


@pytest.fixture
def visitor(site: PlayerSite, browser: Browser) -> Iterator[PlayerVisitor]:
    site.reset()
    site.parts = [MadePart(typed(120), marks=MARKS)]
    with PlayerVisitor.visiting(browser, site, timezone_id="Europe/Berlin") as visitor:
        # The tests read the picture's pixels.
        visitor.allowed = re.compile("willReadFrequently")
        yield visitor


def test_opening_the_page_loads_nothing(visitor: PlayerVisitor) -> None:
    visitor.open()
    expect(visitor.title()).to_have_text("Play this recording?")
    expect(visitor.button("Play")).to_be_focused()
    assert visitor.site.tickets == []
    assert visitor.page.url.endswith("/console/player")
    visitor.show("player-ready")


def test_page_without_ticket_says_how_to_get_one(visitor: PlayerVisitor) -> None:
    visitor.open("")
    expect(visitor.title()).to_have_text("This page needs a fresh address.")
    assert visitor.text("card-command-text") == "gateway recordings play ID"
    visitor.show("player-empty")


def test_recording_opens_paused_at_its_start(visitor: PlayerVisitor) -> None:
    visitor.play_card()
    assert visitor.site.tickets == ["ticket-0"]
    expect(visitor.button("Play")).to_be_focused()
    assert visitor.page.title() == "db-primary-01 · Paused · Console"
    assert (visitor.text("time"), visitor.text("length")) == ("0:00", "1:59")
    assert visitor.text("clock") == "09:12:44"
    assert visitor.text("utc") == "08:12:44 UTC"
    expect(visitor.page.get_by_role("img", name="Recorded screen of db-primary-01")).to_be_visible()
    visitor.show("player-paused")


def test_jump_shows_the_picture_of_that_second(visitor: PlayerVisitor) -> None:
    visitor.play_card()
    first = visitor.pixels()
    visitor.page.locator("#position").fill("100")
    visitor.settled()
    late = visitor.pixels()
    assert late != first
    expect(visitor.page.locator("#time")).to_have_text("1:40")
    visitor.page.locator("#position").fill("0")
    visitor.settled()
    assert visitor.pixels() == first
    visitor.page.locator("#position").fill("100")
    visitor.settled()
    assert visitor.pixels() == late
    visitor.show("player-jumped")


def test_keyboard_plays_pauses_and_moves(visitor: PlayerVisitor) -> None:
    visitor.play_card()
    visitor.page.keyboard.press("Space")
    visitor.expect_state("playing")
    expect(visitor.button("Pause")).to_be_focused()
    visitor.page.wait_for_function("() => document.getElementById('time').textContent !== '0:00'")
    visitor.page.keyboard.press("k")
    visitor.expect_state("paused")
    expect(visitor.page.locator("#announcement")).to_have_text(re.compile(r"Paused at \d+ s"))
    at = visitor.value()
    visitor.page.keyboard.press("Shift+ArrowRight")
    visitor.settled()
    assert abs(visitor.value() - at - 60) <= 1
    visitor.page.keyboard.press("End")
    visitor.settled()
    assert visitor.text("time") == "1:59"
    visitor.page.keyboard.press("Home")
    visitor.settled()
    visitor.page.keyboard.press(">")
    expect(visitor.page.locator("#speed")).to_have_value("2")
    visitor.page.keyboard.press("n")
    visitor.settled()
    assert visitor.text("time") == "0:03"


def test_playing_at_sixteen_times_reaches_the_end(visitor: PlayerVisitor) -> None:
    visitor.play_card()
    visitor.page.locator("#speed").select_option("16")
    visitor.button("Play").click()
    visitor.expect_state("playing")
    visitor.show("player-playing", checks_accessibility=False)
    expect(visitor.page.locator("#time")).to_have_text("1:59")
    visitor.expect_state("paused")
    expect(visitor.page.locator("#announcement")).to_have_text("End of the recording")
    played = visitor.pixels()
    visitor.page.locator("#position").fill("10")
    visitor.settled()
    visitor.page.locator("#position").fill("119")
    visitor.settled()
    assert visitor.pixels() == played


def test_idle_time_is_skipped(visitor: PlayerVisitor) -> None:
    frames = typed(3)
    frames += [(1000 * one, rectangle(0, 0, 8, 1, BRIGHT * 8)) for one in range(4, 300)]
    frames += [(300_000, line(5, "activity again")), (301_000, line(6, "the end"))]
    visitor.site.parts = [MadePart(frames)]
    visitor.play_card()
    visitor.button("Skip idle").click()
    expect(visitor.button("Skip idle")).to_have_attribute("aria-pressed", "true")
    visitor.page.evaluate(
        """() => {
          window.notices = [];
          const notice = document.getElementById("notice");
          const note = () => window.notices.push(notice.textContent);
          new MutationObserver(note).observe(notice, { childList: true });
        }"""
    )
    visitor.button("Play").click()
    expect(visitor.page.locator("#time")).to_have_text("5:01")
    notices = visitor.page.evaluate("() => window.notices")
    assert any("Skipped 4 min without activity" in one for one in notices), notices


def test_marks_lead_to_their_time(visitor: PlayerVisitor) -> None:
    visitor.play_card()
    visitor.button("Marks").click()
    texts = visitor.page.locator("#marks button").all_inner_texts()
    marks = [" ".join(one.split()) for one in texts]
    assert marks == [
        "09:12:44 Begin",
        "09:12:47 Input begins",
        "09:13:14 Watched by ben",
        "09:13:44 No longer watched",
        "09:13:54 Input begins",
    ]
    visitor.show("player-marks")
    visitor.page.get_by_role("button", name="Watched by ben").click()
    visitor.settled()
    assert visitor.text("time") == "0:30"
    visitor.page.get_by_label("Time of day").fill("09:13:50")
    visitor.button("Go").click()
    visitor.settled()
    assert visitor.text("time") == "1:06"


def test_address_may_name_the_time(visitor: PlayerVisitor) -> None:
    visitor.open(f"{TICKET}&at=2026-11-30T08:13:44Z")
    expect(visitor.button("Play")).to_be_focused()
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.locator("#time")).to_have_text("1:00")


def test_facts_name_who_was_recorded(visitor: PlayerVisitor) -> None:
    visitor.play_card()
    visitor.button("Recording").click()
    facts = visitor.facts("#info-facts")
    assert facts["Server"].split("\n")[0] == "db-primary-01"
    assert facts["Recorded person"].split("\n") == ["anna", "corp"]
    assert facts["End"] == "The person disconnected."
    assert facts["Recording"] == RECORDING_ID
    visitor.show("player-facts")


def test_resumed_session_plays_over_the_gap(visitor: PlayerVisitor) -> None:
    second = MadePart(typed(10, start=500), after_s=60)
    visitor.site.parts = [MadePart(typed(20), is_cut=True), second]
    visitor.play_card()
    visitor.page.locator("#position").fill("40")
    visitor.settled()
    expect(visitor.page.locator("#words")).to_have_text(
        "The connection was lost here. Nothing was shown."
    )
    visitor.show("player-gap")
    visitor.page.locator("#position").fill("65")
    visitor.settled()
    expect(visitor.page.locator("#words")).to_be_hidden()
    assert visitor.text("length") == "1:09"
    resumed = visitor.pixels()
    visitor.site.reset()
    visitor.site.parts = [MadePart(typed(10, start=500))]
    visitor.page.goto("about:blank")
    visitor.play_card()
    visitor.page.locator("#position").fill("5")
    visitor.settled()
    assert visitor.pixels() == resumed


def test_session_with_a_vnc_password_plays(visitor: PlayerVisitor) -> None:
    frames = typed(5)
    visitor.site.parts = [MadePart([(0, handshake(password=True)), *frames[1:]])]
    visitor.play_card()
    visitor.page.keyboard.press("End")
    visitor.settled()
    assert visitor.has_text()


@pytest.mark.parametrize("size", [(65_535, 65_535), (40_000, 1_000)])
def test_hostile_screen_size_is_not_shown(visitor: PlayerVisitor, size: tuple[int, int]) -> None:
    visitor.allowed = re.compile("Failed|RFB failure|disconnected RFB object|willReadFrequently")
    resize = struct.pack(">BxHHHHHi", 0, 1, 0, 0, *size, -223)
    visitor.site.parts = [
        MadePart([*typed(5), (6_000, resize), (9_000, line(3, "after"))]),
        MadePart(typed(10, start=500), after_s=20),
    ]
    visitor.play_card()
    visitor.page.locator("#position").fill("8")
    visitor.settled()
    expect(visitor.page.locator("#words")).to_contain_text("larger than 32 megapixels")
    visitor.show(f"player-too-large-{size[1]}", checks_accessibility=size[1] == 65_535)
    visitor.page.locator("#position").fill("25")
    visitor.settled()
    expect(visitor.page.locator("#words")).to_be_hidden()
    assert visitor.has_text()


def test_resizes_are_replayed(visitor: PlayerVisitor) -> None:
    resize = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 320, 200, -223)
    nothing = struct.pack(">BxHHHHHi", 0, 1, 0, 0, 0, 0, -223)
    drawn = rectangle(0, 0, 320, 200, BRIGHT * 320 * 200)
    visitor.site.parts = [
        MadePart([*typed(5), (6_000, resize), (6_500, drawn), (8_000, nothing), (9_000, resize)])
    ]
    visitor.play_card()
    canvas = visitor.page.locator("#screen canvas")
    for second, width in ((7, "320"), (8, "0"), (9, "320"), (5, "640")):
        visitor.page.locator("#position").fill(str(second))
        visitor.settled()
        expect(canvas).to_have_attribute("width", width)


def test_keys_are_shown_when_they_were_pressed(visitor: PlayerVisitor) -> None:
    visitor.site.parts[0].keys = [(20_000, 0x6C), (20_500, 0x73), (21_000, 0xFF0D)]
    visitor.play_card()
    keys = visitor.page.locator("#keys")
    expect(keys).to_be_hidden()
    visitor.page.locator("#position").fill("22")
    visitor.settled()
    expect(keys).to_have_text("l s ⏎")
    visitor.show("player-keys")
    visitor.button("Keystrokes").click()
    line = visitor.page.locator("#key-lines button")
    expect(line).to_have_text("09:13:04 ls⏎")
    expect(visitor.button("Earlier")).to_be_hidden()
    expect(visitor.button("Later")).to_be_hidden()
    visitor.show("player-key-lines")
    line.click()
    visitor.settled()
    assert visitor.value() == 20
    visitor.page.keyboard.press("Escape")
    visitor.page.locator("#position").fill("40")
    visitor.settled()
    expect(keys).to_be_hidden()


def test_omitted_marks_are_counted(visitor: PlayerVisitor) -> None:
    visitor.site.parts[0].omitted_marks = 12
    visitor.play_card()
    text = visitor.page.locator("#marks li").last.text_content() or ""
    assert text.startswith("12 more, which this list is too long for.")


def test_damaged_chunk_is_named(visitor: PlayerVisitor) -> None:
    visitor.site.parts = [MadePart(typed(60), unreadable=frozenset({3}))]
    visitor.play_card()
    visitor.page.locator("#position").fill("45")
    visitor.settled()
    expect(visitor.page.locator("#words")).to_contain_text("gateway recordings verify")
    visitor.page.locator("#position").fill("20")
    visitor.settled()
    expect(visitor.page.locator("#words")).to_be_hidden()
    visitor.page.locator("#position").fill("45")
    visitor.settled()
    visitor.show("player-damaged")


def test_garbage_is_not_understood(visitor: PlayerVisitor) -> None:
    visitor.allowed = re.compile("Failed|RFB failure|disconnected RFB object|willReadFrequently")
    visitor.site.parts = [MadePart([*typed(5), (6_000, b"\x77garbage"), (9_000, b"\x00")])]
    visitor.play_card()
    visitor.page.locator("#position").fill("9")
    visitor.settled()
    expect(visitor.page.locator("#words")).to_contain_text("does not understand")


def test_recording_without_picture_says_so(visitor: PlayerVisitor) -> None:
    visitor.site.parts = []
    visitor.open()
    expect(visitor.button("Play")).to_be_focused()
    visitor.page.keyboard.press("Enter")
    expect(visitor.title()).to_have_text("This recording has no picture.")


def test_ended_right_removes_the_picture(visitor: PlayerVisitor) -> None:
    visitor.play_card()
    visitor.button("Play").click()
    visitor.expect_state("playing")
    visitor.site.end(code=4002, reason="right_ended")
    visitor.expect_state("ended")
    expect(visitor.title()).to_have_text("Your permission to view this recording has ended.")
    assert visitor.page.locator("#screen canvas").count() == 0
    assert visitor.text("card-command-text") == f"gateway recordings play {RECORDING_ID}"
    visitor.show("player-right-ended")
    visitor.page.reload()
    expect(visitor.title()).to_have_text("This page needs a fresh address.")


@pytest.mark.parametrize(
    ("message", "title"),
    [
        (
            {"code": 4009, "reason": "ticket", "error_msg": "Request a new one."},
            "This address does not work any more.",
        ),
        (
            {"code": 4010, "reason": "unavailable", "error_msg": "This recording is in progress."},
            "This recording cannot be played now.",
        ),
        ({"code": 4003, "reason": "token"}, "Your sign-in has ended."),
    ],
)
def test_rejected_view_shows_the_reason(
    visitor: PlayerVisitor, message: dict[str, object], title: str
) -> None:
    visitor.site.refusal = message
    visitor.open()
    expect(visitor.button("Play")).to_be_focused()
    visitor.page.keyboard.press("Enter")
    expect(visitor.title()).to_have_text(title)
    if "error_msg" in message:
        assert visitor.facts()["Message"] == message["error_msg"]
    visitor.show(f"player-rejected-{message['reason']}", checks_accessibility=False)


def test_lost_network_covers_the_picture_and_continues(visitor: PlayerVisitor) -> None:
    visitor.play_card()
    visitor.page.locator("#position").fill("50")
    visitor.settled()
    before = visitor.pixels()
    visitor.site.drop()
    visitor.wait_for(lambda: len(visitor.site.tickets) == 2)
    assert visitor.site.tickets == ["ticket-0", "next-1"]
    visitor.expect_state("paused")
    assert visitor.pixels() == before
    visitor.page.reload()
    visitor.wait_for(lambda: len(visitor.site.tickets) == 3)
    visitor.expect_state("paused")
    expect(visitor.page.locator("#time")).to_have_text("0:50")
    visitor.settled()
    assert visitor.pixels() == before


def test_recorded_text_is_shown_as_text(visitor: PlayerVisitor) -> None:
    evil = '<img src=x onerror="document.title=1">\u202e'
    visitor.site.changes = {"person": {"subject": evil, "issuer": evil}, "client_address": evil}
    watchers = f'[{{"subject": {evil!r}, "issuer": "", "since": 0}}]'.replace("'", '"')
    visitor.site.parts[0].marks = [(1000, WATCHERS, watchers), (2000, WATCHERS, "{")]
    visitor.play_card()
    visitor.button("Recording").click()
    assert "<img" in visitor.facts("#info-facts")["Recorded person"]
    assert visitor.page.locator("img").count() == 0


def test_time_of_the_recording_is_named(visitor: PlayerVisitor) -> None:
    visitor.play_card()
    visitor.button("Recording").click()
    began = visitor.facts("#info-facts")["Began"]
    assert "2026-11-30T08:12:44" in began
    assert STARTED_AT == 1_796_026_364.0
