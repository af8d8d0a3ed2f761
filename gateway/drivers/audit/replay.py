"""Lines of an audit directory, for those who go on from the middle of a chain."""

from collections.abc import Iterator
from pathlib import Path

from gateway.drivers.audit.paths import chain_directories, segment_files
from gateway.drivers.audit.reader import ChainUnreadable, read_first_line


def lines_after(directory: Path, chain: str, seq: int) -> Iterator[bytes]:
    """Read the chain's lines that follow line `seq`, as far as they are there.

    Raises OSError where a segment cannot be read. The last line may be torn.
    """
    for chain_directory in chain_directories(directory):
        try:
            segments = [(read_first_line(file), file) for _, file in segment_files(chain_directory)]
        except ChainUnreadable:
            continue  # nobody writes such a one
        if not segments or segments[0][0].chain != chain:
            continue
        ends = [first.seq for first, _ in segments[1:]]
        for i, (first, file) in enumerate(segments):
            if i < len(ends) and ends[i] <= seq + 1:
                continue
            with file.open("rb") as opened:
                for number, line in enumerate(opened, first.seq):
                    if number > seq:
                        yield line
