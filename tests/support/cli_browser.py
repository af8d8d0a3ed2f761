"""A program in the place of a person's browser, for commands that open one."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.stack import eventually

_PROGRAM = """\
#!{python} -IS
import http.client, json, os, sys
from pathlib import Path
from urllib.parse import urlsplit
def arguments(pid):
    try:
        return Path(f"/proc/{{pid}}/cmdline").read_bytes().decode()
    except OSError:
        return ""
parts = urlsplit(sys.argv[-1])
connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
connection.request("GET", parts.path + ("?" + parts.query if parts.query else ""))
response = connection.getresponse()
seen = {{
    "arguments": sys.argv,
    "all_arguments": [arguments(pid) for pid in os.listdir("/proc") if pid.isdecimal()],
    "status": response.status,
    "location": response.headers.get("Location", ""),
    "referrer_policy": response.headers.get("Referrer-Policy", ""),
}}
Path({file!r} + ".new").write_text(json.dumps(seen))
os.replace({file!r} + ".new", {file!r})
"""


class RecordingBrowser:
    """Fetches the address that it was started with, and records what it and `ps` saw."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "seen"
        program = directory / "recording-browser"
        program.write_text(_PROGRAM.format(python=sys.executable, file=str(self._file)))
        program.chmod(0o700)
        self.command = f"{program} %s"
        """The value of the variable BROWSER."""

    def seen(self) -> dict[str, Any]:
        eventually(self._file.exists)
        found: dict[str, Any] = json.loads(self._file.read_text())
        self._file.unlink()
        return found
