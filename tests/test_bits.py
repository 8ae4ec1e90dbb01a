"""bits.py against Python integers, the twin and numpy: any widths, any count, any cut."""

from typing import get_args

import numpy as np
import pytest
import twin
from hypothesis import given
from hypothesis import strategies as st

from lfq_cli import bits
from lfq_cli.cli.encode import Packing
from lfq_cli.packings import PACKINGS

pytestmark = pytest.mark.slow

ORDERS = ("msb", "lsb")
INT_DTYPES = [np.dtype(name) for name in ("u1", "i2", "i4", "i8", "u8")]

equal_dims = st.builds(lambda d, c: (d,) * c, st.integers(1, 64), st.integers(1, 6))
unequal_dims = st.lists(st.integers(1, 64), min_size=1, max_size=6).map(tuple)
any_dims = equal_dims | unequal_dims


def padded(text):
    """A string of 0 and 1 -> its bytes, zeros behind."""
    text += "0" * (-len(text) % 8)
    return np.frombuffer(int(text or "0", 2).to_bytes(len(text) // 8, "big"), np.uint8)


def text_of(data, count):
    """The first `count` bits of the bytes as a string of 0 and 1."""
    return "".join(f"{byte:08b}" for byte in bytes(data))[:count]


def numbers_of(text, dims, order):
    """The string's fields as rows of Python integers."""
    numbers, position = [], 0
    while position < len(text):
        row = []
        for width in dims:
            field = text[position : position + width]
            row.append(int(field if order == "msb" else field[::-1], 2))
            position += width
        numbers.append(row)
    return numbers


def holding(dims):
    """Every integer type that holds indices of these widths."""
    return [dtype for dtype in INT_DTYPES if np.iinfo(dtype).max >= 2 ** max(dims) - 1]


@st.composite
def coded(draw, dims=any_dims, most=20):
    """(dims, vectors, the stream's bits as a string)."""
    widths = draw(dims)
    vectors = draw(st.integers(0, most))
    count = vectors * sum(widths)
    return widths, vectors, text_of(draw(st.binary(min_size=-(-count // 8), max_size=-(-count // 8))), count)


@pytest.mark.parametrize("order", ORDERS)
@given(coded(), st.data())
def test_indices_are_pythons_integers(order, case, data):
    dims, vectors, text = case
    dtype = data.draw(st.sampled_from(holding(dims)))
    indices = bits.stream_to_indices(padded(text), vectors, dims, order, dtype)
    assert (indices.shape, indices.dtype) == ((vectors, len(dims)), dtype)
    assert indices.tolist() == numbers_of(text, dims, order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("width", range(1, 65))
def test_indices_of_every_width(order, width):
    rng = np.random.default_rng(width)
    text = "1" * width + "0" * width + "".join(map(str, rng.integers(0, 2, 29 * width)))
    for dims in ((width,), (width, width)):
        rows = text[: len(text) - len(text) % sum(dims)]
        stream = padded(rows)
        indices = bits.stream_to_indices(stream, len(rows) // sum(dims), dims, order, bits.index_dtype(dims))
        assert indices.tolist() == numbers_of(rows, dims, order)
        assert (bits.pack(bits.indices_to_bits(indices, dims, order)) == stream).all()


@pytest.mark.parametrize("order", ORDERS)
@given(coded(), st.binary(max_size=9))
def test_what_follows_the_vectors_is_not_read(order, case, more):
    dims, vectors, text = case
    followed = padded(text + text_of(more, 8 * len(more)))
    indices = bits.stream_to_indices(followed, vectors, dims, order, bits.index_dtype(dims))
    assert indices.tolist() == numbers_of(text, dims, order)


@pytest.mark.parametrize("order", ORDERS)
@given(coded(), st.data())
def test_bits_of_indices_of_any_type(order, case, data):
    dims, vectors, text = case
    dtype = data.draw(st.sampled_from(holding(dims)))
    indices = np.array(numbers_of(text, dims, order), dtype).reshape(vectors, len(dims))
    unpacked = bits.indices_to_bits(indices, dims, order)
    assert (unpacked.dtype, unpacked.shape) == (np.bool_, (vectors, sum(dims)))
    assert "".join(map(str, unpacked.astype(int).reshape(-1))) == text


@given(coded(unequal_dims))
def test_the_twin_agrees_on_both_orders(case):
    dims, vectors, text = case
    rows = [[int(bit) for bit in text[i : i + sum(dims)]] for i in range(0, len(text), sum(dims))]
    for order in ORDERS:
        config = twin.Config(sum(dims), dims, bit_order=order)
        indices = bits.stream_to_indices(padded(text), vectors, dims, order, bits.index_dtype(dims))
        assert [tuple(row) for row in indices.tolist()] == twin.indices_of(rows, config)


@pytest.mark.parametrize("order", ORDERS)
def test_many_vectors(order):
    """Long enough for numpy's vector loops; against unpackbits and a dot product."""
    dims, vectors = (18, 5), 100_003
    unpacked = np.random.default_rng(0).integers(0, 2, (vectors, 23), dtype=np.uint8)
    indices = bits.stream_to_indices(np.packbits(unpacked), vectors, dims, order, np.dtype(np.int32))
    for k, field in enumerate((unpacked[:, :18], unpacked[:, 18:])):
        weights = 1 << np.arange(field.shape[1], dtype=np.int64)
        assert np.array_equal(indices[:, k], field @ (weights[::-1] if order == "msb" else weights))


@pytest.mark.parametrize("width", range(1, 65))
def test_index_dtype_is_the_smallest_that_holds(width):
    smallest = next(dtype for dtype in INT_DTYPES if np.iinfo(dtype).max >= 2**width - 1)
    assert bits.index_dtype((width,)) == bits.index_dtype((1, width, 1)) == smallest


@given(coded())
def test_pack_and_unpack(case):
    dims, vectors, text = case
    unpacked = np.array([bit == "1" for bit in text], np.bool_).reshape(vectors, sum(dims))
    stream = bits.pack(unpacked)
    assert stream.tobytes() == twin.stream_of(unpacked.astype(int).tolist())
    assert stream.size == bits.stream_bytes(vectors, sum(dims))
    again = bits.unpack(stream, vectors, sum(dims))
    assert again.dtype == np.bool_
    assert np.array_equal(again, unpacked)


@pytest.mark.parametrize("scratch", [None, np.empty(2 * 40 + 1, np.uint8)])
@given(st.lists(st.integers(0, 40) | st.integers(0, 40).map(lambda n: 8 * n), max_size=12), st.randoms())
def test_joining_equals_packing_at_once(scratch, sizes, random):
    text = "".join(random.choice("01") for _ in range(sum(sizes)))
    joiner, joined, position = bits.StreamJoiner(scratch), b"", 0
    for twice in range(2):  # a joiner that has finished begins anew
        joined, position = b"", 0
        for size in sizes:
            run = padded(text[position : position + size])
            before = run.copy()
            joined += joiner.join(run, size).tobytes()
            assert (run == before).all()
            position += size
            assert len(joined) == position // 8  # every whole byte is out at once
        joined += joiner.finish().tobytes()
        assert joined == padded(text).tobytes(), twice


@given(st.binary(max_size=20), st.data())
def test_cut_stream(data, draw):
    skip = draw.draw(st.integers(0, min(7, 8 * len(data))))
    count = draw.draw(st.integers(0, 8 * len(data) - skip))
    stream = np.frombuffer(data, np.uint8)  # read-only: writing into it would raise
    cut = bits.cut_stream(stream, skip, count)
    assert cut.tobytes() == padded(text_of(data, skip + count)[skip:]).tobytes()


# Packings


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", PACKINGS)
@given(coded(), st.data())
def test_every_packing_round_trips(name, order, case, data):
    dims, vectors, text = case
    stream, packing = padded(text), PACKINGS[name]
    stored = packing.pack(stream, vectors, dims, order, data.draw(st.sampled_from(holding(dims))))
    assert packing.unpack(stored, vectors, dims, order).tobytes() == stream.tobytes()


@given(coded())
def test_rows_start_at_a_byte(case):
    dims, vectors, text = case
    width = sum(dims)
    rows = PACKINGS["rows"].pack(padded(text), vectors, dims, "msb", np.dtype(np.uint8))
    assert (rows.dtype, rows.shape) == (np.uint8, (vectors, -(-width // 8)))
    assert [text_of(row, width) for row in rows] == [text[i * width : (i + 1) * width] for i in range(vectors)]
    assert not any(int(text_of(row, None)[width:] or "0", 2) for row in rows)


@pytest.mark.parametrize("order", ORDERS)
@given(coded())
def test_ints_are_the_indices(order, case):
    dims, vectors, text = case
    ints = PACKINGS["ints"].pack(padded(text), vectors, dims, order, bits.index_dtype(dims))
    assert ints.tolist() == numbers_of(text, dims, order)


@given(st.lists(st.integers(0, 30), max_size=6), st.integers(0, 2**32))
def test_joined_streams_are_their_bits_one_after_the_other(sizes, seed):
    random = np.random.default_rng(seed)
    parts = [random.integers(0, 2, size).astype(bool) for size in sizes]
    found = bits.join_streams([np.packbits(part) for part in parts], np.array(sizes, np.int64))
    assert np.array_equal(found, np.packbits(np.concatenate([np.empty(0, bool), *parts])))


def test_the_command_takes_every_packing():
    assert set(get_args(get_args(Packing)[0])) == set(PACKINGS)
