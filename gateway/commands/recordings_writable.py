"""The recordings of a config, for the commands that change them on the gateway's own host."""

import os

from gateway.commands.exit_codes import usage_error
from gateway.config.settings import Settings
from gateway.drivers.audit.signing_keys import load_signer
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.recording_directory import RecordingDirectory
from gateway.drivers.recordings.recording_index import RecordingIndex


def writable_directory(config: Settings) -> RecordingDirectory:
    """Return the recordings of a config; raise CommandFailed if this user must not write there.

    The gateway cannot continue files of another user, root included.
    """
    directory = config.recordings.directory
    if directory is None:
        raise usage_error("the config has no `recordings.directory`")
    if not directory.is_dir():
        raise usage_error(f"{directory} does not exist: nothing is recorded there")
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise usage_error(
            f"run this as the user of the gateway, which owns {directory} (user ID {owner})"
        )
    return RecordingDirectory(directory)


def open_index(config: Settings, directory: RecordingDirectory) -> RecordingIndex:
    """Open the index for new lines, signed as those of the gateway are."""
    key = config.audit.signing_key
    signer = None if key is None else load_signer(key)
    return RecordingIndex(directory.root, SystemClock(), signer)
