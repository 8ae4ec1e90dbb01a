"""The counts file, version 1: token counts in a safetensors container, which can be merged with those of other shards.

`__metadata__["lfq"]` holds one JSON object: `format` "lfq-counts", `version` 1, `sets`, and `sha256` (`_digest_of`).
Each set has a `name`, `codebook_dims`, `bit_order`, the `axes` of its positions (empty if they were not counted),
`joint` (whether there is a joint counter), and `counters`: first one per codebook, then the joint one, then one per
codebook by position. Tensors are named "SET.COUNTER.WHAT", with the numbers of set and counter:

    exact   `counts` I64 [2^bits]; or `codes` U64, in ascending order, and their `counts` I64
    sketch  `held_codes`, `held_counts`, `sampled_codes`, `sampled_counts`, `registers` U8, `both` I64 [bits, bits];
            the counter's JSON object then has `level` and `total` as well
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from lfq_cli.bits import MAX_INDEX_BITS, BitOrder
from lfq_cli.container import header_bytes, metadata_entry, no_duplicates, read_header
from lfq_cli.dtypes import NUMPY, OF_NUMPY
from lfq_cli.errors import CodesFileError, CodesUnreadableError
from lfq_cli.files import atomic_output, write_all
from lfq_cli.quantizer import canonical_json
from lfq_cli.regions import bytes_of
from lfq_cli.statistics import CountOptions, TokenCounts
from lfq_cli.statistics.counter import Counter
from lfq_cli.statistics.sketch import REGISTER_BITS, Sketch, begins_with_zeros, mixed, registers_of
from lfq_cli.statistics.tables import DENSE_BITS
from lfq_cli.storage.remote import open_input

FORMAT = "lfq-counts"
VERSION = 1
SET_NAME = "all"
"""The name of the set that counts all tensors."""

_DTYPES = ("U8", "I64", "U64")
_SKETCH = {
    "held_codes": "U64",
    "held_counts": "I64",
    "sampled_codes": "U64",
    "sampled_counts": "I64",
    "registers": "U8",
    "both": "I64",
}
_MOST_CODEBOOKS = 1 << 12
_MOST_POSITIONS = 1 << 40
_MOST_INDICES = 2.0**62

Arrays = dict[str, NDArray[Any]]


def write(sets: Sequence[TokenCounts], path: Path, *, overwrite: bool = False) -> None:
    """Saves counts, unless the file already holds the same. Raises OutputError if it cannot be written."""
    description, arrays = _described(sets)
    if not overwrite and path.exists() and metadata_entry(path, "lfq") == description:
        return
    stored = {name: (OF_NUMPY[array.dtype], array.shape) for name, array in arrays.items()}
    nbytes = sum(array.nbytes for array in arrays.values())
    with atomic_output(path, overwrite=overwrite, nbytes=nbytes) as file:
        write_all(file, header_bytes({"lfq": description}, stored))
        for array in arrays.values():
            write_all(file, bytes_of(array))


def read(path: Path, options: CountOptions) -> list[tuple[str, TokenCounts]]:
    """(name, counts) of every set. Raises CodesFileError if the file is damaged or not a counts file."""
    file = open_input(path, CodesFileError, CodesUnreadableError)
    try:
        container = read_header(file, CodesFileError)
        arrays: Arrays = {}
        for name, entry in container.entries.items():
            _need(entry.dtype in _DTYPES, f"{name!r} is {entry.dtype}")
            array = np.empty(entry.shape, NUMPY[entry.dtype])
            file.read_into(entry.start, bytes_of(array))
            arrays[name] = array
        described = json.loads(container.metadata.get("lfq", "null"), object_pairs_hook=no_duplicates)
        return _sets_of(described, arrays, options)
    except (_InvalidError, ValueError, RecursionError) as reason:
        raise CodesFileError(
            f"{path}: not a valid counts file: {reason}", "count again, or restore it from a copy"
        ) from reason
    finally:
        file.close()


def _described(sets: Sequence[TokenCounts]) -> tuple[str, Arrays]:
    """(the JSON text for the metadata, all tensors)."""
    described_sets: list[dict[str, Any]] = []
    arrays: Arrays = {}
    for number, counts in enumerate(sets):
        counters = []
        for place, counter in enumerate(counts.counters()):
            facts, parts = _parts_of(counter)
            counters.append(facts)
            arrays |= {f"{number}.{place}.{what}": array for what, array in parts.items()}
        described_sets.append(_set_facts(counts) | {"counters": counters})
    described = {"format": FORMAT, "version": VERSION, "sets": described_sets}
    return json.dumps(described | {"sha256": _digest_of(described, arrays)}, separators=(",", ":")), arrays


def _digest_of(described: dict[str, Any], arrays: Arrays) -> str:
    """The sha256 of the JSON object (sorted keys, no spaces), followed by each tensor in file order.

    A tensor is hashed as the line `name dtype shape`, a line feed, and its bytes.
    """
    digest = hashlib.sha256(canonical_json(described))
    for name, array in arrays.items():
        digest.update(f"{name} {OF_NUMPY[array.dtype]} {list(array.shape)}\n".encode())
        digest.update(bytes_of(array))
    return digest.hexdigest()


def _set_facts(counts: TokenCounts) -> dict[str, Any]:
    return {
        "name": SET_NAME,
        "codebook_dims": list(counts.dims),
        "bit_order": counts.order,
        "axes": list(counts.axes),
        "joint": counts.joint is not None,
    }


def _parts_of(counter: Counter) -> tuple[dict[str, Any], Arrays]:
    """(the counter's JSON object, its tensors)."""
    sketch = counter.sketch
    if sketch is not None:
        parts = {
            "held_codes": sketch.held[0],
            "held_counts": sketch.held[1],
            "sampled_codes": sketch.sampled[0],
            "sampled_counts": sketch.sampled[1],
            "registers": sketch.registers,
            "both": np.ascontiguousarray(sketch.both),
        }
        return {"bits": counter.bits, "level": sketch.level, "total": sketch.total}, parts
    table = counter.table
    if table is not None and 2 * np.count_nonzero(table) > table.size:
        return {"bits": counter.bits}, {"counts": table}
    codes, counts = counter.exact_pairs() or (np.empty(0, np.uint64), np.empty(0, np.int64))
    return {"bits": counter.bits}, {"codes": codes.astype(np.uint64), "counts": counts}


class _InvalidError(Exception):
    """A file that contradicts itself; the text says how."""


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _InvalidError(otherwise)


def _sets_of(described: Any, arrays: Arrays, options: CountOptions) -> list[tuple[str, TokenCounts]]:
    _need(isinstance(described, dict) and described.get("format") == FORMAT, f"format is not {FORMAT!r}")
    version = described.get("version")
    _need(type(version) is int and version == VERSION, f"it has version {version}, this lfq reads version {VERSION}")
    _need(
        described.get("sha256") == _digest_of({k: v for k, v in described.items() if k != "sha256"}, arrays),
        "damaged: its sha256 does not match its content",
    )
    sets = described.get("sets")
    _need(isinstance(sets, list) and set(described) == {"format", "version", "sha256", "sets"}, "'sets' must be a list")
    found = [_set_of(number, facts, arrays, options) for number, facts in enumerate(sets)]
    _need(not arrays, f"it holds {', '.join(map(repr, arrays))}, which belong to no counter")
    return found


def _set_of(number: int, facts: Any, arrays: Arrays, options: CountOptions) -> tuple[str, TokenCounts]:
    _need(isinstance(facts, dict), f"set {number} is not an object")
    name, dims, order, axes = (facts.get(key) for key in ("name", "codebook_dims", "bit_order", "axes"))
    _need(isinstance(name, str), f"set {number} has no name")
    _need(_are_naturals(dims, 1, MAX_INDEX_BITS) and 0 < len(dims) <= _MOST_CODEBOOKS, f"codebook_dims is {dims!r}")
    _need(order in get_args(BitOrder), f"bit_order is {order!r}")
    _need(_are_naturals(axes, 1, _MOST_POSITIONS) and len(axes) <= 64, f"axes is {axes!r}")
    joint = facts.get("joint")
    _need(type(joint) is bool and not (joint and len(dims) == 1), f"joint is {joint!r}")
    kept = CountOptions(joint, bool(axes), options.min_count, options.memory_bytes)
    counts = TokenCounts(tuple(dims), order, kept, axes=tuple(axes), vectors=0)
    described = facts.get("counters")
    _need(isinstance(described, list) and len(described) == len(counts.counters()), "some of its counters are missing")
    counts.replace(
        [
            _counter_of(counter.bits, value, _take(arrays, f"{number}.{place}."), options.memory_bytes)
            for place, (counter, value) in enumerate(zip(counts.counters(), described, strict=True))
        ]
    )
    _need(len({c.total for c in counts.counters()}) == 1, f"{name!r}: the totals of its counters differ")
    for positions in counts.positions:  # each position has a code, so memory is not taken for what a header claims
        pairs = positions.counter.exact_pairs()
        _need(pairs is None or pairs[0].size >= prod(axes), f"{name!r} has fewer codes than positions")
    counts.options = options
    return name, counts


def _take(arrays: Arrays, prefix: str) -> Arrays:
    """Removes and returns the arrays of one counter; what is left in the end belongs to none."""
    return {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}


def _counter_of(bits: int, facts: Any, parts: Arrays, memory_bytes: int) -> Counter:
    _need(isinstance(facts, dict) and facts.get("bits") == bits, f"a counter of {bits} bits states another number")
    if "level" in facts:
        return Counter.of_sketch(_sketch_of(bits, facts, parts), memory_bytes)
    _need(set(parts) in ({"counts"}, {"codes", "counts"}), f"a counter holds {sorted(parts)}")
    counts = parts["counts"]
    _need(counts.dtype == np.int64 and counts.ndim == 1, "counts are not a list of 64-bit integers")
    if "codes" not in parts:
        _need(bits <= DENSE_BITS and counts.size == 1 << bits, f"{counts.size} counts of 2^{bits} codes")
        _check_counts(counts, least=0)
        return Counter.of_table(counts, bits, memory_bytes)
    _check_pairs(parts["codes"], counts, bits)
    return Counter.of_pairs(parts["codes"], counts, bits, memory_bytes)


def _sketch_of(bits: int, facts: Mapping[str, Any], parts: Arrays) -> Sketch:
    _need({name: OF_NUMPY[array.dtype] for name, array in parts.items()} == _SKETCH, f"a sketch holds {sorted(parts)}")
    level, total = facts["level"], facts.get("total", -1)
    _need(type(level) is int and 0 <= level < 64 - REGISTER_BITS + 1, f"level is {level!r}")
    _need(type(total) is int and 0 <= total < _MOST_INDICES, f"total is {total!r}")
    _need(parts["registers"].shape == (1 << REGISTER_BITS,), "a sketch has the wrong number of registers")
    _need(int(parts["registers"].max()) <= 64 - REGISTER_BITS + 1, "a register is out of range")
    both = parts["both"]
    _need(both.shape == (bits, bits) and (both == both.T).all(), "counts of bit pairs do not form a symmetric matrix")
    _need(bool((both >= 0).all() and (both <= total).all()), "a count of a bit pair is not between 0 and the total")
    ones = np.diagonal(both)
    _need(bool((both <= np.minimum.outer(ones, ones)).all()), "a pair of bits is 1 more often than one of its bits")
    held, sampled = parts["held_codes"], parts["sampled_codes"]
    _check_pairs(held, parts["held_counts"], bits, least=0)
    _check_pairs(sampled, parts["sampled_counts"], bits)
    _need(not np.intersect1d(held, sampled).size, "a code is both held and sampled")
    _need(bool(begins_with_zeros(mixed(sampled), level).all()), f"a sampled code does not belong to level {level}")
    known = int(parts["held_counts"].sum()) + int(parts["sampled_counts"].sum())
    _need(known <= total, f"its counts add up to {known}, more than the total of {total}")
    seen = registers_of(mixed(np.concatenate([held[parts["held_counts"] > 0], sampled])))
    _need(bool((seen <= parts["registers"]).all()), "its registers contradict its codes")
    return Sketch(
        bits=bits,
        capacity=max(1, parts["sampled_codes"].size),
        total=total,
        both=both,
        registers=parts["registers"],
        held=(parts["held_codes"], parts["held_counts"]),
        sampled=(parts["sampled_codes"], parts["sampled_counts"]),
        level=level,
    )


def _check_pairs(codes: NDArray[Any], counts: NDArray[Any], bits: int, least: int = 1) -> None:
    _need(codes.dtype == np.uint64 and counts.dtype == np.int64, "codes and counts must be 64-bit integers")
    _need(codes.ndim == 1 and codes.shape == counts.shape, f"{codes.shape} codes and {counts.shape} counts")
    _need(bool((codes[1:] > codes[:-1]).all()), "codes are not in ascending order")
    _need(not codes.size or int(codes[-1]) < 2**bits, f"a code has more than {bits} bits")
    _check_counts(counts, least)


def _check_counts(counts: NDArray[Any], least: int) -> None:
    _need(not (counts < least).any(), f"a count is below {least}")
    _need(float(counts.sum(dtype=np.float64)) < _MOST_INDICES, "there are too many indices")


def _are_naturals(value: Any, least: int, most: int) -> bool:
    return isinstance(value, list) and all(type(item) is int and least <= item <= most for item in value)
