"""A fingerprint of a file's content, for at most 1 MiB of reading: all of a small file, samples of a large one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lfq_cli.errors import LfqError
from lfq_cli.storage.remote import open_input, origin_of

RUNS = 16
RUN_BYTES = 1 << 16
WHOLE_BYTES = RUNS * RUN_BYTES
"""Files up to this size are read completely, so no change goes unnoticed."""


def fingerprint(path: Path, error: type[LfqError]) -> tuple[int, str]:
    """(size in bytes, sha256 of the size and of up to 16 runs of 64 KiB at even distances, first and last included).

    The size is hashed as 8 bytes, little-endian. For an object in a store its tag is used instead, and nothing is read.
    Raises `error` if the file cannot be read.
    """
    origin = origin_of(path, error)
    if origin is not None:
        return origin
    file = open_input(path, error)
    try:
        digest = hashlib.sha256(file.size.to_bytes(8, "little"))
        for start, count in _runs(file.size):
            digest.update(file.read(start, count))
        return file.size, digest.hexdigest()
    finally:
        file.close()


def whole_fingerprint(data: bytes) -> str:
    """The fingerprint of a file of at most WHOLE_BYTES whose bytes are in memory."""
    return hashlib.sha256(len(data).to_bytes(8, "little") + data).hexdigest()


def _runs(size: int) -> list[tuple[int, int]]:
    if size <= WHOLE_BYTES:
        return [(0, size)]
    return [(k * (size - RUN_BYTES) // (RUNS - 1), RUN_BYTES) for k in range(RUNS)]
