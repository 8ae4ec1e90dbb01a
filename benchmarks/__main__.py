"""`python -m benchmarks`: every case, its contenders in turn in their own processes; medians, a table, a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.cases import CASES, FULL_BYTES, Call, Case, Contest
from benchmarks.claims import claims_table, verdicts
from lfq_cli import kernels

SMOKE_BYTES = 1 << 20
ASIDE = "aside-"


def main() -> None:
    arguments = parse()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or sources that changed are compiled in every timed process
    arguments.data.mkdir(parents=True, exist_ok=True)
    results = []
    for case in CASES:
        if fnmatchcase(case.name, arguments.only) and (case.smoke or not arguments.smoke):
            print(case.name, file=sys.stderr, flush=True)
            results.append(measure(case, arguments.data, arguments.bytes, arguments.rounds))
    document = {
        "machine": machine(),
        "bytes": arguments.bytes,
        "rounds": arguments.rounds,
        "cases": results,
        "claims": verdicts(results),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    console = Console(width=170)
    console.print(table(results))
    console.print()
    console.print(claims_table(results))
    met = sum(verdict["met"] for verdict in document["claims"])
    print(f"{met} of {len(document['claims'])} claims measured were seen on {describe(document['machine'])}")
    print(f"{arguments.json}: the same as JSON")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--smoke", action="store_true", help="tiny inputs, one round, a case of each kind: does it run?"
    )
    parser.add_argument("--bytes", type=int, default=FULL_BYTES, help="of float input a case (default 1 GiB)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every contender (default 5)")
    parser.add_argument("--only", default="*", help="cases whose name matches this glob")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "lfq-bench", help="where inputs go")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/latest.json"), help="where results go")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.bytes, arguments.rounds = SMOKE_BYTES, 1
    return arguments


def measure(case: Case, folder: Path, nbytes: int, rounds: int) -> dict[str, Any]:
    """Every contender once a round, in turn; the ratios are medians of each round's own ratio."""
    contest = case.set_up(folder, nbytes)
    calls = {"ours": contest.ours, "floor": contest.floor, "peer": contest.peer}
    runs: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds + 1):  # the first round fills the page cache and is not counted
        for role, call in calls.items():
            os.sync()  # what a run before left to write would slow this one: of the same loop 5 GB/s became 1
            result = run(call) if call is not None else None
            if result is not None and (number or rounds == 1):
                runs.setdefault(role, []).append(result)
    for aside in folder.glob(f"{ASIDE}*"):
        shutil.rmtree(aside)
    return summary(case, contest, runs)


def run(call: Call) -> dict[str, float] | None:
    """Seconds and peak bytes of one run; None where a peer is not installed."""
    name, arguments = call
    if name == "command":
        return run_command(**arguments)
    command = [sys.executable, "-m", "benchmarks.contenders", name, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ModuleNotFoundError" in done.stderr and name.startswith("faiss"):
        return None
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def run_command(argv: list[str], clear: str | None = None) -> dict[str, float]:
    """A whole process; its output folder of the run before is put aside first.

    Not removed: ext4 is slow to make files while it remembers that as many were just removed (0.5 ms a file).
    """
    if clear is not None and Path(clear).exists():
        Path(clear).rename(tempfile.mkdtemp(dir=Path(clear).parent, prefix=ASIDE) + "/old")
    argv = [part.format(python=sys.executable) if part == "{python}" else part for part in argv]
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv} ended with {process.returncode}")
    return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024}


def summary(case: Case, contest: Contest, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians and ratios. A ratio is ours over the other in speed; for `at_most` cases, in time."""
    seconds = {role: [result["seconds"] for result in results] for role, results in runs.items()}
    found: dict[str, Any] = {"case": case.name, "bytes": contest.nbytes, "target": case.target, "at_most": case.at_most}
    for role, times in seconds.items():
        found[role] = {
            "seconds": statistics.median(times),
            "gb_per_second": contest.nbytes / statistics.median(times) / 1e9,
            "peak_bytes": max(result["peak_bytes"] for result in runs[role]),
        }
        if role != "ours":
            speedups = [other / own for own, other in zip(seconds["ours"], times, strict=True)]
            ratio = statistics.median(speedups)
            found[f"ratio_to_{role}"] = 1 / ratio if case.at_most else ratio
            ends = [min(speedups), max(speedups)]
            found[f"range_to_{role}"] = [1 / end for end in reversed(ends)] if case.at_most else ends
    found["peer_target"] = case.peer_target
    if contest.items:
        found |= {"items": contest.items, "items_target": case.items_target}
    return found


def table(results: list[dict[str, Any]]) -> Table:
    shown = Table(box=None, pad_edge=False)
    for column in ("case", "ours", "floor", "ours / floor", "target", "peer", "ours / peer", "target", "peak memory"):
        shown.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    for result in results:
        shown.add_row(
            escape(result["case"]),
            *(speed(result, role) for role in ("ours", "floor")),
            ratio(result, "floor"),
            target(result),
            speed(result, "peer"),
            ratio(result, "peer"),
            f"≥ {result['peer_target']:g}" if result["peer_target"] else "",
            f"{result['ours']['peak_bytes'] / 1e6:.0f} MB",
        )
    return shown


def speed(result: dict[str, Any], role: str) -> str:
    if role not in result:
        return ""
    measured = result[role]
    if result.get("items"):
        return f"{millions(result['items'] / measured['seconds'])} M/s"
    return (
        f"{measured['gb_per_second']:.2f} GB/s"
        if result["bytes"] and not result["at_most"]
        else f"{measured['seconds']:.3f} s"
    )


def target(result: dict[str, Any]) -> str:
    """What ours over the floor should be; or ours, where it is given in indices a second."""
    if result.get("items_target"):
        return f"≥ {millions(result['items_target'])} M/s"
    return f"{'≤' if result['at_most'] else '≥'} {result['target']:g}" if result["target"] else ""


def millions(count: float) -> str:
    return f"{count / 1e6:.0f}" if count > 1e7 else f"{count / 1e6:.2g}"


def ratio(result: dict[str, Any], role: str) -> str:
    """The median of the rounds' ratios, and the least and the largest."""
    if f"ratio_to_{role}" not in result:
        return ""
    least, most = result[f"range_to_{role}"]
    return f"{result[f'ratio_to_{role}']:.3g} ({least:.2g} to {most:.2g})"


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "kernels": "numpy" if kernels.compiled is None else kernels.compiled.sets()[0],
    }


def processor() -> str:
    """The processor's name where Linux tells it, with family and model: cloud machines leave the number out."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family')}, model {facts.get('model')})"


def describe(found: dict[str, Any]) -> str:
    """The machine in a line."""
    return (
        f"{found['processor']}, {found['cores']} cores (load {found['load']:.1f}), Python {found['python']},"
        f" kernels: {found['kernels']}"
    )


if __name__ == "__main__":
    main()
