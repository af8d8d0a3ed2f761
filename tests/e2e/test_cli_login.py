"""`gateway login`, `logout` and `whoami`: from a terminal to a console link, and what can fail."""

import json
import os
import re
import stat
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from gateway.demo.cloud.idp_login import CLI_CLIENT
from tests.support import programs
from tests.support.browser_login import LoginBrowser
from tests.support.programs import Program
from tests.support.stack import TIMEOUT_S, CloudProcess, Stack, eventually, fetch

CONTACT = {"text": "Platform on-call", "url": "https://chat.example.com/c/console"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    found = Stack(CloudProcess(), start=False)
    found.gateway.config["issuers"][0]["cli"] = {"client_id": CLI_CLIENT}
    found.gateway.config["contact"] = CONTACT
    found.gateway.write_config()
    found.gateway.start()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _heal(stack: Stack) -> Iterator[None]:
    yield
    stack.cloud.heal()
    provide(stack, **SETTINGS)


SETTINGS = {"token_life_s": 300, "device_interval_s": 0.2, "device_code_life_s": 300}


def provide(stack: Stack, **settings: Any) -> None:
    headers = {"Content-Type": "application/json"}
    answer = fetch(stack.cloud.issuer, "POST", "/_box/login", headers, json.dumps(settings))
    assert answer.status == 200


class Person:
    """A person with a terminal, a home and a browser."""

    def __init__(self, stack: Stack, home: Path) -> None:
        self.stack, self.home = stack, home
        self.opened = home / "opened"
        browser = home / "browser"
        browser.write_text(f'#!/bin/sh\necho "$1" >> {self.opened}\n')
        browser.chmod(0o700)
        self.environ = {
            "CONSOLE_GATEWAY_URL": stack.gateway.url,
            "CONSOLE_GATEWAY_TOKEN": "",
            "XDG_CONFIG_HOME": str(home / "config"),
            "BROWSER": f"{browser} %s",
        }

    @property
    def target(self) -> str:
        return f"{self.stack.cloud.project}/{self.stack.cloud.servers[0]}"

    @property
    def files(self) -> list[Path]:
        return list((self.home / "config/console-gateway/logins").glob("*.json"))

    @property
    def stored(self) -> dict[str, Any]:
        (file,) = self.files
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def store(self, **changes: Any) -> None:
        (file,) = self.files
        file.write_text(json.dumps({**self.stored, **changes}))

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        ran = programs.run("gateway", *words, environ={**self.environ, **environ})
        for file in self.files:
            login = json.loads(file.read_text())
            for secret in (login["token"], login["refresh_token"]):
                assert not secret or secret not in ran.stdout + ran.stderr
        return ran

    def address(self) -> str:
        """Return the address that the browser was opened with."""
        eventually(lambda: self.opened.exists() and self.opened.read_text().endswith("\n"))
        (address,) = self.opened.read_text().splitlines()
        self.opened.unlink()
        return address

    def log_in(
        self, *before: str, person: str = "olga", changes: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Run `gateway login` on a terminal without typing; return exit code and output.

        `before` are queries that arrive at the loopback address before the true answer, `changes`
        are added to that.
        """
        ours, theirs = os.openpty()
        everything = {**os.environ, **self.environ}
        with Program[bytes](
            "gateway", "login", env=everything, stdin=theirs, stdout=theirs, stderr=theirs
        ) as running:
            os.close(theirs)
            shown: list[bytes] = []
            reader = threading.Thread(target=_read, args=(ours, shown))
            reader.start()
            address = self.address()
            redirect = LoginBrowser.at_provider(address, person)
            for query in before:
                back = urlsplit(redirect)
                answer = fetch(f"http://{back.netloc}", "GET", f"{back.path}?{query}")
                assert answer.status == 400, answer.body
            come_back("&".join([redirect, *([urlencode(changes)] if changes else [])]))
            code = running.wait(TIMEOUT_S)
            reader.join(TIMEOUT_S)
        os.close(ours)
        return code, b"".join(shown).decode()


def _read(terminal: int, shown: list[bytes]) -> None:
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            return
        if not chunk:
            return
        shown.append(chunk)


def come_back(address: str) -> None:
    parts = urlsplit(address)
    assert parts.hostname == "127.0.0.1"
    assert fetch(f"http://{parts.netloc}", "GET", f"{parts.path}?{parts.query}").status == 200


@pytest.fixture
def olga(stack: Stack, tmp_path: Path) -> Person:
    return Person(stack, tmp_path)


def test_the_gateway_says_how_to_log_in_without_a_secret(stack: Stack) -> None:
    answer = fetch(stack.gateway.url, "GET", "/.well-known/console-gateway")
    (issuer,) = answer.json["issuers"]
    assert issuer == {
        "name": "corp",
        "issuer": stack.cloud.issuer,
        "client_id": CLI_CLIENT,
        "scopes": ["openid", "offline_access"],
        "token": "access_token",
        "redirect_host": "127.0.0.1",
        "ports": [],
        "device": True,
    }


def test_from_a_login_to_a_console_link_with_one_approval(olga: Person) -> None:
    code, shown = olga.log_in()  # types nothing; the browser is opened once
    assert code == 0, shown
    assert "as olga (corp)" in shown
    assert "code_verifier" not in shown
    assert olga.stored["refresh_token"] not in shown
    ran = olga.run("console", "--print", olga.target)
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"https://\S+token=\S+\n", ran.stdout)
    (file,) = olga.files
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    who = json.loads(olga.run("whoami", "--json").stdout)
    assert (who["subject"], who["gateway"]) == ("olga", olga.stack.gateway.url)
    assert who["stored"] == f"{file.parent} (mode 0600, not encrypted)"
    refresh_token = olga.stored["refresh_token"]
    out = olga.run("logout")
    assert (out.returncode, out.stderr, olga.files) == (0, "", [])
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": CLI_CLIENT}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    refused = fetch(olga.stack.cloud.issuer, "POST", "/token", headers, urlencode(form))
    assert (refused.status, refused.json) == (400, {"error": "invalid_grant"})
    assert olga.run("whoami").returncode == 2
    assert "Run `gateway login`" in olga.run("console", "--print", olga.target).stderr


def test_logout_without_the_provider_forgets_the_login(olga: Person) -> None:
    cloud = olga.stack.cloud
    assert olga.log_in()[0] == 0
    refresh_token = olga.stored["refresh_token"]
    cloud.fail(cloud.issuer, "answer", status=503, path="/revoke")
    try:
        out = olga.run("logout")
    finally:
        cloud.heal()
    assert (out.returncode, olga.files) == (0, [])
    assert "did not revoke the refresh token (HTTP 503)" in out.stderr
    assert "still valid at the issuer" in out.stderr
    assert refresh_token not in out.stdout + out.stderr


def test_the_browser_gets_the_address_of_the_provider_without_a_secret(olga: Person) -> None:
    with Program[str](
        "gateway",
        "login",
        env={**os.environ, **olga.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        # Without a terminal no browser is opened: a background job would open one again and again.
        hint = running.stderr.readline()
        assert re.search(r"another one after `ssh -L (\d+):127.0.0.1:\1` to this one", hint)
        address = running.stderr.readline().strip()
        assert not olga.opened.exists()
        query = dict(parse_qsl(urlsplit(address).query))
        assert address.startswith(f"{olga.stack.cloud.issuer}/authorize?")
        assert query["code_challenge_method"] == "S256"
        assert query.keys().isdisjoint({"code_verifier", "client_secret", "code"})
        come_back(LoginBrowser.at_provider(address))
        assert running.wait(TIMEOUT_S) == 0
        running.communicate()
    assert olga.stored["subject"] == "olga"


def test_foreign_answers_do_not_end_a_login(olga: Person) -> None:
    wrong = ("state=wrong&code=stolen", "code=stolen", "state=a&state=b&code=x", "")
    code, shown = olga.log_in(*wrong)
    assert code == 0, shown
    assert "as olga" in shown


def test_a_denied_login_says_so(olga: Person) -> None:
    code, shown = olga.log_in(person="nobody")
    assert code == 4
    assert "denied at the identity provider" in shown
    assert olga.files == []


def test_a_read_only_home_is_named_before_the_login(olga: Person) -> None:
    # A file in the folder's place: root may write to folders without permission.
    (olga.home / "config").write_text("")
    ran = olga.run("login")
    assert ran.returncode == 1
    assert "A file is in its place: remove it, or set XDG_CONFIG_HOME" in ran.stderr
    assert not olga.opened.exists()


def test_an_unwritable_folder_loses_no_refresh_token(olga: Person) -> None:
    assert olga.log_in()[0] == 0
    folder = olga.files[0].parent
    olga.store(expires_at=0)
    before = olga.stored
    if os.geteuid() == 0:
        os.chown(folder, 4_321, -1)
    else:
        folder.chmod(0o500)
    ran = olga.run("servers", olga.stack.cloud.project)
    assert ran.returncode == 1
    assert "Logins cannot be stored in" in ran.stderr
    assert "Set XDG_CONFIG_HOME to a folder of your own." in ran.stderr
    assert olga.stored == before
    if os.geteuid() == 0:
        os.chown(folder, 0, -1)
    else:
        folder.chmod(0o700)
    assert olga.run("whoami").returncode == 0


def test_the_answer_of_another_provider_is_refused(olga: Person) -> None:
    provide(olga.stack, announces_iss=False)
    code, shown = olga.log_in(changes={"iss": "https://evil.example"})
    provide(olga.stack, announces_iss=True)
    assert code == 4
    assert "comes from another identity provider" in shown
    assert olga.files == []


@pytest.mark.parametrize(
    ("person", "code", "text"),
    [
        ("olga", 0, "as olga (corp)"),
        ("nobody", 4, "was denied at the identity provider"),
        (None, 5, "The code has expired"),
    ],
)
def test_login_with_a_code_where_there_is_no_browser(
    olga: Person, person: str | None, code: int, text: str
) -> None:
    if person is None:
        provide(olga.stack, device_code_life_s=0.5)
    without = {"BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    with Program[str](
        "gateway",
        "login",
        env={**os.environ, **olga.environ, **without},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        address = running.stderr.readline().split()[-1]
        entered = running.stderr.readline().split()[-1]
        assert re.fullmatch("[B-Z]{4}-[B-Z]{4}", entered)
        assert address == f"{olga.stack.cloud.issuer}/device"
        if person is not None:
            page = fetch(olga.stack.cloud.issuer, "GET", f"/device?user_code={entered}")
            assert f"the device that shows {entered}" in page.body.decode()
            query = f"user_code={entered}&person={person}"
            assert fetch(olga.stack.cloud.issuer, "GET", f"/device?{query}").status == 200
        output, errors = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == code, errors
    assert text in output + errors
    if code:
        assert olga.files == []
    else:
        assert olga.run("console", "--print", olga.target).returncode == 0


KEYRING = """
import json, os
FILE = os.environ["KEYRING_FILE"]
class Backend:
    priority, name = 5, "File Keyring"
    def _all(self):
        if os.path.exists(FILE + ".locked"): raise RuntimeError("locked")
        return json.load(open(FILE)) if os.path.exists(FILE) else {}
    def get_password(self, service, name): return self._all().get(service + name)
    def set_password(self, service, name, value): self._save({**self._all(), service + name: value})
    def delete_password(self, service, name):
        left = self._all(); del left[service + name]; self._save(left)
    def _save(self, entries): json.dump(entries, open(FILE, "w"))
def get_keyring(): return Backend()
"""


def test_the_refresh_token_is_in_the_system_keyring(olga: Person) -> None:
    library, entries = olga.home / "library" / "keyring", olga.home / "entries"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text(KEYRING)
    olga.environ |= {"PYTHONPATH": str(library.parent), "KEYRING_FILE": str(entries)}
    code, shown = olga.log_in()
    assert code == 0, shown
    assert "the refresh token in the system keyring (File Keyring)" in shown
    assert olga.stored["refresh_token"] == ""
    (first,) = json.loads(entries.read_text()).values()
    olga.store(expires_at=0)
    (olga.home / "entries.locked").touch()
    locked = olga.run("servers", olga.stack.cloud.project)
    assert locked.returncode == 5
    assert "Unlock it, or run `gateway login`" in locked.stderr
    (olga.home / "entries.locked").unlink()
    who = olga.run("whoami")
    assert who.returncode == 0, who.stderr
    assert "File Keyring" in who.stdout
    (second,) = json.loads(entries.read_text()).values()
    assert second != first
    assert olga.run("logout").returncode == 0
    assert json.loads(entries.read_text()) == {}


def test_an_expiring_token_is_refreshed_once_for_commands_that_run_at_once(olga: Person) -> None:
    provide(olga.stack, token_life_s=20)  # below the 30 s in which a refresh is due
    assert olga.log_in()[0] == 0
    provide(olga.stack, token_life_s=300)
    before = olga.stored
    with ThreadPoolExecutor(4) as pool:
        ran = list(
            pool.map(lambda _: olga.run("servers", "--json", olga.stack.cloud.project), "abcd")
        )
    # The provider rotates refresh tokens and ends a login whose used one comes again.
    assert [one.returncode for one in ran] == [0] * 4, [one.stderr for one in ran]
    after = olga.stored
    assert after["refresh_token"] != before["refresh_token"]
    assert after["expires_at"] > before["expires_at"] + 200
    olga.store(expires_at=0)
    assert olga.run("whoami").returncode == 0  # the new refresh token is still good


def test_a_refused_refresh_says_to_log_in_again(olga: Person) -> None:
    assert olga.log_in()[0] == 0
    olga.store(expires_at=0, refresh_token="used-up")
    ran = olga.run("servers", olga.stack.cloud.project)
    assert ran.returncode == 4
    assert "Your login has ended. Run `gateway login`." in ran.stderr


def test_a_provider_that_is_down_ends_no_valid_token(olga: Person) -> None:
    provide(olga.stack, token_life_s=25)
    assert olga.log_in()[0] == 0
    olga.stack.cloud.fail(olga.stack.cloud.issuer, "reset")
    assert olga.run("whoami").returncode == 0
    olga.store(expires_at=0)
    down = olga.run("whoami")
    assert down.returncode == 6
    assert "is unreachable" in down.stderr
    assert len(olga.files) == 1
    olga.stack.cloud.heal()
    assert olga.run("whoami").returncode == 0


def test_the_token_of_another_gateway_is_not_sent(olga: Person) -> None:
    assert olga.log_in()[0] == 0
    other = "http://127.0.0.1:9"
    ran = olga.run("servers", CONSOLE_GATEWAY_URL=other)
    assert ran.returncode == 2
    assert "not logged in at this gateway" in ran.stderr
    olga.store(gateway=other)  # an edited file is no login anywhere
    assert olga.run("whoami").returncode == 2
    assert olga.run("whoami", CONSOLE_GATEWAY_URL=other).returncode == 2


def test_a_token_variable_goes_before_the_login(olga: Person) -> None:
    assert olga.log_in()[0] == 0
    token = olga.stack.cloud.token("victor", groups=["viewers"])
    who = json.loads(olga.run("whoami", "--json", CONSOLE_GATEWAY_TOKEN=token).stdout)
    assert (who["subject"], who["source"]) == ("victor", "$CONSOLE_GATEWAY_TOKEN")


def test_contact_is_published_and_linked_in_errors(stack: Stack) -> None:
    """The error's body is the cloud's schema, so the contact is a header (RFC 8288)."""
    published = fetch(stack.gateway.url, "GET", "/.well-known/console-gateway")
    assert published.json["contact"] == CONTACT
    for path in ("/v1/x/physicalservers/y/remote-console-address", "/nowhere"):
        refused = fetch(stack.gateway.url, "GET", path)
        assert refused.status in (401, 404)
        assert refused.headers["link"] == f'<{CONTACT["url"]}>; rel="help"'
        assert set(refused.json) == {"error_code", "error_msg"}
    assert "link" not in published.headers
