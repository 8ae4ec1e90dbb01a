"""Samples by a plain definition: Python lists and numpy, and files of them, written by the package, read by numpy."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from lfq_cli.codesfile import MadeFrom, SourceInfo
from lfq_cli.codesfile.builder import Coding, SamplesBuilder

LABEL, FLAGS, CAPTION = "label", "flags", "caption"


@dataclass(frozen=True)
class Sample:
    """bits: by tensor [vectors, B]; carried: rows; texts: captions."""

    key: str
    bits: Mapping[str, NDArray[np.bool_]]
    carried: Mapping[str, bytes] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> tuple[object, ...]:
        """What can be compared."""
        bits = {name: (value.shape, value.tobytes()) for name, value in self.bits.items()}
        return self.key, bits, dict(self.carried), dict(self.texts)


@dataclass(frozen=True)
class Schema:
    """What samples are like. tensors: name -> positions of one sample; None first: as many as it has."""

    tensors: Mapping[str, tuple[int | None, ...]]
    dims: tuple[int, ...] = (5,)
    bit_order: str = "msb"
    packing: str = "bits"
    carried: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    texts: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """B."""
        return sum(self.dims)

    def coding(self, **more: Any) -> Coding:
        """As a file has it."""
        facts: dict[str, Any] = {
            "quantizer": {"type": "lfq", "dim": self.width},
            "checkpoint_sha256": "ab" * 32,
            "compute_dtype": "float32",
            "assumed": {},
            "codebook_dims": self.dims,
            "index_tail": () if len(self.dims) == 1 else (len(self.dims),),
            "bit_order": self.bit_order,
            "packing": self.packing,
        }
        return Coding(**(facts | more))


def write(
    path: Path, samples: Sequence[Sample], schema: Schema, made_from: MadeFrom | None = None, **more: Any
) -> Path:
    """A codes file of all samples, packed at once."""
    sources = {name: SourceInfo((*sizes, schema.width), "F32", len(sizes)) for name, sizes in schema.tensors.items()}
    made_from = made_from or MadeFrom(len(samples), "error")
    with SamplesBuilder(schema.coding(**more), sources, schema.carried, schema.texts, path.parent) as builder:
        if samples:
            builder.add(
                [sample.key for sample in samples],
                {name: np.packbits(np.concatenate([s.bits[name] for s in samples])) for name in sources},
                {name: [len(s.bits[name]) for s in samples] for name in sources},
                {name: [s.carried[name] for s in samples] for name in schema.carried},
                {name: [s.texts[name].encode() for s in samples] for name in schema.texts},
            )
        builder.write(path, made_from, overwrite=True, durable=False)
    return path


def read(path: Path) -> list[Sample]:
    """The samples of a file, by its description and numpy; nothing of the package."""
    description, stored = read_container(path)
    count = description["samples"]
    bits = {name: _bits_of(stored, name, entry, count) for name, entry in description["tensors"].items()}
    keys, *texts = (_texts_of(stored, name) for name in (description["keys"], *description["carried_text"]))
    return [
        Sample(
            keys[k],
            {name: each[k] for name, each in bits.items()},
            {name: stored[name][k].tobytes() for name in description["carried"]},
            {name: each[k] for name, each in zip(description["carried_text"], texts, strict=True)},
        )
        for k in range(count)
    ]


def read_container(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a safetensors file says under "lfq", and its tensors; BF16 as 16-bit integers, which numpy has."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    description = json.loads(header.pop("__metadata__")["lfq"])
    stored = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        part = np.frombuffer(data[start + first : start + last], _NUMPY[entry["dtype"]])
        stored[name] = part.reshape(entry["shape"])
    return description, stored


_NUMPY = {"U8": "u1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U64": "<u8", "BOOL": "?", "BF16": "<u2", "F32": "<f4"}


def _texts_of(stored: Mapping[str, NDArray[Any]], name: str) -> list[str]:
    data, ends = stored[name].tobytes(), stored[name + ".offsets"]
    return [data[a:b].decode() for a, b in pairwise(ends)]


def _bits_of(
    stored: Mapping[str, NDArray[Any]], name: str, entry: Mapping[str, Any], count: int
) -> list[NDArray[np.bool_]]:
    dims, data = entry["codebook_dims"], stored[name]
    width = sum(dims)
    if entry["packing"] == "ints":
        fields = []
        for k, size in enumerate(dims):
            weights = np.arange(size) if entry["bit_order"] == "lsb" else np.arange(size)[::-1]
            fields.append(data.reshape(-1, len(dims))[:, k, None].astype(np.uint64) >> weights.astype(np.uint64) & 1)
        bits = np.concatenate(fields, axis=1).astype(bool)
    elif entry["packing"] == "rows":
        bits = np.unpackbits(data.reshape(-1, -(-width // 8)), axis=1)[:, :width].astype(bool)
    else:
        vectors = int(np.prod(entry["shape"][: 1 if "sample_offsets" in entry else len(entry["source"]["shape"])]))
        bits = np.unpackbits(data, count=vectors * width).reshape(vectors, width).astype(bool)
    if "sample_offsets" in entry:
        ends = stored[entry["sample_offsets"]].tolist()
    else:
        ends = [k * (len(bits) // max(count, 1)) for k in range(count + 1)]
    return [bits[a:b] for a, b in pairwise(ends)]


# any samples, for hypothesis

SCHEMAS = st.builds(
    Schema,
    tensors=st.sampled_from(
        [
            {"z": (3,)},
            {"z": ()},
            {"z": (2, 3)},
            {"z": (0,)},
            {"z": (None,)},
            {"a": (None,), "b": (1,)},
            {"b": (2,), "a": (None, 2)},
            {"keys": (1,), "label.offsets": (None,)},
        ]
    ),
    dims=st.sampled_from([(1,), (5,), (8,), (18,), (3, 4), (8, 8), (64,), (2, 63, 1)]),
    bit_order=st.sampled_from(["msb", "lsb"]),
    packing=st.sampled_from(["bits", "rows", "ints"]),
    carried=st.sampled_from(
        [{}, {LABEL: ("I64", ())}, {FLAGS: ("BOOL", (3,)), LABEL: ("BF16", (2, 1))}, {"empty": ("F32", (0,))}]
    ),
    texts=st.sampled_from([(), (CAPTION,), (CAPTION, "other")]),
)

_LETTERS = st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"])
_ITEM_BYTES = {"I64": 8, "BOOL": 1, "BF16": 2, "F32": 4}


@st.composite
def samples_of(draw: st.DrawFn, schema: Schema, most: int = 12) -> list[Sample]:
    """Some samples, no two of one key."""
    keys = draw(st.lists(st.text(_LETTERS, min_size=1, max_size=6), max_size=most, unique=True))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return [_sample(draw, schema, key, random) for key in keys]


def _sample(draw: st.DrawFn, schema: Schema, key: str, random: np.random.Generator) -> Sample:
    bits = {}
    for name, sizes in schema.tensors.items():
        vectors = int(np.prod([int(random.integers(0, 6)) if size is None else size for size in sizes]))
        bits[name] = random.integers(0, 2, (vectors, schema.width)).astype(bool)
    carried = {}
    for name, (dtype, shape) in schema.carried.items():
        row = random.bytes(int(np.prod(shape)) * _ITEM_BYTES[dtype])
        carried[name] = bytes(byte & 1 for byte in row) if dtype == "BOOL" else row
    texts = {name: draw(st.text(_LETTERS, max_size=5)) for name in schema.texts}
    return Sample(key, bits, carried, texts)


def cut_anywhere(draw: st.DrawFn, samples: Sequence[Sample], most: int = 5) -> list[list[Sample]]:
    """The samples in some runs, of which some may be empty."""
    ends = sorted(draw(st.lists(st.integers(0, len(samples)), max_size=most)))
    return [list(samples[a:b]) for a, b in zip([0, *ends], [*ends, len(samples)], strict=True)]
