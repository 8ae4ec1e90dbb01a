"""`make fuzz`: broken files until it is stopped, or for `--seconds`; with atheris, guided by the code they reach.

    python tests/fuzz.py [--kind NAME] [--seconds S] [--seed N]

What fails is kept beside the current folder as fuzz-KIND-SEED-NUMBER; the process ends with 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path

from mutations import Target, broken, targets

from lfq_cli.errors import LfqError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", help="one reader only: safetensors, npy, npz, pt, native, codes, ...")
    parser.add_argument("--seconds", type=float, default=600, help="for so long (default 600)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the changes (default: the time)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        known = targets(Path(name))
        chosen = known if arguments.kind is None else {arguments.kind: known[arguments.kind]}
        if arguments.kind is not None and _atheris(chosen[arguments.kind], Path(name)):
            return
        run(chosen, Path(name), seconds=arguments.seconds, seed=arguments.seed)


def run(chosen: dict[str, Target], folder: Path, *, seconds: float, seed: int) -> None:
    """A hundred files of a kind, then of the next, until the time is over."""
    end, files, refused = time.monotonic() + seconds, 0, 0
    streams = {kind: broken(target, seed) for kind, target in chosen.items()}
    for number in count():
        for kind, target in chosen.items():
            if time.monotonic() > end:
                print(f"{files} files, {refused} refused, none failed (seed {seed})")
                return
            for _ in range(100):
                data = next(streams[kind])
                files += 1
                try:
                    refused += read(target, data, folder)
                except Exception:
                    kept = Path(f"fuzz-{kind.replace(' ', '-')}-{seed}-{number}{target.suffix}")
                    kept.write_bytes(data)
                    traceback.print_exc()
                    sys.exit(f"{kept}: kept")


def read(target: Target, data: bytes, folder: Path) -> bool:
    """Whether a file of these bytes was refused."""
    path = folder / f"broken{target.suffix}"
    path.write_bytes(data)
    try:
        target.read(path)
    except LfqError:
        return True
    return False


def _atheris(target: Target, folder: Path) -> bool:
    """Runs atheris on one kind, if it is installed; it ends the process itself."""
    try:
        import atheris
    except ImportError:
        return False
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
    test: Callable[[bytes], bool] = lambda data: read(target, data, folder)  # noqa: E731
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], os.fspath(corpus)], test)
    atheris.Fuzz()
    return True


if __name__ == "__main__":
    main()
