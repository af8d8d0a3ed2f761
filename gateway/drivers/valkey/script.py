"""Lua scripts, each in a .lua file of the folder `lua`."""

import hashlib
from importlib.resources import files


class LuaScript:
    """A script that is sent to a server once and called by its digest from then on."""

    def __init__(self, name: str, *functions: str) -> None:
        """`functions`: scripts that this script calls, as local functions of KEYS and ARGV."""
        self.name = name
        defined = [f"local function {one}(KEYS, ARGV)\n{_read(one)}end\n" for one in functions]
        self.text = "".join((*defined, _read(name)))
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _read(name: str) -> str:
    return (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
