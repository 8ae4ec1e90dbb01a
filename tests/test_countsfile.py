"""countsfile.py: what was counted comes back whole, merges as if counted at once, and nothing else passes for it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from lfq_cli import bits as packed_bits
from lfq_cli import countsfile
from lfq_cli.container import header_bytes
from lfq_cli.errors import CodesFileError, OutputError
from lfq_cli.statistics import CountOptions, TokenCounts

OPTIONS = CountOptions(by_position=True)
LITTLE = CountOptions(memory_bytes=1 << 17)  # 2,048 codes


def counts_of(bits, dims, order="msb", *, axes=(), options=OPTIONS, start=0):
    """Counters fed with bits [n, B]."""
    counts = TokenCounts(dims, order, options, axes=axes)
    stream = packed_bits.pack(bits)
    indices = packed_bits.stream_to_indices(stream, len(bits), dims, order, np.dtype(np.uint64))
    counts.take(counts.tally(indices, lambda: stream, start))
    return counts


def random_bits(count, width, seed=0):
    return np.random.default_rng(seed).random((count, width)) < np.linspace(0.05, 0.95, width)


SETS = {
    "one codebook": lambda: counts_of(random_bits(500, 10), (10,), axes=(5, 2)),
    "dense": lambda: counts_of(random_bits(3_000, 4), (4,)),
    "two codebooks, lsb": lambda: counts_of(random_bits(300, 12), (6, 6), "lsb", axes=(3,)),
    "64 bits": lambda: counts_of(random_bits(300, 64), (64,), axes=(100,)),
    "hashed": lambda: counts_of(random_bits(300, 144), (18,) * 8),
    "nothing": lambda: counts_of(random_bits(0, 18), (18,)),
    "a sketch": lambda: counts_of(random_bits(9_000, 40), (40,), options=LITTLE),
}


@pytest.mark.parametrize("make", SETS.values(), ids=SETS)
def test_what_was_written_is_read(make, tmp_path):
    path = tmp_path / "a.counts.safetensors"
    counts = make()
    countsfile.write([counts, counts], path)
    again = countsfile.read(path, counts.options)
    assert [name for name, _ in again] == ["all", "all"]
    for _, read in again:
        assert (read.dims, read.order, read.axes) == (counts.dims, counts.order, counts.axes)
        assert read.usage().as_json() == counts.usage().as_json()
    with safe_open(path, "numpy") as file:  # any reader opens it
        assert json.loads(file.metadata()["lfq"])["format"] == "lfq-counts"


@pytest.mark.parametrize("make", SETS.values(), ids=SETS)
def test_the_same_counts_are_the_same_bytes(make, tmp_path):
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    countsfile.write([make()], first)
    countsfile.write([make()], second)
    assert first.read_bytes() == second.read_bytes()
    before = first.stat().st_ino
    countsfile.write([make()], first)  # is there already
    assert first.stat().st_ino == before


def test_other_counts_are_not_replaced(tmp_path):
    path = tmp_path / "a.safetensors"
    countsfile.write([SETS["dense"]()], path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        countsfile.write([SETS["one codebook"]()], path)
    assert path.read_bytes() == before
    countsfile.write([SETS["one codebook"]()], path, overwrite=True)
    assert path.read_bytes() != before


@settings(max_examples=25)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=4), st.sampled_from([(4,), (18,), (40,), (3, 5), (40, 40)]))
def test_shards_merge_to_the_whole(tmp_path_factory, sizes, dims):
    folder = tmp_path_factory.mktemp("shards")
    rows = random_bits(sum(sizes) * 6, sum(dims))
    parts = np.split(rows, np.cumsum(sizes)[:-1] * 6)
    total = None
    for k, part in enumerate(parts):
        path = folder / f"{k}.safetensors"
        countsfile.write([counts_of(part, dims, axes=(2, 3))], path)
        ((_, counts),) = countsfile.read(path, OPTIONS)
        if total is None:
            total = counts
        else:
            total.merge(counts)
    assert total.usage().as_json() == counts_of(rows, dims, axes=(2, 3)).usage().as_json()


def test_every_flipped_bit_is_seen(tmp_path):
    path = tmp_path / "a.safetensors"
    countsfile.write([counts_of(random_bits(5, 6), (6,))], path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        try:
            ((_, counts),) = countsfile.read(path, OPTIONS)
        except CodesFileError:
            continue
        assert counts.usage().as_json() == counts_of(random_bits(5, 6), (6,)).usage().as_json(), position  # white space


def rewritten(path, change_header=lambda value: None, change_arrays=lambda arrays: None):
    """The file with its parts changed and its digest made right again: what a program that lies would write."""
    with safe_open(path, "numpy") as file:
        value = json.loads(file.metadata()["lfq"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    order = sorted(arrays, key=lambda name: [int(part) if part.isdecimal() else part for part in name.split(".")])
    arrays = {name: arrays[name] for name in order}
    change_arrays(arrays)
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    del value["sha256"]
    change_header(value)
    value["sha256"] = countsfile._digest_of(value, arrays) if known(arrays) else ""
    names = {"uint8": "U8", "int64": "I64", "uint64": "U64", "float32": "F32", "int32": "I32"}
    stored = {name: (names[array.dtype.name], array.shape) for name, array in arrays.items()}
    path.write_bytes(header_bytes({"lfq": json.dumps(value)}, stored) + data)


def known(arrays):
    return {array.dtype.name for array in arrays.values()} <= {"uint8", "int64", "uint64"}


def entry(key, value):
    return lambda header: header["sets"][0].__setitem__(key, value)


def array(name, change):
    return lambda arrays: arrays.__setitem__(name, change(arrays[name]))


HEADERS = {
    "another format": lambda header: header.update(format="lfq-codes"),
    "another version": lambda header: header.update(version=2),
    "version true": lambda header: header.update(version=True),
    "a surplus key": lambda header: header.update(more=1),
    "no sets": lambda header: header.update(sets=None),
    "sets of nothing": lambda header: header.update(sets=[None]),
    "a set too few": lambda header: header.update(sets=[]),
    "no name": entry("name", 3),
    "no codebooks": entry("codebook_dims", []),
    "a codebook of 65 bits": entry("codebook_dims", [65]),
    "other bits": entry("codebook_dims", [11]),
    "true bits": entry("codebook_dims", [True]),
    "another order": entry("bit_order", "big"),
    "a joint counter of one codebook": entry("joint", True),
    "more positions than codes": entry("axes", [1 << 30]),
    "axes of nothing": entry("axes", [0]),
    "axes without counters": entry("axes", [2]),
    "no counters": entry("counters", []),
    "counters of nothing": entry("counters", [None]),
    "a level of exact counts": entry("counters", [{"bits": 10, "level": 2, "total": 3}]),
}
ARRAYS = {
    "codes that fall": array("0.0.codes", lambda codes: codes[::-1]),
    "a code twice": array("0.0.codes", lambda codes: np.repeat(codes[:1], codes.size)),
    "a code too large": array("0.0.codes", lambda codes: codes + np.uint64(1 << 20)),
    "a count of 0": array("0.0.counts", lambda counts: counts * 0),
    "a negative count": array("0.0.counts", lambda counts: -counts),
    "a count too few": array("0.0.counts", lambda counts: counts[1:]),
    "counts that overflow": array("0.0.counts", lambda counts: counts + (1 << 61)),
    "counts of floats": array("0.0.counts", lambda counts: counts.astype(np.float32)),
    "counts of 32 bits": array("0.0.counts", lambda counts: counts.astype(np.int32)),
    "a square of counts": array("0.0.counts", lambda counts: counts[None]),
    "no counts": lambda arrays: arrays.pop("0.0.counts"),
    "a table of the wrong size": lambda arrays: arrays.pop("0.0.codes"),
    "a counter of nobody": lambda arrays: arrays.update({"1.0.counts": np.ones(1, np.int64)}),
    "a name of nobody": lambda arrays: arrays.update(more=np.ones(1, np.int64)),
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_headers_that_contradict_themselves(change, tmp_path):
    path = tmp_path / "a.safetensors"
    countsfile.write([counts_of(random_bits(30, 10), (10,))], path)
    rewritten(path)
    assert countsfile.read(path, OPTIONS)
    rewritten(path, change_header=change)
    with pytest.raises(CodesFileError, match="not a valid counts file"):
        countsfile.read(path, OPTIONS)


@pytest.mark.parametrize("change", ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_are_no_counts(change, tmp_path):
    path = tmp_path / "a.safetensors"
    countsfile.write([counts_of(random_bits(30, 10), (10,))], path)
    rewritten(path, change_arrays=change)
    with pytest.raises(CodesFileError, match="not a valid counts file"):
        countsfile.read(path, OPTIONS)


@pytest.mark.parametrize(
    "change",
    [
        array("0.0.registers", lambda registers: registers[1:]),
        array("0.0.registers", lambda registers: registers | np.uint8(128)),
        array("0.0.both", lambda both: both[:4]),
        array("0.0.both", lambda both: -both),
        array("0.0.both", lambda both: both + np.arange(both.shape[0])),
        array("0.0.both", lambda both: both + 9_000),
        array("0.0.both", lambda both: np.where(np.eye(len(both), dtype=bool), 0, both)),
        array("0.0.registers", lambda registers: registers * np.uint8(0)),
        array("0.0.sampled_counts", lambda counts: counts * 1_000),
        array("0.0.held_counts", lambda counts: counts * 1_000),
        lambda arrays: arrays.update(
            {"0.0.sampled_codes": arrays["0.0.held_codes"], "0.0.sampled_counts": arrays["0.0.held_counts"]}
        ),
        array("0.0.sampled_codes", lambda codes: codes[::-1]),
        array("0.0.held_counts", lambda counts: -counts - 1),
        lambda arrays: arrays.pop("0.0.both"),
    ],
)
def test_sketches_that_are_none(change, tmp_path):
    path = tmp_path / "a.safetensors"
    countsfile.write([SETS["a sketch"]()], path)
    rewritten(path)
    assert countsfile.read(path, LITTLE)
    rewritten(path, change_arrays=change)
    with pytest.raises(CodesFileError, match="not a valid counts file"):
        countsfile.read(path, LITTLE)


def test_a_level_that_its_codes_do_not_have(tmp_path):
    path = tmp_path / "a.safetensors"
    countsfile.write([SETS["a sketch"]()], path)

    def deeper(header):
        header["sets"][0]["counters"][0]["level"] += 1

    rewritten(path, change_header=deeper)
    with pytest.raises(CodesFileError, match="level"):
        countsfile.read(path, LITTLE)


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(CodesFileError, match="no such file"):
        countsfile.read(path, OPTIONS)
    path.write_bytes(header_bytes({}, {}))
    with pytest.raises(CodesFileError, match="not a valid counts file"):
        countsfile.read(path, OPTIONS)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(CodesFileError):
        countsfile.read(path, OPTIONS)


def test_a_header_costs_no_memory(tmp_path):
    """More positions than the file has codes for."""
    path = tmp_path / "a.safetensors"
    countsfile.write([SETS["64 bits"]()], path)
    rewritten(path, change_header=entry("axes", [1 << 30, 1 << 30]))
    with pytest.raises(CodesFileError, match="not a valid counts file"):
        countsfile.read(path, OPTIONS)
