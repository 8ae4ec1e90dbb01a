"""What killed runs leave, what living runs write, and two runs on one folder at a time."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lfq_cli import native
from lfq_cli.errors import ExistsError, LfqNote
from lfq_cli.files import PARTIAL_PREFIX, PARTIAL_SUFFIX, atomic_output, remove_leftovers
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.plan import Job
from lfq_cli.quantizer import Quantizer

PLAIN = Quantizer(dim=8, codebook_dim=8)


def partials(folder: Path) -> list[Path]:
    return list(folder.glob(f"{PARTIAL_PREFIX}*{PARTIAL_SUFFIX}"))


def leftover(folder: Path) -> Path:
    path = folder / f"{PARTIAL_PREFIX}0123456789abcdef{PARTIAL_SUFFIX}"
    path.write_bytes(b"half")
    return path


def test_a_leftover_is_removed_and_a_living_one_kept(tmp_path: Path) -> None:
    dead = leftover(tmp_path)
    with atomic_output(tmp_path / "out") as file:
        file.write(b"x")
        assert len(partials(tmp_path)) == 2
        assert remove_leftovers([tmp_path, tmp_path / "gone"]) == 1
        assert not dead.exists()
        assert len(partials(tmp_path)) == 1
    assert (tmp_path / "out").read_bytes() == b"x"
    assert partials(tmp_path) == []


def hold(folder: str, ready: str) -> None:
    with atomic_output(Path(folder, "held")) as file:
        file.write(b"x")
        Path(ready).touch()
        time.sleep(60)


@pytest.mark.parametrize("lives", [True, False])
def test_of_another_process(tmp_path: Path, lives: bool) -> None:
    folder, ready = tmp_path / "out", tmp_path / "ready"
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(str(folder), str(ready)))
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    if not lives:
        process.kill()
        process.join()
    try:
        assert remove_leftovers([folder]) == (0 if lives else 1)
        assert len(partials(folder)) == (1 if lives else 0)
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("what", ["folder", "link", "fifo", "other name"])
def test_what_only_looks_like_a_leftover(tmp_path: Path, what: str) -> None:
    path = tmp_path / f"{PARTIAL_PREFIX}x{PARTIAL_SUFFIX}"
    (tmp_path / "target").write_bytes(b"kept")
    if what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(tmp_path / "target")
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path = tmp_path / ".lfq-notes"
        path.write_bytes(b"kept")
    remove_leftovers([tmp_path])
    assert (tmp_path / "target").read_bytes() == b"kept"
    if what in ("folder", "link", "other name"):
        assert os.path.lexists(path)


def job(folder: Path) -> Job:
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32))
    return Job(folder / "x.npy", folder / "out" / "x.codes.safetensors")


def test_encode_clears_the_folders_it_writes_to_and_says_so(tmp_path: Path) -> None:
    task = job(tmp_path)
    task.output.parent.mkdir()
    dead = leftover(task.output.parent)
    list(encode(PLAIN, [task], EncodeOptions(dry_run=True)))
    assert dead.exists()  # a plan touches nothing
    with pytest.warns(LfqNote, match="removed 1 temporary file of killed runs"):
        list(encode(PLAIN, [task], EncodeOptions()))
    assert not dead.exists()
    assert task.output.exists()


def test_what_appears_meanwhile_is_never_replaced(tmp_path: Path) -> None:
    def two_at_once() -> None:
        with atomic_output(tmp_path / "out") as file:
            file.write(b"mine")
            (tmp_path / "out").write_bytes(b"theirs")

    with pytest.raises(ExistsError):
        two_at_once()
    assert (tmp_path / "out").read_bytes() == b"theirs"
    assert partials(tmp_path) == []


def test_folders_made_for_an_output_that_failed_are_gone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic_output(tmp_path / "a" / "b" / "out"):
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_two_runs_on_one_folder_both_end_well(tmp_path: Path) -> None:
    """Ten at the same moment: each file is written once, whole; whoever comes second finds it up to date."""
    native.write(PLAIN, tmp_path / "c.safetensors")
    for k in range(40):
        np.save(tmp_path / f"{k}.npy", np.random.default_rng(k).standard_normal((4000, 8)).astype(np.float32))
    inputs = [str(tmp_path / f"{k}.npy") for k in range(40)]
    command = [sys.executable, "-m", "lfq_cli", "encode", str(tmp_path / "c.safetensors"), *inputs]
    runs = [
        subprocess.Popen([*command, "-o", str(tmp_path / "out"), "--no-fsync"], stderr=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * 5, errors
    alone = [*command, "-o", str(tmp_path / "alone"), "--no-fsync"]
    subprocess.run(alone, check=True, capture_output=True, timeout=120)
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
