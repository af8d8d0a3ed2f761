"""Config section `recordings`: where recordings of live consoles are stored, and for how long."""

from typing import Annotated

from pydantic import Field

from gateway.config.files import Directory
from gateway.config.secrets import EncryptionKey
from gateway.config.values import Integer, Number, Section


class RecordingSettings(Section):
    """Recordings of accounts with `console.recording`."""

    directory: Directory | None = None
    """Directory for recordings. On a volume that all replicas share, each of them plays every
    recording; otherwise only those on the host that recorded it, and the others name that host. The
    recordings are listed and played also when no account is recorded any more. Requires
    `listen.public_url`. Unset: nothing can be recorded."""
    keys: tuple[EncryptionKey, ...] = ()
    """Encryption keys, 32 bytes each in base64 (`openssl rand -base64 32`). The first encrypts, all
    decrypt. They are not those of `store.seal_keys`, because recordings stay for months. To rotate:
    add the new key second on all replicas, then put it first, run `gateway recordings rewrap`, and
    remove the old key. Required with `directory`."""
    keep_days: Annotated[Number, Field(ge=0, le=36_500)] = 90.0
    """Days after the end of a recording at which it is removed; the index stays verifiable. 0 keeps
    recordings."""
    bytes_max: Annotated[Integer, Field(ge=1_048_576)] | None = None
    """Largest size of the recordings in the directory that are not on hold, in bytes. Beyond it the
    oldest are removed, whatever their age. Unset: no bound."""
