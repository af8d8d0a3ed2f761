"""PolicyFile: reloads, invalid files, handover and audit records."""

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import Document, parse
from gateway.config.policy_loader import policy_digest, policy_version
from gateway.config.policy_names import KnownNames
from gateway.config.policy_parser import compile_policy, read_policy
from gateway.drivers.files import policy_file
from gateway.drivers.files.policy_compiler import HEAD_LENGTH_BYTES, CompilerTask, policy_name
from gateway.drivers.files.policy_file import PolicyFile
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.host.handover import Handover, HandoverEntry, allocate_memory, write_all
from gateway.flow.clock import Clock
from tests.support.clock import FakeClock
from tests.support.full_disk import FullDisk
from tests.support.stack import eventually
from tests.support.telemetry import RecordingTelemetry

NONE = "grants: []\n"
ONE = """\
roles: {op: [console:open]}
grants:
  - {role: op, to: {users: [ann]}, on: everything}
"""
BAD = ONE.replace("role: op,", "role: no,")


def opened(
    file: Path, clock: Clock, handover: Handover | None = None
) -> tuple[PolicyFile, RecordingTelemetry]:
    telemetry = RecordingTelemetry()
    made = PolicyFile(
        file,
        known=KnownNames(("corp",), ()),
        clock=clock,
        telemetry=telemetry,
        handover=handover or Handover(),
    )
    return made, telemetry


@pytest.fixture
async def watched(tmp_path: Path, clock: FakeClock) -> AsyncIterator[tuple[Path, PolicyFile]]:
    file = tmp_path / "policy.yaml"
    file.write_text(NONE)
    policies, _ = opened(file, clock)
    watching = asyncio.create_task(policies.run())
    await clock.advance(0)
    yield file, policies
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def until_size(policies: PolicyFile, clock: FakeClock, size: int) -> None:
    async with asyncio.timeout(60):
        while policies.current().size != size:
            await clock.advance(1.0)
            await asyncio.sleep(0.01)  # the file is read in a thread


async def test_edited_file_is_loaded(watched: tuple[Path, PolicyFile], clock: FakeClock) -> None:
    file, policies = watched
    before = policies.current().version
    file.write_text(ONE)
    await until_size(policies, clock, 1)
    assert policies.current().version != before


DENIED = (
    ONE
    + """\
denials:
  - {permissions: all, to: {users: [ann]}, on: everything}
"""
)


async def test_half_written_policy_never_replaces_a_whole_one(
    watched: tuple[Path, PolicyFile], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The written half is valid, and lacks the denial."""
    file, policies = watched
    with file.open("w") as writing:
        writing.write(ONE)
        writing.flush()
        for _ in range(5):
            await clock.advance(1.0)
            await asyncio.sleep(0.02)
        assert not await policies.reload()
        assert policies.current().size == 0
        assert "is being written; replace files by a rename" in policies.error
        writing.write(DENIED.removeprefix(ONE))
    await until_size(policies, clock, 2)
    assert [one.getMessage() for one in caplog.records].count("policy_rejected") == 2


async def test_worker_that_starts_during_a_write_uses_the_policy_in_force(
    tmp_path: Path, clock: FakeClock
) -> None:
    file, handover = tmp_path / "policy.yaml", Handover()
    file.write_text(DENIED)
    before, _ = opened(file, clock, handover)
    with file.open("w") as writing:
        writing.write(ONE)
        writing.flush()
        started, _ = opened(file, clock, handover)
    assert started.current().size == before.current().size == 2
    other, _ = opened(file, clock)
    assert other.current().size == 1


async def test_renamed_file_is_loaded(watched: tuple[Path, PolicyFile], clock: FakeClock) -> None:
    file, policies = watched
    (file.parent / "new").write_text(ONE)
    (file.parent / "new").replace(file)
    await until_size(policies, clock, 1)


async def test_swapped_symlink_is_loaded(tmp_path: Path, clock: FakeClock) -> None:
    for name, text in (("one", NONE), ("two", ONE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(text)
    data, file = tmp_path / "..data", tmp_path / "policy.yaml"
    data.symlink_to(tmp_path / "one")
    file.symlink_to(data / "policy.yaml")
    policies, _ = opened(file, clock)
    watching = asyncio.create_task(policies.run())
    (tmp_path / "swap").symlink_to(tmp_path / "two")
    (tmp_path / "swap").replace(data)
    await until_size(policies, clock, 1)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_invalid_file_is_logged_once_and_loop_continues(
    watched: tuple[Path, PolicyFile],
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, policies = watched
    before = policies.current()

    def rejections() -> list[logging.LogRecord]:
        return [one for one in caplog.records if one.getMessage() == "policy_rejected"]

    async def until_rejected(count: int) -> None:
        async with asyncio.timeout(60):
            while len(rejections()) < count:
                await clock.advance(1.0)
                await asyncio.sleep(0.01)

    file.write_text(BAD)
    await until_rejected(1)
    assert policies.current() is before
    file.unlink()
    await until_rejected(2)
    assert policies.current() is before
    for _ in range(5):  # an unchanged file is not logged again
        await clock.advance(1.0)
        await asyncio.sleep(0.01)
    assert [record.levelname for record in rejections()] == ["ERROR", "ERROR"]
    assert "policy.yaml:3: grants[0].role: unknown role 'no'" in str(vars(rejections()[0]))
    assert "cannot be read" in str(vars(rejections()[1]))
    file.write_text(ONE)
    await until_size(policies, clock, 1)


async def test_loaded_at_changes_with_valid_loads_only(tmp_path: Path, clock: FakeClock) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(ONE)
    policies, _ = opened(file, clock)
    first = policies.loaded_at
    await clock.advance(60)
    file.write_text(BAD)
    assert not await policies.reload()
    assert policies.loaded_at == first
    assert policies.error.startswith(f"{file}:3: grants[0].role: unknown role 'no'")
    file.write_text(ONE)
    assert await policies.reload()
    assert policies.loaded_at == first + 60
    assert policies.error == ""


@pytest.mark.parametrize("text", [BAD, "", "a: [", None])
async def test_invalid_or_missing_file_keeps_the_policy(
    tmp_path: Path, clock: FakeClock, text: str | None
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(ONE)
    policies, telemetry = opened(file, clock)
    before = policies.current()
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    assert not await policies.reload()
    assert policies.current() is before
    assert telemetry.reloads == [("ok", 1), ("rejected", 0)]


def test_first_load_of_invalid_file_raises(tmp_path: Path, clock: FakeClock) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(BAD)
    with pytest.raises(InvalidConfig, match="unknown role"):
        opened(file, clock)
    file.unlink()
    with pytest.raises(InvalidConfig, match="cannot be read"):
        opened(file, clock)


@pytest.mark.parametrize("text", [BAD, None])
async def test_worker_started_with_invalid_file_inherits_policy(
    tmp_path: Path, clock: FakeClock, text: str | None
) -> None:
    file, handover = tmp_path / "policy.yaml", Handover()
    file.write_text(NONE)
    before, _ = opened(file, clock, handover)
    await clock.advance(1)
    file.write_text(ONE)
    assert await before.reload()
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    new, telemetry = opened(file, clock, handover)
    assert (new.current().size, new.current().version) == (1, before.current().version)
    assert new.error
    assert telemetry.reloads == [("ok", 1), ("rejected", 0)]
    file.write_text(NONE)
    assert await new.reload()
    assert (new.current().size, new.error) == (0, "")


def test_policy_of_another_file_is_not_inherited(tmp_path: Path, clock: FakeClock) -> None:
    handover = Handover()
    (tmp_path / "one.yaml").write_text(ONE)
    opened(tmp_path / "one.yaml", clock, handover)
    (tmp_path / "two.yaml").write_text(BAD)
    with pytest.raises(InvalidConfig, match="unknown role"):
        opened(tmp_path / "two.yaml", clock, handover)


async def test_policy_change_is_recorded_after_audit_recovers(
    watched: tuple[Path, PolicyFile], clock: FakeClock
) -> None:
    file, policies = watched
    audit_log = FullDisk()
    await policies.attach_audit_log(audit_log)
    audit_log.is_full = True
    file.write_text(ONE)
    await until_size(policies, clock, 1)
    changed_at = policies.loaded_at
    file.write_text(BAD)
    await policies.reload()
    for _ in range(3):
        await clock.advance(1.0)
        await asyncio.sleep(0.01)
    assert [one.event for one in audit_log.records] == ["policy_loaded"]
    audit_log.is_full = False
    async with asyncio.timeout(60):
        while len(audit_log.records) < 3:
            await clock.advance(1.0)
            await asyncio.sleep(0.01)
    _, loaded, rejected = audit_log.records
    assert (loaded.event, loaded.at) == ("policy_loaded", changed_at)
    assert loaded.policy_version == policies.current().version
    assert rejected.event == "policy_rejected"


async def test_policy_version_is_digest_of_its_text(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(ONE)
    policies, _ = opened(file, clock)
    version = policies.current().version
    parsing = policy_file.parse

    def edit_then_parse(path: Path, content: bytes) -> Document:
        file.write_text(NONE)
        return parsing(path, content)

    monkeypatch.setattr(policy_file, "parse", edit_then_parse)
    assert await policies.reload()
    assert (policies.current().size, policies.current().version) == (1, version)


async def test_slow_load_does_not_replace_newer_policy(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(NONE)
    policies, telemetry = opened(file, clock)
    parsing, begun, may_go_on = policy_file.parse, threading.Event(), threading.Event()

    def parse_slowly(path: Path, content: bytes) -> Document:
        if content == ONE.encode():
            begun.set()
            may_go_on.wait(60)
        return parsing(path, content)

    monkeypatch.setattr(policy_file, "parse", parse_slowly)
    file.write_text(ONE)
    watching = asyncio.create_task(policies.run())
    async with asyncio.timeout(60):
        while not begun.is_set():
            await clock.advance(1.0)
            await asyncio.sleep(0.01)
    file.write_text(NONE)
    reloading = asyncio.create_task(policies.reload())
    await asyncio.wait({reloading}, timeout=0.3)
    may_go_on.set()
    assert await reloading
    async with asyncio.timeout(60):
        while len(telemetry.reloads) < 3:
            await clock.advance(0)
            await asyncio.sleep(0.01)
    assert policies.current().size == 0
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_garbage_collector_pauses_while_a_policy_is_parsed(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(ONE)
    policies, _ = opened(file, clock)
    parsing, paused = policy_file.parse, []

    def parse_and_look(path: Path, content: bytes) -> Document:
        paused.append(not gc.isenabled())
        return parsing(path, content)

    monkeypatch.setattr(policy_file, "parse", parse_and_look)
    assert await policies.reload()
    file.write_text(BAD)
    assert not await policies.reload()
    assert paused == [True, True]
    assert gc.isenabled()


def many(count: int, last: str = "") -> str:
    grants = "".join(
        f"  - {{role: op, to: {{users: [p{i}], groups: [g{i}]}}, on: {{tags: {{env: [prod, e{i}]}},"
        f" not: {{names: ['x{i}-*']}}}}, until: 2036-11-27T18:00:00+01:00}}\n"
        for i in range(count)
    )
    return f"roles: {{op: [console:open]}}\ngrants:\n{grants}{last}"


async def test_large_policy_is_parsed_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules equal those that the serving process would have parsed."""
    file = tmp_path / "policy.yaml"
    file.write_text(NONE)
    policies, telemetry = opened(file, SystemClock())
    parse_here = policy_file.parse

    def must_not_parse(*_: object) -> Document:
        raise AssertionError

    monkeypatch.setattr(policy_file, "parse", must_not_parse)
    file.write_text(many(500) + "groups: {on-call: [5c3d, 8a4e]}\n")
    assert await policies.reload()
    assert policies.current().group_aliases == {"on-call": frozenset({"5c3d", "8a4e"})}
    expected = read_policy(parse_here(file, file.read_bytes()), KnownNames(("corp",), ()))
    assert list(policies.current().rules) == [located.rule for located in expected.rules]
    assert policies.current().version == policy_version(policy_digest(file.read_bytes()))
    file.write_text(many(500, last="  - {role: no, to: everyone, on: everything}\n"))
    assert not await policies.reload()
    assert policies.error == f"{file}:503: grants[500].role: unknown role 'no'; known: op"
    assert telemetry.reloads == [("ok", 0), ("ok", 500), ("rejected", 0)]


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """Count the calls of Python functions in this thread, and in threads that start here."""
    calls = [0]

    def count(_: object, event: str, __: object) -> None:
        calls[0] += event == "call"

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def test_ten_thousand_grants_cost_the_serving_process_little_work(tmp_path: Path) -> None:
    """Parsing calls 200 functions per grant. `policy_reload.py` measures the seconds."""
    file = tmp_path / "policy.yaml"
    file.write_text(NONE)
    policies, _ = opened(file, SystemClock())
    file.write_text(many(10_000))
    with counted_calls() as calls:
        assert await policies.reload()
    assert policies.current().size == 10_000
    assert calls[0] < 2 * 10_000


def test_compiling_a_policy_is_linear_work() -> None:
    work = {}
    for count in (1_000, 2_000):
        content = many(count).encode()
        with counted_calls() as calls:
            compile_policy(
                read_policy(parse(Path("policy.yaml"), content), KnownNames(("corp",), ()))
            )
        work[count] = calls[0]
    assert work[2_000] < 2.1 * work[1_000]


async def test_policy_is_parsed_here_if_no_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(NONE)
    policies, _ = opened(file, SystemClock())

    def no_process(*_: object, **__: object) -> None:
        raise BlockingIOError

    monkeypatch.setattr(subprocess, "Popen", no_process)
    file.write_text(many(500))
    assert await policies.reload()
    assert policies.current().size == 500


async def test_large_policy_is_compiled_once_for_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is handed over, whether the policy is valid or not."""
    file, handover = tmp_path / "policy.yaml", Handover()
    file.write_text(NONE)
    workers = [opened(file, SystemClock(), handover)[0] for _ in range(3)]
    starting, started = subprocess.Popen, []

    def start(arguments: Any, **options: Any) -> Any:
        started.append(arguments)
        return starting(arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    file.write_text(many(500))
    assert [await worker.reload() for worker in workers] == [True] * 3
    assert [worker.current().size for worker in workers] == [500] * 3
    assert len(started) == 1
    file.write_text(many(500, last="  - {role: no, to: everyone, on: everything}\n"))
    assert [await worker.reload() for worker in workers] == [False] * 3
    assert {worker.error for worker in workers} == {
        f"{file}:503: grants[500].role: unknown role 'no'; known: op"
    }
    assert len(started) == 2


async def test_cancelled_reload_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stops does not wait for a compiler; the next reload starts another one."""
    file = tmp_path / "policy.yaml"
    file.write_text(NONE)
    policies, _ = opened(file, SystemClock())
    starting, started = subprocess.Popen, []
    is_started = threading.Event()
    endless = (sys.executable, "-c", "import sys, time; sys.stdin.read(); time.sleep(600)")

    def start(_: Any, **options: Any) -> Any:
        started.append(starting(endless, **options))
        is_started.set()
        return started[-1]

    file.write_text(many(500))
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", start)
        reload = asyncio.create_task(policies.reload())
        await asyncio.to_thread(is_started.wait)
        reload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reload
        assert await asyncio.to_thread(started[0].wait) == -signal.SIGTERM
    assert await policies.reload()
    assert policies.current().size == 500


async def test_worker_starts_with_the_policy_that_others_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, handover = tmp_path / "policy.yaml", Handover()
    file.write_text(many(500))
    first, _ = opened(file, SystemClock(), handover)

    def must_not(*_: object, **__: object) -> Any:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", must_not)
        patch.setattr(policy_file, "parse", must_not)
        second, _ = opened(file, SystemClock(), handover)
    assert second.current().version == first.current().version
    assert list(second.current().rules) == list(first.current().rules)
    # Names of another config may make the same text invalid.
    with pytest.raises(InvalidConfig, match="requires `issuer` with several issuers"):
        PolicyFile(
            file,
            known=KnownNames(("corp", "other"), ()),
            clock=SystemClock(),
            telemetry=RecordingTelemetry(),
            handover=handover,
        )


async def test_late_worker_inherits_a_large_policy(tmp_path: Path) -> None:
    """The compiler hands over its text; a policy that is found compiled, its worker."""
    file, handover = tmp_path / "policy.yaml", Handover()
    file.write_text(NONE)
    before, _ = opened(file, SystemClock(), handover)
    for text in (many(500), ONE, many(500)):
        file.write_text(text)
        assert await before.reload()
        file.write_text(BAD)
        late, _ = opened(file, SystemClock(), handover)
        assert late.current().version == policy_version(policy_digest(text.encode()))
        assert late.current().version == before.current().version


def test_ended_compiler_leaves_no_empty_handover(tmp_path: Path) -> None:
    """A reload is cancelled while the compiler stores what late workers start with."""
    file, handover, content = tmp_path / "policy.yaml", Handover(), ONE.encode()
    task = msgspec.msgpack.encode(
        CompilerTask(b"key", str(file), KnownNames(("corp",), ()), 1.0, handover.memory)
    )
    received, output = allocate_memory(), allocate_memory()
    write_all(received, len(task).to_bytes(HEAD_LENGTH_BYTES, "big") + task + content, 0)
    with handover._locked():
        compiler = subprocess.Popen(
            [sys.executable, "-m", "gateway.drivers.files.policy_compiler"],
            stdin=received,
            stdout=output,
            pass_fds=[handover.memory],
        )
        eventually(lambda: os.fstat(output).st_size > 0)
        compiler.terminate()
    assert compiler.wait(60) == 0
    assert handover.get(policy_name(file)) == HandoverEntry(1.0, content)
    os.close(received)
    os.close(output)
