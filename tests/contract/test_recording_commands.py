"""`gateway recordings verify`, `rewrap`, `hold` on real files: verdicts, words and exit codes."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.commands import recordings_hold, recordings_verify
from gateway.commands.parser import main
from gateway.domain.audit.chain import parse_line
from gateway.domain.recordings.index_lines import RemovalReason, recording_removed
from gateway.domain.recordings.records import RecordKind, json_record, screen_record
from gateway.domain.recordings.verdicts import FoundRecording
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.file_recordings import RecordingFiles, open_recording_part
from gateway.drivers.recordings.open_part import OpenPart
from gateway.drivers.recordings.recording_directory import (
    PartFile,
    delete_removed,
    mark_removed,
    on_hold,
    removals_locked,
)
from gateway.drivers.recordings.recording_index import INDEX_DIRECTORY, RecordingIndex
from tests.support.audit import SigningKey, lines_in
from tests.support.recordings import KEY, OTHER_KEY, RecordingScene, a_key, a_recording

EXAMPLE = Path(__file__).parents[2] / "config" / "gateway.yaml"
SIGNING, OTHER_SIGNING = SigningKey(), SigningKey()
END = json_record(9_000, RecordKind.END, {"end": "person", "detail": ""})
ONE, TWO = a_recording(1).id, a_recording(2).id


def opened(scene: RecordingScene, number: int = 1) -> OpenPart:
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    return open_recording_part(files, a_recording(number), scene.clock.now())


class Host:
    """A gateway's host: its config, and recordings that it has made."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.root = directory / "recordings"
        self.root.mkdir(mode=0o700)
        self.capsys = capsys
        secrets = directory / "secrets"
        secrets.mkdir()
        for name in ("iam-password", "redis-password"):
            (secrets / name).write_text("secret")
        (secrets / "seal-key").write_text(a_key(b"s").reveal())
        (secrets / "signing").write_bytes(SIGNING.private)
        (directory / "audit.pub").write_bytes(SIGNING.public)
        (directory / "other.pub").write_bytes(OTHER_SIGNING.public)
        self.configure(KEY)

    def configure(self, *keys: Any) -> None:
        """Write the config with these `recordings.keys`."""
        config = yaml.safe_load(EXAMPLE.read_text())
        for number, key in enumerate(keys):
            (self.directory / "secrets" / f"key-{number}").write_text(key.reveal())
        listed = [{"file": f"secrets/key-{number}"} for number in range(len(keys))]
        config["listen"] = {**config.get("listen", {}), "public_url": "https://gw.example"}
        config["recordings"] = {"directory": "recordings", "keys": listed}
        config["audit"] = {**config.get("audit", {}), "signing_key": {"file": "secrets/signing"}}
        self.config.write_text(yaml.safe_dump(config))

    @property
    def config(self) -> Path:
        return self.directory / "gateway.yaml"

    def scene(self, *keys: Any) -> RecordingScene:
        keys = keys or (KEY,)
        return RecordingScene(self.root, clock=SystemClock(), keys=keys, signer=SIGNING.signer)

    def record(self, *payloads: bytes, number: int = 1, is_killed: bool = False) -> Path:
        """Record one part; return its file. A killed process leaves it open."""
        scene = self.scene()
        part = opened(scene, number)
        for at_ms, payload in enumerate(payloads):
            part.append([screen_record(at_ms, payload)])
        if not is_killed:
            part.append([END])
        part.close()
        if not is_killed:
            scene.closer.recover([part.file.parent])
        scene.index.close()
        return part.file if is_killed else part.file.with_suffix(".part")

    def recover(self) -> None:
        scene = self.scene()
        scene.closer.recover(scene.directory.recordings())
        scene.index.close()

    def chain(self) -> Path:
        (found,) = (self.root / INDEX_DIRECTORY).glob("chain-*")
        return found

    def head(self) -> str:
        return str(parse_line(lines_in(self.chain())[-1]).head)

    def run(self, command: str, *arguments: object) -> tuple[int, str]:
        """Run `gateway recordings`; return exit code and output."""
        try:
            code = main(["recordings", command, *map(str, arguments)])
        except SystemExit as usage:
            code = int(usage.code or 0)
        printed = self.capsys.readouterr()
        return code, printed.out + printed.err

    def verify(self, *arguments: object) -> tuple[int, str]:
        return self.run("verify", "--config", self.config, *arguments)

    def verdicts(self, *arguments: object) -> tuple[int, dict[tuple[str, int | None], str]]:
        """Return the exit code, and the verdicts of `--json`."""
        code, output = self.verify("--json", *arguments)
        printed = json.loads(output)
        assert printed["intact"] is (code == 0)
        return code, {(one["recording"], one["part"]): one["verdict"] for one in printed["parts"]}


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path, capsys)


# verify: what is no problem


def test_verify_reports_intact_recordings(host: Host) -> None:
    host.record(b"first")
    host.record(b"second")
    host.record(b"other", number=2)
    code, output = host.verify()
    assert code == 0, output
    assert "parts: 3 intact\n" in output
    assert ": intact, chain " in output
    assert "last signed checkpoint" in output
    assert "NOT CHECKED" not in output  # the config has the signing key
    assert f"head {host.head()}" in output
    assert host.verify("--head", host.head())[0] == 0
    assert host.verdicts() == (
        0,
        {(ONE, 1): "intact", (ONE, 2): "intact", (TWO, 1): "intact"},
    )


def test_verify_needs_no_config(host: Host) -> None:
    """An auditor has a copy and the public key."""
    host.record(b"closed")
    host.record(b"open", number=2, is_killed=True)
    copy = host.directory / "copy"
    shutil.copytree(host.root, copy)
    key = host.directory / "audit.pub"
    code, output = host.run("verify", "--directory", copy, "--public-key", key)
    assert code == 0, output
    assert "parts: 1 intact, 1 cut short\n" in output
    assert "its content is not checked without `recordings.keys`" in output
    code, output = host.run("verify", "--directory", copy)
    assert code == 0
    assert "NOT CHECKED: pass --public-key" in output


def test_verify_reports_a_crash_as_no_change(host: Host) -> None:
    file = host.record(b"whole", b"torn" * 100, is_killed=True)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 7)
    code, output = host.verify()
    assert code == 0
    assert f"recording {ONE} part 1: cut short: {file.name}:" in output
    assert "ends within a block" in output
    assert "parts: 1 cut short\n" in output
    host.recover()
    code, output = host.verify()
    assert code == 0
    reason = "the gateway's process has died while it recorded"
    assert f"recording {ONE} part 1: cut short: {reason}\n" in output


def test_verify_names_removals_by_retention(host: Host) -> None:
    path = host.record(b"x").parent
    scene = host.scene()
    scene.index.append(recording_removed(scene.clock.now(), ONE, RemovalReason.KEEP_DAYS))
    scene.index.close()
    delete_removed(mark_removed(path))
    code, output = host.verify()
    assert code == 0
    assert f"recording {ONE}: removed by retention: by keep_days\n" in output


def test_verify_judges_again_what_changes_meanwhile(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To hash all recordings takes minutes, and the gateway goes on."""
    expired = host.record(b"removed meanwhile", number=2).parent
    scene = host.scene()
    part = opened(scene)
    part.append([END])
    find = recordings_verify.found_recordings
    is_first = True

    def find_after_changes(*arguments: Any, **options: Any) -> Iterator[FoundRecording]:
        nonlocal is_first
        if is_first:
            is_first = False
            scene.closer.close(PartFile(1, part.file, is_closed=False))
            part.close()
            host.record(b"new", number=3)
            scene.index.append(recording_removed(scene.clock.now(), TWO, RemovalReason.BYTES_MAX))
            delete_removed(mark_removed(expired))
        return find(*arguments, **options)

    monkeypatch.setattr(recordings_verify, "found_recordings", find_after_changes)
    code, output = host.verify()
    scene.index.close()
    assert code == 0, output
    assert "parts: 2 intact, 1 removed by retention\n" in output


# verify: what is a problem


def change_a_byte(host: Host) -> None:
    (file,) = host.root.glob(f"*/{ONE}/part-0001.part")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove_a_part(host: Host) -> None:
    (file,) = host.root.glob(f"*/{ONE}/part-0001.part")
    file.unlink()


def remove_a_recording(host: Host) -> None:
    (path,) = host.root.glob(f"*/{ONE}")
    shutil.rmtree(path)


def swap_parts(host: Host) -> None:
    (path,) = host.root.glob(f"*/{ONE}")
    one, two, other = path / "part-0001.part", path / "part-0002.part", path / "x"
    one.rename(other)
    two.rename(one)
    other.rename(two)


def swap_parts_of_recordings(host: Host) -> None:
    (one,) = host.root.glob(f"*/{ONE}/part-0001.part")
    (two,) = host.root.glob(f"*/{TWO}/part-0001.part")
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def add_a_part(host: Host) -> None:
    (path,) = host.root.glob(f"*/{ONE}")
    shutil.copy(path / "part-0001.part", path / "part-0003.part")


def add_a_recording(host: Host) -> None:
    (path,) = host.root.glob(f"*/{ONE}")
    shutil.copytree(path, path.with_name("f" * 32))


def change_the_person(host: Host) -> None:
    (details,) = host.root.glob(f"*/{ONE}/recording.json")
    details.write_bytes(details.read_bytes().replace(b'"ann"', b'"bob"'))


@pytest.mark.parametrize(
    ("tamper", "words", "found"),
    [
        (change_a_byte, f"{ONE} part 1: changed: the file differs", {(ONE, 1): "changed"}),
        (remove_a_part, f"{ONE} part 1: missing: its file is missing", {(ONE, 1): "missing"}),
        (
            remove_a_recording,
            f"{ONE}: missing: its directory is missing",
            {(ONE, None): "missing"},
        ),
        (
            swap_parts,
            f"{ONE} part 2: changed: the file differs",
            {(ONE, 1): "changed", (ONE, 2): "changed"},
        ),
        (
            swap_parts_of_recordings,
            f"{TWO} part 1: changed: the file differs",
            {(ONE, 1): "changed", (TWO, 1): "changed"},
        ),
        (add_a_part, f"{ONE} part 3: unknown: no line of the index", {(ONE, 3): "unknown"}),
        (add_a_recording, f"{'f' * 32}: unknown: no line", {("f" * 32, None): "unknown"}),
        (change_the_person, f"{ONE}: changed: recording.json differs", {(ONE, None): "changed"}),
    ],
    ids=lambda one: one.__name__ if callable(one) else None,
)
def test_verify_finds_what_was_changed(
    host: Host,
    tamper: Callable[[Host], None],
    words: str,
    found: dict[tuple[str, int | None], str],
) -> None:
    host.record(b"first")
    host.record(b"second")
    host.record(b"other", number=2)
    tamper(host)
    code, output = host.verify()
    assert code == 1
    broken = [line for line in output.splitlines() if line.startswith("BROKEN: ")]
    assert len(broken) == len(found), output
    assert any(line.startswith(f"BROKEN: recording {words}") for line in broken), output
    code, listed = host.verdicts()
    assert code == 1
    assert found.items() <= listed.items()
    others = {one for one in listed if one not in found}
    assert {listed[one] for one in others} <= {"intact"}


def test_verify_reports_a_changed_block_of_an_open_part(host: Host) -> None:
    file = host.record(b"x" * 500, b"y" * 500, is_killed=True)
    content = bytearray(file.read_bytes())
    content[-600] ^= 1
    file.write_bytes(content)
    code, output = host.verify()
    assert code == 1
    assert f"BROKEN: recording {ONE} part 1: changed: {file.name}:" in output
    assert "the block is not authentic" in output


@pytest.mark.parametrize("is_recovered", [False, True])
def test_closed_part_is_not_replaced_by_a_shorter_open_one(
    host: Host,
    is_recovered: bool,  # noqa: FBT001
) -> None:
    """A writer to the disk has a copy of the open part, and cuts it between two blocks."""
    scene = host.scene()
    part = opened(scene)
    part.append([screen_record(0, b"seen")])
    file, shorter = part.file, part.file.read_bytes()
    part.append([screen_record(1, b"secret"), END])
    part.close()
    scene.index.close()
    host.recover()
    file.with_suffix(".part").unlink()
    file.write_bytes(shorter)
    if is_recovered:
        host.recover()
    code, output = host.verify()
    assert code == 1, output
    assert f"BROKEN: recording {ONE} part 1: changed: the index has its end" in output


# verify: the index


def lines_of_index(host: Host) -> tuple[Path, list[bytes]]:
    (file,) = host.chain().glob("segment-*")
    return file, file.read_bytes().splitlines(keepends=True)


def test_verify_finds_a_hole_in_the_index(host: Host) -> None:
    host.record(b"first")
    host.record(b"other", number=2)
    file, lines = lines_of_index(host)
    for number in range(1, len(lines) - 1):
        file.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
        code, output = host.verify()
        assert code == 1, (number, output)
        assert f"BROKEN: {file}:{number + 1}: " in output
        assert "The recordings were not compared: their index is broken.\n" in output
    file.write_bytes(b"".join(lines))
    assert host.verify()[0] == 0


def test_verify_finds_a_changed_line_of_the_index(host: Host) -> None:
    host.record(b"first")
    file, lines = lines_of_index(host)
    changed = [line.replace(b'"cut":false', b'"cut":true') for line in lines]
    assert changed != lines
    file.write_bytes(b"".join(changed))
    code, output = host.verify()
    assert code == 1
    assert ": changed: " in output


@pytest.mark.parametrize("with_head", [True, False])
def test_index_that_is_older_than_the_recordings(host: Host, with_head: bool) -> None:  # noqa: FBT001
    """Its end was cut off, or an old copy was restored."""
    host.record(b"first")
    old = host.directory / "old"
    shutil.copytree(host.root / INDEX_DIRECTORY, old)
    host.record(b"second")
    host.record(b"other", number=2)
    head = host.head()
    shutil.rmtree(host.root / INDEX_DIRECTORY)
    shutil.move(old, host.root / INDEX_DIRECTORY)
    code, output = host.verify(*(("--head", head) if with_head else ()))
    assert code == 1
    if with_head:
        assert "BROKEN: " in output
        assert "The recordings were not compared" in output
    else:
        assert f"BROKEN: recording {ONE} part 2: unknown: no line of the index" in output
        assert f"BROKEN: recording {TWO}: unknown: no line of the index" in output
        assert "parts: 1 intact, 2 unknown\n" in output


def test_recordings_that_are_older_than_the_index(host: Host) -> None:
    """A backup of the directory was restored, but for the index."""
    host.record(b"first")
    old = host.directory / "old"
    shutil.copytree(host.root, old)
    host.record(b"second")
    host.record(b"other", number=2)
    shutil.rmtree(old / INDEX_DIRECTORY)
    shutil.move(host.root / INDEX_DIRECTORY, old / INDEX_DIRECTORY)
    shutil.rmtree(host.root)
    shutil.move(old, host.root)
    code, output = host.verify()
    assert code == 1
    assert f"BROKEN: recording {ONE} part 2: missing: its file is missing" in output
    assert f"BROKEN: recording {TWO}: missing: its directory is missing" in output
    assert "parts: 1 intact, 2 missing\n" in output


def test_index_of_another_signer_is_rejected(host: Host) -> None:
    host.record(b"first")
    code, output = host.verify("--public-key", host.directory / "other.pub")
    assert code == 1
    assert "unknown key" in output
    (host.directory / "secrets" / "signing").write_bytes(OTHER_SIGNING.private)
    assert host.verify()[0] == 1
    keys = [option for one in ("audit", "other") for option in ("--public-key", f"{one}.pub")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(host.directory)
        assert host.verify(*keys)[0] == 0


def test_verify_without_an_index_verifies_nothing(host: Host) -> None:
    code, output = host.verify()
    assert code == 2
    assert f"{host.root} has no index of recordings" in output
    code, output = host.run("verify")
    assert code == 2
    assert "name the recordings: --directory, or --config" in output
    host.record(b"first")
    shutil.rmtree(host.root / INDEX_DIRECTORY)
    assert host.verify()[0] == 2
    (host.root / INDEX_DIRECTORY).mkdir()
    code, output = host.verify()
    assert code == 2
    assert "has no chain: nothing was verified" in output


# Keys


def test_verify_with_a_wrong_key_says_what_is_not_checked(host: Host) -> None:
    host.record(b"closed")
    host.record(b"open", number=2, is_killed=True)
    host.configure(OTHER_KEY)
    code, output = host.verify()
    assert code == 0, output
    reason = "its content is not checked: no key of `recordings.keys` opens keys.json"
    assert f"recording {TWO} part 1: cut short: {reason}\n" in output
    host.configure(OTHER_KEY, KEY)
    code, output = host.verify()
    assert code == 0
    assert "not checked" not in output


def test_rewrap_lets_the_old_key_go(host: Host) -> None:
    host.record(b"first")
    host.record(b"other", number=2)
    host.configure(OTHER_KEY, KEY)
    code, output = host.run("rewrap", "--config", host.config)
    assert (code, output) == (0, "rewrapped: 2, already with the first key: 0, failed: 0\n")
    code, output = host.run("rewrap", "--config", host.config)
    assert (code, output) == (0, "rewrapped: 0, already with the first key: 2, failed: 0\n")
    assert {one.stat().st_mode & 0o777 for one in host.root.rglob("keys.json")} == {0o600}
    assert not [*host.root.rglob("*.new")]
    scene = RecordingScene(host.root, clock=SystemClock(), keys=[OTHER_KEY])
    assert (scene.screen(ONE), scene.screen(TWO)) == (b"first", b"other")
    host.configure(OTHER_KEY)
    assert host.verify()[0] == 0


def test_rewrap_without_a_key_changes_nothing(host: Host) -> None:
    host.record(b"first")
    (keys,) = host.root.glob(f"*/{ONE}/keys.json")
    before = keys.read_bytes()
    host.configure(OTHER_KEY)
    code, output = host.run("rewrap", "--config", host.config)
    assert code == 1
    assert f"recording {ONE}: no key of `recordings.keys` opens keys.json. " in output
    assert "rewrapped: 0, already with the first key: 0, failed: 1\n" in output
    assert keys.read_bytes() == before


def test_rewrap_continues_after_a_damaged_recording(host: Host) -> None:
    host.record(b"first")
    host.record(b"other", number=2)
    (keys,) = host.root.glob(f"*/{ONE}/keys.json")
    keys.write_text("{}")
    host.configure(OTHER_KEY, KEY)
    code, output = host.run("rewrap", "--config", host.config)
    assert code == 1
    assert f"recording {ONE}: keys.json is damaged. " in output
    assert "rewrapped: 1, already with the first key: 0, failed: 1\n" in output


def test_rewrap_on_a_full_disk_changes_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.record(b"first")
    host.configure(OTHER_KEY, KEY)
    (keys,) = host.root.glob(f"*/{ONE}/keys.json")
    before = keys.read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        code = main(["recordings", "rewrap", "--config", str(host.config)])
    assert code == 1
    assert f"recording {ONE}: No space left on device" in host.capsys.readouterr().err
    assert keys.read_bytes() == before
    assert host.run("rewrap", "--config", host.config)[0] == 0


@pytest.mark.parametrize("command", ["rewrap", "hold"])
def test_commands_that_write_need_the_directory(host: Host, command: str) -> None:
    arguments = ["--reason", "case", ONE] if command == "hold" else []
    shutil.rmtree(host.root)
    code, output = host.run(command, "--config", host.config, *arguments)
    assert code == 2
    assert f"{host.root} does not exist: nothing is recorded there" in output
    host.config.write_text(EXAMPLE.read_text())
    code, output = host.run(command, "--config", host.config, *arguments)
    assert code == 2
    assert "the config has no `recordings.directory`" in output


@pytest.mark.parametrize("command", ["rewrap", "hold"])
def test_commands_that_write_need_the_owner(
    host: Host, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--reason", "case", ONE] if command == "hold" else []
    host.record(b"x")
    before = {file: file.read_bytes() for file in host.root.rglob("*") if file.is_file()}
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    code, output = host.run(command, "--config", host.config, *arguments)
    assert code == 2
    assert "run this as the user of the gateway, which owns" in output
    assert {file: file.read_bytes() for file in host.root.rglob("*") if file.is_file()} == before


# hold


def hold(host: Host, recording: str, *arguments: str) -> tuple[int, str]:
    return host.run("hold", "--config", host.config, "--reason", "case 7", *arguments, recording)


def test_hold_is_set_recorded_and_lifted(host: Host) -> None:
    path = host.record(b"x").parent
    assert hold(host, ONE) == (0, f"recording {ONE}: on hold\n")
    assert on_hold(path.parent.parent, path.name)
    assert (host.root / "holds" / ONE).stat().st_mode & 0o777 == 0o600
    assert hold(host, ONE, "--lift") == (0, f"recording {ONE}: hold lifted\n")
    assert not on_hold(path.parent.parent, path.name)
    fields = [json.loads(line) for line in lines_in(host.chain())]
    holds = [(one["event"], one["reason"]) for one in fields if one["event"].startswith("hold")]
    assert holds == [("hold_set", "case 7"), ("hold_lifted", "case 7")]
    assert host.verify()[0] == 0


def test_hold_of_an_unknown_recording_is_rejected(host: Host) -> None:
    host.record(b"x")
    unknown = "f" * 32
    assert hold(host, unknown) == (1, f"no recording {unknown} in {host.root} or its index\n")
    for name in ("../x", ONE.upper() + "x"):
        code, output = hold(host, name)
        assert code == 2
        assert "must have 32 hexadecimal digits" in output
    code, output = hold(host, ONE, "--lift")
    assert (code, output) == (1, f"recording {ONE} is not on hold\n")
    code, output = host.run("hold", "--config", host.config, ONE)
    assert code == 2
    assert "--reason" in output


def test_hold_of_removed_files_says_so(host: Host) -> None:
    """Their hold may be set before they are brought back."""
    path = host.record(b"x").parent
    shutil.rmtree(path)
    code, output = hold(host, ONE)
    assert code == 0
    assert output.startswith(f"recording {ONE}: on hold\n")
    assert f"its files are not in {host.root}" in output
    assert on_hold(host.root, ONE)


def test_hold_waits_for_retention(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    path = host.record(b"x").parent
    monkeypatch.setattr(recordings_hold, "_LOCK_WAIT_S", 0.05)
    with removals_locked(host.root):
        code, output = hold(host, ONE)
    assert (code, "Run it again" in output) == (1, True)
    assert not on_hold(host.root, path.name)
    assert hold(host, ONE)[0] == 0


def test_hold_that_is_not_recorded_holds_all_the_same(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = host.record(b"x").parent

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(RecordingIndex, "append", full)
    code, output = hold(host, ONE)
    assert code == 1
    assert f"recording {ONE} is on hold, but the index has no line about it" in output
    assert "No space left on device" in output
    assert on_hold(path.parent.parent, path.name)
    code, output = hold(host, ONE, "--lift")
    assert code == 1
    assert "the hold is not changed: No space left on device" in output
    assert on_hold(path.parent.parent, path.name)


def test_commands_run_while_a_gateway_records(host: Host) -> None:
    """They write another chain; `verify` says which part is in progress."""
    host.record(b"x", number=2)
    scene = host.scene()
    part = opened(scene)
    part.append([screen_record(0, b"seen")])
    assert hold(host, TWO)[0] == 0
    host.configure(OTHER_KEY, KEY)
    assert host.run("rewrap", "--config", host.config)[0] == 0
    code, output = host.verify()
    assert code == 0, output
    assert f"recording {ONE} part 1: in progress\n" in output
    assert "parts: 1 intact, 1 in progress\n" in output
    assert len([*(host.root / INDEX_DIRECTORY).glob("chain-*")]) == 2
    part.append([screen_record(1, b" more"), END])
    part.close()
    scene.index.close()
    rewrapped = host.scene(OTHER_KEY)
    rewrapped.closer.recover(rewrapped.directory.recordings())
    rewrapped.index.close()
    assert rewrapped.screen(ONE) == b"seen more"
    assert host.verdicts() == (0, {(ONE, 1): "intact", (TWO, 1): "intact"})
