"""torchfile/: the tensors of what torch.save wrote, read without torch, against torch.load(weights_only=False)."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import io
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch_files import bytes_of, close_all, read, saved, stored_bytes, unpickled

from lfq_cli.dtypes import OF_TORCH, SAFETENSORS_BITS
from lfq_cli.errors import TensorError
from lfq_cli.torchfile.values import Global, Opaque


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_all()


# Tensors


def dtype_of(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _slice(draw: st.DrawFn, x: Tensor, axis: int) -> Tensor:
    start = draw(st.integers(0, x.shape[axis]))
    return x.narrow(axis, start, draw(st.integers(0, x.shape[axis] - start)))


def _select(draw: st.DrawFn, x: Tensor, axis: int) -> Tensor:
    return x.select(axis, draw(st.integers(0, x.shape[axis] - 1))) if x.shape[axis] else x


DTYPE_NAMES = {name: found for name, found in OF_TORCH.items() if found in SAFETENSORS_BITS}
NEWER = {dtype_of(name) for name in DTYPE_NAMES if name.startswith(("float8", "uint16", "uint32", "uint64"))}
STEPS: dict[str, Callable[[st.DrawFn, Tensor, int], Tensor]] = {
    "slice": _slice,
    "select": _select,
    "step": lambda draw, x, axis: x[(slice(None),) * axis + (slice(None, None, 2),)],
    "swap": lambda draw, x, axis: x.transpose(axis, draw(st.integers(0, x.ndim - 1))),
    "expand": lambda draw, x, axis: x.unsqueeze(axis).expand(*x.shape[:axis], draw(st.integers(0, 3)), *x.shape[axis:]),
    "flat": lambda draw, x, axis: x.reshape(-1),
    "tail": lambda draw, x, axis: x[1:],
}


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A view of random bytes, of any dtype and rank; some of them negated or Parameters."""
    name = draw(st.sampled_from([name for name in DTYPE_NAMES if name != "float8_e8m0fnu"]))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = dtype_of(name)
    raw = np.random.default_rng(draw(st.integers(0, 99))).bytes(int(np.prod(shape)) * dtype.itemsize)
    if name == "bool":
        raw = bytes(byte & 1 for byte in raw)
    x = torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)
    for step in draw(st.lists(st.sampled_from(list(STEPS)), max_size=3)):
        if x.ndim:
            x = STEPS[step](draw, x, draw(st.integers(0, x.ndim - 1)))
    if x.is_floating_point() and draw(st.booleans()):
        return torch.nn.Parameter(x, requires_grad=draw(st.booleans()))
    if x.dtype in (torch.float32, torch.float64) and draw(st.booleans()):
        return torch._neg_view(x)
    return x


@given(
    held=st.dictionaries(st.text("abc", min_size=1, max_size=3), tensors(), min_size=1, max_size=4),
    protocol=st.integers(2, pickle.HIGHEST_PROTOCOL),
    zipped=st.booleans(),
)
def test_tensors_are_what_torch_makes_of_them(
    held: dict[str, Tensor], protocol: int, zipped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "x.pt"
    saved(held, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    close_all()
    newer = any(x.dtype in NEWER for x in held.values())  # which torch saves in the old format, and cannot load
    expected = held if newer and not zipped else torch.load(path, weights_only=False)
    found = read(path)
    assert list(found.tensors) == list(expected)
    for name, x in expected.items():
        tensor = found.tensors[name]
        torch_name = str(x.dtype).removeprefix("torch.")
        assert (tensor.dtype, tensor.shape) == (DTYPE_NAMES[torch_name], tuple(x.shape))
        assert bytes_of(found, name) == stored_bytes(x)


class Subclass(torch.Tensor):
    """A subclass that keeps its numbers as a tensor does."""


def with_attribute(x: Tensor) -> Tensor:
    x.note = "an attribute of Python's"  # type: ignore[attr-defined]
    return x


SHARED = torch.arange(60.0).reshape(10, 6)
WHOLE: dict[str, Any] = {
    "attribute": with_attribute(torch.ones(2, 3)),
    "subclass": torch.arange(6.0).as_subclass(Subclass),
    "parameter with state": with_attribute(torch.nn.Parameter(torch.ones(3))),
    "buffer": torch.nn.Buffer(torch.arange(3.0)),
    "whole": SHARED,
    "row": SHARED[3],
    "column": SHARED[:, 2],
    "requires grad": torch.ones(3, requires_grad=True),
    "imaginary": torch.tensor([1 + 2j, 3 + 4j]).conj().imag,
    "size": torch.ones(2, 3).size(),
    "zero-dimensional": torch.tensor(3.5),
    "empty": torch.zeros(0, 5),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "windows": torch.arange(20.0).unfold(0, 5, 1),
}


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_with_more_to_them(zipped: bool, tmp_path: Path) -> None:
    held = WHOLE
    path = saved(held, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = read(path)
    assert found.left_alone == {"size": "tuple"}
    assert set(found.tensors) == set(held) - {"size"}
    for name in found.tensors:
        assert bytes_of(found, name) == stored_bytes(held[name]), name


@pytest.mark.parametrize("location", ["cuda:0", "mps", "xpu:1", "hpu"])
def test_tensors_saved_from_a_device(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: location)
    for zipped in (True, False):
        path = saved({"x": torch.arange(6.0)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        assert location.encode() in path.read_bytes()
        assert bytes_of(read(path), "x") == stored_bytes(torch.arange(6.0))


def odd_tensors() -> dict[str, tuple[Tensor, str, str]]:
    """name -> (tensor, what it is, the call that helps)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        eye = torch.eye(4)
        found = {
            f"sparse {k}": (s, "sparse", ".to_dense()")
            for k, s in enumerate(
                [
                    eye.to_sparse(),
                    eye.to_sparse_csr(),
                    eye.to_sparse_csc(),
                    eye.to_sparse_bsr((2, 2)),
                    eye.to_sparse_bsc((2, 2)),
                ]
            )
        }
        quantized = [
            torch._empty_affine_quantized((4, 4), scale=0.1, zero_point=0, dtype=dtype)
            for dtype in (torch.qint8, torch.quint8, torch.qint32)
        ]
        found |= {f"quantized {k}": (q, "quantized", ".dequantize()") for k, q in enumerate(quantized)}
        parts = [torch.ones(2, 3), torch.ones(4, 3)]
        found["nested"] = (torch.nested.nested_tensor(parts), "nested", ".to_padded_tensor(0.0)")
        found["jagged"] = (torch.nested.nested_tensor(parts, layout=torch.jagged), "nested", ".to_padded_tensor(0.0)")
        found["meta"] = (torch.empty(4, 4, device="meta"), "meta", "values")
        found["conjugated"] = (torch.ones(4, 4, dtype=torch.complex64).conj(), "conjugated", ".resolve_conj()")
        found["expanded"] = (torch.ones(1).expand(2**60), "expanded", ".contiguous()")
    return found


ODD = odd_tensors()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ODD)
def test_tensors_of_other_kinds_are_named_with_what_helps(name: str, zipped: bool, tmp_path: Path) -> None:
    x, kind, remedy = ODD[name]
    path = saved({"odd": x, "plain": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = read(path)
    assert set(found.tensors) == {"plain"}
    assert kind in found.odd["odd"].what
    assert remedy in found.odd["odd"].what
    assert kind == "nested" or found.odd["odd"].shape == tuple(x.shape)


# What else is in such files


class Holder:
    """An object with a tensor in it."""

    def __init__(self) -> None:
        self.tensor = torch.ones(3)


class Items(dict[str, Any]):
    """A mapping of a class of its own."""


Pair = collections.namedtuple("Pair", "left right")

OBJECTS: dict[str, tuple[Any, str]] = {
    "namespace": (argparse.Namespace(lr=1, names=["a"]), "argparse.Namespace"),
    "numpy scalar": (np.float64(3.5), "numpy scalar"),
    "numpy array": (np.ones((2, 3), np.float32), "numpy array"),
    "numpy objects": (np.array([None, {}], object), "numpy array"),
    "numpy dtype": (np.dtype("f4"), "numpy.dtype"),
    "object": (Holder(), "test_torchfile.Holder"),
    "mapping": (Items(a=1, b=torch.ones(2)), "test_torchfile.Items"),
    "pair": (Pair(1, 2), "test_torchfile.Pair"),
    "partial": (functools.partial(print, 1), "functools.partial"),
    "class": (Holder, "test_torchfile.Holder"),
    "function": (os.path.join, "posixpath.join"),
    "date": (datetime.datetime(2026, 1, 1), "datetime.datetime"),
    "path": (Path("/tmp"), "pathlib.PosixPath"),
    "deque": (collections.deque([1, 2]), "collections.deque"),
    "complex": (3j, "complex"),
    "dtype": (torch.float32, "torch.float32"),
    "device": (torch.device("cpu"), "torch.device"),
    "generator state": (torch.Generator().get_state(), ""),
    "module": (torch.nn.Linear(2, 3), "torch.nn.modules.linear.Linear"),
    "storage": (torch.ones(3).untyped_storage(), "torch storage"),
    "error": (ValueError("no"), "ValueError"),
    "huge integer": (3**1000, "int"),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_objects_are_passed_over_and_named(zipped: bool, protocol: int, tmp_path: Path) -> None:
    held = {"first": torch.ones(2), **{name: value for name, (value, _) in OBJECTS.items()}, "last": torch.zeros(3)}
    path = saved(held, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    found = read(path)
    assert set(found.tensors) == {"first", "last", "generator state"}
    assert bytes_of(found, "last") == bytes(12)
    named = {name: what for name, (_, what) in OBJECTS.items() if what}
    assert set(found.left_alone) == set(named)
    assert {name: what for name, what in named.items() if what not in found.left_alone[name]} == {}


def test_mappings_of_the_standard_library_are_mappings(tmp_path: Path) -> None:
    default = collections.defaultdict(Tensor, a=torch.ones(1))
    path = saved(
        {"d": default, "o": collections.OrderedDict(b=torch.ones(2)), "n": collections.Counter("aab")},
        tmp_path / "x.pt",
    )
    found = read(path)
    assert set(found.tensors) == {"d.a", "o.b"}
    assert found.left_alone == {"n.a": "int", "n.b": "int"}


def test_lists_are_opened_where_tensors_are_in_them(tmp_path: Path) -> None:
    x = [torch.full((2,), float(k)) for k in range(9)]
    held = {
        "list": [x[0], x[1]],
        "tuple": (x[2], {"deep": [x[3], "text"]}),
        "groups": [{"lr": 0.1, "params": [0, 1, 2]}],
        "numbers": [1, 2],
        "sparse": [torch.eye(2).to_sparse()],
        7: x[4],
        (1, "a"): x[5],
    }
    found = read(saved(held, tmp_path / "x.pt"))
    names = ["list.0", "list.1", "tuple.0", "tuple.1.deep.0", "7", "(1, 'a')"]
    assert list(found.tensors) == names
    assert all(bytes_of(found, name) == stored_bytes(x[k]) for k, name in enumerate(names))
    odd = {name: tensor.what for name, tensor in found.odd.items()}
    assert set(odd) == {"sparse.0"}
    assert found.left_alone == odd | {"tuple.1.deep.1": "str", "groups": "list", "numbers": "list"}


@pytest.mark.parametrize("held", [[torch.ones(1), torch.zeros(2)], (torch.ones(1), torch.zeros(2))])
def test_a_list_of_tensors_is_named_by_number(held: Any, tmp_path: Path) -> None:
    assert list(read(saved(held, tmp_path / "x.pt")).tensors) == ["0", "1"]


@pytest.mark.parametrize(
    "held",
    [
        {"a": [torch.ones(1)], "a.0": torch.ones(1)},
        {"a": {"b": torch.ones(1)}, "a.b": 3},
        {"0": torch.ones(1), 0: torch.ones(1)},
        {"a": {0: torch.ones(1)}, "a.0": [torch.ones(1)], "a.0.0": torch.ones(1)},
    ],
)
def test_two_of_one_name_are_an_error(held: Any, tmp_path: Path) -> None:
    with pytest.raises(TensorError, match="two values of one name"):
        read(saved(held, tmp_path / "x.pt"))


def test_globals_and_opaque_objects_are_all_that_code_becomes(tmp_path: Path) -> None:
    """Whatever a pickle of objects builds, only plain values and names come out."""
    data = pickle.dumps(
        [*(value for value, _ in OBJECTS.values() if not isinstance(value, Tensor | torch.UntypedStorage))], 4
    )
    pending, types = [unpickled(data, tmp_path)], set()
    while pending:
        value = pending.pop()
        types.add(type(value))
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    assert types <= {list, dict, tuple, int, Global, Opaque}


# The container


def test_a_file_of_a_big_endian_machine(tmp_path: Path) -> None:
    held = {
        "f": torch.randn(3, 4),
        "h": torch.randn(5).half(),
        "t": torch.randn(3, 4).T,
        "b": torch.ones(3, dtype=torch.uint8),
    }
    held |= {"v": torch.arange(5).to(torch.uint16), "n": torch._neg_view(torch.randn(4))}
    saved(held, tmp_path / "little.pt")
    items = {"f": 4, "h": 2, "t": 4, "b": 1, "v": 2, "n": 4}
    with zipfile.ZipFile(tmp_path / "little.pt") as source, zipfile.ZipFile(tmp_path / "big.pt", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if "/data/" in name:
                width = list(items.values())[int(name.rpartition("/")[2])]
                content = np.frombuffer(content, f"V{width}").view(f">u{width}").astype(f"<u{width}").tobytes()
            target.writestr(name, b"big" if name.endswith("/byteorder") else content)
    found = read(tmp_path / "big.pt")
    for name, x in held.items():
        assert bytes_of(found, name) == stored_bytes(x), name


def test_torchscript_is_told_apart(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "x.pt")
    with pytest.raises(TensorError, match="TorchScript archive") as raised:
        read(tmp_path / "x.pt")
    assert "torch.jit.load('x.pt').state_dict()" in str(raised.value.hint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(tmp_path / "x.pt")  # type: ignore[no-untyped-call]
        saved(module.state_dict(), tmp_path / "y.pt")  # what the hint says
    assert set(read(tmp_path / "y.pt").tensors) == {"weight", "bias"}


def test_another_zip_archive_is_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones(3))
    (tmp_path / "x.npz").rename(tmp_path / "x.pt")
    with pytest.raises(TensorError, match=r"zip archive that torch\.save did not write"):
        read(tmp_path / "x.pt")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_something_else(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"x": np.ones(3), "trap": eval}, protocol))
    with pytest.raises(TensorError, match=r"a pickle that torch\.save did not write"):
        read(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_record_that_is_too_short_or_gone(zipped: bool, tmp_path: Path) -> None:
    path = saved({"x": torch.ones(100), "y": torch.ones(7)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    if not zipped:
        whole = path.read_bytes()
        for size in (len(whole) - 1, len(whole) - 29, len(whole) - 37, len(whole) - 500):
            path.write_bytes(whole[:size])
            with pytest.raises(TensorError, match="not a whole torch file"):
                read(path)
        return
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    for changed in ({"x/data/0": bytes(399)}, {"x/data/0": None}, {"x/data/1": b""}):
        with zipfile.ZipFile(tmp_path / "y.pt", "w") as target:
            for name, content in (members | changed).items():
                if content is not None:
                    target.writestr(name, content)
        with pytest.raises(TensorError, match=r"storage '[01]' has (no|0|399) bytes, expected"):
            read(tmp_path / "y.pt")


def test_a_view_of_a_large_tensor_is_not_read_into_memory_whole(tmp_path: Path) -> None:
    x = torch.zeros(1 << 20, 64)
    x[:, 3] = torch.arange(1 << 20)
    found = read(saved({"x": x[:, 3], "t": x[:64, :3].T}, tmp_path / "x.pt"))
    tracemalloc.start()
    try:
        assert bytes_of(found, "x") == stored_bytes(x[:, 3])
        assert bytes_of(found, "t") == stored_bytes(x[:64, :3].T)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_a_file_object_is_never_mapped(tmp_path: Path) -> None:
    """A file that shrinks while it is read is an error, where a mapping would end the process."""
    path = saved({"x": torch.ones(1 << 20)}, tmp_path / "x.pt")
    found = read(path)
    os.truncate(path, 1 << 10)
    with pytest.raises(TensorError, match="shrank"):
        bytes_of(found, "x")


def test_reading_needs_no_seekable_order(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"x": torch.arange(1000.0)}, buffer)
    path = tmp_path / "x.pt"
    path.write_bytes(buffer.getvalue())
    region = read(path).tensors["x"].region
    for k in (999, 0, 500):
        data = bytearray(4)
        region.read_into(4 * k, memoryview(data))
        assert struct.unpack("<f", data) == (float(k),)


def tensors_in(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested dicts, lists and tuples, by dotted name."""
    if isinstance(value, Tensor):
        yield prefix or "data", value
    items = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list | tuple) else ())
    for key, held in items:
        yield from tensors_in(held, f"{prefix}.{key}" if prefix else str(key))


def test_of_a_broken_file_nothing_is_read_that_torch_reads_differently(tmp_path: Path) -> None:
    path, both = tmp_path / "x.pt", 0
    known = [
        argparse.Namespace,
        np._core.multiarray.scalar,  # type: ignore[attr-defined]
        np.dtype,
        np.dtypes.Float64DType,
    ]
    target = mutations.Target(".pt", mutations.torch_seeds(), lambda path: None)
    for data in islice(mutations.broken(target, seed=0), 600):
        path.write_bytes(data)
        close_all()
        try:
            found = read(path)
            with torch.serialization.safe_globals(known), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = dict(tensors_in(torch.load(path, weights_only=True)))
        except Exception:
            continue
        both += 1
        assert set(found.tensors) | set(found.odd) == set(expected)
        for name in found.tensors:
            assert found.tensors[name].shape == tuple(expected[name].shape)
            assert bytes_of(found, name) == stored_bytes(expected[name]), name
    assert both > 60
