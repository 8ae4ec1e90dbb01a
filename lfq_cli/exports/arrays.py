"""`npy`: a folder of codes and one of labels, one file per sample, as LlamaGen and its successors read them.

codes/0.npy is int64 [1, length], labels/0.npy int64 [1], numbered as the samples in the split; keys.txt has one key per
line. Source: github.com/FoundationVision/LlamaGen, dataset/imagenet.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lfq_cli.exports.format import Format, Part


def write(part: Part, folder: Path, stem: str) -> None:
    """STEM/codes, STEM/labels, STEM/keys.txt."""
    codes, labels = folder / stem / "codes", folder / stem / "labels"
    codes.mkdir(parents=True)
    if part.label:
        labels.mkdir()
    number = 0
    with (folder / stem / "keys.txt").open("x", encoding="utf-8") as keys:
        for rows in part.rows():
            for k, (key, ids) in enumerate(zip(rows.keys, rows.ids, strict=True)):
                np.save(codes / f"{number}.npy", ids[None])
                if rows.labels is not None:
                    np.save(labels / f"{number}.npy", rows.labels[k : k + 1].astype(np.int64))
                keys.write(f"{key}\n")
                number += 1


FORMAT = Format(write, ("int64",), readers="LlamaGen")
