"""`python -m benchmarks.entropy`: the entropy loss in training, forward and backward, against the reference in one run.

The contenders take turns on the same vectors and one thread; figures are medians, ratios medians of each round's own.
"bare products" are the three matrix products that the exact batch entropy cannot do without. Peak memory is that of a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CASES = ((10, 16384), (14, 2048), (18, 16384))
"""(bits, vectors)."""
LARGEST_FOR_REFERENCE = 14
"""Bits: with 18 its table of probabilities has 17 GB."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.entropy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/entropy.json"))
    parser.add_argument("--peak", type=int, nargs=2, metavar=("BITS", "VECTORS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        step(ours(arguments.peak[0]), vectors_of(*arguments.peak))
        print(peak_kib())
        return
    rows = [measure(bits, vectors, arguments.rounds) for bits, vectors in CASES]
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(bits: int, vectors: int, rounds: int) -> dict[str, float]:
    """Seconds of each contender, and how many times ours they take; the peak memory of ours."""
    x = vectors_of(bits, vectors)
    calls: dict[str, Callable[[], Any]] = {"ours": lambda: step(module, x), "bare products": products(bits, vectors)}
    module = ours(bits)
    if bits <= LARGEST_FOR_REFERENCE:
        peer = reference(bits)
        calls["reference"] = lambda: step(peer, x)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    row = {"bits": bits, "vectors": vectors} | {name: statistics.median(found) for name, found in seconds.items()}
    row["ours / products"] = ratio(seconds["ours"], seconds["bare products"])
    if "reference" in seconds:
        row["reference / ours"] = ratio(seconds["reference"], seconds["ours"])
    return row | {"peak MiB": peak_mib(bits, vectors)}


def ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def vectors_of(bits: int, vectors: int) -> torch.Tensor:
    x = torch.randn(1, vectors, bits, generator=torch.Generator().manual_seed(0))
    return x.requires_grad_()


def ours(bits: int) -> torch.nn.Module:
    from lfq_cli import LFQ

    return LFQ(dim=bits).train()


def reference(bits: int) -> torch.nn.Module:
    from vector_quantize_pytorch import LFQ

    return LFQ(dim=bits, codebook_size=2**bits).train()


def step(module: torch.nn.Module, x: torch.Tensor) -> None:
    x.grad = None
    quantized, _, loss = module(x)
    (loss + quantized.square().mean()).backward()


def products(bits: int, vectors: int) -> Callable[[], None]:
    high, low = torch.rand(vectors, 2 ** (bits // 2)), torch.rand(vectors, 2 ** (bits - bits // 2))

    def run() -> None:
        total = high.T @ low
        _ = low @ total.T, high @ total

    return run


def peak_kib() -> int:
    """Of this process; getrusage's figure is that of the process that started it, where that was larger."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def peak_mib(bits: int, vectors: int) -> float:
    command = [sys.executable, "-m", "benchmarks.entropy", "--peak", str(bits), str(vectors)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024


if __name__ == "__main__":
    main()
