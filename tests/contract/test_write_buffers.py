"""What a thread writes with memory that it uses again is what it was given to write."""

import os
from pathlib import Path

from gateway.domain.recordings.part_format import Stream
from gateway.domain.recordings.records import (
    Record,
    RecordKind,
    decode_records,
    encode_records,
    encode_records_into,
    key_record,
    records_size,
    screen_record,
)
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.file_recordings import RecordingFiles, open_recording_part
from gateway.drivers.recordings.open_part import OpenPartReader
from gateway.drivers.recordings.recording_directory import read_wrapped_keys
from gateway.drivers.recordings.write_buffers import ReusedBuffer, WriteBuffers
from tests.support.recordings import RecordingScene, a_recording

SIZES = (1, 70_000, 20, 300_000, 1_200_000, 5, 70_000)
"""Larger and smaller than the block before, and than the memory that is used again."""


def test_parts_of_one_thread_share_its_memory(tmp_path: Path) -> None:
    scene, buffers = RecordingScene(tmp_path, clock=SystemClock()), WriteBuffers()
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    ids = [1, 2]
    parts = [
        open_recording_part(files, a_recording(one, has_keystrokes=True), scene.clock.now())
        for one in ids
    ]
    written: list[list[Record]] = [[], []]
    for at_ms, size in enumerate(SIZES):
        for part, known in zip(parts, written, strict=True):
            records = [
                screen_record(at_ms, os.urandom(size)),
                key_record(at_ms, 0x61 + at_ms, is_down=True),
                Record(at_ms, RecordKind.MODE, b"view"),
            ]
            before = os.fstat(part._fd).st_size
            assert part.append(records, buffers) == os.fstat(part._fd).st_size - before
            known.extend(records)
    for number, part, known in zip(ids, parts, written, strict=True):
        path = scene.directory.find(a_recording(number).id)
        assert path is not None
        keys = scene.keys.unwrap(a_recording(number).id, read_wrapped_keys(path))
        found: dict[Stream, list[Record]] = {Stream.SCREEN: [], Stream.KEYSTROKES: []}
        with part.file.open("rb") as opened:
            for block in OpenPartReader(opened, keys).blocks():
                found[block.stream] += decode_records(block.plain or b"")
        is_key = [one.kind is RecordKind.KEY for one in known]
        assert found[Stream.KEYSTROKES] == [
            one for one, key in zip(known, is_key, strict=True) if key
        ]
        assert found[Stream.SCREEN] == [
            one for one, key in zip(known, is_key, strict=True) if not key
        ]
        part.close()
    scene.index.close()


def test_both_encodings_are_equal() -> None:
    records = [screen_record(2**33, b"abc"), Record(7, RecordKind.INPUT, b"")]
    out = bytearray(records_size(records))
    encode_records_into(records, memoryview(out))
    assert bytes(out) == encode_records(records)


def test_large_memory_is_not_reused() -> None:
    buffer = ReusedBuffer()
    assert [len(buffer.take(size)) for size in SIZES] == list(SIZES)
    assert buffer.take(9).obj is buffer.take(300_000).obj
    assert len(buffer.take(9).obj) < 1_048_577
