"""Tensor containers: names, shapes, dtypes and bytes of everything that people save, read in place where it lies."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from lfq_cli import floats
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.plan import Job
from lfq_cli.quantizer import Quantizer
from lfq_cli.regions import FileRegion
from lfq_cli.tensors import FORMATS, Source, open_source
from lfq_cli.torchfile.strided import StridedRegion

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NUMPY = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def values(dtype: str, *shape: int) -> Tensor:
    """-3, -2, ... in any dtype, with the tensor's own bytes."""
    count = int(np.prod(shape))
    return (torch.arange(count) % 7 - 3).to(torch.float32).reshape(shape).to(DTYPES[dtype])


def bytes_in_memory(x: Tensor) -> bytes:
    return x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def stored(source: Source, name: str) -> bytes:
    """The tensor's bytes, in two pieces; in the order that every region can."""
    tensor = source.tensors[name]
    data = bytearray(int(np.prod(tensor.shape)) * DTYPES[tensor.dtype].itemsize)
    middle = len(data) // 3
    tensor.region.read_into(0, memoryview(data)[:middle])
    tensor.region.read_into(middle, memoryview(data)[middle:])
    return bytes(data)


def expect(source: Source, tensors: dict[str, tuple[str, Tensor]]) -> None:
    """Names in order, and of each (dtype, values)."""
    assert list(source.tensors) == list(tensors)
    for name, (dtype, x) in tensors.items():
        found = source.tensors[name]
        assert (found.name, found.dtype, found.shape) == (name, dtype, tuple(x.shape))
        assert stored(source, name) == bytes_in_memory(x), name


def save_numpy(path: Path, tensors: dict[str, tuple[str, Tensor]], *, compressed: bool = False) -> None:
    arrays = {name: x.numpy() for name, (_, x) in tensors.items()}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)


def save_hdf5(path: Path, tensors: dict[str, Tensor]) -> None:
    with h5py.File(path, "w") as file:
        for name, x in tensors.items():
            file[name] = x.numpy()


# Every container and dtype


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_dtype(suffix: str, tmp_path: Path) -> None:
    known = NUMPY if suffix in (".npy", ".npz", ".h5", ".hdf5") else DTYPES
    tensors = {dtype.lower(): (dtype, values(dtype, 3, 5)) for dtype in known}
    tensors |= {f"empty.{dtype}": (dtype, values(dtype, 0, 5)) for dtype in known}
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        for dtype, x in tensors.values():
            np.save(path, x.numpy())
            with open_source(path) as source:
                expect(source, {"data": (dtype, x)})
        return
    if suffix == ".npz":
        save_numpy(path, tensors)
    elif suffix in (".h5", ".hdf5"):
        save_hdf5(path, {name: x for name, (_, x) in tensors.items()})
        tensors = dict(sorted(tensors.items()))
    elif suffix == ".safetensors":
        save_file({name: x for name, (_, x) in tensors.items()}, path)
        with open_source(path) as source:  # its own order: by dtype and name
            tensors = {name: tensors[name] for name in source.tensors}
    else:
        torch.save({name: x for name, (_, x) in tensors.items()}, path)
    with open_source(path) as source:
        assert len(source.tensors) == 2 * len(known)
        expect(source, tensors)
        assert source.left_alone == {}


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 4, 5)])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz", ".npy", ".h5"])
def test_every_ndim(suffix: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    x, path = values("F32", *shape), tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, x.numpy())
    elif suffix == ".npz":
        np.savez(path, data=x.numpy())
    elif suffix == ".pt":
        torch.save(x, path)
    elif suffix == ".h5":
        save_hdf5(path, {"data": x})
    else:
        save_file({"data": x}, path)
    with open_source(path) as source:
        expect(source, {"data": ("F32", x)})


def test_every_registered_suffix_is_tested_here_in_any_case(tmp_path: Path) -> None:
    assert set(FORMATS) == {".safetensors", ".npy", ".npz", ".pt", ".pth", ".h5", ".hdf5"}
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    (tmp_path / "x.npy").rename(tmp_path / "X.NPY")
    with open_source(tmp_path / "X.NPY") as source:
        assert source.tensors["data"].shape == (2, 3)
    with pytest.raises(TensorError, match="not a tensor format that lfq knows"):
        open_source(tmp_path / "x.csv")


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype in floats.FORMATS])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_float_patterns_mean_what_torch_says(suffix: str, dtype: str, tmp_path: Path) -> None:
    """Every pattern of the 8 and 16 bit formats, through a file: its value, its sign and whether it is a number."""
    spec = floats.FORMATS[dtype]
    rng = np.random.default_rng(0)
    size = 1 << (8 * min(spec.itemsize, 2))
    every = np.arange(size, dtype=f"<u{min(spec.itemsize, 2)}").tobytes()
    patterns = every if spec.itemsize <= 2 else rng.bytes(size * spec.itemsize)
    x = torch.frombuffer(bytearray(patterns), dtype=torch.uint8).view(DTYPES[dtype])
    path = tmp_path / f"x{suffix}"
    save_file({"data": x}, path) if suffix == ".safetensors" else torch.save(x, path)
    with open_source(path) as source:
        raw = np.frombuffer(stored(source, "data"), spec.storage)
    as_float = x.float()
    with np.errstate(invalid="ignore"):
        found = torch.from_numpy(floats.to_float32(raw, spec).copy())
    assert torch.equal(torch.nan_to_num(found, nan=7.0), torch.nan_to_num(as_float, nan=7.0))
    assert np.array_equal(floats.positive(raw, spec), (as_float > 0).numpy())
    assert np.array_equal(floats.is_nan(raw, spec), as_float.isnan().numpy())
    numbers = raw[~floats.is_nan(raw, spec)]
    assert not floats.has_nan(numbers, spec)
    assert all(floats.has_nan(np.append(numbers[:9], nan), spec) for nan in raw[floats.is_nan(raw, spec)][:300])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
def test_integers_are_left_alone(suffix: str, tmp_path: Path) -> None:
    held = {"labels": ("I64", values("I64", 4)), "latents": ("F32", values("F32", 4, 8))}
    held["mask"] = ("BOOL", values("BOOL", 4, 8))
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        save_numpy(path, held)
    elif suffix == ".pt":
        torch.save({name: x for name, (_, x) in held.items()}, path)
    else:
        save_file({name: x for name, (_, x) in held.items()}, path)
    (outcome,) = encode(
        Quantizer(dim=8, codebook_dim=8), [Job(path, tmp_path / "c.safetensors")], EncodeOptions(dry_run=True)
    )
    assert outcome.status == "planned"
    assert outcome.tensors == 1
    assert outcome.left_alone == {"labels": "I64, not float", "mask": "BOOL, not float"}


# .npy and .npz


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f2", ">f8", ">i4", "|u1", "|b1"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (1, 4), (0, 4), (3, 0, 2)])
@pytest.mark.parametrize("suffix", [".npy", ".npz", "compressed"])
def test_fortran_order_and_big_endian(
    suffix: str, shape: tuple[int, ...], dtype: str, order: Any, tmp_path: Path
) -> None:
    x = np.asarray(np.arange(np.prod(shape)).reshape(shape) % 11, dtype, order=order)
    path = tmp_path / ("x.npy" if suffix == ".npy" else "x.npz")
    if suffix == ".npy":
        np.save(path, x)
    else:
        (np.savez if suffix == ".npz" else np.savez_compressed)(path, data=x)
    with open_source(path) as source:
        name = {"f": "F", "i": "I", "u": "U", "b": "BOOL"}[x.dtype.kind]
        assert source.tensors["data"].dtype == (name if name == "BOOL" else f"{name}{8 * x.itemsize}")
        assert source.tensors["data"].shape == shape
        assert stored(source, "data") == np.ascontiguousarray(x, x.dtype.newbyteorder("<")).tobytes()


def test_npy_of_version_2(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, x, version=(2, 0))
    with open_source(tmp_path / "x.npy") as source:
        assert stored(source, "data") == x.tobytes()


@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_with_stored_and_deflated_members(order: Any, tmp_path: Path) -> None:
    arrays = {f"a{k}": np.asarray(np.random.default_rng(k).random((5, k + 1)), np.float32, order=order) for k in (1, 2)}
    arrays |= {f"b{k}": np.random.default_rng(k).random((5, k + 1)) for k in (3, 4)}
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for k, (name, x) in enumerate(arrays.items()):
            data = BytesIO()
            np.save(data, x)
            archive.writestr(f"{name}.npy", data.getvalue(), (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[k % 2])
        archive.writestr("readme.txt", "not an array")
    with open_source(path) as source:
        assert list(source.tensors) == list(arrays)
        for name in reversed(list(arrays)):  # any order of members, each from first byte to last
            assert stored(source, name) == np.ascontiguousarray(arrays[name]).tobytes()
        in_place = [isinstance(source.tensors[name].region, FileRegion) for name in arrays]
        assert in_place == ([True, False, True, False] if order == "C" else [False, False, True, False])


def test_deflated_members_are_read_forward_only(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", data=np.zeros((100, 100), np.float32))
    with open_source(tmp_path / "x.npz") as source:
        region = source.tensors["data"].region
        assert not region.seekable
        region.read_into(0, memoryview(bytearray(400)))
        with pytest.raises(ValueError, match="out of order"):
            region.read_into(0, memoryview(bytearray(400)))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_member_cut_off_within_the_archive_is_an_error(compressed: bool, tmp_path: Path) -> None:
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10, 10)})
    with zipfile.ZipFile(
        tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    ) as archive:
        archive.writestr("data.npy", header.getvalue() + bytes(399))
    with pytest.raises(TensorError, match="needs 400 bytes, the file has 399"):
        open_source(tmp_path / "x.npz")


def test_a_damaged_deflated_member_is_an_error(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", data=np.random.default_rng(0).random((100, 100)))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    with open_source(tmp_path / "x.npz") as source, pytest.raises(TensorError, match="damaged"):
        source.tensors["data"].region.read_into(0, memoryview(bytearray(80_000)))


@pytest.mark.parametrize("other", [np.array(["a", "b"]), np.array([None, {}], object), np.ones(2, np.complex128)])
def test_what_is_no_float_beside_the_latents_does_not_stop_them(other: NDArray[Any], tmp_path: Path) -> None:
    """File names or labels as strings beside the arrays are usual in npz files; nothing of them is unpickled."""
    path = tmp_path / "x.npz"
    np.savez(path, names=other, latents=np.ones((4, 8), np.float32), allow_pickle=True)
    options = EncodeOptions(tensors=("latents",))
    (outcome,) = encode(Quantizer(dim=8, codebook_dim=8), [Job(path, tmp_path / "c.safetensors")], options)
    assert outcome.status == "written", outcome.error
    assert "names" in outcome.left_alone


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([None, {}], object), allow_pickle=True)
    with pytest.raises(TensorError, match="holds Python objects"):
        open_source(tmp_path / "x.npy")


# .pt


def test_nested_mappings_give_dotted_names(tmp_path: Path) -> None:
    x = {name: values("F32", 2, k + 1) for k, name in enumerate("abcd")}
    held = {
        "z": x["a"],
        "train": {"latents": x["b"], 7: {"deep": x["c"]}, "name": "run 1"},
        "ordered": OrderedDict(weight=torch.nn.Parameter(x["d"])),
        "epoch": 3,
        "list": [x["a"]],
        "numbers": [1, 2],
        "nothing": None,
    }
    torch.save(held, tmp_path / "x.pt")
    with open_source(tmp_path / "x.pt") as source:
        expected = {"z": "a", "train.latents": "b", "train.7.deep": "c", "ordered.weight": "d", "list.0": "a"}
        expect(source, {name: ("F32", x[key]) for name, key in expected.items()})
        left_alone = {"train.name": "str", "epoch": "int", "numbers": "list", "nothing": "NoneType"}
        assert source.left_alone == left_alone


def test_two_tensors_of_one_dotted_name_are_not_silently_one(tmp_path: Path) -> None:
    torch.save({"a": {"b": torch.ones(2, 3)}, "a.b": torch.zeros(2, 3)}, tmp_path / "x.pt")
    with pytest.raises(LfqError, match=r"'a\.b'"):
        open_source(tmp_path / "x.pt")


def regions(path: Path) -> dict[str, bool]:
    """name -> whether its bytes are read from the file in place."""
    with open_source(path) as source:
        regions = {name: tensor.region for name, tensor in source.tensors.items()}
    assert all(isinstance(region, (FileRegion, StridedRegion)) for region in regions.values())
    return {name: isinstance(region, FileRegion) for name, region in regions.items()}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3", "F64"])
def test_contiguous_tensors_are_read_in_place(dtype: str, tmp_path: Path) -> None:
    tensors = {f"t{k}": (dtype, values(dtype, k + 1, 3)) for k in range(4)}
    torch.save({name: x for name, (_, x) in tensors.items()}, tmp_path / "x.pt")
    assert all(regions(tmp_path / "x.pt").values())
    with open_source(tmp_path / "x.pt") as source:
        expect(source, tensors)


def test_storages_of_one_size_are_told_apart(tmp_path: Path) -> None:
    tensors = {f"t{k}": ("F32", torch.full((16, 16), float(k))) for k in range(9)}
    torch.save({name: x for name, (_, x) in tensors.items()}, tmp_path / "x.pt")
    assert all(regions(tmp_path / "x.pt").values())
    with open_source(tmp_path / "x.pt") as source:
        expect(source, tensors)


def test_views_that_share_a_storage(tmp_path: Path) -> None:
    whole = values("F32", 10, 6)
    held = {
        "whole": whole,
        "rows": whole[3:7],
        "reshaped": whole.view(3, 20),
        "row": whole[9],
        "column": whole[:, 2],
        "transposed": whole.T,
        "strided": whole[::2],
        "expanded": whole[:1].expand(4, 6),
    }
    torch.save(held, tmp_path / "x.pt")
    in_place = {"whole", "rows", "reshaped", "row"}
    assert regions(tmp_path / "x.pt") == {name: name in in_place for name in held}
    with open_source(tmp_path / "x.pt") as source:
        expect(source, {name: ("F32", x) for name, x in held.items()})


def test_a_view_without_its_storage_s_beginning(tmp_path: Path) -> None:
    """Saving a view saves its whole storage; the view's offset counts elements."""
    for dtype in ("F64", "F32", "BF16", "U8"):
        x = values(dtype, 20, 3)[7:11]
        torch.save(x, tmp_path / "x.pt")
        assert regions(tmp_path / "x.pt") == {"data": True}
        with open_source(tmp_path / "x.pt") as source:
            expect(source, {"data": (dtype, x)})


def test_non_contiguous_tensors_are_right(tmp_path: Path) -> None:
    held = {"moved": values("F16", 2, 3, 4).movedim(1, -1), "images": values("F32", 2, 3, 4, 5)}
    held["last"] = held["images"].to(memory_format=torch.channels_last)
    torch.save(held, tmp_path / "x.pt")
    assert regions(tmp_path / "x.pt") == {"moved": False, "images": True, "last": False}
    with open_source(tmp_path / "x.pt") as source:
        expect(source, {name: ("F16" if name == "moved" else "F32", x) for name, x in held.items()})


def test_empty_tensors_beside_others(tmp_path: Path) -> None:
    held = {"empty": torch.zeros(0, 8), "full": values("F32", 3, 8), "none": torch.zeros(4, 0, 8)}
    torch.save(held, tmp_path / "x.pt")
    with open_source(tmp_path / "x.pt") as source:
        expect(source, {name: ("F32", x) for name, x in held.items()})
        assert isinstance(source.tensors["full"].region, FileRegion)


def test_tensors_in_lists_are_named_by_number(tmp_path: Path) -> None:
    held = {"latents": values("F32", 4, 8), "history": [torch.zeros(4, 8), torch.ones(4, 8)]}
    torch.save(held, tmp_path / "x.pt")
    with open_source(tmp_path / "x.pt") as source:
        named = {"latents": held["latents"], "history.0": held["history"][0], "history.1": held["history"][1]}
        expect(source, {name: ("F32", x) for name, x in named.items()})
    assert all(regions(tmp_path / "x.pt").values())


def test_a_part_of_a_large_file_is_read_from_where_it_lies(tmp_path: Path) -> None:
    x = torch.randn(1000, 64)
    torch.save({"first": torch.zeros(999), "x": x}, tmp_path / "x.pt")
    with open_source(tmp_path / "x.pt") as source:
        row = bytearray(256)
        source.tensors["x"].region.read_into(500 * 256, memoryview(row))
    assert bytes(row) == bytes_in_memory(x[500])


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_system_that_reads_a_few_bytes_at_a_time(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Linux does beyond 2 GiB: a read that gives less than was asked for is gone on with."""
    x, path, preadv = values("F32", 7, 9), tmp_path / f"x{suffix}", os.preadv
    if suffix == ".npy":
        np.save(path, x.numpy())
    elif suffix == ".npz":
        np.savez(path, data=x.numpy())
    elif suffix == ".safetensors":
        save_file({"data": x}, path)
    elif suffix in (".h5", ".hdf5"):
        save_hdf5(path, {"data": x})
    else:
        torch.save(x, path)
    monkeypatch.setattr(os, "preadv", lambda file, views, position: preadv(file, [views[0][:5]], position))
    with open_source(path) as source:
        expect(source, {"data": ("F32", x)})


def test_legacy_files(tmp_path: Path) -> None:
    held = {"latents": values("BF16", 3, 8), "nested": {"t": values("F32", 4, 2).T}, "labels": values("I64", 3)}
    torch.save(held, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "x.pt")
    with open_source(tmp_path / "x.pt") as source:
        tensors = {"latents": ("BF16", held["latents"]), "nested.t": ("F32", held["nested"]["t"])}
        expect(source, tensors | {"labels": ("I64", held["labels"])})


def test_tensors_of_other_kinds_are_left_alone(tmp_path: Path) -> None:
    held = {
        "sparse": torch.eye(3).to_sparse(),
        "complex": torch.ones(2, 8, dtype=torch.complex64),
        "latents": values("F32", 2, 8),
    }
    torch.save(held, tmp_path / "x.pt")
    options = EncodeOptions(dry_run=True)
    job = Job(tmp_path / "x.pt", tmp_path / "c.safetensors")
    (outcome,) = encode(Quantizer(dim=8, codebook_dim=8), [job], options)
    assert outcome.status == "planned", outcome.error
    assert set(outcome.left_alone) == {"sparse", "complex"}


class Payload:
    """What an attack looks like: unpickling it calls a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_never_run(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": torch.ones(2, 8), "y": Payload()}, "x.pt", _use_new_zipfile_serialization=zipped)
    with open_source(Path("x.pt")) as source:
        expect(source, {"x": ("F32", torch.ones(2, 8))})
        assert source.left_alone == {"y": "posix.mkdir"}
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"not a tensor file at all", b"PK\x03\x04" + bytes(100)])
def test_files_of_something_else_are_errors(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(TensorError, match=str(path)):
        open_source(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_cut_off_anywhere_is_an_error(suffix: str, tmp_path: Path) -> None:
    x, path = torch.randn(8, 8), tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, x.numpy())
    elif suffix == ".npz":
        np.savez(path, data=x.numpy())
    elif suffix == ".safetensors":
        save_file({"data": x}, path)
    elif suffix in (".h5", ".hdf5"):
        save_hdf5(path, {"data": x})
    else:
        torch.save(x, path)
    content = path.read_bytes()
    for size in sorted({*range(0, len(content), 97), len(content) - 1}):
        path.write_bytes(content[:size])
        with pytest.raises(TensorError, match="x"), open_source(path) as source:
            stored(source, "data")


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_no_regular_file_is_an_error(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"x{suffix}")
    for path in (tmp_path / f"x{suffix}", tmp_path / f"missing{suffix}"):
        with pytest.raises(TensorError, match=str(path)):
            open_source(path)
