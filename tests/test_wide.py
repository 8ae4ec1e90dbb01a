"""Indices of 32 to 64 bits, files in and files out, against Python integers; the reference overflows from 32 on."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import twin
from safetensors.numpy import load_file, save_file

import lfq_cli
from lfq_cli import checkpoints, native
from lfq_cli.checkpoints import Facts
from lfq_cli.errors import LfqError
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.plan import Job
from lfq_cli.jobs.stats import stats
from lfq_cli.nn import LFQ
from lfq_cli.quantizer import Quantizer

WIDTHS = (32, 36, 63, 64)
SIZES = list(itertools.product(WIDTHS, (1, 2)))
ORDERS = ("msb", "lsb")
DTYPES = {"uint8": "U8", "int16": "I16", "int32": "I32", "int64": "I64", "uint64": "U64"}


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def checkpoint(folder: Path, bits: int, codebooks: int, order: Any = "msb") -> Quantizer:
    made = Quantizer(dim=bits * codebooks, codebook_dim=bits, num_codebooks=codebooks, bit_order=order)
    native.write(made, folder / "wide.safetensors", overwrite=True)
    return checkpoints.load(folder / "wide.safetensors")


def vectors(bits: int, codebooks: int) -> np.ndarray:
    """Normal float32 [61, C*D]: 61 vectors end within a byte. The first are all ones, all zeros, and single bits."""
    x = np.random.default_rng(bits + codebooks).standard_normal((61, bits * codebooks)).astype(np.float32)
    x[0], x[1], x[2:4] = 1, -1, -1
    x[2, 0] = x[3, -1] = 1
    x[5] = x[4]
    return x


def expected_indices(x: np.ndarray, bits: int, order: str) -> list[list[int]]:
    """Python integers [n][c]."""
    rows = []
    for vector in x.tolist():
        pieces = [vector[start : start + bits] for start in range(0, len(vector), bits)]
        ordered = [piece if order == "msb" else piece[::-1] for piece in pieces]
        rows.append([int("".join("1" if value > 0 else "0" for value in piece), 2) for piece in ordered])
    return rows


def encoded(quantizer: Quantizer, x: np.ndarray, folder: Path, **options: Any) -> Path:
    source, codes = folder / "x.npy", folder / "x.codes.safetensors"
    np.save(source, x)
    (outcome,) = encode(quantizer, [Job(source, codes)], EncodeOptions(overwrite=True, **options))
    if outcome.error:
        raise outcome.error
    return codes


def decoded(quantizer: Quantizer, codes: Path) -> np.ndarray:
    out = codes.parent / "y.safetensors"
    (outcome,) = decode(quantizer, [Job(codes, out)], DecodeOptions(overwrite=True))
    if outcome.error:
        raise outcome.error
    found: np.ndarray = load_file(out)["data"]
    return found


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("packing", ["bits", "rows", "ints"])
@pytest.mark.parametrize(("bits", "codebooks"), SIZES)
def test_codes_are_the_python_integers(bits: int, codebooks: int, packing: str, order: str, tmp_path: Path) -> None:
    quantizer = checkpoint(tmp_path, bits, codebooks, order)
    x = vectors(bits, codebooks)
    codes = encoded(quantizer, x, tmp_path, packing=packing)
    expected = expected_indices(x, bits, order)
    flat = expected if codebooks > 1 else [row[0] for row in expected]

    with lfq_cli.open_codes(codes) as file:
        assert file["data"].shape == (61, codebooks)[: 1 + (codebooks > 1)]
        assert file["data"].dtype == (np.uint64 if bits == 64 else np.int64)
        assert file["data"][...].tolist() == flat
        assert file["data"][7:23].tolist() == flat[7:23]
        assert file["data"][60].tolist() == flat[60]
        assert file["data"][::-7].tolist() == flat[::-7]
    ((entry, found),) = twin.read_codes_file(codes).values()
    assert found == (x > 0).astype(int).tolist()
    assert entry["codebook_dims"] == [bits] * codebooks
    assert np.array_equal(decoded(quantizer, codes), np.where(x > 0, np.float32(1), np.float32(-1)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("bits", "codebooks"), SIZES)
def test_plain_integers_are_read_by_any_safetensors_reader(
    bits: int, codebooks: int, order: str, tmp_path: Path
) -> None:
    x = vectors(bits, codebooks)
    stored = load_file(encoded(checkpoint(tmp_path, bits, codebooks, order), x, tmp_path, packing="ints"))["data"]
    assert stored.dtype == (np.uint64 if bits == 64 else np.int64)
    assert stored.reshape(61, codebooks).tolist() == expected_indices(x, bits, order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("packing", ["bits", "rows", "ints"])
@pytest.mark.parametrize(("bits", "codebooks"), SIZES)
def test_stats_count_the_python_integers(bits: int, codebooks: int, packing: str, order: str, tmp_path: Path) -> None:
    x = vectors(bits, codebooks)
    report = stats([encoded(checkpoint(tmp_path, bits, codebooks, order), x, tmp_path, packing=packing)])
    (tensor,) = report.tensors
    assert report.overall is tensor.usage
    for k, usage in enumerate(tensor.usage.codebooks):
        counted = Counter(row[k] for row in expected_indices(x, bits, order))
        assert (usage.bits, usage.count, usage.codes_used) == (bits, 61, len(counted))
        assert usage.utilisation == len(counted) / 2**bits
        assert usage.entropy_bits == pytest.approx(twin.entropy_bits(counted), abs=1e-12)
        assert usage.perplexity == pytest.approx(twin.perplexity(counted), rel=1e-12)
        channels = x[:, k * bits : (k + 1) * bits] > 0
        assert usage.ones == pytest.approx((channels.sum(0) / 61).tolist(), abs=1e-15)


@pytest.mark.parametrize(("bits", "codebooks"), SIZES)
def test_channel_first_in_several_tensors(bits: int, codebooks: int, tmp_path: Path) -> None:
    x = vectors(bits, codebooks)[:60]
    tensors = {"a": x, "b": np.ascontiguousarray(x.reshape(3, 4, 5, -1).transpose(0, 3, 1, 2))}
    save_file(tensors, tmp_path / "x.safetensors")
    quantizer, codes = checkpoint(tmp_path, bits, codebooks), tmp_path / "c.safetensors"
    (outcome,) = encode(quantizer, [Job(tmp_path / "x.safetensors", codes)], EncodeOptions(packing="ints"))
    assert outcome.status == "written", outcome.error
    with lfq_cli.open_codes(codes) as file:
        assert file["b"].shape[:3] == (3, 4, 5)
        assert file["b"][...].reshape(60, -1).tolist() == expected_indices(x, bits, "msb")
        assert file["a"][...].reshape(60, -1).tolist() == expected_indices(x, bits, "msb")
    report = stats([codes])
    assert report.overall is not None
    assert report.overall.codebooks[0].count == 120
    assert report.overall.codebooks[0].codes_used == len({row[0] for row in expected_indices(x, bits, "msb")})
    (outcome,) = decode(quantizer, [Job(codes, tmp_path / "y.safetensors")], DecodeOptions())
    assert outcome.status == "written", outcome.error
    assert np.array_equal(load_file(tmp_path / "y.safetensors")["b"], np.where(tensors["b"] > 0, 1, -1))


@pytest.mark.parametrize(("bits", "requested"), list(itertools.product((1, 8, 15, 16, 31, *WIDTHS), DTYPES)))
def test_index_dtypes_hold_every_index_or_are_refused(bits: int, requested: str, tmp_path: Path) -> None:
    quantizer, x = checkpoint(tmp_path, bits, 1), vectors(bits, 1)
    if np.iinfo(requested).max < 2**bits - 1:
        with pytest.raises(LfqError, match=f"indices of {bits} bits do not fit {requested}"):
            encoded(quantizer, x, tmp_path, packing="ints", index_dtype=DTYPES[requested])
        return
    codes = encoded(quantizer, x, tmp_path, packing="ints", index_dtype=DTYPES[requested])
    stored = load_file(codes)["data"]
    assert stored.dtype == requested
    assert stored.tolist() == [row[0] for row in expected_indices(x, bits, "msb")]
    assert np.array_equal(decoded(quantizer, codes), np.where(x > 0, np.float32(1), np.float32(-1)))


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_state_dict_mask_of_64_bits_begins_with_the_sign_bit(bits: int, tmp_path: Path) -> None:
    mask = 2 ** torch.arange(bits - 1, -1, -1)
    torch.save({"quantizer.mask": mask}, tmp_path / "foreign.pt")
    found = checkpoints.load(
        tmp_path / "foreign.pt", Facts(codebook_scale=1.0, spherical=False, soft_clamp="none", num_codebooks=2)
    )
    assert found.digest == checkpoint(tmp_path, bits, 2).digest


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("options", [{"orthogonal_rotation": True}, {"dim": 48}, {"dim": 48, "spherical": True}])
def test_modules_save_and_quantize_as_the_files_do(bits: int, options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(bits)
    module = LFQ(codebook_size=2**bits, num_codebooks=2, **options).eval()
    module.save_pretrained(tmp_path / "module.safetensors")
    quantizer = checkpoints.load(tmp_path / "module.safetensors")
    x = torch.randn(61, module.dim)
    codes = encoded(quantizer, x.numpy(), tmp_path)
    with torch.no_grad():
        quantized, indices, _ = module(x)
    with lfq_cli.open_codes(codes) as file:
        unsigned = indices.numpy().view(np.uint64) if bits == 64 else indices.numpy()
        assert np.array_equal(file["data"][...], unsigned)
    assert np.array_equal(decoded(quantizer, codes), quantized.numpy())


def test_facts_do_not_change_the_width(tmp_path: Path) -> None:
    """One quantizer of 64 bits and its records: dims, size and index dtype agree."""
    quantizer = checkpoint(tmp_path, 64, 1)
    assert quantizer.codebook_size == 2**64
    assert replace(quantizer, keep_num_codebooks_dim=True).index_tail == (1,)
    codes = encoded(replace(quantizer, keep_num_codebooks_dim=True), vectors(64, 1), tmp_path, packing="ints")
    with lfq_cli.open_codes(codes) as file:
        assert file["data"][...].shape == (61, 1)
        assert file["data"][0].tolist() == [2**64 - 1]
