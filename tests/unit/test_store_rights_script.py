"""The check of rights on Redis: it tries each command that a script uses."""

import re
from importlib.resources import files

import pytest

from gateway.drivers.valkey.rights import TRY_COMMANDS, CallsRejected, require_all

SCRIPTS = {
    script.name: script.read_text()
    for script in (files("gateway.drivers.valkey") / "lua").iterdir()
    if script.name.endswith(".lua")
}


def test_every_command_of_the_scripts_is_tried() -> None:
    used = {
        command
        for text in SCRIPTS.values()
        for command in re.findall(r"redis\.call\('([A-Z]+)'", text)
    }
    tried = set(re.findall(r"try\('([A-Z]+)'", TRY_COMMANDS.text))
    assert "HSET" in used
    assert tried == used


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_script_runs_before_redis_7(name: str) -> None:
    """Redis 6.2 rejects a script that begins with a shebang."""
    assert SCRIPTS[name].startswith("-- ")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            b"ERR ACL failure in script: User a has no permissions to run the 'time' command",
            "+time",
        ),
        (
            b"@user_script: 9: The user executing the script can't run this command or subcommand",
            "+time",
        ),
        (b"ERR ACL failure in script: No permissions to access a key", "~ns:*"),
        (b"ERR ACL failure in script: No permissions to access a channel", "&ns:*"),
        (b"ERR Unknown command called from script", "unknown command TIME: Redis 6.2"),
        (b"@user_script: 9: Unknown Redis command called from Lua script", "unknown command TIME"),
        (b"@user_script: 9: -OOM command not allowed when used memory", "OOM: out of memory"),
        (b"READONLY You can't write against a read only replica.", "READONLY: "),
    ],
)
def test_failed_command_is_described(error: bytes, reason: str) -> None:
    with pytest.raises(CallsRejected) as caught:
        require_all([b"TIME", error], "ns")
    assert reason in str(caught.value)


def test_no_failure_is_accepted() -> None:
    require_all([], "ns")
