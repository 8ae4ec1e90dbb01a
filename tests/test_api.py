"""`import lfq_cli`: the tokens of the command line, in arrays; files of samples; nothing of torch without need."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

import lfq_cli as lfq
from lfq_cli import native
from lfq_cli.errors import ExistsError, LfqError, OptionError, TensorError
from lfq_cli.jobs.verify import VerifyOptions, verify
from lfq_cli.quantizer import Quantizer

Array = NDArray[Any]
PLAIN = Quantizer(dim=5, codebook_dim=5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    native.write(PLAIN, tmp_path / "c.safetensors")
    return tmp_path


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# tokens are the command line's


# of every kind of checkpoint: tests/grid/routes.py, in_python

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_of_torch_and_numpy(folder: Path, dtype: torch.dtype) -> None:
    codec = lfq.load("c.safetensors")
    x = torch.from_numpy(floats(3, 5, 2)).to(dtype)
    expected = (x.float() > 0).numpy()
    tokens = codec.encode(x, channel_axis=1)
    assert np.array_equal(tokens.bits, np.moveaxis(expected, 1, -1))
    assert tokens == codec.encode(x.transpose(1, 2))  # whatever its strides
    if dtype in (torch.float64, torch.float32, torch.float16):
        assert tokens == codec.encode(x.numpy(), channel_axis=1)
        assert tokens == codec.encode(x.numpy().astype(x.numpy().dtype.newbyteorder(">")), channel_axis=1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_there_and_back_and_in_every_cut(data: st.DataObject) -> None:
    codec = lfq.Codec(PLAIN)
    shape = list(data.draw(st.lists(st.integers(0, 4), min_size=0, max_size=3)))
    axis = data.draw(st.integers(0, len(shape)))
    x = floats(*shape[:axis], 5, *shape[axis:])
    tokens = codec.encode(x, channel_axis=axis)
    assert tokens.positions == tuple(shape)
    assert np.array_equal(codec.decode(tokens), np.where(x > 0, 1, -1).astype(np.float32))
    dims = data.draw(st.sampled_from([(5,), (2, 3), (1, 1, 3)]))
    order = data.draw(st.sampled_from(["msb", "lsb"]))
    cut = tokens.cut(dims, order)
    bits = np.moveaxis(x > 0, axis, -1)
    fields = np.split(bits, np.cumsum(dims)[:-1], axis=-1)
    step = -1 if order == "msb" else 1
    expected = np.stack([field[..., ::step] @ (1 << np.arange(field.shape[-1])) for field in fields], axis=-1)
    assert np.array_equal(cut.indices, expected if len(dims) > 1 else expected[..., 0])
    assert np.array_equal(codec.decode(cut), codec.decode(tokens))
    assert np.array_equal(codec.decode(tokens.indices, channel_axis=axis), codec.decode(tokens))
    assert pickle.loads(pickle.dumps(tokens)) == tokens


def test_decode_gives_what_it_is_given(folder: Path) -> None:
    codec = lfq.load("c.safetensors")
    tokens = codec.encode(torch.from_numpy(floats(4, 5)))
    decoded = codec.decode(tokens.torch())
    assert isinstance(decoded, torch.Tensor)
    assert torch.equal(decoded, codec.indices_to_codes(tokens.torch()))
    assert codec.decode(tokens, dtype="float16").dtype == np.float16
    assert codec.decode(tokens, dtype="bfloat16").dtype == torch.bfloat16
    quantized, indices, _ = codec(torch.from_numpy(floats(1, 4, 5)))
    assert torch.equal(indices[0], tokens.torch())
    assert torch.equal(quantized[0], decoded)


def test_wrong_arrays_say_what_is_expected(folder: Path) -> None:
    codec = lfq.load("c.safetensors")
    x = floats(3, 5)
    x[1, 2] = np.nan
    with pytest.raises(TensorError, match=r"holds 1 NaN, the first at \[1, 2\]"):
        codec.encode(x)
    assert not codec.encode(x, nan="zero").bits[1, 2]
    for wrong, error, message in (
        (np.ones((3, 5), int), TensorError, "holds I64"),
        (np.ones((3, 4)), TensorError, "has 4 features"),
        (np.array(["a"]), TensorError, "holds <U1"),
        (1.0, TensorError, "is a single number"),
    ):
        with pytest.raises(error, match=message):
            codec.encode(wrong)
    for wrong, message in (([32], "expected 0 to 31"), ([-1], "expected 0 to 31"), ([0.5], "expected integers")):
        with pytest.raises(OptionError, match=message):
            codec.decode(wrong)
    with pytest.raises(OptionError, match="both say where"):
        codec.encode(floats(3, 5), layout="channel-last", channel_axis=1)
    with pytest.raises(OptionError, match="bits of a vector"):
        codec.encode(floats(3, 5)).cut((2, 2))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        codec.nothing_of_the_kind  # noqa: B018


def test_a_plain_quantizer_needs_no_torch(folder: Path) -> None:
    script = (
        "import sys, numpy as np, lfq_cli as lfq\n"
        "codec = lfq.load('c.safetensors')\n"
        "tokens = codec.encode(np.ones((2, 5), np.float32))\n"
        "assert tokens.indices.tolist() == [31, 31]\n"
        "assert codec.decode(tokens).tolist() == [[1] * 5] * 2\n"
        "with lfq.create('o.codes.safetensors', codec) as out:\n"
        "    out.append(np.ones((2, 3, 5), np.float32), labels=[1, 2])\n"
        "lfq.stats('o.codes.safetensors').as_json()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=folder)


def test_tokens_are_saved_as_a_codes_file(folder: Path) -> None:
    codec = lfq.load("c.safetensors")
    x = floats(3, 5, 2)
    tokens = codec.encode(x, channel_axis=1)
    tokens.save("t.codes.safetensors", name="x")
    (verdict,) = verify([folder / "t.codes.safetensors"], VerifyOptions(), PLAIN)
    assert verdict.status == "whole"
    with lfq.open_codes("t.codes.safetensors") as codes:
        assert lfq.Tokens.of(codes["x"]) == tokens
        assert np.array_equal(codec.decode(lfq.Tokens.of(codes["x"])), np.where(x > 0, 1, -1))
    with pytest.raises(ExistsError):
        tokens.save("t.codes.safetensors")


# files of samples


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("with_torch", [False, True])
def test_create_writes_what_encode_packs(folder: Path, ragged: bool, with_torch: bool) -> None:
    codec = lfq.load("c.safetensors")
    arrays = [floats(k % 3 + 1 if ragged else 3, 5, seed=k) for k in range(20)]
    (folder / "in").mkdir()
    for k, array in enumerate(arrays):
        np.save(folder / "in" / f"{k:02}.npy", array)
    with lfq.create("made.codes.safetensors", codec, name="data", ragged=ragged) as out:
        for first in range(0, 20, 7):
            part: Any = arrays[first : first + 7]
            if not ragged:
                part = torch.from_numpy(np.stack(part)) if with_torch else np.stack(part)
            numbers = list(range(first, min(first + 7, 20)))
            labels: Any = torch.tensor(numbers) if with_torch else numbers
            keys, captions = [f"{k:02}" for k in numbers], [f"c{k}" for k in numbers]
            out.append(part, keys=keys, labels=labels, caption=captions)
    assert len(out) == 20
    if not ragged:
        lfq.encode_files(codec, "in", "packed", samples_per_file=99)
        made, packed = load_file("made.codes.safetensors"), load_file("packed/00000.codes.safetensors")
        for name in ("data", "keys", "keys.offsets"):
            assert np.array_equal(made[name], packed[name])
    with lfq.open_codes("made.codes.safetensors") as codes:
        assert codes.keys_of_samples == [f"{k:02}" for k in range(20)]
        assert codes.column("labels").tolist() == list(range(20))
        assert codes.texts("caption") == [f"c{k}" for k in range(20)]
    (verdict,) = verify([folder / "made.codes.safetensors"], VerifyOptions(), PLAIN)
    assert verdict.status == "whole"


def test_create_appears_whole_or_not_at_all(folder: Path) -> None:
    codec = lfq.load("c.safetensors")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(KeyboardInterrupt), lfq.create("o.codes.safetensors", codec) as out:  # noqa: PT012
        out.append(floats(4, 3, 5))
        raise KeyboardInterrupt
    assert {path.name for path in folder.iterdir()} == before
    for wrong, message in (
        (lambda out: out.append(floats(4, 3, 5), keys=["a", "b", "c", "a"]), "the key 'a' came before"),
        (lambda out: out.append(floats(4, 3, 5), keys=["a\n", "b", "c", "d"]), "control characters"),
        (lambda out: out.append(floats(4, 3, 5), labels=[1, 2]), "labels: 2 for 4 samples"),
        (lambda out: out.append(floats(4, 3, 5), labels=7), "labels is a single value, expected one for each sample"),
        (lambda out: out.append(floats(4, 3, 5), labels=[[1], [2, 3], [4], [5]]), "labels: .*expected numbers"),
        (lambda out: out.append(floats(4, 2, 5), keys=list("wxyz")), "differs from the samples before it"),
        (lambda out: out.append(floats(4, 3, 4), keys=list("wxyz")), "has 4 features"),
    ):
        with pytest.raises(LfqError, match=message), lfq.create("o.codes.safetensors", codec) as out:  # noqa: PT012
            out.append(floats(2, 3, 5), keys=["1", "2"])
            wrong(out)
        assert {path.name for path in folder.iterdir()} == before
    with pytest.raises(OptionError, match="no sample was appended"), lfq.create("o.codes.safetensors", codec):
        pass


def test_a_created_file_that_is_closed_takes_nothing_more(folder: Path) -> None:
    codec = lfq.load("c.safetensors")
    with lfq.create("o.codes.safetensors", codec) as out:
        out.append(floats(4, 3, 5))
        out.close()
        whole = Path("o.codes.safetensors").read_bytes()
        with pytest.raises(OptionError, match="is closed"):
            out.append(floats(4, 3, 5))
    assert Path("o.codes.safetensors").read_bytes() == whole


def test_codes_say_what_they_are(folder: Path) -> None:
    with lfq.create("o.codes.safetensors", lfq.load("c.safetensors")) as out:
        out.append(floats(4, 3, 5))
    with lfq.open_codes("o.codes.safetensors") as codes:
        assert repr(codes) == "<CodesFile 'o.codes.safetensors': 'latents'>"
        assert repr(codes["latents"]) == "<TensorCodes 'latents': int64 (4, 3), 5 bits each>"


# statistics and files


def test_stats_of_tokens_are_those_of_their_file(folder: Path) -> None:
    codec = lfq.load("c.safetensors")
    tokens = codec.encode(floats(50, 5))
    tokens.save("t.codes.safetensors")
    of_file, of_tokens = lfq.stats("t.codes.safetensors"), lfq.stats(tokens)
    assert of_file.usage is not None
    assert of_tokens.usage is not None
    assert of_file.usage.as_json() == of_tokens.usage.as_json()
    assert "utilisation" in str(of_tokens) or "codes used" in str(of_tokens)
    assert of_tokens._repr_html_().startswith("<pre>")
    of_tokens.plot("usage.png")
    assert (folder / "usage.png").stat().st_size > 1000
    with pytest.raises(LfqError, match="no such file"):
        lfq.stats("nothing.codes.safetensors")


def test_files_raise_what_the_command_prints(folder: Path) -> None:
    np.save("a.npy", floats(7, 5))
    outcomes = lfq.encode_files("c.safetensors", "a.npy", "codes")
    assert [(outcome.status, outcome.vectors) for outcome in outcomes] == [("written", 7)]
    assert lfq.encode_files("c.safetensors", "a.npy", "codes")[0].status == "up to date"
    lfq.decode_files("c.safetensors", "codes", "back")
    assert np.array_equal(load_file("back/a.safetensors")["data"], np.where(np.load("a.npy") > 0, 1, -1))
    np.save("a.npy", floats(7, 4))
    with pytest.raises(TensorError, match="has 4 features"):
        lfq.encode_files("c.safetensors", "a.npy", "codes", overwrite=True)


def test_names_are_there_and_typed() -> None:
    for name in lfq.__all__:
        assert getattr(lfq, name) is not None
    assert (Path(lfq.__file__).parent / "py.typed").exists()
    assert repr(lfq.Codec(PLAIN)).startswith("<Codec: 5 features to 5 bits")
