"""What a merge must know of a codes file's samples: their keys, and how long each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfq_cli.codesfile import CodesFile
from lfq_cli.codesfile.columns import Offsets, bad_key, check_offsets, texts_of
from lfq_cli.codesfile.header import OFFSETS, Samples
from lfq_cli.errors import CodesFileError

SAMPLE_BYTES = 8
"""What a sample takes in a file beside its codes, key, texts and carried rows, about: an offset."""
_RUN_KEYS = 1 << 13
"""What is hashed at once: a million keys of 11 letters take 0.12 s, in runs of 2^16 0.3 s, by Python's hash() 0.8 s."""


@dataclass(frozen=True)
class Survey:
    """`key_hashes` [count] uint64, equal for equal keys. `offsets`, of ragged codes and texts by name: where each
    sample begins, and where the last ends, in vectors and bytes, [count + 1].
    """

    key_hashes: NDArray[np.uint64]
    offsets: dict[str, Offsets]


def survey(codes: CodesFile) -> Survey:
    """Reads keys and offsets. Raises CodesFileError if they are damaged or invalid."""
    samples = codes.header.samples
    assert samples is not None
    offsets: dict[str, Offsets] = {}
    for tensor in codes.header.tensors.values():
        if tensor.offsets is not None:
            codes.check_column(tensor.offsets)
            offsets[tensor.name] = codes.bounds(tensor.name)
    for name in (samples.keys, *samples.texts):
        codes.check_column(name + OFFSETS)
        offsets[name] = codes.column(name + OFFSETS)
        check_offsets(offsets[name], samples.columns[name].nbytes, f"{codes.path}: {name + OFFSETS!r}")
    codes.check_column(samples.keys)
    return Survey(_hashes(codes, samples, offsets[samples.keys]), offsets)


def sizes_of(codes: CodesFile, offsets: dict[str, Offsets]) -> NDArray[np.int64]:
    """About how many bytes each sample takes in a file: [count]."""
    samples = codes.header.samples
    assert samples is not None
    carried = sum(samples.columns[name].nbytes for name in samples.carried) // max(samples.count, 1)
    sizes = np.full(samples.count, SAMPLE_BYTES + carried, np.int64)
    for name in (samples.keys, *samples.texts):
        sizes += np.diff(offsets[name])
    bits = np.zeros(samples.count, np.int64)
    for tensor in codes.header.tensors.values():
        bits += np.diff(codes.bounds(tensor.name)) * tensor.stored_bits_per_vector
    return sizes + -(-bits // 8)


def key_at(codes: CodesFile, index: int) -> str:
    """The key of one sample, as far as it can be read. Raises CodesFileError if its offsets are invalid."""
    assert codes.header.samples is not None
    name = codes.header.samples.keys
    first, last = codes.column(name + OFFSETS)[index : index + 2].tolist()
    if not 0 <= first <= last <= codes.header.samples.columns[name].nbytes:
        raise CodesFileError(f"{codes.path}: the offsets of its keys are damaged", "encode the samples again")
    key = bytearray(last - first)
    codes.region(name).read_into(first, memoryview(key))
    return key.decode("utf-8", "replace")


def check_keys(codes: CodesFile) -> None:
    """Raises CodesFileError unless keys are valid and unique."""
    hashes = np.sort(survey(codes).key_hashes)
    if (hashes[1:] == hashes[:-1]).any():
        _ = codes.keys_of_samples  # this compares the keys themselves


def check_texts(codes: CodesFile, name: str) -> None:
    """Raises CodesFileError unless every text of a column is UTF-8."""
    data, ends = codes.column(name), codes.column(name + OFFSETS)
    check_offsets(ends, len(data), f"{codes.path}: {name!r}")
    begins = ends[:-1][np.diff(ends) > 0]
    try:
        str(data.data, "utf-8")
    except UnicodeDecodeError as reason:
        raise CodesFileError(f"{codes.path}: {name!r} is not UTF-8: {reason}", "encode the samples again") from reason
    if (data[begins] & 0xC0 == 0x80).any():
        raise CodesFileError(f"{codes.path}: {name!r} is cut within a character", "encode the samples again")


def _hashes(codes: CodesFile, samples: Samples, offsets: Offsets) -> NDArray[np.uint64]:
    data: NDArray[np.uint8] = codes.column(samples.keys)
    hashes = np.empty(samples.count, np.uint64)
    for first in range(0, samples.count, _RUN_KEYS):
        ends = offsets[first : first + _RUN_KEYS + 1]
        letters, ends = data[ends[0] : ends[-1]], ends - ends[0]
        if not _are_good(letters, ends):
            _refuse_bad(codes, letters, ends)
        hashes[first : first + len(ends) - 1] = _hashes_of(letters, ends)
    return hashes


def _hashes_of(letters: NDArray[np.uint8], ends: Offsets) -> NDArray[np.uint64]:
    """A hash of every key (keys are not empty): the sum of (byte + 1) * weight of its position, modulo 2^64."""
    lengths = np.diff(ends)
    places = np.arange(len(letters)) - np.repeat(ends[:-1], lengths)
    weighted = _weights(int(lengths.max(initial=0)))[places]
    weighted *= letters.astype(np.uint64) + np.uint64(1)
    return np.add.reduceat(weighted, ends[:-1])


def hashes_of_keys(keys: Sequence[str]) -> NDArray[np.uint64]:
    """The hash of each key, none of which is empty, as in Survey."""
    encoded = [key.encode("utf-8", "surrogatepass") for key in keys]
    ends = np.cumsum([0, *map(len, encoded)])
    return _hashes_of(np.frombuffer(b"".join(encoded), np.uint8), ends) if keys else np.empty(0, np.uint64)


def hash_of_key(key: str) -> int:
    """The hash of one key, as in Survey."""
    letters = np.frombuffer(key.encode("utf-8", "surrogatepass"), np.uint8)
    return int(_hashes_of(letters, np.array([0, len(letters)]))[0]) if len(letters) else 0


def _weights(count: int) -> NDArray[np.uint64]:
    """Pseudorandom weights, always the same: splitmix64 (Steele, Lea, Flood, 2014)."""
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _are_good(letters: NDArray[np.uint8], ends: Offsets) -> bool:
    """Whether `bad_key` accepts all of the concatenated keys."""
    if (np.diff(ends) == 0).any() or (letters < 32).any() or (letters == 127).any():
        return False
    if (letters[ends[:-1]] & 0xC0 == 0x80).any():  # begins within a character
        return False
    if ((letters[:-1] == 0xC2) & (letters[1:] < 0xA0)).any():  # control characters beyond ASCII
        return False
    try:
        str(letters.data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _refuse_bad(codes: CodesFile, letters: NDArray[np.uint8], ends: Offsets) -> None:
    for key in texts_of(letters.tobytes(), ends, f"{codes.path}: a key"):
        wrong = bad_key(key)
        if wrong is not None:
            raise CodesFileError(f"{codes.path}: the key {key!r} {wrong}", "encode the samples again")
