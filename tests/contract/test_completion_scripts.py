"""The completion scripts in the real shells."""

import os
import pty
import shlex
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.commands.completion_scripts import describe, script
from gateway.commands.parser import build_parser

HARMFUL = "$(touch harmed)`touch harmed`"
PROGRAM = """\
#!/bin/sh
[ "$1" = completion ] && [ "$2" = --servers ] || exit 9
echo error >&2
for one in web-01 web-02 '{harmful}'; do
    case "$one" in "$3"*) echo "$one" ;; esac
done
"""
BASH = """
source script.bash
COMP_WORDS=({words}) COMP_CWORD={last}
_gateway
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
compdef() {{ }}
compadd() {{ shift; print -rl -- "$@" }}
_files() {{ print -rl -- {current}*(N) }}
source script.zsh
words=({words}) CURRENT=$#words
_gateway
"""


class Shell:
    def __init__(self, name: str, directory: Path) -> None:
        program = shutil.which(name)
        if program is None:
            pytest.skip(f"not installed: {name}")
        self.name, self.program, self.directory = name, program, directory
        (directory / f"script.{name}").write_text(script(name, build_parser()))
        (directory / "gateway").write_text(PROGRAM.format(harmful=HARMFUL))
        (directory / "gateway").chmod(0o700)

    def complete(self, *words: str) -> list[str]:
        """Return what Tab offers at the end of the last word."""
        quoted = shlex.join(["gateway", *words])
        match self.name:
            case "bash":
                code = BASH.format(words=quoted, last=len(words))
            case "zsh":
                code = ZSH.format(words=quoted, current=shlex.quote(words[-1]))
            case _:
                line = " ".join(["gateway", *words])
                code = f"source script.fish; complete -C {shlex.quote(line)}"
        options = {"bash": ["--norc", "-c"], "zsh": ["-f", "-c"], "fish": ["--no-config", "-c"]}
        ran = subprocess.run(
            [self.program, *options[self.name], code],
            cwd=self.directory,
            env={**os.environ, "PATH": f"{self.directory}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.stderr == "", ran.stderr
        lines = [line.partition("\t")[0] for line in ran.stdout.splitlines()]
        if self.name == "zsh":  # compadd matches the word itself
            lines = [line for line in lines if line.startswith(words[-1])]
        return sorted(line for line in lines if line)


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    return Shell(request.param, tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("con",), ["config", "console"]),
        (("admin", "lo"), ["lock", "locks", "log-level", "logins"]),
        (("recordings", "list", "--si"), ["--since"]),
        (("servers", "--output", ""), ["json", "table"]),
        (("servers", "--output", "j"), ["json"]),
        (("completion", ""), ["bash", "fish", "zsh"]),
        (("login", "--issuer", ""), []),
        (("console", "--fr"), ["--fresh"]),
        (("console", "--gateway", ""), []),
        (("unknown", "--xyz"), []),
    ],
)
def test_words_come_from_the_parsers(
    shell: Shell, words: tuple[str, ...], expected: list[str]
) -> None:
    assert shell.complete(*words) == expected


def test_server_names_come_from_the_command(shell: Shell) -> None:
    assert shell.complete("console", "web-0") == ["web-01", "web-02"]
    assert shell.complete("console", "--fresh", "web-02") == ["web-02"]
    assert shell.complete("console", "db") == []


def test_harmful_names_are_not_expanded(shell: Shell) -> None:
    """The command offers none; the scripts do not rely on it."""
    shell.complete("console", "")
    assert not (shell.directory / "harmed").exists()


def test_files_are_completed_where_a_file_is_expected(shell: Shell) -> None:
    (shell.directory / "token-of-mine").touch()
    assert shell.complete("servers", "--token-file", "token-of") == ["token-of-mine"]


def test_bash_quotes_the_names_of_files(tmp_path: Path) -> None:
    """A person who can write a file in the directory must not run a command at Tab and Enter."""
    shell = Shell("bash", tmp_path)
    (tmp_path / "x;touch harmed").touch()
    ours, theirs = pty.openpty()
    os.write(ours, b"source script.bash\ngateway servers --token-file x\t; touch finished; exit\n")
    ran = subprocess.Popen(
        [shell.program, "--norc", "--noprofile", "-i"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HISTFILE": ""},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    with suppress(OSError):  # the shell has ended
        while os.read(ours, 4_096):
            pass
    os.close(ours)
    ran.wait(30)
    assert (tmp_path / "finished").exists()
    assert not (tmp_path / "harmed").exists()


def test_each_command_is_described_once() -> None:
    commands = [*describe(build_parser())]
    assert len({one.path for one in commands}) == len(commands) > 40
    words = [word for one in commands for word in (*one.words, *one.path.split())]
    assert all(word.replace("-", "").replace("_", "").isalnum() for word in words)
