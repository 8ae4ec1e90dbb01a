"""`megatron`: Megatron-Core's IndexedDataset, STEM.bin and STEM.idx; every sample is a sequence and a document.

Source: github.com/NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lfq_cli.exports.format import Format, Part, joined
from lfq_cli.files import write_all
from lfq_cli.regions import bytes_of

_MAGIC = b"MMIDIDX\x00\x00"
_CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}
"""The format's number of each dtype."""


def write(part: Part, folder: Path, stem: str) -> None:
    """The ids, and the start of each sample."""
    lengths: list[int] = []
    with (folder / f"{stem}.bin").open("xb", buffering=0) as file:
        for rows in part.rows():
            write_all(file, bytes_of(joined(rows, part.dtype)))
            lengths += map(len, rows.ids)
    sizes = np.array(lengths, "<i4")
    ends = np.cumsum(sizes, dtype=np.int64) * part.dtype.itemsize
    with (folder / f"{stem}.idx").open("xb", buffering=0) as file:
        head = _MAGIC + (1).to_bytes(8, "little") + bytes([_CODES[part.dtype.name]])
        head += len(sizes).to_bytes(8, "little") + (len(sizes) + 1).to_bytes(8, "little")
        write_all(file, head)
        write_all(file, bytes_of(sizes))
        write_all(file, bytes_of((ends - sizes * part.dtype.itemsize).astype("<i8")))
        write_all(file, bytes_of(np.arange(len(sizes) + 1, dtype="<i8")))


FORMAT = Format(
    write,
    ("int32", "uint16", "int64"),
    has_labels=False,
    readers="Megatron-Core",
    writes_keys=False,
)
