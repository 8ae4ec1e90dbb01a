"""codesfile/ against DESIGN section 4: golden bytes, the twin, numpy's own indexing, and files that lie."""

import copy
import hashlib
import json
import pickle
import struct
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from unittest import mock
from unittest.mock import patch

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import twin
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

from lfq_cli import codesfile
from lfq_cli.bits import index_dtype, pack
from lfq_cli.codesfile import CodesHeader, CodesTensor, SourceInfo, open_codes, reader, stored_dtype
from lfq_cli.container import header_bytes
from lfq_cli.dtypes import NUMPY
from lfq_cli.errors import CodesFileError, OptionError
from lfq_cli.layout import axis_of, geometry_of, positions_shape
from lfq_cli.packings import PACKINGS
from lfq_cli.regions import InputFile

INTS = ("U8", "I16", "I32", "I64", "U64")


# Golden files: version 1 is this layout for ever. Four vectors of five bits, 10101 01110 11111 00001.

GOLDEN_BITS = [[1, 0, 1, 0, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]
TOP = (
    rb'{"__metadata__":{"lfq":"{\"format\":\"lfq-codes\",\"version\":1,'
    rb"\"quantizer\":{\"type\":\"lfq\",\"dim\":5,\"codebook_size\":32},"
    rb"\"checkpoint_sha256\":\"abababababababababababababababababababababababababababababababab\","
    rb"\"compute_dtype\":\"float32\",\"tensors\":{\"z\":{"
)
GOLDEN = {  # one for every packing; each sha256 is that of the last bytes, as `printf '\xab\xbe\x10' | sha256sum` says
    "bits": b"\x40\x02\0\0\0\0\0\0"
    + TOP
    + rb"\"shape\":[1,2,2],\"codebook_dims\":[5],\"bit_order\":\"msb\",\"packing\":\"bits\","
    rb"\"sha256\":\"aaf2b1dce968766bfefa41689408dc8f6023ffecf79aee74f83b637c14e292f3\","
    rb"\"source\":{\"shape\":[1,5,2,2],\"dtype\":\"F32\",\"layout\":\"channel-first\"}}}}"
    rb'"},"z":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}       '
    b"\xab\xbe\x10",  # 10101 011,10 11111 0,0001 0000
    "rows": b"\x38\x02\0\0\0\0\0\0"
    + TOP
    + rb"\"shape\":[4,2],\"codebook_dims\":[2,3],\"bit_order\":\"lsb\",\"packing\":\"rows\","
    rb"\"sha256\":\"98d0a22461d67c61c6c01d5ca55fe78ebfb6af3615cf109c365a58484569ba1d\","
    rb"\"source\":{\"shape\":[4,5],\"dtype\":\"F32\",\"layout\":\"channel-last\"}}}}"
    rb'"},"z":{"dtype":"U8","shape":[4,1],"data_offsets":[0,4]}}  '
    b"\xa8\x70\xf8\x08",
    "ints": b"\x38\x02\0\0\0\0\0\0"
    + TOP
    + rb"\"shape\":[4,2],\"codebook_dims\":[2,3],\"bit_order\":\"lsb\",\"packing\":\"ints\","
    rb"\"sha256\":\"ab64e63911d2b8c30147c7e2079960d1d241eb95396ac95e0a40c7dbec85b517\","
    rb"\"source\":{\"shape\":[4,5],\"dtype\":\"F32\",\"layout\":\"channel-last\"}}}}"
    rb'"},"z":{"dtype":"U8","shape":[4,2],"data_offsets":[0,8]}}  '
    b"\1\5\2\3\3\7\0\4",  # 10 101 is 1 5 with the least significant bit first
}
GOLDEN_INDICES = {
    "bits": [[[21, 14], [31, 1]]],
    "rows": [[1, 5], [2, 3], [3, 7], [0, 4]],
    "ints": [[1, 5], [2, 3], [3, 7], [0, 4]],
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_golden_files_are_read(path, packing):
    path.write_bytes(GOLDEN[packing])
    with open_codes(path) as codes:
        assert codes["z"][...].tolist() == GOLDEN_INDICES[packing]
        codes["z"].check_digest()
        header = codes.header
    assert header.quantizer == {"type": "lfq", "dim": 5, "codebook_size": 32}
    assert (header.checkpoint_sha256, header.compute_dtype, header.assumed) == ("ab" * 32, "float32", {})
    assert twin.read_codes_file(path)["z"][1] == GOLDEN_BITS
    assert bits_by_section_4(path, "z").astype(int).tolist() == GOLDEN_BITS


@pytest.mark.parametrize("packing", PACKINGS)
def test_golden_files_are_written(path, packing):
    path.write_bytes(GOLDEN[packing])
    with open_codes(path) as codes:
        header = codes.header.without_digests()
    path.unlink()
    tensor = header.tensors["z"]
    assert set(tensor.sha256) == {"0"}
    with codesfile.create(path, header) as writer, writer.tensor("z") as out:
        out.append(packed(np.array(GOLDEN_BITS, bool), tensor))
    assert path.read_bytes() == with_header_digest(GOLDEN[packing])


def with_header_digest(golden):
    """The golden file as lfq has written it since it writes `header_sha256`."""
    length = int.from_bytes(golden[:8], "little")
    container = json.loads(golden[8 : 8 + length])
    description = json.loads(container["__metadata__"]["lfq"])
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    description["header_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    container["__metadata__"]["lfq"] = json.dumps(description, separators=(",", ":"), ensure_ascii=False)
    head = json.dumps(container, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + golden[8 + length :]


def test_a_header_that_is_not_what_it_was_is_refused(path):
    lfq = json.loads(json.dumps(GOOD))
    text = json.dumps(lfq, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    lfq["header_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    lie(path, lfq)
    open_codes(path).close()
    for wrong in ("0" * 64, None, 1, ""):
        lie(path, lfq | {"header_sha256": wrong})
        assert "sha256" in refused(path)
    lie(path, lfq | {"compute_dtype": "bfloat16"})
    assert "damaged" in refused(path)
    lie(path, lfq | {"newer": 1})
    assert "unknown keys 'newer'" in refused(path)


# Files of any kind


def bits_by_section_4(path, name):
    """bits [vectors, B] bool: numpy and DESIGN section 4, nothing of the package."""
    with safetensors.safe_open(path, "np") as file:
        entry = json.loads(file.metadata()["lfq"])["tensors"][name]
    stored, dims = safetensors.numpy.load_file(path)[name], entry["codebook_dims"]
    width, vectors = sum(dims), prod(entry["shape"][:-1] if len(dims) > 1 else entry["shape"])
    if entry["packing"] == "bits":
        return np.unpackbits(stored, count=vectors * width).reshape(vectors, width).astype(bool)
    if entry["packing"] == "rows":
        return np.unpackbits(stored, axis=-1, count=width).reshape(vectors, width).astype(bool)
    places = [[2 ** (d - 1 - j) if entry["bit_order"] == "msb" else 2**j for j in range(d)] for d in dims]
    indices = stored.astype(np.uint64).reshape(vectors, len(dims))
    return np.concatenate([indices[:, k, None] & np.array(p, np.uint64) > 0 for k, p in enumerate(places)], axis=1)


def packed(bits, tensor):
    """bits [vectors, B] bool -> what the file stores of them."""
    how, dtype = PACKINGS[tensor.packing], NUMPY[tensor.dtype]
    return how.pack(pack(bits), len(bits), tensor.codebook_dims, tensor.bit_order, dtype)


def header_of(*tensors, **more):
    about = {"quantizer": {"type": "lfq"}, "checkpoint_sha256": "0a" * 32, "compute_dtype": "float32"} | more
    return CodesHeader(tensors={tensor.name: tensor for tensor in tensors}, **about)


def write(path, tensor, bits):
    with (
        codesfile.create(path, header_of(tensor), overwrite=True, durable=False) as file,
        file.tensor(tensor.name) as out,
    ):
        out.append(packed(bits, tensor))


def tensor_of(source, where, dims, order="msb", packing="bits", keep=False, dtype=None, name="z", assumed=False):
    tail = (len(dims),) if len(dims) > 1 or keep else ()
    axis = axis_of(len(source), where)
    shape = positions_shape(source, axis) + tail
    info = SourceInfo(source, "F16", axis, assumed)
    return CodesTensor(name, shape, dims, order, packing, dtype or stored_dtype(packing, dims, None), info)


def indices_by_twin(bits, tensor):
    """The index tensor, as objects (Python integers) made into the reader's dtype."""
    config = twin.Config(tensor.bits_per_vector, tensor.codebook_dims, bit_order=tensor.bit_order)
    rows = twin.indices_of(bits.astype(int).tolist(), config)
    return np.array(rows, np.uint64 if max(tensor.codebook_dims) == 64 else np.int64).reshape(tensor.shape)


dims_lists = st.one_of(
    st.integers(1, 64).map(lambda d: (d,)),
    st.lists(st.integers(1, 20), min_size=1, max_size=4).map(tuple),
    st.lists(st.integers(1, 64), min_size=2, max_size=3).map(tuple),
    st.sampled_from([(8,), (16,), (18,), (64,), (64, 3), (8, 8), (6, 12)]),
)


@st.composite
def tensors(draw, packing=None, most=40):
    """(CodesTensor, bits [vectors, B]) of any rank, layout, widths, packing; few vectors, often none or one."""
    positions = draw(st.lists(st.integers(0, 4) | st.integers(1, 4), max_size=4).map(tuple))
    positions = positions if prod(positions) <= most else (draw(st.integers(1, most)),)
    dims, ndim = draw(dims_lists), len(positions) + 1
    axis = draw(st.integers(0, ndim - 1))
    source = (*positions[:axis], draw(st.integers(0, 9)), *positions[axis:])
    packing = packing or draw(st.sampled_from(sorted(PACKINGS)))
    narrowest = stored_dtype(packing, dims, None)
    wider = [name for name in INTS if np.iinfo(NUMPY[name]).max >= 2 ** max(dims) - 1]
    dtype = draw(st.sampled_from([narrowest, *wider])) if packing == "ints" else "U8"
    order, keep, assumed = draw(st.sampled_from(["msb", "lsb"])), draw(st.booleans()), draw(st.booleans())
    tensor = tensor_of(source, axis, dims, order, packing, keep, dtype, assumed=assumed)
    count = tensor.vectors * tensor.bits_per_vector
    data = draw(st.binary(min_size=-(-count // 8), max_size=-(-count // 8)))
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(bool)
    return tensor, bits.reshape(tensor.vectors, tensor.bits_per_vector)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.codes.safetensors"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A name that hypothesis's examples may overwrite."""
    return tmp_path_factory.mktemp("codes") / "x.codes.safetensors"


@pytest.mark.parametrize("packing", PACKINGS)
@settings(max_examples=60)
@given(data=st.data())
def test_the_file_is_as_section_4_says(shared, packing, data):
    tensor, bits = data.draw(tensors(packing))
    write(shared, tensor, bits)
    assert np.array_equal(bits_by_section_4(shared, "z"), bits)
    entry, seen = twin.read_codes_file(shared)["z"]
    assert seen == bits.astype(int).tolist()
    assert entry["shape"] == list(tensor.shape)
    assert shared.read_bytes()[8:].startswith(b'{"__metadata__":{"lfq":')


@pytest.mark.parametrize("packing", PACKINGS)
@settings(max_examples=60)
@given(data=st.data())
def test_slices_are_numpys(shared, packing, data):
    tensor, bits = data.draw(tensors(packing))
    write(shared, tensor, bits)
    whole = indices_by_twin(bits, tensor)
    keys = data.draw(
        st.lists(basic_indices(whole.shape).filter(lambda key: not isinstance(key, tuple) or key), max_size=8)
    )
    with open_codes(shared) as file:
        codes = file["z"]
        assert (codes.shape, codes.dtype) == (whole.shape, whole.dtype)
        for key in (..., *keys):
            expected, found = whole[key], codes[key]
            assert type(found) is type(expected)
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("packing", PACKINGS)
@settings(max_examples=60)
@given(data=st.data())
def test_slices_along_the_first_axis_are_numpys(shared, packing, data):
    """Any start, stop and step, out of bounds too."""
    tensor, bits = data.draw(tensors(packing).filter(lambda case: case[0].positions))
    write(shared, tensor, bits)
    whole = indices_by_twin(bits, tensor)
    some = st.none() | st.integers(-7, 7) | st.sampled_from([-(2**70), 2**70])
    steps = st.none() | st.integers(-5, 5).filter(bool)
    with open_codes(shared) as file:
        for key in data.draw(st.lists(st.builds(slice, some, some, steps), min_size=1, max_size=8)):
            assert np.array_equal(file["z"][key], whole[key])
            assert file["z"][key].shape == whole[key].shape


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_empty_tuple_is_everything_as_in_numpy(path, packing):
    bits = np.array(GOLDEN_BITS, bool)
    write(path, tensor_of((4, 5), "channel-last", (5,), packing=packing), bits)
    with open_codes(path) as file:
        assert file["z"][()].tolist() == [21, 14, 31, 1]


@pytest.mark.parametrize("packing", PACKINGS)
def test_indices_out_of_bounds(path, packing):
    write(path, tensor_of((4, 5), "channel-last", (2, 3), packing=packing), np.array(GOLDEN_BITS, bool))
    with open_codes(path) as file:
        codes = file["z"]
        assert codes[np.int64(-4)].tolist() == [2, 5]
        with pytest.raises(IndexError, match="7 is outside the 4 positions of 'z'"):
            codes[7]
        for key in ("z", (1.0, 0)):
            with pytest.raises(
                TypeError, match=r"slices, lists and masks of its first axis, found \w+; codes\[\.\.\.\]"
            ):
                codes[key]
        with pytest.raises(TypeError, match="by integers, found float64"):
            codes[[1.0, 2.0]]
        for key in ([0, 4], [-5], np.array([True, False])):
            with pytest.raises(IndexError):
                codes[key]
        for key in (4, -5, (0, 2), (slice(None), 2), (0, 0, 0), (..., 2)):
            with pytest.raises(IndexError):
                codes[key]
        for key in ("z", 1.0, None):
            with pytest.raises(TypeError):
                codes[key]
        with pytest.raises(ValueError, match="zero"):
            codes[::0]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("dims", [(5,), (2, 3)])
@pytest.mark.parametrize("keep", [False, True])
def test_a_single_vector(path, packing, dims, keep):
    tensor = tensor_of((5,), "channel-last", dims, packing=packing, keep=keep)
    bits = np.array([[1, 0, 0, 1, 1]], bool)
    write(path, tensor, bits)
    whole = indices_by_twin(bits, tensor)
    with open_codes(path) as file:
        codes = file["z"]
        assert codes.shape == whole.shape == ((len(dims),) if keep or len(dims) > 1 else ())
        assert codes[...].tolist() == codes[()].tolist() == np.asarray(codes).tolist() == whole.tolist()
        if whole.shape:
            assert len(codes) == len(whole)
            assert [int(index) for index in codes] == whole.tolist()
            assert codes[-1] == whole[-1]
        else:
            with pytest.raises(TypeError, match="length"):
                len(codes)
    assert twin.read_codes_file(path)["z"][1] == bits.astype(int).tolist()


@settings(max_examples=60)
@given(tensors())
@example((tensor_of((3, 64), "channel-last", (64,)), np.ones((3, 64), bool)))
def test_the_reader_is_an_array_and_a_mapping(shared, case):
    tensor, bits = case
    write(shared, tensor, bits)
    whole = indices_by_twin(bits, tensor)
    with open_codes(shared) as file:
        assert list(file) == ["z"]
        assert (len(file), "z" in file, "y" in file) == (1, True, False)
        assert file.nbytes == shared.stat().st_size
        assert np.array_equal(np.asarray(file["z"]), whole)
        assert np.asarray(file["z"], np.float64).dtype == np.float64
        if tensor.positions:
            assert len(file["z"]) == len(whole)
            assert [np.asarray(item).tolist() for item in file["z"]] == whole.tolist()
        with pytest.raises(KeyError):
            file["y"]


@settings(max_examples=60)
@given(tensors(), st.data())
def test_streams_and_indices_of_a_run(shared, case, data):
    tensor, bits = case
    write(shared, tensor, bits)
    start = data.draw(st.integers(0, tensor.vectors))
    stop = data.draw(st.integers(0, tensor.vectors))
    expected = bits[start:stop].astype(int).tolist()
    config = twin.Config(tensor.bits_per_vector, tensor.codebook_dims, bit_order=tensor.bit_order)
    with open_codes(shared) as file:
        assert file["z"].stream(start, stop).tobytes() == twin.stream_of(expected)
        indices = file["z"].indices(start, stop, np.dtype(np.uint64))
    assert (indices.shape, indices.dtype) == ((len(expected), len(tensor.codebook_dims)), np.uint64)
    assert [tuple(row) for row in indices.tolist()] == twin.indices_of(expected, config)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("order", ["msb", "lsb"])
def test_sixty_four_bits_are_unsigned(path, packing, order):
    bits = np.zeros((3, 67), bool)
    bits[0] = True
    bits[1, [0, 64]] = True  # the first channel of either codebook
    write(path, tensor_of((3, 67), "channel-last", (64, 3), order, packing), bits)
    first = [2**63, 4] if order == "msb" else [1, 1]
    with open_codes(path) as file:
        assert file["z"].dtype == np.uint64
        assert file["z"][...].tolist() == [[2**64 - 1, 7], first, [0, 0]]
    if packing == "ints":
        stored = safetensors.numpy.load_file(path)["z"]
        assert stored.dtype == np.uint64
        assert stored.tolist() == [[2**64 - 1, 7], first, [0, 0]]


# What is read for a slice


@contextmanager
def recorded_reads():
    """The spans of bytes that are read from files while the block lasts."""
    spans, read_into, read = [], InputFile.read_into, InputFile.read

    def recording(file, position, view):
        spans.append((position, position + len(view)))
        read_into(file, position, view)

    def recording_short(file, position, count):
        spans.append((position, position + count))
        return read(file, position, count)

    with mock.patch.object(InputFile, "read_into", recording), mock.patch.object(InputFile, "read", recording_short):
        yield spans


@settings(max_examples=60)
@given(tensors().filter(lambda case: case[0].positions), st.data())
def test_a_slice_reads_its_bytes_and_no_others(shared, case, data):
    tensor, bits = case
    write(shared, tensor, bits)
    n = tensor.positions[0]
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    per_item = prod(tensor.positions[1:])
    first, last = start * per_item, stop * per_item
    if tensor.packing == "bits":
        first, last = first * tensor.bits_per_vector // 8, -(-last * tensor.bits_per_vector // 8)
    else:
        vector_bytes = prod(tensor.stored_shape[len(tensor.positions) :]) * NUMPY[tensor.dtype].itemsize
        first, last = first * vector_bytes, last * vector_bytes
    data_start = shared.stat().st_size - tensor.stored_bytes
    with open_codes(shared) as file, recorded_reads() as spans:
        file["z"][start:stop]
    if start == stop or per_item == 0:
        assert spans == []
    else:
        assert spans == [(data_start + first, data_start + last)]


def test_opening_reads_the_header_and_at_most_one_byte_of_codes(path):
    write(path, tensor_of((1_000, 5), "channel-last", (5,)), np.ones((1_000, 5), bool))
    with recorded_reads() as spans, open_codes(path) as file:
        assert file["z"].shape == (1_000,)
    codes_start = path.stat().st_size - 625
    assert [span for span in spans if span[1] > codes_start] == []  # 5000 bits fill their bytes
    write(path, tensor_of((1_001, 5), "channel-last", (5,)), np.ones((1_001, 5), bool))
    with recorded_reads() as spans:
        open_codes(path).close()
    size = path.stat().st_size
    assert [span for span in spans if span[1] > size - 626] == [(size - 1, size)]


# Writing


@settings(max_examples=60)
@given(tensors(), st.data())
def test_chunks_do_not_show_in_the_file(shared, case, data):
    tensor, bits = case
    write(shared, tensor, bits)
    at_once = shared.read_bytes()
    stored = packed(bits, tensor).reshape(-1)
    cuts = sorted(data.draw(st.lists(st.integers(0, stored.size), max_size=5)))
    with codesfile.create(shared, header_of(tensor), overwrite=True, durable=False) as file, file.tensor("z") as out:
        for first, last in pairwise([0, *cuts, stored.size]):
            out.append(stored[first:last])
    assert shared.read_bytes() == at_once


@settings(max_examples=40)
@given(
    st.lists(tensors(most=10), max_size=4),
    st.dictionaries(st.sampled_from(["spherical", "codebook_scale"]), st.booleans() | st.floats(0, 9)),
)
def test_several_tensors(shared, cases, assumed):
    held = {
        name: (copy.copy(tensor), bits) for name, (tensor, bits) in zip(["b", "a/ü", "c.0", ""], cases, strict=False)
    }
    renamed = [CodesTensor(**vars(tensor) | {"name": name}) for name, (tensor, _) in held.items()]
    header = header_of(*renamed, assumed=assumed)
    with codesfile.create(shared, header, overwrite=True, durable=False) as writer:
        for name, (tensor, bits) in held.items():
            with writer.tensor(name) as out:
                out.append(packed(bits, tensor))
    with open_codes(shared) as file:
        assert set(file) == set(held)
        assert file.header.assumed == assumed
        assert file.header.without_digests().tensors == header.tensors
        for name, (tensor, bits) in held.items():
            assert np.array_equal(file[name][...], indices_by_twin(bits, tensor))
            file[name].check_digest()
    assert {name: bits for name, (_, bits) in twin.read_codes_file(shared).items()} == {
        name: bits.astype(int).tolist() for name, (_, bits) in held.items()
    }


@pytest.mark.parametrize("more", [-1, 1])
def test_too_few_or_too_many_bytes_leave_no_file(path, more):
    tensor = tensor_of((4, 5), "channel-last", (5,))
    wrong = np.zeros(3 + more, np.uint8)
    with (
        pytest.raises(ValueError, match=f"'z' has {3 + more} bytes of codes, expected 3"),
        codesfile.create(path, header_of(tensor)) as file,
        file.tensor("z") as out,
    ):
        out.append(wrong)
    assert list(path.parent.iterdir()) == []


def test_tensors_side_by_side_are_those_one_after_the_other(path):
    """In any order, byte by byte."""
    names = ("b", "a", "c")
    tensors = [tensor_of((4, 5), "channel-last", (5,), name=name) for name in names]
    data = {name: np.arange(3 * k, 3 * k + 3, dtype=np.uint8) & 0xF0 for k, name in enumerate(names)}
    with codesfile.create(path, header_of(*tensors)) as writer:
        for name in names:
            with writer.tensor(name) as out:
                out.append(data[name])
    one_after_the_other = path.read_bytes()
    with codesfile.create(path, header_of(*tensors), overwrite=True) as writer:
        side_by_side = writer.side_by_side()
        for k in range(3):
            for name in reversed(names):
                side_by_side[name].append(data[name][k : k + 1])
    assert path.read_bytes() == one_after_the_other


@pytest.mark.parametrize("more", [-1, 1])
def test_side_by_side_too_few_or_too_many_bytes_leave_no_file(path, more):
    tensors = [tensor_of((4, 5), "channel-last", (5,), name=name) for name in ("a", "b")]

    def fill(writer):
        side_by_side = writer.side_by_side()
        side_by_side["b"].append(np.zeros(3, np.uint8))
        side_by_side["a"].append(np.zeros(3 + more, np.uint8))

    with (
        pytest.raises(ValueError, match=f"'a' has {3 + more} bytes of codes, expected 3"),
        codesfile.create(path, header_of(*tensors)) as writer,
    ):
        fill(writer)
    assert list(path.parent.iterdir()) == []


def test_a_tensor_that_was_never_written_leaves_no_file(path):
    header = header_of(tensor_of((4, 5), "channel-last", (5,)))
    with pytest.raises(KeyError), codesfile.create(path, header):
        pass
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("requested", INTS)
@pytest.mark.parametrize("d", [1, 7, 8, 9, 15, 16, 31, 32, 63, 64])
def test_stored_dtype_widens_but_never_narrows(d, requested):
    smallest = next(name for name in INTS if np.iinfo(NUMPY[name]).max >= 2**d - 1)
    assert stored_dtype("ints", (1, d), None) == smallest
    assert NUMPY[smallest] == index_dtype((1, d))
    assert stored_dtype("bits", (d,), requested) == stored_dtype("rows", (d,), None) == "U8"
    if np.iinfo(NUMPY[requested]).max >= 2**d - 1:
        assert stored_dtype("ints", (1, d), requested) == requested
    else:
        with pytest.raises(OptionError, match=f"{d} bits do not fit"):
            stored_dtype("ints", (1, d), requested)


def test_matching_names(path):
    tensors_ = [tensor_of((0, 5), "channel-last", (5,), name=name) for name in ("a.x", "a.y", "b")]
    with codesfile.create(path, header_of(*tensors_)) as writer:
        for tensor in tensors_:
            with writer.tensor(tensor.name):
                pass
    with open_codes(path) as file:
        assert sorted(file.matching([])) == ["a.x", "a.y", "b"]
        assert sorted(file.matching(["a.*"])) == ["a.x", "a.y"]
        assert sorted(file.matching(["B", "?.y", "b"])) == ["a.y", "b"]
        with pytest.raises(CodesFileError, match="no tensor matches"):
            file.matching(["A*"])


# Damage

GOOD = {
    "format": "lfq-codes",
    "version": 1,
    "quantizer": {"type": "lfq"},
    "checkpoint_sha256": "0a" * 32,
    "compute_dtype": "float32",
    "assumed": {"spherical": False},
    "tensors": {
        "z": {
            "shape": [4],
            "codebook_dims": [5],
            "bit_order": "msb",
            "packing": "bits",
            "sha256": hashlib.sha256(b"\xab\xbe\x10").hexdigest(),
            "source": {"shape": [4, 5], "dtype": "F32", "layout": "channel-last"},
        }
    },
}
DATA = b"\xab\xbe\x10"


def lie(path, lfq, stored=("U8", (3,)), data=DATA, name="z"):
    """Writes a sound container whose metadata says `lfq` (an object, or text)."""
    text = lfq if isinstance(lfq, str) else json.dumps(lfq)
    path.write_bytes(header_bytes({"lfq": text}, {name: stored}) + data)


def changed(where, value):
    """GOOD with the value at `where`, a path of keys; or without the key if the value is KeyError."""
    lfq = copy.deepcopy(GOOD)
    place = lfq
    for key in where[:-1]:
        place = place[key]
    if value is KeyError:
        del place[where[-1]]
    else:
        place[where[-1]] = value
    return lfq


def refused(path):
    with pytest.raises(CodesFileError) as caught:
        open_codes(path)
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 2_000
    return caught.value.message


T = ("tensors", "z")
FIELDS = [
    *[(key,) for key in GOOD],
    T,
    *[(*T, key) for key in GOOD["tensors"]["z"]],
    *[(*T, "source", key) for key in GOOD["tensors"]["z"]["source"]],
]
# fmt: off
WRONG = [
    None, True, False, 0, -1, 1.5, 1.0, 2**80, "x", "", [], {}, [None], [True], [-4], [4.0], ["4"], [[4]], {"a": 1},
    KeyError,
]
# fmt: on
ALLOWED = {  # not wrong: the reader asks no more of these than their type
    ("quantizer",): [{}, {"a": 1}],
    ("compute_dtype",): ["x", ""],
    ("assumed",): [{}, {"a": 1}, KeyError],
    (*T, "source", "dtype"): ["x", ""],
}


def test_the_base_of_the_lies_is_read(path):
    lie(path, GOOD)
    with open_codes(path) as file:
        assert file["z"][...].tolist() == [21, 14, 31, 1]
        assert file.header.assumed == {"spherical": False}


@pytest.mark.parametrize("where", FIELDS, ids=".".join)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_value_of_another_type_is_refused(path, where, value):
    lie(path, changed(where, value))
    if value in ALLOWED.get(where, []):
        open_codes(path).close()
    else:
        refused(path)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("format",), "lfq-checkpoint"),
        (("format",), "LFQ-codes"),
        (("version",), 0),
        (("version",), 2),
        (("version",), 10**400),
        (("checkpoint_sha256",), "0a" * 31),
        (("checkpoint_sha256",), "0a" * 33),
        (("checkpoint_sha256",), "0A" * 32),
        (("checkpoint_sha256",), "0g" * 32),
        (("checkpoint_sha256",), "٠" * 64),  # digits, but not ours
        (("assumed",), "spherical"),
        (("assumed",), ["spherical"]),
        ((*T, "sha256"), "0a" * 31),
        ((*T, "sha256"), "0A" * 32),
        ((*T, "sha256"), ["0"] * 64),
        ((*T, "shape"), [3]),
        ((*T, "shape"), [5]),
        ((*T, "shape"), [4, 2]),
        ((*T, "shape"), [1, 4]),
        ((*T, "shape"), [2, 2]),
        ((*T, "shape"), [2**62]),
        ((*T, "shape"), [10**400]),
        ((*T, "codebook_dims"), [4]),
        ((*T, "codebook_dims"), [7]),
        ((*T, "codebook_dims"), [0]),
        ((*T, "codebook_dims"), [65]),
        ((*T, "codebook_dims"), [0, 5]),
        ((*T, "codebook_dims"), [2, 3]),  # the index shape has no axis for them
        ((*T, "codebook_dims"), [10**400]),
        ((*T, "bit_order"), "MSB"),
        ((*T, "packing"), "rows"),
        ((*T, "packing"), "ints"),
        ((*T, "packing"), "bytes"),
        ((*T, "source", "shape"), []),
        ((*T, "source", "shape"), [5]),
        ((*T, "source", "shape"), [4, 1, 5]),
        ((*T, "source", "shape"), [3, 5]),
        ((*T, "source", "shape"), [2**62, 5]),
        ((*T, "source", "layout"), "channels_last"),
        (("tensors",), {}),
        (("tensors",), {"y": GOOD["tensors"]["z"]}),
        (("tensors",), {"y": GOOD["tensors"]["z"], "z": GOOD["tensors"]["z"]}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_header_that_does_not_fit_is_refused(path, where, value):
    lie(path, changed(where, value))
    refused(path)


def test_a_codebook_of_no_bits_is_refused(path):
    lfq = changed((*T, "codebook_dims"), [0])
    lfq["tensors"]["z"]["sha256"] = hashlib.sha256(b"").hexdigest()
    lie(path, lfq, ("U8", (0,)), b"")
    assert "codebook_dims" in refused(path)


def test_a_source_without_an_axis_is_refused(path):
    lfq = changed((*T, "shape"), [])
    lfq["tensors"]["z"]["source"]["shape"] = []
    lie(path, lfq, ("U8", (1,)), b"\xa8")
    assert "source" in refused(path)
    lfq["tensors"]["z"]["source"]["shape"] = [5]  # a single vector is as good as any
    lie(path, lfq, ("U8", (1,)), b"\xa8")
    open_codes(path).close()


def test_the_layout_has_to_fit_the_shapes(path):
    source = {"shape": [4, 5, 1], "dtype": "F32"}
    lie(path, changed((*T, "source"), source | {"layout": "channel-first"}))
    refused(path)  # positions (4, 1), shape [4]
    good = changed((*T, "source"), source | {"layout": "channel-first"})
    good["tensors"]["z"]["shape"] = [4, 1]
    lie(path, good)
    open_codes(path).close()


@pytest.mark.parametrize("stored", [("I8", (3,)), ("BOOL", (3,)), ("U8", (3, 1)), ("U8", (1, 3)), ("F8_E4M3", (3,))])
def test_bits_in_another_dtype_or_shape_are_refused(path, stored):
    lie(path, GOOD, stored)
    refused(path)


@pytest.mark.parametrize("dtype", ["I8", "U16", "U32", "F16", "F32", "BF16", "BOOL", "U8"])
def test_ints_in_another_dtype_are_refused(path, dtype):
    lfq = changed((*T, "packing"), "ints")
    lfq["tensors"]["z"]["codebook_dims"] = [9]  # too wide for U8
    itemsize = {"I8": 1, "U8": 1, "BOOL": 1, "U16": 2, "F16": 2, "BF16": 2}.get(dtype, 4)
    lie(path, lfq, (dtype, (4,)), bytes(4 * itemsize))
    refused(path)
    lie(path, lfq, ("I16", (4,)), bytes(8))
    open_codes(path).close()


@pytest.mark.parametrize("metadata", [{}, {"LFQ": "{}"}, {"format": "pt"}])
def test_a_file_without_lfq_metadata_is_refused(path, metadata):
    path.write_bytes(header_bytes(metadata, {"z": ("U8", (3,))}) + DATA)
    assert "not a codes file" in refused(path)


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "1", '"lfq-codes"', "[" * 100_000, "1" * 5_000, "\ufeff{}", "{}{}"]
)
def test_metadata_that_is_no_object_is_refused(path, text):
    lie(path, text)
    refused(path)


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_file_that_is_none_is_refused(path, name):
    refused(path.parent / name)


def test_a_file_cut_off_anywhere_is_refused(path):
    whole = GOLDEN["bits"]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refused(path)


def test_a_second_tensor_that_the_header_does_not_name_is_refused(path):
    path.write_bytes(header_bytes({"lfq": json.dumps(GOOD)}, {"z": ("U8", (3,)), "y": ("U8", (1,))}) + DATA + b"\0")
    refused(path)


@pytest.mark.parametrize("bit", range(4))
def test_a_tail_that_is_not_zero_is_refused(path, bit):
    lie(path, GOOD, data=bytes([0xAB, 0xBE, 0x10 | 1 << bit]))
    assert "'z' is damaged" in refused(path)


@pytest.mark.parametrize("bit", range(3))
def test_a_rows_tail_that_is_not_zero_is_refused_when_it_is_read(path, bit):
    """As for the other packings, no two files hold the same codes; the twin refuses it too."""
    lfq = changed((*T, "packing"), "rows")
    for data in (b"\xa8\x70\xf8\x08", bytes([0xA8, 0x70 | 1 << bit, 0xF8, 0x08])):
        lfq["tensors"]["z"]["sha256"] = hashlib.sha256(data).hexdigest()
        lie(path, lfq, ("U8", (4, 1)), data)
        if data[1] == 0x70:
            with open_codes(path) as file:
                assert file["z"][...].tolist() == [21, 14, 31, 1]
    with pytest.raises(ValueError, match="tail"):
        twin.read_codes_file(path)
    with pytest.raises(CodesFileError, match="damaged"), open_codes(path) as file:
        file["z"][...]


@pytest.mark.parametrize("value", [-1, 32, 33, 2**15 - 1, -(2**15)])
@pytest.mark.parametrize("dims", [(5,), (7, 5)])
def test_an_index_out_of_range_is_refused_when_it_is_read(path, value, dims):
    lfq = changed((*T, "packing"), "ints")
    entry = lfq["tensors"]["z"]
    entry["codebook_dims"] = list(dims)
    entry["shape"] = [4] if len(dims) == 1 else [4, 2]
    indices = np.full((4, len(dims)), 31, "<i2")
    indices[2, -1] = value
    lie(path, lfq, ("I16", tuple(entry["shape"])), indices.tobytes())
    with open_codes(path) as file:
        assert (file["z"][:2] == 31).all()
        assert (file["z"][3] == 31).all()
        for read in (
            lambda: file["z"][2],
            lambda: file["z"].stream(0, 4),
            lambda: file["z"].indices(1, 3, np.dtype("i8")),
        ):
            with pytest.raises(CodesFileError, match=r"outside 0 to 2\^5 - 1"):
                read()


@settings(max_examples=150)
@given(tensors().filter(lambda case: case[1].size), st.data())
def test_one_flipped_byte_is_found(shared, case, data):
    tensor, bits = case
    write(shared, tensor, bits)
    content = bytearray(shared.read_bytes())
    at = len(content) - 1 - data.draw(st.integers(0, tensor.stored_bytes - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with open_codes(shared) as file:
        file["z"].check_digest()
    shared.write_bytes(content)
    with pytest.raises(CodesFileError, match="damaged"), open_codes(shared) as file:
        file["z"].check_digest()


@pytest.mark.parametrize("at", [0, 2**20 - 1, 2**20, 2_500_000 - 1])
def test_the_digest_is_of_every_chunk(path, at):
    tensor = tensor_of((2_500_000, 8), "channel-last", (8,))
    write(path, tensor, np.zeros((2_500_000, 8), bool))
    with open_codes(path) as file:
        file["z"].check_digest()
        assert file.header.tensors["z"].sha256 == hashlib.sha256(bytes(2_500_000)).hexdigest()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 2_500_000 + at)
        file.write(b"\1")
    with open_codes(path) as file, pytest.raises(CodesFileError, match="damaged"):
        file["z"].check_digest()


MUTATIONS = [
    "-",
    "0",
    "1",
    "64",
    '"',
    "\\",
    "[",
    "]",
    "{",
    "}",
    ",",
    "null",
    "true",
    "rows",
    "ints",
    "lsb",
    "1e9",
    "\\u0000",
]


@settings(max_examples=300)
@given(st.data())
def test_any_change_of_the_header_is_refused_or_read(path_of_lies, data):
    """Whatever the metadata says, the reader refuses it in its own words or returns the codes that it promises."""
    text = json.dumps(GOOD, separators=(",", ":"))
    for _ in range(data.draw(st.integers(1, 2))):
        start = data.draw(st.integers(0, len(text)))
        text = text[:start] + data.draw(st.sampled_from(MUTATIONS)) + text[start + data.draw(st.integers(0, 5)) :]
    lie(path_of_lies, text)
    try:
        with open_codes(path_of_lies) as file:
            found = {name: codes[...] for name, codes in file.items()}
            assert {name: array.shape for name, array in found.items()} == {name: file[name].shape for name in file}
    except CodesFileError:
        return


@pytest.fixture(scope="module")
def path_of_lies(shared):
    return shared.with_name("lies.codes.safetensors")


def test_the_geometry_of_the_source_is_that_of_the_codes():
    """What the pipeline counts and what the header counts are the same vectors."""
    for shape, axis in (((2, 5, 3, 4), 1), ((2, 3, 4, 5), 3), ((5,), 0), ((5, 3, 4), 0), ((2, 3, 5, 4), 2)):
        assert tensor_of(shape, axis, (5,)).vectors == geometry_of(shape, axis).vectors


def test_the_length_field_is_the_headers(path):
    write(path, tensor_of((4, 5), "channel-last", (5,)), np.array(GOLDEN_BITS, bool))
    content = path.read_bytes()
    assert struct.unpack("<Q", content[:8])[0] == len(content) - 8 - 3
    assert len(content) % 8 == 3


@pytest.mark.parametrize("packing", PACKINGS)
@given(data=st.data())
def test_lists_masks_and_strides_are_numpys(tmp_path_factory, packing, data):
    path = tmp_path_factory.mktemp("read") / "x.codes.safetensors"
    shape = data.draw(st.sampled_from([(7,), (7, 3), (7, 2, 2)]))
    bits = np.random.default_rng(0).integers(0, 2, (int(np.prod(shape)), 5)).astype(bool)
    write(path, tensor_of((*shape, 5), "channel-last", (2, 3), packing=packing), bits)
    with open_codes(path) as file:
        codes = file["z"]
        whole = codes[...]
        keys = [
            data.draw(st.lists(st.integers(-7, 6), max_size=6)),
            np.array(data.draw(st.lists(st.integers(-7, 6), min_size=1, max_size=6))).reshape(-1, 1),
            np.array(data.draw(st.lists(st.booleans(), min_size=7, max_size=7))),
            slice(
                data.draw(st.integers(-8, 8)), data.draw(st.integers(-8, 8)), data.draw(st.sampled_from([1, 2, -1, -3]))
            ),
        ]
        for key in keys:
            expected = whole[np.array(key, int) if isinstance(key, list) else key]
            for gap in (0, 1 << 14):  # items far apart are read one by one
                with patch.object(reader, "_LEAST_GAP", gap):
                    found = codes[key]
                assert found.shape == expected.shape
                assert np.array_equal(found, expected)
        first, last = sorted(data.draw(st.tuples(st.integers(0, 7), st.integers(0, 7))))
        item = int(np.prod(shape[1:]))
        part = bits[first * item : last * item]
        assert np.array_equal(codes.packed(first, last), np.packbits(part))
        assert np.array_equal(codes.bits(first, last).reshape(-1, 5), part)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("order", ["msb", "lsb"])
@pytest.mark.parametrize("dims", [(5,), (1, 4), (3, 2), (1, 1, 1, 1, 1)])
def test_cut_anew_whatever_the_file_was_written_with(path, packing, order, dims):
    bits = np.random.default_rng(1).integers(0, 2, (12, 5)).astype(bool)
    write(path, tensor_of((4, 3, 5), "channel-last", (2, 3), packing=packing), bits)
    with open_codes(path) as file:
        codes = file["z"].cut(dims, order)
        found = codes[...]
        fields = np.split(bits, np.cumsum(dims)[:-1], axis=1)
        step = -1 if order == "msb" else 1
        expected = np.stack([field[:, ::step] @ (1 << np.arange(field.shape[1])) for field in fields], axis=1)
        assert found.shape == codes.shape == ((4, 3) if len(dims) == 1 else (4, 3, len(dims)))
        assert np.array_equal(found.reshape(12, -1), expected)
        assert np.array_equal(codes.cut((2, 3), "msb")[...], file["z"][...])
        with pytest.raises(OptionError, match="5 bits of a vector"):
            codes.cut((3, 3))


def test_open_files_can_be_pickled(path):
    bits = np.random.default_rng(1).integers(0, 2, (12, 5)).astype(bool)
    write(path, tensor_of((4, 3, 5), "channel-last", (2, 3)), bits)
    with open_codes(path) as file:
        codes = file["z"].cut((5,), "lsb")
        again = pickle.loads(pickle.dumps(codes))
        assert np.array_equal(again[...], codes[...])
        again.close()
        with pickle.loads(pickle.dumps(file)) as other:
            assert other.header == file.header
        data = pickle.dumps(codes)
    path.write_bytes(path.read_bytes())
    with pytest.raises(CodesFileError, match="changed since it was opened"):
        pickle.loads(data)
