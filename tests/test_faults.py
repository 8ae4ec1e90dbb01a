"""A disk that fills up, calls that fail, files that change while they are read: a clear error, nothing left, the rest
unharmed."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from lfq_cli import native
from lfq_cli.errors import LfqError
from lfq_cli.files import PARTIAL_PREFIX
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.plan import Job
from lfq_cli.quantizer import Quantizer

PLAIN = Quantizer(dim=16, codebook_dim=16)
VECTORS = 300_000


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    native.write(PLAIN, folder / "c.safetensors")
    for name, vectors in (("a", 200), ("big", VECTORS), ("z", 200)):
        x = np.random.default_rng(vectors).standard_normal((vectors, 16)).astype(np.float32)
        np.save(folder / f"{name}.npy", x)
    list(encode(PLAIN, [Job(folder / f"{n}.npy", folder / f"{n}.codes.safetensors") for n in NAMES], EncodeOptions()))
    return folder


NAMES = ("a", "big", "z")


def run_jobs(command: str, tree: Path, out: Path) -> list[Outcome]:
    if command == "encode":
        jobs = [Job(tree / f"{name}.npy", out / f"{name}.codes.safetensors") for name in NAMES]
        return list(encode(PLAIN, jobs, EncodeOptions()))
    jobs = [Job(tree / f"{name}.codes.safetensors", out / f"{name}.safetensors") for name in NAMES]
    return list(decode(PLAIN, jobs, DecodeOptions()))


def assert_clean(out: Path, outcomes: list[Outcome], *, named: bool = False) -> None:
    """Every job ended with an output or an error; what failed left nothing. `named`: it may have got its name first."""
    for outcome in outcomes:
        assert outcome.error is None or isinstance(outcome.error, LfqError)
        assert (outcome.error is None) == outcome.output.exists() or named, outcome
    assert [path for path in out.rglob("*") if path.name.startswith(PARTIAL_PREFIX)] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["encode", "decode"])
@pytest.mark.parametrize("limit", [1000, 100_000, 500_000])
def test_a_file_that_may_not_grow(command: str, limit: int, tree: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the system refuses the write, as a full disk would. The small inputs beside it are done."""
    suffix = ".npy" if command == "encode" else ".codes.safetensors"
    inputs = [str(tree / f"{name}{suffix}") for name in NAMES]
    process = subprocess.run(
        [sys.executable, "-m", "lfq_cli", command, str(tree / "c.safetensors"), *inputs, "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert "Traceback" not in process.stderr
    assert "File too large" in process.stderr
    assert process.returncode == 3
    done = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert not any(name.startswith((PARTIAL_PREFIX, "big")) for name in done)
    if limit > 50_000:
        assert len(done) == 2


CALLS = {
    "write of an encode": ("lfq_cli.codesfile.writer.write_all", errno.ENOSPC),
    "write of a decode": ("lfq_cli.jobs.decode.write_all", errno.ENOSPC),
    "pwrite": ("os.pwrite", errno.ENOSPC),
    "preadv": ("os.preadv", errno.EIO),
    "fsync": ("os.fsync", errno.EIO),
    "rename": ("lfq_cli.files.rename_new", errno.EIO),
    "open": ("pathlib.Path.open", errno.EACCES),
    "mkdir": ("pathlib.Path.mkdir", errno.EROFS),
    "stat": ("pathlib.Path.stat", errno.EACCES),
    "flock": ("fcntl.flock", errno.EPERM),
}


@contextmanager
def failing(target: str, number: int, code: int) -> Iterator[list[int]]:
    """The call fails the `number`-th time; the list holds how often it was made."""
    owner, name = target.rsplit(".", 1)
    module: Any = sys.modules.get(owner) or __import__(owner.split(".")[0])
    for part in owner.split(".")[1:] if owner not in sys.modules else ():
        module = getattr(module, part)
    real: Callable[..., Any] = getattr(module, name)
    calls: list[int] = []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if calls[-1] == number:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    with patch.object(module, name, call):
        yield calls


@pytest.mark.slow
@pytest.mark.parametrize("command", ["encode", "decode"])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_a_run_may_fail(command: str, call: str, tree: Path, tmp_path: Path) -> None:
    """One failure at a time, at each call of its kind: no other error than lfq's, and two of three inputs done."""
    target, code = CALLS[call]
    number = failures = 0
    while True:
        out = tmp_path / str(number)
        with failing(target, number, code) as calls:
            outcomes = run_jobs(command, tree, out)
        assert_clean(out, outcomes, named=call == "fsync")  # of the folder: whole, but maybe not for ever
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        assert len(failed) <= 1
        failures += len(failed)
        if number >= len(calls) - 1:
            break
        number += max(1, len(calls) // 25)
    elsewhere = "decode" if command == "encode" else "encode"
    expected = elsewhere not in call and (call, command) != ("pwrite", "encode")
    assert (failures > 0) == expected


@pytest.mark.parametrize("change", ["shrinks", "grows", "is replaced", "is written to", "is removed"])
def test_an_input_that_changes_while_it_is_read(change: str, tree: Path, tmp_path: Path) -> None:
    source = tmp_path / "x.npy"
    source.write_bytes((tree / "big.npy").read_bytes())
    job = Job(source, tmp_path / "out" / "x.codes.safetensors")
    real, seen = os.preadv, []

    def preadv(*arguments: Any) -> int:
        seen.append(1)
        if len(seen) == 3:
            if change == "shrinks":
                os.truncate(source, 1_000_000)
            elif change == "grows":
                with source.open("ab") as file:
                    file.write(b"more")
            elif change == "is written to":
                with source.open("r+b") as file:
                    file.seek(-4, 2)
                    file.write(b"else")
            elif change == "is replaced":
                (tmp_path / "new").write_bytes(b"other")
                (tmp_path / "new").replace(source)
            else:
                source.unlink()
        return real(*arguments)

    with patch.object(os, "preadv", preadv):
        (outcome,) = encode(PLAIN, [job], EncodeOptions())
    assert len(seen) >= 3
    assert outcome.error is not None
    assert not job.output.exists()
    messages = {"shrinks": "shrank while it was read"}
    assert messages.get(change, "changed while it was read") in outcome.error.message
