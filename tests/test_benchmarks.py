"""The benchmarks run, every kind of case once on tiny inputs; how fast is not judged here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.cases import CASES
from benchmarks.claims import CLAIMS, Claim, seen, verdicts

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_quick_run_measures_every_kind_of_case(tmp_path):
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--data", str(tmp_path / "data"), "--json", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(results.read_text())
    assert document["machine"]["processor"]
    assert {verdict["case"] for verdict in document["claims"]} == {c.case for c in CLAIMS} & {
        case.name for case in CASES if case.smoke
    }
    cases = {case["case"]: case for case in document["cases"]}
    assert set(cases) == {case.name for case in CASES if case.smoke}
    for name, case in cases.items():
        assert case["ours"]["seconds"] > 0, name
        assert case["ours"]["peak_bytes"] > 1 << 20, name
        assert "ratio_to_floor" in case or "ratio_to_peer" in case, name
        assert name in done.stdout


def gpu(*options, interpreter=(sys.executable,)):
    command = [*interpreter, "-m", "benchmarks.gpu", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_the_cpu_too(tmp_path):
    results = tmp_path / "gpu.json"
    quick = ["--device", "cpu", "--no-tests", "--bytes", str(1 << 20), "--rounds", "1"]
    done = gpu(*quick, "--data", str(tmp_path / "data"), "--json", str(results))
    assert done.returncode == 0, done.stderr
    cases = json.loads(results.read_text())["cases"]
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


# Claims


def test_every_claim_is_of_a_case_that_is_measured_and_made_once():
    assert {claim.case for claim in CLAIMS} <= {case.name for case in CASES}
    assert len({(claim.case, claim.metric) for claim in CLAIMS}) == len(CLAIMS)


def test_docs_speed_says_what_is_claimed():
    text = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if re.match(r"\| `[^`]+` \| [≥≤]", line)]
    assert [(case.strip(" `"), claim.strip()) for case, claim in rows] == [(c.case, c.text) for c in CLAIMS]


def test_a_claim_is_judged_by_what_was_measured():
    results = [
        {"case": "a", "ratio_to_floor": 0.5, "ours": {"seconds": 2.0}, "items": 10},
        {"case": "b", "ratio_to_floor": 3.0, "ours": {"seconds": 2.0}},
    ]
    assert seen(Claim("a", "ratio_to_floor", 0.4), results) == 0.5
    assert seen(Claim("a", "items_per_second", 1), results) == 5
    assert seen(Claim("a", "ratio_to_peer", 1), results) is None
    assert seen(Claim("c", "ratio_to_floor", 1), results) is None
    assert Claim("a", "ratio_to_floor", 0.5).is_met(0.5)
    assert not Claim("a", "ratio_to_floor", 0.5).is_met(0.49)
    assert Claim("b", "ratio_to_floor", 3, at_most=True).is_met(3)
    assert not Claim("b", "ratio_to_floor", 3, at_most=True).is_met(3.1)


def test_verdicts_are_of_measured_claims_only():
    claim = CLAIMS[0]
    (verdict,) = verdicts([{"case": claim.case, claim.metric: claim.bound / 2, "ours": {"seconds": 1.0}}])
    assert verdict == {
        "case": claim.case,
        "figure": claim.metric,
        "claimed": claim.bound,
        "seen": claim.bound / 2,
        "met": False,
    }
    assert verdicts([]) == []
