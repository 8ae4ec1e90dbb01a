"""container.py against the safetensors library and the twin; then files that lie about themselves."""

import contextlib
import json
import os
import struct
from math import prod

import pytest
import safetensors
import twin
from hypothesis import given, settings
from hypothesis import strategies as st

from lfq_cli.container import MAX_HEADER_BYTES, header_bytes, read_header, tensor_bytes
from lfq_cli.errors import CheckpointError, CodesFileError, OutputError, TensorError
from lfq_cli.regions import InputFile

BITS = {  # whole bytes only: F4 and F6 are below
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
SUB_BYTE = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}

names = st.text(max_size=8).filter(lambda name: name != "__metadata__")
contents = st.tuples(st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 4), max_size=3).map(tuple))
tensor_sets = st.dictionaries(names, contents, max_size=5)
metadatas = st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("container") / "file.safetensors"


def read(path, error=TensorError):
    with contextlib.closing(InputFile(path, error)) as file:
        return read_header(file, error)


def framed(text):
    """Header text -> the bytes before the data."""
    return struct.pack("<Q", len(text)) + text


def size_of(tensors):
    return sum(prod(shape) * BITS[dtype] // 8 for dtype, shape in tensors.values())


def seen_by_the_library(path):
    """(metadata, {name: (dtype, shape)}); raises SafetensorError for what it refuses."""
    with safetensors.safe_open(path, "np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return file.metadata() or {}, {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}


@given(metadatas, tensor_sets)
def test_the_library_and_the_reader_see_what_was_written(path, metadata, tensors):
    head = header_bytes(metadata, tensors)
    path.write_bytes(head + bytes(size_of(tensors)))
    assert len(head) % 8 == 0
    assert seen_by_the_library(path) == (metadata, tensors)
    header = read(path)
    assert header.metadata == metadata
    assert {name: (entry.dtype, entry.shape) for name, entry in header.entries.items()} == tensors
    position = len(head)
    for name in tensors:
        entry = header.entries[name]
        assert (entry.name, entry.nbytes) == (name, tensor_bytes(*tensors[name]))
        if entry.nbytes:  # one without bytes may stand anywhere among its equals
            assert entry.start == position
        position += entry.nbytes
    assert position == path.stat().st_size


@given(metadatas, tensor_sets)
def test_the_twin_sees_it_too(path, metadata, tensors):
    tensors = {name: value for name, value in tensors.items() if value[0] in twin.ITEM_BYTES}
    path.write_bytes(header_bytes(metadata, tensors) + bytes(size_of(tensors)))
    expected = {
        name: (dtype, list(shape), bytes(tensor_bytes(dtype, shape))) for name, (dtype, shape) in tensors.items()
    }
    assert twin.read_safetensors(path) == (metadata, expected)


def test_golden_header():
    text = b'{"__metadata__":{"k":"\xc3\xa4"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},'
    text += b'"b":{"dtype":"U8","shape":[],"data_offsets":[12,13]}}       '
    head = header_bytes({"k": "ä"}, {"a": ("BF16", (2, 3)), "b": ("U8", ())})
    assert head == b"\x90\x00\x00\x00\x00\x00\x00\x00" + text
    assert len(text) == 0x90


def test_no_tensors_and_no_metadata(path):
    path.write_bytes(header_bytes({}, {}))
    assert seen_by_the_library(path) == ({}, {})
    assert read(path).entries == {}


def test_a_tensor_called_metadata_is_refused():
    """The format has no way to hold it: it would stand where the metadata stands."""
    with pytest.raises(OutputError, match="'__metadata__'"):
        header_bytes({"lfq": "kept"}, {"__metadata__": ("U8", (1,))})


@pytest.mark.parametrize("dtype", BITS)
def test_tensor_bytes(dtype):
    assert tensor_bytes(dtype, (3, 5)) == 15 * BITS[dtype] // 8
    assert tensor_bytes(dtype, ()) == BITS[dtype] // 8
    assert tensor_bytes(dtype, (3, 0)) == 0


@pytest.mark.parametrize("dtype", ["", "u8", "F128", "Q8"])
def test_an_unknown_dtype_has_no_bytes(dtype):
    with pytest.raises(ValueError, match="unknown"):
        tensor_bytes(dtype, (1,))


# Files that lie


def tensor(dtype="U8", shape=(4,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets} | more


def as_json(**tensors):
    return json.dumps(tensors).encode()


HOSTILE = {  # name: (header text, data)
    "empty header": (b"", b""),
    "no JSON": (b"hello", b""),
    "no object": (b"[]", b""),
    "null": (b"null", b""),
    "a number": (b"1", b""),
    "cut JSON": (b'{"a":{"dtype":"U8"', b""),
    "two values": (b"{}{}", b""),
    "not UTF-8": (b'{"__metadata__":{"a":"\xff"}}', b""),
    "UTF-8 of a surrogate": (b'{"__metadata__":{"a":"\xed\xa0\x80"}}', b""),
    "byte order mark": (b"\xef\xbb\xbf{}", b""),
    "zeros behind": (b"{}\0\0\0\0\0\0", b""),
    "deep lists": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b""),
    "deep and cut": (b"[" * 1_000_000, b""),
    "a long number": (b'{"a":' + b"1" * 5_000 + b"}", b""),
    "a key twice": (b'{"a":%b,"a":%b}' % ((as_json(**tensor()),) * 2), bytes(4)),
    "metadata twice": (b'{"__metadata__":{"a":"b"},"__metadata__":{"a":"b"}}', b""),
    "a field twice": (b'{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(4)),
    "a metadata key twice": (b'{"__metadata__":{"a":"b","a":"c"}}', b""),
    "metadata null": (b'{"__metadata__":null}', b""),
    "metadata of numbers": (b'{"__metadata__":{"a":1}}', b""),
    "metadata of objects": (b'{"__metadata__":{"a":{}}}', b""),
    "metadata a list": (b'{"__metadata__":["a"]}', b""),
    "a tensor that is null": (as_json(a=None), b""),
    "a tensor that is a list": (as_json(a=["U8", [4], [0, 4]]), bytes(4)),
    "a tensor that is a string": (as_json(a="U8"), bytes(4)),
    "no dtype": (as_json(a={"shape": [4], "data_offsets": [0, 4]}), bytes(4)),
    "no shape": (as_json(a={"dtype": "U8", "data_offsets": [0, 4]}), bytes(4)),
    "no offsets": (as_json(a={"dtype": "U8", "shape": [4]}), bytes(4)),
    "another field": (as_json(a=tensor(strides=[1])), bytes(4)),
    "unknown dtype": (as_json(a=tensor("X8")), bytes(4)),
    "dtype a number": (as_json(a=tensor(8)), bytes(4)),
    "dtype null": (as_json(a=tensor(None)), bytes(4)),
    "dtype a list": (as_json(a=tensor(["U8"])), bytes(4)),
    "shape a number": (as_json(a=tensor(shape=4)), bytes(4)),
    "shape null": (as_json(a=tensor(shape=None)), bytes(4)),
    "shape nested": (as_json(a=tensor(shape=[[4]])), bytes(4)),
    "shape of true": (as_json(a=tensor(shape=[True, 4])), bytes(4)),
    "shape of floats": (as_json(a=tensor(shape=[4.0])), bytes(4)),
    "shape of NaN": (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
    "shape of infinity": (b'{"a":{"dtype":"U8","shape":[Infinity],"data_offsets":[0,4]}}', bytes(4)),
    "shape of strings": (as_json(a=tensor(shape=["4"])), bytes(4)),
    "shape negative": (as_json(a=tensor(shape=[-2, -2])), bytes(4)),
    "shape with minus zero": (b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', b""),
    "shape of 2^63": (as_json(a=tensor(shape=[2**63, 0], offsets=[0, 0])), b""),
    "shape of 10^400": (as_json(a=tensor(shape=[10**400, 0], offsets=[0, 0])), b""),
    "shape too large": (as_json(a=tensor(shape=[5])), bytes(4)),
    "shape too small": (as_json(a=tensor(shape=[3])), bytes(4)),
    "shape that wraps around": (as_json(a=tensor(shape=[2**62, 2**62], offsets=[0, 0])), b""),
    "shape that overflows before its zero": (as_json(a=tensor(shape=[2**62, 2**62, 0], offsets=[0, 0])), b""),
    "offsets true": (as_json(a=tensor(shape=[1], offsets=[False, True])), bytes(1)),
    "offsets floats": (as_json(a=tensor(offsets=[0.0, 4.0])), bytes(4)),
    "offsets with minus zero": (b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}}', bytes(4)),
    "offsets one": (as_json(a=tensor(offsets=[0])), bytes(4)),
    "offsets three": (as_json(a=tensor(offsets=[0, 4, 4])), bytes(4)),
    "offsets negative": (as_json(a=tensor(offsets=[-4, 0])), bytes(4)),
    "offsets backwards": (as_json(a=tensor(offsets=[4, 0])), bytes(4)),
    "offsets an object": (as_json(a=tensor(offsets={"0": 0, "1": 4})), bytes(4)),
    "offsets huge": (as_json(a=tensor(offsets=[2**64, 2**64 + 4])), bytes(4)),
    "a hole in front": (as_json(a=tensor(offsets=[4, 8])), bytes(8)),
    "a hole": (as_json(a=tensor(), b=tensor(offsets=[5, 9])), bytes(9)),
    "an overlap": (as_json(a=tensor(), b=tensor(offsets=[3, 7])), bytes(7)),
    "the same bytes twice": (as_json(a=tensor(), b=tensor()), bytes(4)),
    "an empty tensor inside another": (as_json(a=tensor(), b=tensor(shape=[0], offsets=[2, 2])), bytes(4)),
    "an empty tensor behind the end": (as_json(a=tensor(), b=tensor(shape=[0], offsets=[9, 9])), bytes(4)),
    "a byte too few": (as_json(a=tensor()), bytes(3)),
    "a byte too many": (as_json(a=tensor()), bytes(5)),
    "bytes of nobody": (b"{}", bytes(1)),
    "half a byte": (as_json(a=tensor("F4", [3], [0, 2])), bytes(2)),
    "three quarters of a byte": (as_json(a=tensor("F6_E2M3", [1], [0, 1])), bytes(1)),
    "half a surrogate pair in metadata": (rb'{"__metadata__":{"a":"\ud800"}}', b""),
    "half a surrogate pair in a name": (
        rb'{"\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        bytes(4),
    ),
}  # fmt: skip


def test_the_base_of_the_lies_is_read(path):
    path.write_bytes(framed(as_json(a=tensor())) + bytes(4))
    assert read(path).entries["a"].shape == (4,)


@pytest.mark.parametrize("lie", HOSTILE)
def test_a_lie_is_refused(path, lie):
    text, data = HOSTILE[lie]
    path.write_bytes(framed(text) + data)
    with pytest.raises(TensorError) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert len(caught.value.message) < 2_000


@pytest.mark.parametrize("error", [TensorError, CheckpointError, CodesFileError])
@pytest.mark.parametrize(
    "content",
    [b"", b"\2", bytes(7), bytes(8), struct.pack("<Q", 3) + b"{}", struct.pack("<Q", 2**64 - 1) + b"{}", framed(b"[]")],
)
def test_the_error_is_the_one_asked_for(path, content, error):
    path.write_bytes(content)
    with pytest.raises(error, match="not a whole safetensors file"):
        read(path, error)


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**40])
def test_a_header_over_the_limit_is_not_read(path, length):
    path.write_bytes(struct.pack("<Q", length) + b"{")
    os.truncate(path, 8 + 2**41)  # sparse: takes no space
    with pytest.raises(TensorError, match="its header should have"):
        read(path)
    os.truncate(path, 0)


@given(metadatas, tensor_sets, st.data())
def test_a_file_cut_anywhere_is_refused(path, metadata, tensors, data):
    whole = header_bytes(metadata, tensors) + bytes(size_of(tensors))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(TensorError):
        read(path)


# fmt: off
TOKENS = [
    "-", "0", "1", "9", ".", "e", '"', "\\", "[", "]", "{", "}", ",", ":", " ", "\n", "\0", "\xff", "true", "null",
    "-0", "00", "\\u0041", "\\ud800", "4611686018427387904", "F4", "F64", "BOOL", '"a":', "dtype", "shape",
]
# fmt: on


@settings(max_examples=500)
@given(tensor_sets, st.data())
def test_what_is_read_the_library_reads_too(path, tensors, data):
    """Any change to the header of a good file: the reader may refuse what the library reads, never the reverse."""
    text = bytearray(header_bytes({"key": "value"}, tensors)[8:])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.integers(0, 3)))
        text[start:stop] = data.draw(st.sampled_from(TOKENS)).encode("latin-1")
    missing = data.draw(st.sampled_from([0, 0, 0, 1, -1]))
    path.write_bytes(framed(bytes(text)) + bytes(max(size_of(tensors) - missing, 0)))
    try:
        header = read(path)
    except TensorError:
        return
    metadata, seen = seen_by_the_library(path)
    assert metadata == header.metadata
    assert seen == {name: (entry.dtype, entry.shape) for name, entry in header.entries.items()}


@pytest.mark.parametrize(("dtype", "bits"), SUB_BYTE.items())
def test_whole_bytes_of_small_floats(path, dtype, bits):
    path.write_bytes(header_bytes({}, {"a": (dtype, (2, 4))}) + bytes(bits))
    assert read(path).entries["a"].nbytes == bits
    assert seen_by_the_library(path)[1]["a"][1] == (2, 4)


# The file itself


def test_a_missing_file_a_folder_and_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, reason in (("nothing", "no such file"), (".", "a folder"), ("fifo", "not a regular file")):
        with pytest.raises(CheckpointError, match=reason) as caught:
            InputFile(tmp_path / name, CheckpointError)
        assert str(tmp_path) in caught.value.message


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    shrinking = tmp_path / "file"
    shrinking.write_bytes(bytes(100))
    with contextlib.closing(InputFile(shrinking, TensorError)) as file:
        os.truncate(shrinking, 60)
        assert file.read(10, 50) == bytes(50)
        with pytest.raises(TensorError, match="ends 20 bytes early"):
            file.read(50, 30)


@given(st.binary(max_size=40), st.data())
def test_bytes_by_position(path, content, data):
    path.write_bytes(content)
    first = data.draw(st.integers(0, len(content)))
    count = data.draw(st.integers(0, len(content) - first))
    with contextlib.closing(InputFile(path, TensorError)) as file:
        assert file.size == len(content)
        assert file.read(first, count) == content[first : first + count]
