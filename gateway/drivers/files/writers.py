"""Whether a file is still being written.

A half-written file may be valid: a shorter password, a policy without its denials.
"""

import errno
import fcntl
import os
import signal
from pathlib import Path
from typing import Final

from gateway.config.errors import ConfigError

BEING_WRITTEN: Final = "is being written; replace files by a rename"


def is_open_for_writing(file: Path) -> bool:
    """Return whether a process has the file open for writing.

    False also where Linux does not report it: for files of other users and on network file systems.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # A process that opens the file for writing breaks the lease. Its signal must be one that is
        # ignored by default: SIGIO would end this process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    else:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    finally:
        os.close(descriptor)


def being_written(file: str) -> ConfigError:
    return ConfigError(file, 0, "", BEING_WRITTEN)
