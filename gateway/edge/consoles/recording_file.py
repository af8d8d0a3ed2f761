"""A recording as one HTML file that plays offline: the player, and each chunk as gzip in base64.

The file is not encrypted. Its Content-Security-Policy allows only the player's own script and
style: nothing that the recorded server sent can run, and the file contacts no server.
"""

import base64
import gzip
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from gateway.edge.consoles.page_assets import page_config, script_json

_LINK: Final = re.compile(rb"<link [^>]*>\n")
_SCRIPT: Final = b'<script type="module" src="{{assets}}/player.js"></script>\n'
_LICENSES: Final = re.compile(rb'<a href="{{assets}}/licenses.txt"[^>]*>Licenses</a>')
_LICENSES_TEXT: Final = b"The license texts are at the end of this file."
_END: Final = b"</body>\n</html>\n"
_POLICY: Final = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}';"
    " img-src data: blob:; base-uri 'none'; form-action 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
)


class RecordingFile:
    def __init__(self, files: Mapping[str, bytes]) -> None:
        """`files`: those that `make page` builds."""
        # A script element ends at the first of these, wherever it stands.
        script = files["player.js"].replace(b"</script", b"<\\/script")
        style = files["style.css"]
        policy = _POLICY.format(script=_digest(script), style=_digest(style)).encode()
        head = (
            b'<meta http-equiv="Content-Security-Policy" content="' + policy + b'">\n'
            b"<style>" + style + b"</style>\n</head>"
        )
        html = _LINK.sub(b"", files["player.html"]).replace(_SCRIPT, b"")
        html = _LICENSES.sub(_LICENSES_TEXT, html).replace(b"{{config}}", page_config())
        self._head = html.replace(b"</head>", head, 1).removesuffix(_END)
        self._tail = (
            b'<script type="text/plain" id="licenses">\n' + files["licenses.txt"] + b"</script>\n"
            b'<script type="module">' + script + b"</script>\n" + _END
        )

    def head(self, opened: Mapping[str, Any]) -> bytes:
        """Return the file up to the first chunk; `opened` describes the recording to the player."""
        description = script_json(opened)
        return (
            self._head
            + b'<script type="application/json" id="recording">'
            + description
            + b"</script>\n"
        )

    @staticmethod
    def chunk(part: int, index: int, records: bytes) -> bytes:
        packed = base64.b64encode(gzip.compress(records, mtime=0))
        name = f"chunk-{part}-{index}".encode()
        return b'<script type="text/plain" id="' + name + b'">' + packed + b"</script>\n"

    def tail(self) -> bytes:
        return self._tail


def _digest(text: bytes) -> str:
    return base64.b64encode(sha256(text).digest()).decode()
