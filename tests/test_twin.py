"""The twin against numbers a person can verify: literals worked out by hand, and numpy.packbits."""

import hashlib
import json
import math
import struct

import numpy as np
import pytest
import twin
from twin import Config

NAN, INF = math.nan, math.inf


def z_of(*rows):
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize(
    ("shape", "channel_first", "axis"),
    [
        ((18,), None, 0),
        ((18,), True, 0),
        ((4, 18), None, 1),
        ((4, 18), True, 1),
        ((4, 7, 18), None, 2),
        ((4, 18, 7), True, 1),
        ((2, 18, 16, 16), None, 1),
        ((2, 16, 16, 18), False, 3),
        ((2, 18, 4, 16, 16), None, 1),
    ],
)
def test_channel_axis(shape, channel_first, axis):
    assert twin.channel_axis(shape, channel_first) == axis


def test_a_scalar_has_no_channel_axis():
    with pytest.raises(ValueError, match="0-D"):
        twin.channel_axis((), None)


def test_vectors_of_reads_the_channels_of_each_position():
    x = np.arange(6).reshape(1, 2, 1, 3)  # channel 0 is 0 1 2, channel 1 is 3 4 5
    assert twin.vectors_of(x, None).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert twin.vectors_of(x, False).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert twin.vectors_of(np.array([7, 8]), None).tolist() == [[7, 8]]
    assert twin.vectors_of(np.zeros((0, 5)), None).shape == (0, 5)


def test_index_shape():
    assert twin.index_shape((64, 18, 16, 16), Config(18, (18,))) == (64, 16, 16)
    assert twin.index_shape((64, 24, 16, 16), Config(24, (8, 8, 8))) == (64, 16, 16, 3)
    assert twin.index_shape((5, 18), Config(18, (18,), keep_num_codebooks_dim=True)) == (5, 1)
    assert twin.index_shape((18,), Config(18, (18,))) == ()


# The values at the edge of 0, then their nine bits, 100001011: as a number 267, read backwards
# 110100001 = 417, and in bytes 10000101 1....... = 85 80.
EDGES = [1.0, -1.0, 0.0, -0.0, NAN, 1e-45, -1e-45, INF, 2.0]
EDGE_BITS = [1, 0, 0, 0, 0, 1, 0, 1, 1]


def test_bits_at_the_edges():
    bits = twin.bits_of(z_of(EDGES), Config(9, (9,)))
    assert bits == [EDGE_BITS]
    assert twin.indices_of(bits, Config(9, (9,))) == [(267,)]
    assert twin.indices_of(bits, Config(9, (9,), bit_order="lsb")) == [(417,)]
    assert twin.indices_of(bits, Config(9, (4, 5))) == [(0b1000, 0b01011)]
    assert twin.stream_of(bits) == b"\x85\x80"


@pytest.mark.parametrize(
    ("row", "bits"),
    [
        ([3.0, -4.0, 1.0, 1.0], [1, 0, 1, 1]),
        ([1e-45, 1e10, 1.0, 1.0], [0, 1, 1, 1]),  # 1e-55 is 0 in float32
        ([1e20, 1e20, 1.0, 1.0], [0, 0, 1, 1]),  # the norm overflows: 1e20 / inf
        ([INF, 1.0, 1.0, 1.0], [0, 0, 1, 1]),  # inf / inf and 1 / inf
        ([NAN, 1.0, 1.0, 1.0], [0, 0, 1, 1]),  # each codebook has its own norm
        ([1e-45, -1e-45, 0.0, 0.0], [1, 0, 0, 0]),  # the norm is 0: divided by 1e-12
    ],
)
def test_spherical_bits(row, bits):
    assert twin.bits_of(z_of(row), Config(4, (2, 2), spherical=True)) == [bits]


def test_a_soft_clamp_loses_what_its_division_loses():
    config = Config(3, (3,), soft_clamp_input_value=10.0)
    assert twin.bits_of(z_of([1e-45, 0.1, -50.0]), config) == [[0, 1, 0]]


def test_float64_is_refused():
    with pytest.raises(ValueError, match="float64"):
        twin.bits_of(np.zeros((1, 3)), Config(3, (3,)))


@pytest.mark.parametrize("d", [1, 31, 32, 33, 53, 54, 63, 64])
def test_indices_are_exact(d):
    first, ones = [1] + [0] * (d - 1), [1] * d
    msb, lsb = Config(d, (d,)), Config(d, (d,), bit_order="lsb")
    assert twin.indices_of([first, ones], msb) == [(2 ** (d - 1),), (2**d - 1,)]
    assert twin.indices_of([first, ones], lsb) == [(1,), (2**d - 1,)]
    assert twin.bits_of_index(2 ** (d - 1), d, "msb") == first == twin.bits_of_index(1, d, "lsb")
    with pytest.raises(ValueError, match="is not in"):
        twin.bits_of_index(2**d, d, "msb")


def test_codes():
    bits = [[1, 0, 0, 1, 1]]
    assert twin.codes_of(bits, Config(5, (5,), 0.25)).tolist() == [[0.25, -0.25, -0.25, 0.25, 0.25]]
    spherical = twin.codes_of(bits, Config(5, (4, 1), 3.0, spherical=True))
    assert spherical.tolist() == [[1.5, -1.5, -1.5, 1.5, 3.0]]  # 3 / sqrt(4 * 9) * 3; 3 / 3 * 3
    assert spherical.dtype == np.float32
    # sqrt(6) = 2.4494898 in float32; 1 / it is 3ed105eb, where float32(6 ** -0.5) is 3ed105ec
    assert twin.codes_of([[1] * 6], Config(6, (6,), spherical=True)).view(np.uint32)[0, 0] == 0x3ED105EB


def test_project_rounds_once():
    x, weight, bias = z_of([1, 2]), z_of([3, 4], [5, 6]), z_of([0.5, -1])[0]
    assert twin.project(x, weight, bias).tolist() == [[11.5, 16.0]]
    assert twin.project(x, weight, None).tolist() == [[11.0, 17.0]]
    assert twin.project(z_of([1e8, 1, -1e8]), z_of([1, 1, 1]), None).tolist() == [[1.0]]  # 0 in float32


def test_a_tensor_is_its_vectors_put_back():
    for shape, channel_first in (((2, 3, 4, 5), None), ((2, 3, 4), None), ((2, 3, 4), True), ((3,), None)):
        x = np.arange(math.prod(shape)).reshape(shape)
        assert np.array_equal(twin.tensor_of(twin.vectors_of(x, channel_first), shape, channel_first), x)


def test_cosine_projection():
    columns = z_of([3, -4, 0], [4, 3, 2])  # along x, across it, and 8 / (5 * 2)
    assert twin.project_cosine(z_of([3, 4]), columns, 2.0).tolist() == [[2.0, 0.0, np.float32(1.6)]]


QUARTER = z_of([0, 1], [-1, 0])  # (a, b) @ it = (-b, a)


def test_rotation():
    z = z_of([2, 1])
    assert twin.values_of(z, Config(2, (2,)), QUARTER) == [[-1, 2]]
    assert twin.codes_of([[0, 1]], Config(2, (2,)), QUARTER).tolist() == [[1, 1]]  # (-1, 1) rotated back


def test_levels_halve_what_they_add():
    config = Config(1, (1,), levels=3)
    latents = twin.latents_of(z_of([0.3], [-2]), config, {})
    assert np.allclose(latents, [[0.3, -0.7, -0.2], [-2, -1, -0.5]])
    bits = twin.positive(latents)
    assert bits == [[1, 0, 0], [0, 0, 0]]
    assert twin.decoded(bits, config, {}).tolist() == [[0.25], [-1.75]]  # 1 - 1/2 - 1/4
    assert twin.indices_of(bits, config) == [(1, 0, 0), (0, 0, 0)]


def test_each_level_turns_by_its_own_rotation():
    """(2, 0.25) is bits 11, which leave (1, -0.75); rotated that is (0.75, 1), so ±1/2 along rotated axes."""
    config = Config(2, (2,), levels=2)
    weights = {"layers.0.orthogonal_rot": np.eye(2, dtype=np.float32), "layers.1.orthogonal_rot": QUARTER}
    latents = twin.latents_of(z_of([2, 0.25]), config, weights)
    assert latents == [[2, 0.25, 0.75, 1]]
    assert twin.decoded([[1, 1, 1, 1]], config, weights).tolist() == [[1.5, 0.5]]  # (1, 1) + (1/2, -1/2)


def test_groups_are_side_by_side():
    config = Config(2, (1,), levels=2, groups=2)
    weights = {
        f"rvqs.{g}.{name}": z_of([value])
        for g, value in ((0, 1), (1, -1))
        for name in ("project_in.weight", "project_out.weight")
    }
    bits = twin.positive(twin.latents_of(z_of([2, 2]), config, weights))
    assert bits == [[1, 1, 0, 0]]  # the second group's weight turns its sign
    assert twin.decoded(bits, config, weights).tolist() == [[1.5, 1.5]]
    assert twin.decoded(bits, config, weights, project_out=False).tolist() == [[1.5, -1.5]]
    assert config.bits_of_indices == (1, 1, 1, 1)
    assert twin.index_shape((5, 2), config) == (5, 4)


def test_a_cut_is_of_the_indices_alone():
    config = Config(4, (2, 2), index_dims=(1, 3), spherical=True)
    assert twin.indices_of([[1, 0, 1, 1]], config) == [(1, 3)]
    assert (
        twin.codes_of([[1, 0, 1, 1]], config).tolist()
        == twin.codes_of([[1, 0, 1, 1]], Config(4, (2, 2), spherical=True)).tolist()
    )
    assert twin.index_shape((5, 4), config) == (5, 2)
    assert twin.index_shape((5, 4), Config(4, (2, 2), index_dims=(4,))) == (5,)


def test_packings_by_hand():
    bits = [[1, 0, 1], [0, 1, 1]]  # 101 011 00 = ac; 101 00000 = a0; 011 00000 = 60
    assert twin.stream_of(bits) == b"\xac"
    assert twin.rows_of(bits) == b"\xa0\x60"
    assert twin.bits_from_stream(b"\xac", 2, 3) == twin.bits_from_rows(b"\xa0\x60", 2, 3) == bits
    assert twin.stream_of([]) == twin.rows_of([]) == b""
    for data, read in ((b"\xad", twin.bits_from_stream), (b"\xa0\x61", twin.bits_from_rows)):
        with pytest.raises(ValueError, match="tail"):
            read(data, 2, 3)
        with pytest.raises(ValueError, match="bytes for"):
            read(data + b"\x00", 2, 3)


@pytest.mark.parametrize("width", [1, 3, 8, 9, 18, 64])
def test_packings_are_numpys(width):
    array = np.random.default_rng(width).integers(0, 2, (11, width), dtype=np.uint8)
    bits = array.tolist()
    stream, rows = np.packbits(array).tobytes(), np.packbits(array, axis=-1).tobytes()
    assert (twin.stream_of(bits), twin.rows_of(bits)) == (stream, rows)
    assert twin.bits_from_stream(stream, 11, width) == twin.bits_from_rows(rows, 11, width) == bits


GOLDEN = (  # 0x012c = 300 header bytes, then 101 011 00; the digest is `printf '\xac' | sha256sum`
    b"\x2c\x01\x00\x00\x00\x00\x00\x00"
    rb'{"__metadata__":{"lfq":"{\"format\":\"lfq-codes\",\"version\":1,\"tensors\":{\"a\":{\"shape\":[2],'
    rb"\"codebook_dims\":[3],\"bit_order\":\"msb\",\"packing\":\"bits\",\"sha256\":"
    rb'\"ee6bb86b44339392bae631c8f61dd8f009243c635adab33c0b20923a2794bf22\"}}}"},'
    rb'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    b"\xac"
)


def test_golden_file(tmp_path):
    path = tmp_path / "golden.safetensors"
    path.write_bytes(GOLDEN)
    metadata, tensors = twin.read_safetensors(path)
    assert list(metadata) == ["lfq"]
    assert tensors == {"a": ("U8", [1], b"\xac")}
    ((name, (entry, bits)),) = twin.read_codes_file(path).items()
    assert (name, entry["shape"], bits) == ("a", [2], [[1, 0, 1], [0, 1, 1]])
    for damaged in (GOLDEN[:7], GOLDEN[:-1], GOLDEN + b"\x00", GOLDEN[:-1] + b"\xa8"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"length|end where|sha256"):
            twin.read_codes_file(path)


def read(path, data, dtype, stored_shape, /, top=None, **entry):
    """What the twin reads of a file of one tensor whose header says what it is given."""
    entry = {"bit_order": "msb", "sha256": hashlib.sha256(data).hexdigest()} | entry
    lfq = {"format": "lfq-codes", "version": 1, "tensors": {"a": entry}} | (top or {})
    info = {"dtype": dtype, "shape": stored_shape, "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {"lfq": json.dumps(lfq)}, "a": info}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return twin.read_codes_file(path)["a"][1]


@pytest.mark.parametrize(
    ("stored", "shape", "entry", "bits"),
    [
        ((b"\xa0\x60", "U8", [2, 1]), [2], {"codebook_dims": [3], "packing": "rows"}, [[1, 0, 1], [0, 1, 1]]),
        ((b"\x02\x01", "U8", [1, 2]), [1, 2], {"codebook_dims": [2, 3]}, [[1, 0, 0, 0, 1]]),
        (
            (b"\x02\x01", "U8", [1, 2]),
            [1, 2],
            {"codebook_dims": [2, 3], "bit_order": "lsb"},
            [[0, 1, 1, 0, 0]],
        ),
        ((b"\x00\x01", "I16", [1]), [1], {"codebook_dims": [9]}, [[1] + [0] * 8]),
        ((b"\x00\x00\x00\x00\x00\x00\x00\x80", "U64", []), [], {"codebook_dims": [64]}, [[1] + [0] * 63]),
        (
            (b"\x03\x00\x00\x00", "I32", [1, 1]),
            [1, 1],
            {"codebook_dims": [3]},
            [[0, 1, 1]],
        ),  # wider than needed
        ((b"", "U8", [0]), [0, 2], {"codebook_dims": [3, 3], "packing": "bits"}, []),
    ],
)
def test_packings_in_files(tmp_path, stored, shape, entry, bits):
    assert read(tmp_path / "f", *stored, **({"packing": "ints", "shape": shape} | entry)) == bits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": {"version": True}}, "version"),
        ({"top": {"version": 3}}, "version"),
        ({"top": {"format": "lfq-checkpoint"}}, "format"),
        ({"top": {"tensors": {}}}, "header names"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"shape": [3]}, "stored shape"),  # 9 bits
        ({"shape": [1]}, "tail"),
        ({"shape": [2.0]}, "shape"),
        ({"shape": [2, 2], "codebook_dims": [1, 1, 1]}, "codebooks"),
        ({"codebook_dims": []}, "codebook_dims"),
        ({"codebook_dims": [65]}, "codebook_dims"),
        ({"bit_order": "big"}, "bit_order"),
        ({"packing": "bytes"}, "packing"),
        ({"packing": "ints", "shape": [1]}, "not in"),  # 0xac in 3 bits
        ({"packing": "ints", "shape": [1], "codebook_dims": [9]}, "in U8"),
        ({"source": {"shape": [2, 3, 4], "layout": "channel-first"}}, "of"),
    ],
)
def test_what_a_file_must_not_say(tmp_path, change, message):
    good = {"shape": [2], "codebook_dims": [3], "packing": "bits"}
    assert read(tmp_path / "f", b"\xac", "U8", [1], **good) == [[1, 0, 1], [0, 1, 1]]
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "f", b"\xac", "U8", [1], **(good | change))


def test_statistics():
    counter = twin.counts_of([(5,), (7,), (5,), (6,)])
    assert counter == {(5,): 2, (6,): 1, (7,): 1}
    assert twin.entropy_bits(counter) == 1.5  # 1/2 * 1 + 1/4 * 2 + 1/4 * 2
    assert twin.perplexity(counter) == pytest.approx(2 * math.sqrt(2))
    assert twin.entropy_bits(twin.counts_of([])) == 0.0
    assert twin.perplexity(twin.counts_of([3, 3])) == 1.0
