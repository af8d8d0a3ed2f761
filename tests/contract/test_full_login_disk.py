"""Logins on a real disk that is full."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PROGRAM = """
import errno, sys
from pathlib import Path
from gateway.commands.stored_logins import FolderNotWritable, LoginFolder, StoredLogin
disk = Path(sys.argv[1])
folder = LoginFolder(disk / "console-gateway" / "logins")
def fill():
    try:
        with (disk / "filler").open("ab", buffering=0) as file:
            while file.write(b"x" * 512):
                pass
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
def login(token):
    return StoredLogin("g", "i", "n", "c", "access_token", "s", 1.0, 2.0, token, "refresh")
with folder.reserve(login("").key) as write:
    write(login("first"))
fill()
try:
    folder.check()
except FolderNotWritable as refused:
    print(refused)
print(folder.find("g")[0].token, [one.suffix for one in folder.path.iterdir()])
(disk / "filler").unlink()
with folder.reserve(login("").key) as write:
    fill()  # after the room is reserved
    write(login("t" * 20_000))
print(len(folder.find("g")[0].token))
"""


def test_full_disk_loses_no_login(tmp_path: Path) -> None:
    """A token that the provider has issued is stored, however full the disk is by then."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], check=False).returncode:
        pytest.skip("not permitted: a mount namespace (unshare)")
    mount = 'mount -t tmpfs -o size=64k tmpfs "$1" && exec "$2" -c "$3" "$1"'
    ran = subprocess.run(
        [unshare, "-rm", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, _PROGRAM],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    refused, before, length = ran.stdout.splitlines()
    assert "No space left on device. Make room on the disk." in refused
    assert before == "first ['.json']"
    assert length == "20000"
