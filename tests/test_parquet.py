"""samples/parquet.py: every type of column that holds vectors, as pyarrow and others write them; bad rows are named."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy as st_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lfq_cli.codesfile import SUFFIX, open_codes
from lfq_cli.dtypes import NUMPY
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.jobs.pack import PackOptions, pack
from lfq_cli.jobs.plan import name_samples
from lfq_cli.pipeline.samples import SampleOptions
from lfq_cli.quantizer import Quantizer
from lfq_cli.samples import BadSample, Sample, samples_in
from lfq_cli.samples.selection import Selection

Array = NDArray[Any]
ROWS = 23


def latents(*shape: int, dtype: str = "f4") -> Array:
    return np.random.default_rng(0).standard_normal((ROWS, *shape)).astype(dtype)


def nested(x: Array, kind: Any) -> Any:
    """A column of lists, as deep as x has axes."""
    for _ in range(x.ndim - 1):
        kind = pa.list_(kind)
    return pa.array(x.tolist(), kind)


def fixed(x: Array) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x[0].size)


def large(x: Array) -> Any:
    return pa.array(x.reshape(len(x), -1).tolist(), pa.large_list(pa.float32()))


COLUMNS = {
    "lists": (lambda x: nested(x, pa.float32()), (18, 4, 2), "f4"),
    "lists of numbers": (lambda x: nested(x, pa.float32()), (18,), "f4"),
    "lists of float64": (lambda x: nested(x, pa.float64()), (3, 6), "f8"),
    "lists of float16": (lambda x: pa.array(list(x), pa.list_(pa.float16())), (18,), "f2"),
    "lists of integers": (lambda x: nested((x * 9).astype("i2"), pa.int16()), (18,), "f4"),
    "large lists": (large, (18,), "f4"),
    "fixed-size lists": (fixed, (18,), "f4"),
    "fixed-size lists of fixed-size lists": (
        lambda x: pa.FixedSizeListArray.from_arrays(
            pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[2]), x.shape[1]
        ),
        (6, 3),
        "f4",
    ),
    "tensors": (pa.FixedShapeTensorArray.from_numpy_ndarray, (18, 4, 2), "f4"),
}


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def values(sample: Sample | BadSample, name: str) -> Array:
    assert isinstance(sample, Sample), sample
    tensor = sample.tensors[name]
    data = bytearray(NUMPY[tensor.dtype].itemsize * int(np.prod(tensor.shape)))
    tensor.region.read_into(0, memoryview(data))
    return np.frombuffer(data, NUMPY[tensor.dtype]).reshape(tensor.shape)


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_kind_of_column(tmp_path: Path, kind: str) -> None:
    make, shape, dtype = COLUMNS[kind]
    x = latents(*shape, dtype=dtype)
    path = write(tmp_path / "t.parquet", x=make(x), latent=nested(latents(2), pa.float32()))
    expected = (x * 9).astype("i2") if "integers" in kind else x
    found = list(samples_in(path, "data/t", Selection(carry=("x",))))
    assert [sample.key for sample in found] == [f"data/t/{row}" for row in range(ROWS)]
    for sample, row in zip(found, expected, strict=True):
        np.testing.assert_array_equal(values(sample, "x"), row)


def test_the_axes_of_a_permuted_tensor(tmp_path: Path) -> None:
    x = latents(2, 3, 4)
    kind = pa.fixed_shape_tensor(pa.float32(), (2, 3, 4), permutation=[2, 0, 1])
    path = write(tmp_path / "t.parquet", x=pa.ExtensionArray.from_storage(kind, fixed(x)))
    for sample, row in zip(samples_in(path, "t", Selection()), x, strict=True):
        np.testing.assert_array_equal(values(sample, "x"), row.transpose(2, 0, 1))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_lists_of_lists_are_what_python_makes_of_them(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    numbers = st.floats(width=32, allow_nan=False)
    cells = st.none() | st.lists(st.none() | st.lists(st.none() | numbers, max_size=3), max_size=3)
    rows = data.draw(st.lists(cells, min_size=1, max_size=12))
    offset = data.draw(st.integers(0, len(rows) - 1))
    column = pa.array(rows, pa.list_(pa.list_(pa.float32())))[offset:]
    path = tmp_path_factory.mktemp("parquet") / "t.parquet"
    pq.write_table(pa.table({"x": column}), path, row_group_size=data.draw(st.integers(1, 12)))
    for sample, row in zip(samples_in(path, "t", Selection()), rows[offset:], strict=True):
        if row is None:
            assert isinstance(sample, Sample)
            assert "x" not in sample.tensors
        elif any(part is None or None in part or len(part) != len(row[0] or ()) for part in row):
            assert isinstance(sample, BadSample)
            assert "'x' has " in sample.error.message
        else:
            expected = np.array(row, np.float32).reshape(len(row), len(row[0] or ()) if row else 0)
            np.testing.assert_array_equal(values(sample, "x"), expected)


def test_keys_labels_and_texts(tmp_path: Path) -> None:
    x = latents(5)
    keys = [f"n01/{row}" for row in range(ROWS)]
    path = write(
        tmp_path / "in.parquet",
        __key__=keys,
        latent=nested(x, pa.float32()),
        label=pa.array(range(ROWS), pa.int32()),
        flag=[row % 2 == 0 for row in range(ROWS)],
        meta=pa.array([{"w": row / 4, "t": f"t{row}"} for row in range(ROWS)]),
        caption=pa.array([f"é {row}" for row in range(ROWS)]).dictionary_encode(),
        jpg=[b"..."] * ROWS,
        url=[None, *["u"] * (ROWS - 1)],
    )
    quantizer = Quantizer(dim=5, codebook_dim=5)
    options = SampleOptions(carry=("label", "flag", "meta.w"), carry_text=("caption", "meta.t"))
    inputs, missed = name_samples([str(path)], tmp_path / "out", stacked=False, inputs_kept=[])
    (outcome,) = pack(quantizer, inputs, tmp_path / "out", PackOptions(options, 100, durable=False), missed=missed)
    assert outcome.error is None
    stored = st_numpy.load_file(tmp_path / "out" / f"00000{SUFFIX}")
    assert stored["label"].dtype == np.int32
    assert stored["label"].tolist() == list(range(ROWS))
    assert stored["flag"].tolist() == [row % 2 == 0 for row in range(ROWS)]
    assert stored["meta.w"].tolist() == [row / 4 for row in range(ROWS)]
    with open_codes(tmp_path / "out" / f"00000{SUFFIX}") as codes:
        assert codes.keys_of_samples == keys
        assert codes.texts("caption") == [f"é {row}" for row in range(ROWS)]
        assert codes.texts("meta.t") == [f"t{row}" for row in range(ROWS)]
        expected = (x > 0) @ (1 << np.arange(4, -1, -1))
        np.testing.assert_array_equal(codes["latent"][...], expected)


def test_a_row_without_a_key_or_with_a_damaged_text_is_named(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], "i4").tobytes()), pa.py_buffer(b"a\xff")]
    )
    x = nested(latents(5)[:2], pa.float32())
    path = write(tmp_path / "a.parquet", key=["k", None], x=x, caption=bad)
    first, second = samples_in(path, "a", Selection())
    assert isinstance(first, Sample)
    assert isinstance(second, BadSample)
    assert "row 1 has no key" in second.error.message
    path = write(tmp_path / "b.parquet", key=["k", "l"], x=x, caption=bad)
    first, second = samples_in(path, "b", Selection(carry_text=("caption",)))
    assert isinstance(first, Sample)
    assert isinstance(second, BadSample)
    assert second.key == "l"
    assert "'caption' is not UTF-8" in second.error.message


def test_a_file_without_floats_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", a=[1, 2], b=["x", "y"])
    with pytest.raises(TensorError, match="no column of floats to encode") as raised:
        list(samples_in(path, "t", Selection()))
    assert raised.value.hint == "it holds 'a' (int64), 'b' (string)"


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", key=["a", "b"], x=nested(latents(5)[:2], pa.float32()), label=[1, 2])
    whole, rng, failed = path.read_bytes(), random.Random(0), 0
    for cut in range(0, len(whole), 37):
        path.write_bytes(whole[:cut])
        with pytest.raises(TensorError, match="not a whole parquet file"):
            list(samples_in(path, "t", Selection()))
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            list(samples_in(path, "t", Selection(carry=("label",))))
        except LfqError:
            failed += 1
    assert failed > 100


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.parquet", x=nested(latents(5), pa.float32()))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(TensorError, match="needs pyarrow") as raised:
        list(samples_in(path, "t", Selection()))
    assert raised.value.hint == "pip install 'lfq-cli[parquet]'"
