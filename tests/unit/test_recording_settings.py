"""The config keys of recordings, and the warnings of `gateway check` about their space."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.commands.recordings_warnings import recording_warnings, warnings_at
from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import load
from gateway.config.settings import Settings, load_settings, validate_settings
from gateway.domain.recordings.model import RecordingPolicy
from gateway.drivers.recordings.recording_directory import RecordingDirectory
from gateway.drivers.recordings.recording_keys import RecordingKeys
from gateway.drivers.recordings.retention import RecordingUsage
from tests.support.recordings import OTHER_KEY, STARTED_AT, a_recording

EXAMPLE = Path(__file__).parents[2] / "config" / "gateway.yaml"
GB = 10**9


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    for name in ("iam-password", "redis-password", "seal-key", "recording-key"):
        key = base64.b64encode(b"k" * 32).decode()
        (tmp_path / "secrets" / name).write_text(key)
    return tmp_path


def write(
    directory: Path, recordings: dict[str, Any] | None, console: dict[str, Any] | None = None
) -> Path:
    config = yaml.safe_load(EXAMPLE.read_text())
    config["listen"] = {**config.get("listen", {}), "public_url": "https://gw.example"}
    config["accounts"][0]["console"] = console or {}
    if recordings is not None:
        config["recordings"] = recordings
    file = directory / "gateway.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


KEYS = [{"file": "secrets/recording-key"}]
RECORDS = {"delivery": "proxied", "recording": "required"}


def test_recording_is_off_by_default(directory: Path) -> None:
    settings = load_settings(write(directory, None))
    assert settings.accounts[0].console.recording is RecordingPolicy.NEVER
    assert not settings.accounts[0].console.record_keys


def test_recording_directory_must_be_writable_if_required(directory: Path) -> None:
    section = {"directory": "recordings", "keys": KEYS}
    for recording, is_required in (("required", True), ("when_possible", False)):
        console = {**RECORDS, "recording": recording}
        settings = load_settings(write(directory, section, console))
        directories = {one.key: one.is_required for one in settings.writable_directories}
        assert directories["recordings", "directory"] is is_required


@pytest.mark.parametrize(
    ("recordings", "console", "problem"),
    [
        (None, RECORDS, "requires `recordings.directory` and `recordings.keys`"),
        ({"directory": "d"}, {}, "is required with `recordings.directory`"),
        (
            {"directory": "d", "keys": KEYS},
            {"recording": "required"},
            "requires `delivery: proxied`",
        ),
        (
            {"directory": "d", "keys": KEYS},
            {"delivery": "proxied", "record_keys": True},
            "requires `recording`",
        ),
        ({"directory": "d", "keys": KEYS}, {"recording": "always"}, "'never'"),
        ({"bytes_max": 5}, {}, "must be 1048576 or more"),
    ],
)
def test_recording_that_cannot_work_is_rejected(
    directory: Path, recordings: dict[str, Any] | None, console: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidConfig) as found:
        load_settings(write(directory, recordings, console))
    assert problem in str(found.value.errors[0])


@pytest.mark.parametrize(
    ("section", "usage", "codes"),
    [
        ({}, RecordingUsage(), []),
        ({}, RecordingUsage(5 * GB, 0, 1 * GB, 200 * GB), []),
        ({}, RecordingUsage(5 * GB, 0, 1 * GB, 50 * GB), ["recordings_disk_small"]),
        ({"keep_days": 0}, RecordingUsage(5 * GB, 0, 1 * GB, 999 * GB), ["recordings_disk_small"]),
        (
            {"bytes_max": 40 * GB},
            RecordingUsage(5 * GB, 0, 1 * GB, 50 * GB),
            ["recordings_bytes_max_small"],
        ),
        (
            {"bytes_max": 80 * GB},
            RecordingUsage(5 * GB, 0, 1 * GB, 50 * GB),
            ["recordings_bytes_max_small", "recordings_disk_small"],
        ),
    ],
)
def test_check_warns_of_a_disk_full_before_keep_days(
    directory: Path, section: dict[str, Any], usage: RecordingUsage, codes: list[str]
) -> None:
    file = write(directory, {"directory": "recordings", "keys": KEYS, **section})
    document = load(file)
    settings: Settings = validate_settings(document)
    assert [one.code for one in warnings_at(settings, document, usage)] == codes


def test_check_warns_of_recordings_without_their_key(directory: Path) -> None:
    file = write(directory, {"directory": "recordings", "keys": KEYS})
    document = load(file)
    settings = validate_settings(document)
    other, own = RecordingKeys([OTHER_KEY]), RecordingKeys(settings.recordings.keys)
    root = settings.recordings.directory
    assert root is not None

    def codes() -> list[str]:
        return [one.code for one in recording_warnings(settings, document, STARTED_AT)]

    for number, keys in ((1, own), (2, other)):
        assert codes() == []
        details = a_recording(number)
        wrapped = keys.create(details.id, with_keystrokes=True)[1]
        RecordingDirectory(root).create(details, wrapped)
    assert codes() == ["recordings_key_missing"]
