"""What a file is, recognised by its first bytes where the reader of its name cannot read it."""

import gzip
import io
import pickle
import tarfile
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from safetensors.numpy import save

from lfq_cli.container import read_header
from lfq_cli.errors import CodesFileError, TensorError
from lfq_cli.regions import MemoryFile
from lfq_cli.signatures import LOOKED_AT, unlike
from lfq_cli.tensors import FORMATS, open_source

ARRAY = np.arange(40, dtype=np.float32)


def npy():
    file = io.BytesIO()
    np.save(file, ARRAY)
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, x=ARRAY)
    return file.getvalue()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme", "nothing else")
    return file.getvalue()


def hdf5():
    file = io.BytesIO()
    with h5py.File(file, "w") as archive:
        archive["x"] = ARRAY
    return file.getvalue()


def parquet():
    file = io.BytesIO()
    pa.parquet.write_table(pa.table({"x": ARRAY}), file)
    return file.getvalue()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("a.npy")
        info.size = len(npy())
        archive.addfile(info, io.BytesIO(npy()))
    return file.getvalue()


FILES = {
    "an npy array": npy(),
    "a zip archive": npz(),
    "an HDF5 file": hdf5(),
    "a parquet file": parquet(),
    "a safetensors file": save({"x": ARRAY}),
    "a tar archive": tar(),
    "gzip data": gzip.compress(npy()),
    "a pickle": pickle.dumps({"x": ARRAY}),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 12345\n",
    "a web page": b"<!doctype html>\n<html>not found</html>",
    "text": "x, y\n1.0, 2.0\nπ, ½\n".encode(),
}
READ_AS = {
    ".safetensors": "a safetensors file",
    ".npy": "an npy array",
    ".npz": "an npz file",
    ".pt": "a torch file",
    ".pth": "a torch file",
    ".h5": "an HDF5 file",
    ".hdf5": "an HDF5 file",
}
READERS_OF = {"a zip archive": {"an npz file", "a torch file"}, "a pickle": {"a torch file"}}


OTHERS = [
    (suffix, kind)
    for suffix in FORMATS
    for kind in FILES
    if kind != READ_AS[suffix] and READ_AS[suffix] not in READERS_OF.get(kind, ())
]


@pytest.mark.parametrize(("suffix", "kind"), OTHERS)
def test_every_reader_calls_every_other_file_by_its_kind(suffix, kind, tmp_path):
    expected = READ_AS[suffix]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(FILES[kind])
    with pytest.raises(TensorError) as raised:
        open_source(path)
    assert raised.value.message == f"{path}: is {kind}, expected {expected}"
    assert raised.value.hint


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("data", [b"", bytes(1000), b"\xfe\xff\x00\x01" * 250], ids=["empty", "zeros", "junk"])
def test_what_shows_nothing_is_not_whole(suffix, data, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    with pytest.raises(TensorError) as raised:
        open_source(path)
    assert raised.value.message.startswith(f"{path}: not a whole {READ_AS[suffix].partition(' ')[2]}: ")
    assert ("it is empty" in raised.value.message) == (not data)
    assert "again" in raised.value.hint


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".npz", ".h5"])
def test_a_file_that_is_cut_off_keeps_its_kind(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    whole = {".safetensors": save({"x": ARRAY}), ".npy": npy(), ".npz": npz(), ".h5": hdf5()}[suffix]
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(TensorError, match=r"not a whole|incomplete|damaged") as raised:
        open_source(path)
    assert "expected" not in raised.value.message
    assert "cut off" in raised.value.hint


def test_tensors_where_codes_are_expected_get_the_hint_of_codes(tmp_path):
    file = MemoryFile(tmp_path / "x.npy", npy(), CodesFileError)
    with pytest.raises(CodesFileError) as raised:
        read_header(file, CodesFileError, "a codes file", "lfq encode makes codes of tensors")
    assert raised.value.message == f"{tmp_path / 'x.npy'}: is an npy array, expected a codes file"
    assert raised.value.hint == "lfq encode makes codes of tensors"


@pytest.mark.parametrize("cut", range(LOOKED_AT - 6, LOOKED_AT + 1))
def test_text_whose_last_character_is_cut_is_text(cut):
    head = ("½π€𝄞" * 100).encode()[:cut]
    assert unlike("x", head, "an npy array", "", TensorError).message == "x: is text, expected an npy array"


@pytest.mark.parametrize("head", [b"short", b"control \x07 characters " * 3, b"Latin-1: na\xefve, d\xe9j\xe0 vu"])
def test_what_may_be_anything_is_not_called_text(head):
    assert unlike("x", head, "an npy array", "damaged", TensorError).message == "x: not a whole npy array: damaged"
