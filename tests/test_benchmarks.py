"""The benchmarks run, every kind of case once on tiny inputs; how fast is not judged here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.cases import CASES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def test_the_quick_run_measures_every_kind_of_case(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--data", str(tmp_path / "data"), "--json", str(figures)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    cases = {case["case"]: case for case in json.loads(figures.read_text())["cases"]}
    assert set(cases) == {case.name for case in CASES if case.smoke}
    for name, case in cases.items():
        assert case["ours"]["seconds"] > 0, name
        assert case["ours"]["peak_bytes"] > 1 << 20, name
        assert "ratio_to_floor" in case or "ratio_to_peer" in case, name
        assert name in done.stdout


def gpu(*options, interpreter=(sys.executable,)):
    command = [*interpreter, "-m", "benchmarks.gpu", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_gpu_benchmark_runs_on_the_cpu_too(tmp_path):
    figures = tmp_path / "gpu.json"
    quick = ["--device", "cpu", "--no-tests", "--bytes", str(1 << 20), "--rounds", "1"]
    done = gpu(*quick, "--data", str(tmp_path / "data"), "--json", str(figures))
    assert done.returncode == 0, done.stderr
    cases = json.loads(figures.read_text())["cases"]
    assert [case["case"] for case in cases] == [
        "encode 512 -> 18 F32", "encode 512 -> 18 F16", "encode 512 -> 18 BF16", "decode 18 -> 512 F32",
    ]  # fmt: skip
    for case in cases:
        assert case["ours"]["seconds"] > 0
        assert {"loop", "loop, as many threads", "cpu"} < case.keys()
        assert case["case"] in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_make_gpu_says_so_in_a_line():
    done = gpu()
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"make gpu: no GPU: torch \S+ sees no CUDA device\n", done.stderr)


def test_make_gpu_names_what_is_missing():
    done = gpu(interpreter=(sys.executable, "-S"))  # without what is installed
    assert done.returncode == 1
    assert "has no torch, numpy, safetensors, einops, typer, rich, pytest, and nothing is installed here" in done.stderr
    assert done.stderr.count("\n") == 1


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
