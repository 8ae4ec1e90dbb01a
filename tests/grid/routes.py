"""Ways through the program, each with the check that its result is what the plain definition gives.

A route takes a Cell and asserts, or ends with `Refused` or an LfqError. `refused` says for which cases that is right,
and gives the reason as it reads: a case that is neither refused nor right is a failure.
"""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import twin
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

import lfq_cli
from grid.cells import Cell
from grid.quantizers import QuantizerCase
from lfq_cli import LFQ, GroupedResidualLFQ, open_codes
from lfq_cli.errors import LfqNote


@dataclass(frozen=True)
class Route:
    """`command`: the subcommand that it runs, or the Python call."""

    command: str
    run: Callable[[Cell], None]
    refused: Callable[[QuantizerCase], str | None] = lambda case: None


def has_levels(case: QuantizerCase) -> str | None:
    return None if case.config.levels is not None else "has no levels: it is not a residual quantizer"


def widest(case: QuantizerCase) -> int:
    return max(case.config.bits_of_indices)


# encode


def check_codes(cell: Cell, path: Path | str, *, packing: str = "bits") -> None:
    """A codes file has the expected bits, cut as expected."""
    entry, bits = twin.read_codes_file(path)["data"]
    assert entry["packing"] == packing
    assert tuple(entry["codebook_dims"]) == cell.config.bits_of_indices
    assert entry["bit_order"] == cell.config.bit_order
    assert tuple(entry["shape"]) == cell.indices.shape
    assert bits == cell.bits


def encode(*options: str, packing: str = "bits") -> Callable[[Cell], None]:
    def run(cell: Cell) -> None:
        cell.run("encode", cell.checkpoint, cell.x, "-o", "out", "--packing", packing, *options, *cell.case.options)
        check_codes(cell, "out/x.codes.safetensors", packing=packing)

    return run


def encode_levels(cell: Cell) -> None:
    cell.run("encode", cell.checkpoint, cell.x, "-o", "out", "--num-quantizers", 1, *cell.case.options)
    (_, bits) = twin.read_codes_file("out/x.codes.safetensors")["data"]
    assert bits == first_level(cell)
    cell.run("decode", cell.checkpoint, "out", "-o", "back", *cell.case.options)
    check_values(cell, "back/x.safetensors", values_of_level(cell))


def first_level(cell: Cell) -> list[list[int]]:
    """The bits of every group's first level."""
    level, group = cell.config.codebook_dims[0], cell.config.codebook_dims[0] * cell.config.levels
    return [[bit for first in range(0, len(row), group) for bit in row[first : first + level]] for row in cell.bits]


def values_of_level(cell: Cell) -> np.ndarray:
    config = replace(cell.config, levels=1)
    return cell.tensor(twin.decoded(first_level(cell), config, cell.weights))


def encode_and_count(cell: Cell) -> None:
    cell.run("encode", cell.checkpoint, cell.x, "-o", "out", "--stats", "counts.safetensors", *cell.case.options)
    check_counts(cell, "counts.safetensors")


# samples


def pack(cell: Cell, out: str, *options: object, copies: int = 2) -> None:
    """The input as `copies` samples, 0, 1, ..., packed into files of `out`."""
    Path("in").mkdir()
    for k in range(copies):
        shutil.copy(cell.x, f"in/{k}.npy")
    cell.run("encode", cell.checkpoint, "in", "-o", out, *options, *cell.case.options)


def check_samples(cell: Cell, path: str, count: int) -> None:
    entry, bits = twin.read_codes_file(path)["data"]
    assert entry["samples"] == count
    assert tuple(entry["shape"]) == (count, *cell.indices.shape)
    assert bits == cell.bits * count


def encode_samples(cell: Cell) -> None:
    pack(cell, "out", "--samples-per-file", 9)
    check_samples(cell, "out/00000.codes.safetensors", 2)
    cell.run("decode", cell.checkpoint, "out", "-o", "back", *cell.case.options)
    check_values(cell, "back/00000.safetensors", np.stack([cell.values] * 2))
    assert cell.run("verify", "out", "--checkpoint", cell.checkpoint, *cell.case.options)


def merge_samples(cell: Cell) -> None:
    pack(cell, "out", "--samples-per-file", 1, copies=3)
    cell.run("merge", "out", "-o", "all.codes.safetensors")
    check_samples(cell, "all.codes.safetensors", 3)
    cell.run("decode", cell.checkpoint, "all.codes.safetensors", "-o", "back", *cell.case.options)
    check_values(cell, "back/all.safetensors", np.stack([cell.values] * 3))


def split_samples(cell: Cell) -> None:
    pack(cell, "out", "--samples-per-file", 9, copies=3)
    cell.run("split", "out", "-o", "parts", "--samples-per-file", 2)
    check_samples(cell, "parts/00000.codes.safetensors", 2)
    check_samples(cell, "parts/00001.codes.safetensors", 1)


# decode


def check_values(cell: Cell, path: Path | str, expected: np.ndarray, *, dtype: torch.dtype = torch.float32) -> None:
    found = torch.from_numpy(np.load(path)) if str(path).endswith(".npy") else load_torch(path)["data"]
    assert found.dtype == dtype
    cell.same(found.to(torch.float64).numpy(), torch.from_numpy(expected).to(dtype).to(torch.float64).numpy(), dtype)


def decode(*options: str, bare: bool = False, dtype: torch.dtype = torch.float32) -> Callable[[Cell], None]:
    def run(cell: Cell) -> None:
        cell.run("decode", cell.checkpoint, cell.codes, "-o", "back", *options, *cell.case.options)
        (path,) = Path("back").iterdir()
        check_values(cell, path, cell.bare if bare else cell.values, dtype=dtype)

    return run


def decode_levels(cell: Cell) -> None:
    cell.run("decode", cell.checkpoint, cell.codes, "-o", "back", "--num-quantizers", 1, *cell.case.options)
    check_values(cell, "back/x.safetensors", values_of_level(cell))


# stats


def stats(cell: Cell) -> None:
    check_counts(cell, cell.codes)


def check_counts(cell: Cell, path: Path | str) -> None:
    report = json.loads(cell.run("stats", path, "--json", "--csv", "counts.csv"))
    counted: dict[str, Counter[int]] = {}
    with Path("counts.csv").open() as file:
        for row in csv.DictReader(file):
            counted.setdefault(row["codebook"], Counter())[int(row["code"])] += int(row["count"])
    vectors = [tuple(map(int, row)) for row in cell.rows]
    codebooks = report["tensors"][0]["codebooks"]
    first = 0
    for k, bits in enumerate(cell.config.bits_of_indices):
        assert counted.get(str(k), Counter()) == twin.counts_of([vector[k] for vector in vectors])
        assert codebooks[k]["count"] == len(vectors)
        if vectors:
            ones = np.mean([row[first : first + bits] for row in cell.bits], axis=0)
            np.testing.assert_allclose(codebooks[k]["ones"], ones)
        first += bits
    if "joint" in counted:
        assert sorted(counted["joint"].values()) == sorted(twin.counts_of(vectors).values())


# export-codebook


def of_rows(tables: dict[str, np.ndarray], indices: np.ndarray, dim: int) -> np.ndarray:
    """indices [n, i] -> vectors [n, dim], of the tables' rows. Knows the help text, and nothing of quantizers."""
    tables = dict(tables)
    bias = tables.pop("bias", np.zeros(dim, np.float32))
    if set(tables) == {"codebook"}:
        tables = {f"codebook.{k}": tables["codebook"] for k in range(indices.shape[1])}
    named = sorted(tables, key=lambda name: [int(part) for part in name.split(".")[1:]])
    rows = [tables[name][indices[:, k]] for k, name in enumerate(named)]
    if len(named[0].split(".")) == 3:  # codebook.group.level
        groups = len({name.split(".")[1] for name in named})
        levels = len(named) // groups
        vectors = np.concatenate([sum(rows[g * levels : (g + 1) * levels]) for g in range(groups)], axis=1)
    else:
        vectors = sum(rows) if rows[0].shape[1] == dim else np.concatenate(rows, axis=1)
    return vectors + bias


def export(*options: str, bare: bool = False) -> Callable[[Cell], None]:
    def run(cell: Cell) -> None:
        cell.run("export-codebook", cell.checkpoint, "-o", "tables.safetensors", *options, *cell.case.options)
        tables = load_file("tables.safetensors")
        expected = cell.vectors_of(cell.bare if bare else cell.values)
        found = of_rows(tables, cell.rows.astype(np.int64), expected.shape[1])
        cell.same(found, expected)
        if cell.config.index_dims is not None:
            sizes = [tables[f"codebook.{k}"].shape[0] for k in range(len(cell.config.index_dims))]
            assert sizes == [2**bits for bits in cell.config.index_dims]

    return run


def export_range(cell: Cell) -> None:
    cell.run("export-codebook", cell.checkpoint, "-o", "t.safetensors", "--range", "0:2", *cell.case.options)
    rows = np.repeat([[0], [1]], len(cell.config.bits_of_indices), axis=1)
    bits = [
        [
            b
            for i, d in zip(row, cell.config.bits_of_indices, strict=True)
            for b in twin.bits_of_index(i, d, cell.config.bit_order)
        ]
        for row in rows.tolist()
    ]
    expected = twin.decoded(bits, cell.config, cell.weights)
    cell.same(of_rows(load_file("t.safetensors"), rows, expected.shape[1]), expected)


def too_large(case: QuantizerCase) -> str | None:
    if widest(case) > 58:
        return "codes are more than any disk holds"
    return "needs .* GB, the disk has 1 GB free" if widest(case) > 20 else None


# inspect, verify


def inspect_checkpoint(cell: Cell) -> None:
    report = json.loads(cell.run("inspect", cell.checkpoint, "--json", *cell.case.options))
    (found,) = report["paths"][0]["quantizers"]
    assert found["family"] == (cell.case.family or "native")
    assert tuple(found["codebook_dims"]) == cell.config.bits_of_indices
    config, expected = found["config"], cell.config
    assert config["dim"] == expected.dim
    assert config.get("num_quantizers") == expected.levels
    assert config.get("groups") == expected.groups
    for key in ("spherical", "bit_order", "soft_clamp_input_value"):
        assert config[key] == getattr(expected, key)
    if expected.levels is None:
        assert config["codebook_scale"] == expected.codebook_scale
        assert config["cosine_sim_project_in_scale"] == expected.cosine_scale
    shapes = {name: list(weight.shape) for name, weight in cell.weights.items()}
    assert found["tensors"] == dict(sorted(shapes.items()))


def inspect_codes(cell: Cell) -> None:
    (found,) = json.loads(cell.run("inspect", cell.codes, "--json"))["paths"]
    assert found["kind"] == "codes"
    assert found["tensors"]["data"]["shape"] == list(cell.indices.shape)
    assert tuple(found["tensors"]["data"]["codebook_dims"]) == cell.config.bits_of_indices


def verify(cell: Cell) -> None:
    (found,) = json.loads(cell.run("verify", cell.codes, "--json"))["files"]
    assert (found["status"], found["vectors"]) == ("whole", len(cell.bits))


def verify_source(cell: Cell) -> None:
    of = ("--checkpoint", cell.checkpoint, *cell.case.options, "--json")
    (found,) = json.loads(cell.run("verify", cell.codes, *of))["files"]
    assert found["status"] == "whole"
    (found,) = json.loads(cell.run("verify", cell.codes, *of, "--source", cell.x))["files"]
    assert found["status"] == "same"
    comparison = found["comparisons"]["data"]
    assert (comparison["vectors"], comparison["indices_differ"]) == (len(cell.bits), 0)


# import, load


def import_native(cell: Cell) -> None:
    """The native checkpoint needs no options; each decodes the codes of the other."""
    cell.run("import", cell.checkpoint, "-o", "native.safetensors", *cell.case.options)
    cell.run("encode", "native.safetensors", cell.x, "-o", "out")
    check_codes(cell, "out/x.codes.safetensors")
    cell.run("decode", "native.safetensors", cell.codes, "-o", "a")
    check_values(cell, "a/x.safetensors", cell.values)
    cell.run("decode", cell.checkpoint, "out", "-o", "b", *cell.case.options)
    check_values(cell, "b/x.safetensors", cell.values)


def load(cell: Cell) -> Any:
    """The module; what had to be assumed is tested elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LfqNote)
        return lfq_cli.load(cell.checkpoint, **cell.facts).module


def load_forward(cell: Cell) -> None:
    module = load(cell)
    quantized, indices, _ = module(torch.from_numpy(np.load(cell.x)))
    cell.same(quantized.numpy(), cell.values)
    found = indices.numpy()
    if isinstance(module, GroupedResidualLFQ):  # groups are their first axis, as in the reference
        found = np.moveaxis(found, 0, -2).reshape(*found.shape[1:-1], -1)
    assert found.shape == cell.indices.shape
    assert np.array_equal(found.astype(cell.indices.dtype), cell.indices)


def load_indices(cell: Cell) -> None:
    """The module decodes the indices as open_codes reads them."""
    module = load(cell)
    with open_codes(cell.codes) as codes:
        indices = torch.from_numpy(codes["data"][...])
    if isinstance(module, LFQ):
        cell.same(module.indices_to_codes(indices).numpy(), cell.values)
        cell.same(module.indices_to_codes(indices, project_out=False).numpy(), cell.bare)
    elif isinstance(module, GroupedResidualLFQ):
        grouped = indices.unflatten(-1, (module.groups, -1)).movedim(-2, 0)
        cell.same(module.get_output_from_indices(grouped).numpy(), cell.values)
    else:
        cell.same(module.get_output_from_indices(indices).numpy(), cell.values)


def load_and_save(cell: Cell) -> None:
    """What the loaded module saves encodes and decodes as what it was loaded from, without options."""
    load(cell).save_pretrained("saved.safetensors")
    cell.run("encode", "saved.safetensors", cell.x, "-o", "out")
    check_codes(cell, "out/x.codes.safetensors")
    cell.run("decode", "saved.safetensors", cell.codes, "-o", "back")
    check_values(cell, "back/x.safetensors", cell.values)
    cell.run("decode", cell.checkpoint, "out", "-o", "again", *cell.case.options)
    check_values(cell, "again/x.safetensors", cell.values)


def export_npy(cell: Cell) -> None:
    """Axis 0 counts samples; of a single vector there is none."""
    if not cell.indices.shape or len(cell.indices) == cell.indices.size == 0:
        return
    cell.run("export", "npy", cell.codes, "-o", "exported", "--codebook-offset", "0")
    found = [np.load(f"exported/train/codes/{k}.npy") for k in range(len(cell.indices))]
    assert np.array_equal(np.concatenate(found), cell.indices.reshape(len(cell.indices), -1))


def in_python(cell: Cell) -> None:
    """Arrays to tokens and back, without files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LfqNote)
        codec = lfq_cli.load(cell.checkpoint, **cell.facts)
    tokens = codec.encode(np.load(cell.x))
    assert tokens.indices.dtype == cell.indices.dtype
    assert np.array_equal(tokens.indices, cell.indices)
    with open_codes(cell.codes) as codes:
        assert tokens == lfq_cli.Tokens.of(codes["data"])
    cell.same(codec.decode(tokens), cell.values)
    cell.same(codec.decode(tokens, project_out=False), cell.bare)
    cell.same(codec.decode(tokens.indices, channel_axis=tokens.channel_axis), cell.values)


def read_codes(cell: Cell) -> None:
    with open_codes(cell.codes) as file:
        codes = file["data"]
        assert codes.shape == cell.indices.shape
        assert codes.dtype == cell.indices.dtype
        assert np.array_equal(codes[...], cell.indices)
        if codes.shape:
            assert np.array_equal(codes[1:], cell.indices[1:])
            assert [np.array_equal(a, b) for a, b in zip(codes, cell.indices, strict=True)] == [True] * len(codes)


ROUTES = {
    "encode": Route("encode", encode()),
    "encode --packing rows": Route("encode", encode(packing="rows")),
    "encode --packing ints": Route("encode", encode(packing="ints")),
    "encode --index-dtype int64": Route(
        "encode",
        encode("--index-dtype", "int64", packing="ints"),
        lambda case: "indices of 64 bits do not fit int64" if widest(case) == 64 else None,
    ),
    "encode --device cpu:0": Route("encode", encode("--device", "cpu:0")),
    "encode --num-quantizers": Route("encode", encode_levels, has_levels),
    "encode --stats": Route("encode", encode_and_count),
    "encode --samples-per-file": Route("encode", encode_samples),
    "merge": Route("merge", merge_samples),
    "split": Route("split", split_samples),
    "decode": Route("decode", decode()),
    "decode --no-project-out": Route("decode", decode("--no-project-out", bare=True)),
    "decode --dtype float16": Route("decode", decode("--dtype", "float16", dtype=torch.float16)),
    "decode --dtype bfloat16": Route("decode", decode("--dtype", "bfloat16", dtype=torch.bfloat16)),
    "decode --dtype float64": Route("decode", decode("--dtype", "float64", dtype=torch.float64)),
    "decode --format npy": Route("decode", decode("--format", "npy")),
    "decode --device cpu:0": Route("decode", decode("--device", "cpu:0")),
    "decode --num-quantizers": Route("decode", decode_levels, has_levels),
    "stats": Route("stats", stats),
    "export": Route(
        "export",
        export_npy,
        lambda case: "ids up to 18446744073709551615 do not fit int64" if widest(case) == 64 else None,
    ),
    "export-codebook": Route("export-codebook", export(), too_large),
    "export-codebook --no-project-out": Route("export-codebook", export("--no-project-out", bare=True), too_large),
    "export-codebook --range": Route("export-codebook", export_range),
    "inspect a checkpoint": Route("inspect", inspect_checkpoint),
    "inspect codes": Route("inspect", inspect_codes),
    "verify": Route("verify", verify),
    "verify --checkpoint --source": Route("verify", verify_source),
    "import": Route("import", import_native),
    "load(), forward": Route("load", load_forward),
    "load(), indices_to_codes": Route("load", load_indices),
    "load(), save_pretrained": Route("load", load_and_save),
    "load(), encode, decode": Route("load", in_python),
    "open_codes()": Route("open_codes", read_codes),
}
