"""This process's share of the work, where several processes divide it without communicating.

All of them plan the same sorted list, including what is done already, and each takes one run of it. So any number of
them may end, be killed, be restarted or overlap: outputs are complete or absent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from lfq_cli.errors import OptionError
from lfq_cli.jobs.plan import Job

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, from 0 on."""

    index: int
    count: int

    def of(self, items: Sequence[T], sizes: Sequence[int]) -> Sequence[T]:
        """This shard's run of the items; all runs have about the same size."""
        return items[self.run(sizes)]

    def run(self, sizes: Sequence[int]) -> slice:
        """Where this shard's run begins and ends: an item belongs to the shard that holds its middle."""
        weights = [size + 1 for size in sizes]  # empty files are some work too
        total = sum(weights)
        middles = [2 * end - weight for end, weight in zip(accumulate(weights), weights, strict=True)]
        parts = [middle * self.count // (2 * total) for middle in middles]
        mine = [k for k, part in enumerate(parts) if part == self.index]
        return slice(mine[0], mine[-1] + 1) if mine else slice(0, 0)


def parse_shard(value: str, environment: Mapping[str, str] | None = None) -> Shard:
    """ "2/8" -> part 2 of 0 to 7; "auto": from the environment of torchrun or SLURM. Raises OptionError otherwise."""
    if value == "auto":
        return _from_environment(os.environ if environment is None else environment)
    index, slash, count = value.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal():
        raise OptionError(f"--shard {value!r}: expected I/N, such as 0/8, or auto")
    if not int(index) < int(count):
        raise OptionError(f"--shard {value!r}: I is from 0 to N - 1")
    return Shard(int(index), int(count))


def sizes_of(jobs: Sequence[Job]) -> list[int]:
    """Bytes that each job reads: of its part, or of its file; 0 for a file that does not exist."""
    sizes = []
    for job in jobs:
        size = job.nbytes or 0
        with suppress(OSError):
            size = job.source.stat().st_size if job.nbytes is None else size
        sizes.append(size)
    return sizes


def _from_environment(environment: Mapping[str, str]) -> Shard:
    """An array of SLURM jobs around the tasks of a step, or around torchrun's processes; or one of these alone."""
    outer, inner = _slurm_array(environment), _torchrun(environment) or _slurm_step(environment)
    if outer is None and inner is None:
        raise OptionError(
            "--shard auto: neither RANK and WORLD_SIZE (torchrun) nor SLURM's variables are set", "give --shard I/N"
        )
    outer, inner = outer or Shard(0, 1), inner or Shard(0, 1)
    return Shard(outer.index * inner.count + inner.index, outer.count * inner.count)


def _torchrun(environment: Mapping[str, str]) -> Shard | None:
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    return _checked("RANK", "WORLD_SIZE", _number(environment, "RANK"), _number(environment, "WORLD_SIZE"))


def _slurm_step(environment: Mapping[str, str]) -> Shard | None:
    """The task of a step that srun started.

    A script of `sbatch -n 2` has SLURM_PROCID 0 and SLURM_NTASKS 2 but runs alone: half of the work would be left out.
    """
    if "SLURM_STEP_NUM_TASKS" in environment and "SLURM_PROCID" in environment:
        count = _number(environment, "SLURM_STEP_NUM_TASKS")
        _refuse_inherited(environment, count)
        return _checked("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_PROCID"), count)
    if environment.get("SLURM_NTASKS", "1") != "1":
        raise OptionError(
            f"--shard auto: {environment['SLURM_NTASKS']} tasks were asked of SLURM, and this is not a step of srun",
            "start it with srun, or give --shard I/N",
        )
    return Shard(0, 1) if "SLURM_JOB_ID" in environment else None


def _refuse_inherited(environment: Mapping[str, str], count: int) -> None:
    """Raises OptionError if some of SLURM's variables come from the step in which this job was submitted.

    sbatch passes its environment on, and the script's job replaces only some of it: it has its own SLURM_PROCID, which
    is 0, beside the SLURM_STEP_NUM_TASKS of the step. In a real step SLURM's variables agree on the number of tasks.
    Not detected: a script for as many machines as the step has, with one task on each (seen with SLURM 22.05).
    """
    node = _number(environment, "SLURM_NODEID") if "SLURM_NODEID" in environment else 0
    per_node = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    expected = {
        "SLURM_NTASKS": environment.get("SLURM_NTASKS", str(count)),
        "SLURM_TASKS_PER_NODE": str(sum(_tasks_per_node(environment.get("SLURM_TASKS_PER_NODE", "")) or [count])),
    }
    if node < len(per_node) and "SLURM_GTIDS" in environment:
        here = len(environment["SLURM_GTIDS"].split(","))
        expected["SLURM_GTIDS"] = str(count if here == per_node[node] else here)
    for name, found in expected.items():
        if found != str(count):
            raise OptionError(
                f"--shard auto: SLURM_STEP_NUM_TASKS is {count}, and {name} is {environment[name]}: this job was"
                " submitted from within a step, and has some of its variables",
                "submit it with sbatch --export=NONE, start it with srun, or give --shard I/N",
            )


def _tasks_per_node(value: str) -> list[int]:
    """ "2(x3),1" -> [2, 2, 2, 1]; an empty list for anything else."""
    found = [re.fullmatch(r"(\d+)(?:\(x(\d{1,6})\))?", each) for each in value.split(",")]
    return [int(each[1]) for each in found if each is not None for _ in range(int(each[2] or 1))]


def _slurm_array(environment: Mapping[str, str]) -> Shard | None:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")
    task, first, last, count = (_number(environment, name) for name in names)
    if last - first + 1 != count:
        raise OptionError(
            f"--shard auto: the array has {count} tasks from {first} to {last}, some in between are missing",
            "use an array without gaps, such as --array=0-7, or --shard I/N",
        )
    return _checked(names[0], names[3], task - first, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdecimal():
        raise OptionError(f"--shard auto: {name} is {value!r} in the environment, expected a number")
    return int(value)


def _checked(name: str, of: str, index: int, count: int) -> Shard:
    if not 0 <= index < count:
        raise OptionError(f"--shard auto: {name} says {index} of the {count} of {of}")
    return Shard(index, count)
