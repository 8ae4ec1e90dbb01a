"""tensors/hdf5.py: data sets as h5py writes them, in parts of any size; nothing outside the file is read."""

from __future__ import annotations

import io
import random
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lfq_cli.codesfile import SUFFIX, open_codes
from lfq_cli.dtypes import NUMPY
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.pack import PackOptions, pack
from lfq_cli.jobs.plan import Job, name_samples
from lfq_cli.pipeline.samples import SampleOptions
from lfq_cli.quantizer import Quantizer
from lfq_cli.regions import FileRegion
from lfq_cli.samples import Sample, samples_in
from lfq_cli.samples.selection import Selection
from lfq_cli.tensors import StoredTensor, open_source

Array = NDArray[Any]
QUANTIZER = Quantizer(dim=5, codebook_dim=5)
STORED = {
    "plain": {"maxshape": None},
    "chunked": {"chunks": (7, 2, 3)},
    "compressed": {"chunks": (3, 5, 4), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"chunks": True, "compression": "lzf"},
    "growing": {"maxshape": (None, 5, 4)},
    "one chunk": {"chunks": (60, 5, 4)},
    "big-endian": {"dtype": ">f4", "maxshape": None},
}


def latents(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def read_in_parts(tensor: StoredTensor, part: int) -> Array:
    data = bytearray(NUMPY[tensor.dtype].itemsize * int(np.prod(tensor.shape)))
    for first in range(0, len(data), part):
        tensor.region.read_into(first, memoryview(data)[first : first + part])
    return np.frombuffer(data, NUMPY[tensor.dtype]).reshape(tensor.shape)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(STORED)), st.integers(0, 50), st.integers(1, 5000))
def test_every_way_of_storing_gives_the_same_values(
    tmp_path_factory: pytest.TempPathFactory, kind: str, rows: int, part: int
) -> None:
    x, path = latents(rows, 5, 4), tmp_path_factory.mktemp("hdf5") / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("group/x", data=x, **{"dtype": "f4", "maxshape": (None, 5, 4)} | STORED[kind])
    with open_source(path) as source:
        tensor = source.tensors["group/x"]
        assert (tensor.dtype, tensor.shape) == ("F32", x.shape)
        assert isinstance(tensor.region, FileRegion) == (kind == "plain" and rows > 0)
        np.testing.assert_array_equal(read_in_parts(tensor, part), x)


@pytest.mark.parametrize("kind", STORED)
def test_encoded_as_the_npy_of_the_same_values(tmp_path: Path, kind: str) -> None:
    x = latents(50, 5, 4)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("data", data=x, **{"dtype": "f4", "maxshape": (None, 5, 4)} | STORED[kind])
    np.save(tmp_path / "y.npy", x)
    jobs = [Job(tmp_path / name, tmp_path / f"{name}{SUFFIX}") for name in ("x.h5", "y.npy")]
    outcomes = list(encode(QUANTIZER, jobs, EncodeOptions(layout="channel-first", durable=False)))
    assert [outcome.error for outcome in outcomes] == [None, None]
    with open_codes(jobs[0].output) as one, open_codes(jobs[1].output) as other:
        np.testing.assert_array_equal(one["data"][...], other["data"][...])


def test_nan_in_a_compressed_data_set_is_found(tmp_path: Path) -> None:
    x = latents(50, 5, 4)
    x[17, 3, 2] = np.nan
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("data", data=x, chunks=(7, 5, 4), compression="gzip")
    job = Job(tmp_path / "x.h5", tmp_path / f"x{SUFFIX}")
    (outcome,) = encode(QUANTIZER, [job], EncodeOptions(layout="channel-first", durable=False))
    assert "holds 1 NaN, the first at [17, 3, 2]" in str(outcome.error)


def test_what_lies_elsewhere_or_is_no_tensor_is_left_alone(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = latents(3, 5)
    (tmp_path / "raw.bin").write_bytes(latents(3, 5).tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = latents(2, 5)
        file["again"] = file["data"]
        file["soft"] = h5py.SoftLink("/data")
        file["broken"] = h5py.SoftLink("/nothing")
        file["far"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")
        virtual = h5py.VirtualLayout((3, 5), "f4")
        virtual[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", (3, 5))
        file.create_virtual_dataset("virtual", virtual)
        file.create_dataset("outside", (3, 5), "f4", external=[(str(tmp_path / "raw.bin"), 0, 60)])
        file["names"] = ["a", "b"]
        file["void"] = h5py.Empty("f4")
        file["pairs"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
        group = file.create_group("loop")
        group["back"] = group
    with open_source(tmp_path / "x.h5") as source:
        (name,) = source.tensors
        assert name in ("again", "data")
        np.testing.assert_array_equal(read_in_parts(source.tensors[name], 100), latents(2, 5))
        assert source.left_alone.keys() == {"far", "virtual", "outside", "names", "void", "pairs"}


def test_stacked_samples_and_their_labels(tmp_path: Path) -> None:
    x = latents(30, 5, 4)
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("latents", data=x, chunks=(4, 5, 4), compression="gzip")
        file["labels"] = np.arange(30)
        file["weights"] = np.ones((3, 3))  # of other length, and asked for by nobody
    inputs, missed = name_samples([str(tmp_path / "in.h5")], tmp_path / "out", stacked=True, inputs_kept=[])
    samples = SampleOptions(tensors=("latents",), carry=("labels",), layout=0)
    options = PackOptions(samples, samples_per_file=20, stacked=True, durable=False)
    outcomes = list(pack(QUANTIZER, inputs, tmp_path / "out", options, missed=missed))
    assert [(outcome.error, outcome.samples) for outcome in outcomes] == [(None, 20), (None, 10)]
    for first, path in ((0, "00000"), (20, "00001")):
        with open_codes(tmp_path / "out" / f"{path}{SUFFIX}") as codes:
            last = min(first + 20, 30)
            expected = np.moveaxis(x[first:last] > 0, 1, -1) @ (1 << np.arange(4, -1, -1))
            np.testing.assert_array_equal(codes["latents"][...], expected)
            assert codes.column("labels").tolist() == list(range(first, last))
            assert codes.keys_of_samples == [f"in/{k}" for k in range(first, last)]


def test_as_a_member_of_a_tar(tmp_path: Path) -> None:
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        file["x"] = latents(5, 4)
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        info = tarfile.TarInfo("a.latent.h5")
        info.size = len(data.getvalue())
        archive.addfile(info, io.BytesIO(data.getvalue()))
    (sample,) = samples_in(tmp_path / "t.tar", "t", Selection())
    assert isinstance(sample, Sample)
    np.testing.assert_array_equal(read_in_parts(sample.tensors["latent.x"], 8), latents(5, 4))


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=latents(20, 5), chunks=(4, 5), compression="gzip", fletcher32=True)
    whole, rng, failed = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            with open_source(path) as source:
                for tensor in source.tensors.values():
                    if tensor.shape == (20, 5):
                        read_in_parts(tensor, 100)
        except LfqError:
            failed += 1
    assert failed > 50


def test_a_long_data_set_is_read_in_constant_memory(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("data", shape=(1 << 20, 32), dtype="f4", chunks=(1 << 12, 32), compression="gzip")
    with open_source(tmp_path / "x.h5") as source:
        part = memoryview(bytearray(1 << 20))
        tracemalloc.start()
        for first in range(0, 1 << 27, 1 << 20):
            source.tensors["data"].region.read_into(first, part)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16 << 20


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(TensorError, match="needs h5py") as raised:
        open_source(tmp_path / "x.h5")
    assert raised.value.hint == "pip install 'lfq-cli[hdf5]'"
