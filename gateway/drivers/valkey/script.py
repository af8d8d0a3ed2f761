"""Lua scripts, each in a .lua file of the folder `lua`."""

import hashlib
from importlib.resources import files


class LuaScript:
    """A script that is sent to a server once and called by its digest from then on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
