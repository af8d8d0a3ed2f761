"""Only the person's own browser may use the loopback addresses of the commands."""

import os
import socket
from pathlib import Path

import pytest

from gateway.commands import loopback_server
from gateway.commands.exit_codes import CommandFailed
from gateway.commands.loopback_redirect import LoopbackRedirect
from gateway.commands.loopback_server import is_own_connection
from tests.support.stack import fetch

CLIENT, SERVER = ("127.0.0.1", 40_000), ("127.0.0.1", 8_000)
ROW = " 0: {local} {remote} 01 00000000:00000000 00:00000000 00000000 {user} 0 {inode} 1 0 20 4"
MAPPED = "0000000000000000FFFF0000"


def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *rows: str) -> None:
    file = tmp_path / "tcp"
    file.write_text("\n".join(["  sl  local_address rem_address", *rows, ""]))
    monkeypatch.setattr(loopback_server, "_TABLES", (str(file),))


def row(user: int, inode: int = 7, prefix: str = "") -> str:
    local, remote = f"{prefix}0100007F:9C40", f"{prefix}0100007F:1F40"
    return ROW.format(local=local, remote=remote, user=user, inode=inode)


@pytest.mark.parametrize(
    ("rows", "is_own"),
    [
        ([row(os.geteuid())], True),
        ([row(os.geteuid(), prefix=MAPPED)], True),
        ([row(0)], True),
        ([row(4_321)], False),
        ([row(0, inode=0)], False),
        ([row(os.geteuid()), row(4_321, prefix=MAPPED)], False),
        ([row(os.geteuid()).replace("9C40", "9C41")], False),
    ],
    ids=["own", "own_ipv6", "root", "foreign", "closed", "both", "other_connection"],
)
def test_connections_of_other_users_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str], *, is_own: bool
) -> None:
    table(tmp_path, monkeypatch, *rows)
    assert is_own_connection(CLIENT, SERVER) is is_own


def test_system_without_tables_accepts_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_server, "_TABLES", ("/no/such/table",))
    assert is_own_connection(CLIENT, SERVER)


def test_right_state_of_another_user_ends_no_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ps` shows the state in the arguments of the browser to every user of the machine."""
    redirect = LoopbackRedirect("s", host="127.0.0.1", ports=())
    try:
        base = f"http://127.0.0.1:{redirect.port}"
        with monkeypatch.context() as changed:
            table(tmp_path, changed, row(4_321))
            assert fetch(base, "GET", "/callback?state=s&code=foreign").status == 400
        assert redirect.wait(0.05) is None
        assert fetch(base, "GET", "/callback?state=s&code=own").status == 200
        assert redirect.wait(5) == {"state": "s", "code": "own"}
    finally:
        redirect.close()


def test_busy_ports_are_skipped() -> None:
    with socket.socket() as busy, socket.socket() as other:
        busy.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        busy.listen()
        port, free = busy.getsockname()[1], other.getsockname()[1]
        with pytest.raises(CommandFailed, match=rf"\({port}\). Does another login run\?"):
            LoopbackRedirect("s", host="localhost", ports=(port,))
        other.close()
        redirect = LoopbackRedirect("s", host="localhost", ports=(port, free))
        assert redirect.uri == f"http://localhost:{free}/callback"
        redirect.close()
