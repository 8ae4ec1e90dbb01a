"""`bin`: all ids one after the other, as nanoGPT reads them; `--style 1x`: video.bin of 1xgpt.

Source: github.com/karpathy/nanoGPT, train.py (`np.memmap(..., dtype=np.uint16)`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lfq_cli.errors import OptionError
from lfq_cli.exports.format import Format, Part, joined
from lfq_cli.files import write_all
from lfq_cli.regions import bytes_of


def write_bin(part: Part, folder: Path, stem: str) -> None:
    """STEM.bin: ids of the part's dtype, little-endian."""
    with (folder / f"{stem}.bin").open("xb", buffering=0) as file:
        for rows in part.rows():
            write_all(file, bytes_of(joined(rows, part.dtype)))


def write_1x(part: Part, folder: Path, stem: str) -> None:
    """STEM/video.bin, uint32 [images, s, s]; STEM/segment_ids.bin, int32 [images]; STEM/metadata.json.

    A sample of three axes is a clip and a segment of its own; one of two is an image, whose label is its segment.
    Source: github.com/1x-technologies/1xgpt, data.py (`RawTokenDataset`).
    """
    positions = part.positions
    assert positions is not None
    frames = positions[0] if len(positions) == 3 else 1
    (folder / stem).mkdir()
    segment = 0
    with (
        (folder / stem / "video.bin").open("xb", buffering=0) as video,
        (folder / stem / "segment_ids.bin").open("xb", buffering=0) as segments,
    ):
        for rows in part.rows():
            write_all(video, bytes_of(joined(rows, part.dtype)))
            numbers = np.arange(segment, segment + len(rows.ids)) if rows.labels is None else rows.labels
            write_all(segments, bytes_of(np.repeat(numbers, frames).astype("<i4")))
            segment += len(rows.ids)
    metadata = {
        "num_images": part.samples * frames,
        "s": positions[-1],
        "vocab_size": part.vocab_size,
        "token_dtype": part.dtype.name,
    }
    (folder / stem / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def check_1x(positions: tuple[int, ...] | None) -> None:
    """Raises OptionError unless samples are images or clips."""
    if positions is None or len(positions) not in (2, 3) or positions[-1] != positions[-2]:
        shape = "of different lengths" if positions is None else list(positions)
        raise OptionError(f"--style 1x: samples are {shape}", "expected images [s, s] or clips [t, s, s] of codes")


FORMAT_1X = Format(write_1x, ("uint32",), readers="1xgpt", takes_specials=False, label_dtype="int32", check=check_1x)
FORMAT = Format(
    write_bin,
    ("uint16", "uint32"),
    has_labels=False,
    readers="nanoGPT and most readers of .bin files",
    writes_keys=False,
)
