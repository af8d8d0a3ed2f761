"""Whether a browser on this machine can show a page to the person."""

import pytest

from gateway.commands import browser
from gateway.commands.browser import has_browser


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({"DISPLAY": ":10", "SSH_CONNECTION": "192.0.2.1 22 192.0.2.2 22"}, False),
        ({"DISPLAY": ":10", "SSH_TTY": "/dev/pts/1"}, False),
        ({"BROWSER": "helper", "SSH_CONNECTION": "192.0.2.1 22 192.0.2.2 22"}, True),
    ],
)
def test_browser_is_expected_beside_a_screen(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], *, expected: bool
) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(browser.sys, "platform", "linux")
    monkeypatch.setattr(browser.webbrowser, "get", object)
    assert has_browser() is expected


def test_machine_without_any_browser_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def get() -> None:
        raise browser.webbrowser.Error("could not locate runnable browser")

    for name in ("BROWSER", "SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(browser.webbrowser, "get", get)
    assert not has_browser()
