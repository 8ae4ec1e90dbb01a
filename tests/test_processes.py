"""jobs/processes.py: many small files by several processes are those of one; what becomes of a process that dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from lfq_cli import native
from lfq_cli.cpus import use_threads
from lfq_cli.errors import LfqError
from lfq_cli.files import PARTIAL_PREFIX
from lfq_cli.jobs import processes
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.outcome import Outcome, lost
from lfq_cli.jobs.plan import Job
from lfq_cli.quantizer import Quantizer

PLAIN = Quantizer(dim=8, codebook_dim=8)
COUNT = processes.MANY_JOBS + 7

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one process does it")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and many small files, number 5 of them no array."""
    folder = tmp_path_factory.mktemp("many")
    native.write(PLAIN, folder / "c.safetensors")
    for k in range(COUNT):
        np.save(folder / f"{k:03}.npy", np.random.default_rng(k).standard_normal((50, 8)).astype(np.float32))
    (folder / "005.npy").write_text("no array")
    return folder


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The processes that were started; afterwards none of them is left."""
    pids: list[int] = []
    fork = os.fork

    def recorded() -> int:
        pids.append(fork())
        return pids[-1]

    monkeypatch.setattr(processes.os, "fork", recorded)
    yield pids
    assert pids
    for pid in pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def jobs_of(tree: Path, out: Path) -> list[Job]:
    return [Job(tree / f"{k:03}.npy", out / f"{k:03}.codes.safetensors") for k in range(COUNT)]


def paths_of(tree: Path) -> list[Path]:
    return [job.source for job in jobs_of(tree, tree)]


def test_the_outputs_and_outcomes_are_those_of_one_process(forked: list[int], tree: Path, tmp_path: Path) -> None:
    with use_threads(1):
        assert not processes.are_many_and_small(len(paths_of(tree)), paths_of(tree))
        one = list(encode(PLAIN, jobs_of(tree, tmp_path / "one"), EncodeOptions(durable=False)))
    done: list[int] = []
    with use_threads(3):
        many = list(encode(PLAIN, jobs_of(tree, tmp_path / "many"), EncodeOptions(durable=False), done.append))
    assert len(forked) == 3
    assert [(o.source, o.status, o.vectors, str(o.error)) for o in many] == [
        (o.source, o.status, o.vectors, str(o.error)) for o in one
    ]
    assert [o.status for o in many].count("failed") == 1
    assert isinstance(many[5].error, LfqError)
    assert one[5].error is not None
    assert many[5].error.hint == one[5].error.hint
    assert sum(done) == sum(o.bytes_in for o in one)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == COUNT - 1
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_few_or_large_files_are_left_to_one_process(tree: Path) -> None:
    with use_threads(3):
        assert processes.are_many_and_small(len(paths_of(tree)), paths_of(tree))
        assert not processes.are_many_and_small(processes.MANY_JOBS - 1, paths_of(tree))
        with patch.object(processes, "SMALL_BYTES", 100):
            assert not processes.are_many_and_small(len(paths_of(tree)), paths_of(tree))


@contextmanager
def slow() -> Iterator[Callable[[Job], list[Outcome]]]:
    def work(job: Job) -> list[Outcome]:
        time.sleep(0.01)
        return [Outcome(job.source, job.output, "written")]

    yield work


@pytest.mark.slow
def test_a_process_that_is_killed_fails_its_own_jobs(forked: list[int], tree: Path, tmp_path: Path) -> None:
    with use_threads(2):
        outcomes = processes.in_processes(jobs_of(tree, tmp_path), slow, lost, waits=False)
        first = [next(outcomes) for _ in range(10)]
        os.kill(forked[1], signal.SIGKILL)
        rest = list(outcomes)
    assert len(first) + len(rest) == COUNT
    assert all(outcome.status == "written" for outcome in (first + rest)[::2])
    killed = [outcome for outcome in rest if outcome.status == "failed"]
    assert len(killed) > COUNT // 3
    assert all("was killed" in str(outcome.error) for outcome in killed)


def test_any_number_of_results_of_each_item_in_order(forked: list[int]) -> None:
    @contextmanager
    def counting() -> Iterator[Callable[[int], Iterator[str]]]:
        yield lambda item: (f"{item}.{k}" for k in range(item % 4))

    with use_threads(3):
        found = list(processes.in_processes(range(50), counting, str, waits=True))
    assert found == [f"{item}.{k}" for item in range(50) for k in range(item % 4)]
    assert len(forked) == 3 * processes.PROCESSES_THAT_WAIT


def test_a_bug_in_a_process_is_one_in_the_caller(forked: list[int], tree: Path, tmp_path: Path) -> None:
    @contextmanager
    def broken() -> Iterator[Callable[[Job], list[Outcome]]]:
        def work(job: Job) -> list[Outcome]:
            if job.source.name == "003.npy":
                raise ZeroDivisionError("a bug")
            return []

        yield work

    with use_threads(2), pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        list(processes.in_processes(jobs_of(tree, tmp_path), broken, lost, waits=False))


def test_who_wants_no_more_ends_the_processes(forked: list[int], tree: Path, tmp_path: Path) -> None:
    with (
        use_threads(2),
        closing(processes.in_processes(jobs_of(tree, tmp_path), slow, lost, waits=False)) as outcomes,
    ):
        next(outcomes)


def test_fail_fast(forked: list[int], tree: Path, tmp_path: Path) -> None:
    options = EncodeOptions(durable=False, fail_fast=True)
    with use_threads(2):
        outcomes = list(encode(PLAIN, jobs_of(tree, tmp_path), options))
    assert [outcome.status for outcome in outcomes] == ["written"] * 5 + ["failed"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_signals(number: int, code: int, tree: Path, tmp_path: Path) -> None:
    """To the parent alone, and to all of them as ^C on a terminal does it; then the same command goes on."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lfq_cli", "encode", str(tree / "c.safetensors"), str(tree), "-o", str(out), "-q"]
    for to_all in (False, True):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        before = len(list(out.glob("*.codes.safetensors")))
        while len(list(out.glob("*.codes.safetensors"))) < before + 3 and process.poll() is None:
            time.sleep(0.002)
        (os.killpg if to_all else os.kill)(process.pid, number)
        _, err = process.communicate(timeout=20)
        assert process.returncode in (code, 3), err  # 3: it had ended
        assert "Traceback" not in err
        if number != signal.SIGKILL:
            assert list(out.glob(f"{PARTIAL_PREFIX}*")) == []
    assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 3
    assert len(list(out.glob("*.codes.safetensors"))) == COUNT - 1
    assert list(out.glob(f"{PARTIAL_PREFIX}*")) == []
