"""`python -m benchmarks.gpu`, which is `make gpu`: the tests of the device path on a GPU, and how fast it is there.

Needs a GPU and an interpreter with torch, lfq's other dependencies and pytest; installs nothing, and needs no network.
Results go to a JSON file. Ends with 1 where something is missing, there is no GPU, or a test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = ("torch", "numpy", "safetensors", "einops", "typer", "rich", "pytest")
TESTS = "tests/test_device.py"
OWN_WARNINGS = ("-o", "filterwarnings=default")
"""Not errors, as in `make test`: the interpreter and its torch are whatever is there."""
ROOT = Path(__file__).parent.parent


def main() -> None:
    arguments = parse()
    reason = unfit() or no_device(arguments.device)
    if reason is not None:
        sys.exit(f"make gpu: {reason}")
    from benchmarks import gpu_cases  # imports torch

    document: dict[str, Any] = {"machine": gpu_cases.machine(arguments.device)}
    print(f"{document['machine']['device']}, torch {document['machine']['torch']}", flush=True)
    if not arguments.no_tests:
        document["tests"] = run_tests(arguments.device)
    document["bytes"], document["rounds"] = arguments.bytes, arguments.rounds
    document["cases"] = gpu_cases.measure_all(arguments.data, arguments.bytes, arguments.rounds, arguments.device)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"{arguments.json}: the same as JSON")
    if document.get("tests", {}).get("exit_code"):
        sys.exit("make gpu: tests failed")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--device", default="cuda", help="cuda, cuda:N, or cpu to see whether the benchmark itself runs"
    )
    parser.add_argument("--bytes", type=int, default=1 << 30, help="of floats in float32 (default 1 GiB)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every contender (default 5)")
    parser.add_argument("--no-tests", action="store_true", help="the benchmark only")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "lfq-bench", help="where inputs go")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/gpu.json"), help="where results go")
    return parser.parse_args()


def unfit() -> str | None:
    """What this interpreter lacks."""
    if sys.version_info < (3, 10):  # noqa: UP036 - whatever `python3` is
        return f"{sys.executable} is Python {sys.version.split()[0]}, expected 3.10 or newer: PYTHON=... make gpu"
    missing = [module for module in NEEDED if find_spec(module) is None]
    if missing:
        return (
            f"{sys.executable} has no {', '.join(missing)}, and nothing is installed here: install them, or choose an"
            " interpreter that has them: PYTHON=... make gpu"
        )
    return None


def no_device(name: str) -> str | None:
    """Why the device cannot be used."""
    if name == "cpu":
        return None
    import torch

    if not torch.cuda.is_available():
        return f"no GPU: torch {torch.__version__} sees no CUDA device"
    return None


def run_tests(device: str) -> dict[str, Any]:
    """The tests of the device path on the device; their output is shown."""
    several = ["-n", str(min(4, os.cpu_count() or 1))] if find_spec("xdist") is not None else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *OWN_WARNINGS, *several, TESTS],
        cwd=ROOT,
        env={**os.environ, "LFQ_TEST_DEVICE": device},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stdout, flush=True)
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    return {"exit_code": done.returncode, **counts}


if __name__ == "__main__":
    main()
