"""Ends the demo: what the codes cost and what they keep, from the files that `demo.sh` wrote.

Run `python sample_data/report.py [DEMO_OUTPUT]`. Reads plain safetensors and JSON files, and nothing of lfq.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

DATA = Path(__file__).parent
TENSORS = {"digits": "images", "latents": "latents"}

NOTE = """\
The checkpoints were trained on these same vectors. 'Unexplained' is the squared error over that of answering
the mean vector every time, whose row is the baseline: 100 % is what no bits at all would reach.
Latents are compared with the codes that stand for them; their decoder was trained on codes and never saw latents."""


def main() -> None:
    """Print one column for each set of vectors."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "demo_output")
    stats = json.loads((output / "stats.json").read_text())
    columns = [facts(name, output, codebooks_of(stats, tensor)) for name, tensor in TENSORS.items()]
    print_table(list(TENSORS), columns)
    print(f"\n{NOTE}")


def codebooks_of(stats: dict[str, Any], tensor: str) -> list[dict[str, Any]]:
    """The entries of `lfq stats --json` for the codebooks of one tensor."""
    return next(entry["codebooks"] for entry in stats["tensors"] if entry["tensor"] == tensor)


def facts(name: str, output: Path, codebooks: list[dict[str, Any]]) -> dict[str, str]:
    """Label -> value, for one set."""
    tensor = TENSORS[name]
    original = load_file(DATA / f"{name}.safetensors")[tensor]
    decoded = load_file(output / "decoded" / f"{name}.safetensors")[tensor]
    packed = load_file(output / "codes" / f"{name}.codes.safetensors")[tensor]
    error, baseline = squared_errors(vectors_of(original), vectors_of(decoded))
    return {
        "tensor": f"{tensor} {'×'.join(map(str, original.shape))}",
        "vectors": f"{len(vectors_of(original)):,}",
        "bits per vector": " + ".join(str(codebook["bits"]) for codebook in codebooks),
        "bytes of float32": f"{original.nbytes:,}",
        "bytes of codes": f"{packed.nbytes:,}",
        "compression": f"{original.nbytes / packed.nbytes:.1f} : 1",
        "codes used": " ".join(str(codebook["codes_used"]) for codebook in codebooks),
        "of": f"{2 ** codebooks[0]['bits']:,}" + (" each" if len(codebooks) > 1 else ""),
        "utilisation": f"{np.mean([codebook['utilisation'] for codebook in codebooks]):.1%}",
        "entropy of a code, bits": " ".join(f"{codebook['entropy_bits']:.2f}" for codebook in codebooks),
        "mean squared error": f"{error:.4f}",
        "... of the mean vector": f"{baseline:.4f}",
        "variance unexplained": f"{error / baseline:.1%}",
    }


def vectors_of(tensor: NDArray[np.float32]) -> NDArray[np.float64]:
    """A tensor [n, dim] or, channel-first, [b, dim, h, w] -> its vectors [n, dim]."""
    return np.moveaxis(tensor, 1, -1).reshape(-1, tensor.shape[1]).astype(np.float64)


def squared_errors(original: NDArray[np.float64], decoded: NDArray[np.float64]) -> tuple[float, float]:
    """The mean squared error of decoded vectors [n, dim], and that of the mean vector in their place."""
    return float(np.square(decoded - original).mean()), float(original.var(axis=0).mean())


def print_table(names: list[str], columns: list[dict[str, str]]) -> None:
    """Print the columns side by side, under their names."""
    rows = [("", *names), *((label, *(column[label] for column in columns)) for label in columns[0])]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for label, *values in rows:
        cells = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        print("  ".join([label.ljust(widths[0]), *cells]))


if __name__ == "__main__":
    main()
