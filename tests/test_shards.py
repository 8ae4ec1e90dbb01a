"""jobs/shards.py and `--shard`: the parts together are the whole, whatever runs, overlaps or is run again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfq_cli import native
from lfq_cli.errors import OptionError
from lfq_cli.jobs.shards import Shard, parse_shard
from lfq_cli.quantizer import Quantizer

Lfq = Callable[..., tuple[int, str, str]]


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 12))
def test_every_item_belongs_to_one_part(sizes: list[int], count: int) -> None:
    items = list(range(len(sizes)))
    parts = [list(Shard(index, count).of(items, sizes)) for index in range(count)]
    assert [item for part in parts for item in part] == items
    if sizes:
        fair = (sum(sizes) + len(sizes)) / count
        assert max(sum(sizes[k] + 1 for k in part) for part in parts) <= fair + max(sizes) + 1


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8"}
STEP = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
# as SLURM 22.05 sets them, of a step on one machine and of one on four
ON_NODE = {
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_TASKS_PER_NODE": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_GTIDS": "0,1",
    "SLURM_NODEID": "0",
}
ON_NODES = ON_NODE | {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "7",
    "SLURM_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_GTIDS": "4,5",
    "SLURM_NODEID": "2",
}
# what a script has that was submitted from within the first, with -n 1, without, and with -n 2
NESTED = ON_NODE | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_TASKS_PER_NODE": "1", "SLURM_GTIDS": "0"}
NESTED_PLAIN = NESTED | {"SLURM_NTASKS": "2"}
NESTED_EQUAL = NESTED_PLAIN | {"SLURM_TASKS_PER_NODE": "2"}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "12",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "14",
    "SLURM_ARRAY_TASK_COUNT": "5",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, (3, 8)),
        (STEP, (1, 4)),
        (ARRAY, (2, 5)),
        (ARRAY | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, (2, 5)),
        (ARRAY | STEP, (9, 20)),
        (ARRAY | TORCHRUN, (19, 40)),
        (STEP | TORCHRUN, (3, 8)),
        (ON_NODE, (1, 2)),
        (ON_NODES, (5, 7)),
        ({"SLURM_JOB_ID": "7"}, (0, 1)),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, (0, 1)),
    ],
)
def test_auto_is_what_the_launcher_says(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert parse_shard("auto", environment) == Shard(*expected)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "neither RANK and WORLD_SIZE"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "not a step of srun"),  # sbatch -n 2 without srun
        (ARRAY | {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, "not a step of srun"),
        (NESTED, "SLURM_STEP_NUM_TASKS is 2, and SLURM_NTASKS is 1: this job was submitted from within a step"),
        (NESTED_PLAIN, "SLURM_STEP_NUM_TASKS is 2, and SLURM_TASKS_PER_NODE is 1"),
        (NESTED_EQUAL, "SLURM_STEP_NUM_TASKS is 2, and SLURM_GTIDS is 0"),
        (ARRAY | NESTED, "submitted from within a step"),
        (ARRAY | {"SLURM_ARRAY_TASK_COUNT": "3"}, "some in between are missing"),
        (ARRAY | {"SLURM_ARRAY_TASK_MAX": "x"}, "SLURM_ARRAY_TASK_MAX is 'x'"),
        ({"RANK": "8", "WORLD_SIZE": "8"}, "RANK says 8 of the 8"),
    ],
)
def test_auto_never_guesses(environment: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_shard("auto", environment)


@pytest.mark.parametrize("value", ["8/8", "1", "a/b", "-1/2", "0/0", "1/2/3", ""])
def test_wrong_parts(value: str) -> None:
    with pytest.raises(OptionError, match="--shard"):
        parse_shard(value, {})


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    native.write(Quantizer(dim=5, codebook_dim=5), Path("c.safetensors"))
    rng = np.random.default_rng(0)
    for k in range(23):
        Path(f"in/{k % 3}").mkdir(parents=True, exist_ok=True)
        np.save(f"in/{k % 3}/{k:02}.npy", rng.standard_normal((5, 3)).astype(np.float32))


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("options", [[], ["--samples-per-file", "4"]])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_parts_are_the_whole(lfq: Lfq, options: list[str], count: int) -> None:
    command = ["encode", "c.safetensors", "in", "--channel-axis", "0", *options]
    assert lfq(*command, "-o", "whole")[0] == 0
    for index in [*range(count), count // 2]:  # one of them twice
        code, _, err = lfq(*command, "-o", "parts", "--shard", f"{index}/{count}")
        assert code == 0, err
    assert contents("parts") == contents("whole")
    assert lfq("decode", "c.safetensors", "whole", "-o", "once")[0] == 0
    for index in range(count):
        assert lfq("decode", "c.safetensors", "whole", "-o", "back", "--shard", f"{index}/{count}")[0] == 0
    assert contents("back") == contents("once")


@pytest.mark.usefixtures("tree")
def test_what_nobody_knows_before_reading_is_refused(lfq: Lfq) -> None:
    for options in (["--file-size", "1MiB"], ["--samples-per-file", "4", "--stacked"]):
        code, _, err = lfq("encode", "c.safetensors", "in", "-o", "out", "--shard", "0/2", *options)
        assert code == 2
        assert "--shard needs files of one sample each" in err


@pytest.mark.usefixtures("tree")
def test_status_says_what_is_left(lfq: Lfq) -> None:
    command = ["encode", "c.safetensors", "in", "-o", "out", "--channel-axis", "0"]
    code, out, _ = lfq(*command, "--status", "--json")
    assert code == 5
    assert json.loads(out)["missing"]["files"] == 23
    assert not Path("out").exists()
    assert lfq(*command, "--shard", "0/2")[0] == 0
    code, out, _ = lfq(*command, "--status", "--json")
    report = json.loads(out)
    assert code == 5
    assert report["current"]["files"] + report["missing"]["files"] == 23
    assert 8 < report["current"]["files"] < 16
    assert lfq(*command)[0] == 0
    assert lfq(*command, "--status")[0] == 0
    np.save("in/1/01.npy", np.ones((5, 9), np.float32))
    Path("in/2/02.npy").write_text("no array")
    Path("out/0/00.codes.safetensors").unlink()
    code, out, err = lfq(*command, "--status")
    assert code == 5
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["current", "20"],
        ["stale", "1"],
        ["missing", "1"],
        ["failed", "1"],
    ]
    assert "01.npy" in err
    assert "00.codes.safetensors is not there" in err


@pytest.mark.slow
def test_the_kubernetes_job_of_the_docs(tmp_path: Path) -> None:
    """Its command, once for each completion index as Kubernetes sets it: every file once, as one process writes it."""
    text = (Path(__file__).parent.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
    (command,) = re.findall(r'command: \[sh, -c, "(.*)"\]', text)
    assert re.findall(r"completions: (\d+)", text) == re.findall(r"--shard \$JOB_COMPLETION_INDEX/(\d+)", command)
    command = command.replace("/data/", f"{tmp_path}/").replace("$JOB_COMPLETION_INDEX/64", "$JOB_COMPLETION_INDEX/3")
    native.write(Quantizer(dim=4, codebook_dim=4), tmp_path / "lfq.safetensors")
    (tmp_path / "latents").mkdir()
    for k in range(7):
        np.save(tmp_path / "latents" / f"{k}.npy", np.random.default_rng(k).standard_normal((k + 1, 4)))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    written = []
    for index in range(3):
        environment = {**os.environ, "PATH": path, "JOB_COMPLETION_INDEX": str(index)}
        subprocess.run(["sh", "-c", command], env=environment, check=True, capture_output=True)
        written.append(len(list((tmp_path / "tokens").iterdir())))
    assert written == sorted(set(written))
    assert written[-1] == 7
    whole = [sys.executable, "-m", "lfq_cli", "encode", "lfq.safetensors", "latents", "-o", "whole", "--no-progress"]
    subprocess.run(whole, cwd=tmp_path, check=True, capture_output=True)
    for path_of_one in (tmp_path / "whole").iterdir():
        assert (tmp_path / "tokens" / path_of_one.name).read_bytes() == path_of_one.read_bytes()
