"""The benchmarks run, every kind of case once on tiny inputs; how fast is not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
