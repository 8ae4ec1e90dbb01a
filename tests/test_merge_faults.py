"""Merging and splitting where calls fail, runs are killed or interrupted, and a million samples must fit in memory."""

import errno
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sample_files import Sample, Schema, read, write
from test_faults import failing

from lfq_cli.codesfile import MadeFrom, SourceInfo, open_codes
from lfq_cli.codesfile.builder import Coding, SamplesBuilder
from lfq_cli.errors import LfqError
from lfq_cli.files import PARTIAL_PREFIX
from lfq_cli.jobs.draft import Limits
from lfq_cli.jobs.merge import MergeOptions, Outputs, merge
from lfq_cli.jobs.verify import VerifyOptions, verify

pytestmark = pytest.mark.slow

SCHEMA = Schema({"z": (None,)}, dims=(9,), carried={"label": ("I64", ())}, texts=("caption",))


def numbered(first: int, count: int) -> list[Sample]:
    rng = np.random.default_rng(first)
    return [
        Sample(
            f"{k:06}",
            {"z": rng.integers(0, 2, (k % 50, 9)).astype(bool)},
            {"label": k.to_bytes(8, "little")},
            {"caption": f"sample {k}"},
        )
        for k in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge") / "tokens"
    folder.mkdir()
    for k in range(4):
        write(folder / f"{k}.codes.safetensors", numbered(500 * k, 500), SCHEMA)
    return folder


CALLS = {
    "write": ("lfq_cli.codesfile.writer.write_all", errno.ENOSPC),
    "pwrite": ("os.pwrite", errno.ENOSPC),
    "preadv": ("os.preadv", errno.EIO),
    "fsync": ("os.fsync", errno.EIO),
    "rename": ("lfq_cli.files.rename_new", errno.EIO),
    "open": ("pathlib.Path.open", errno.EACCES),
    "mkdir": ("pathlib.Path.mkdir", errno.EROFS),
    "stat": ("pathlib.Path.stat", errno.EACCES),
    "fstat": ("os.fstat", errno.EIO),
    "flock": ("fcntl.flock", errno.EPERM),
}


@pytest.mark.parametrize("limit", [None, 700])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_a_run_may_fail(call: str, limit: int | None, tokens: Path, tmp_path: Path) -> None:
    """One failure at a time, at each call of its kind: no other error than lfq's; outputs are whole or not there."""
    target, code = CALLS[call]
    paths = sorted(tokens.iterdir())
    number = failures = 0
    while True:
        out = tmp_path / str(number)
        expected = 1 if limit is None else 3
        with failing(target, number, code) as calls:
            try:
                outcomes = list(merge(paths, Outputs(out), MergeOptions(Limits(limit))))
                errors = [outcome.error for outcome in outcomes if outcome.error is not None]
            except LfqError as error:  # of the plan, before any output
                errors, expected = [error], 1
        assert not [path for path in out.rglob("*") if path.name.startswith(PARTIAL_PREFIX)]
        written = sorted(out.rglob("*.safetensors"))
        assert all(verdict.status == "whole" for verdict in verify(written, VerifyOptions()))
        assert len(written) + len(errors) in (expected, expected + (call == "fsync"))  # of a folder: after the name
        failures += len(errors)
        if number >= len(calls) - 1:
            break
        number += max(1, len(calls) // 25)
    assert failures > 0


KILLS = 30


def run(*arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "lfq_cli", *map(str, arguments), "--no-progress", "-q"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_run_goes_on(tokens: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments of a split: what has its final name is whole; in the end all is as if undisturbed."""
    expected, out = tmp_path / "expected", tmp_path / "out"
    assert run("split", tokens, "-o", expected, "--samples-per-file", 7).wait(timeout=120) == 0
    undisturbed = bytes_in(expected)
    started = time.perf_counter()
    assert run("split", tokens, "-o", out, "--samples-per-file", 7, "--dry-run").wait(timeout=120) == 0
    start_up = time.perf_counter() - started
    moments, killed, seen = random.Random(0), 0, []
    while killed < KILLS:
        process = run("split", tokens, "-o", out, "--samples-per-file", 7)
        time.sleep(moments.uniform(0.7 * start_up, 1.3 * start_up))
        process.kill()
        killed += process.wait() == -9
        named = {name: data for name, data in (bytes_in(out) if out.exists() else {}).items() if name[0] != "."}
        assert all(undisturbed[name] == data for name, data in named.items())
        seen.append(len(named))
        if len(named) == len(undisturbed):
            for path in out.iterdir():
                path.unlink()
    assert max(seen) > 0, "no kill came after the first output"
    assert run("split", tokens, "-o", out, "--samples-per-file", 7).wait(timeout=120) == 0
    assert bytes_in(out) == undisturbed


SLOW = """
import sys, time
from lfq_cli.cli import main
from lfq_cli.codesfile import writer
real = writer.TensorWriter.append
def append(self, codes):
    print("writing", file=sys.stderr, flush=True)
    time.sleep(0.02)
    real(self, codes)
writer.TensorWriter.append = append
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly_and_soon(number: int, code: int, tokens: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW, "split", str(tokens), "-o", str(tmp_path / "out"), "--samples-per-file", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for _ in range(30):
            assert process.stderr.readline() == "writing\n"
        process.send_signal(number)
        sent = time.monotonic()
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - sent < 1
    assert process.returncode == code
    assert "the same command goes on" in err
    assert "Traceback" not in err
    done = sorted((tmp_path / "out").iterdir())
    assert 1 <= len(done) < 2000 // 7
    assert all(verdict.status == "whole" for verdict in verify(done, VerifyOptions()))
    assert [sample.key for sample in read(done[0])] == [f"{k:06}" for k in range(7)]


MILLION = 1_000_001
LIMIT_MIB = 150

# VmHWM is the child's own; ru_maxrss begins at the parent's peak
PEAK = """
import sys
from pathlib import Path
from lfq_cli.cli import main
try:
    main()
finally:
    lines = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(lines[0].split()[1], file=sys.stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_a_million_samples_pass_in_little_memory(tmp_path: Path) -> None:
    coding = Coding({"type": "lfq", "dim": 9}, "ab" * 32, "float32", {}, (9,), (), "msb")
    lengths = [1 + k % 3 for k in range(MILLION)]
    source = {"z": SourceInfo((None, 9), "F16", 1)}
    path = tmp_path / "all.codes.safetensors"
    with SamplesBuilder(coding, source, {"label": ("I64", ())}, ["caption"], tmp_path) as builder:
        builder.add(
            [f"folder/{k:09}" for k in range(MILLION)],
            {"z": np.zeros(-(-sum(lengths) * 9 // 8), np.uint8)},
            {"z": lengths},
            {"label": [k.to_bytes(8, "little") for k in range(MILLION)]},
            {"caption": [b"sample %d" % k for k in range(MILLION)]},
        )
        builder.write(path, MadeFrom(1, "error"), overwrite=False, durable=False)
    for command in (
        ("split", path, "-o", tmp_path / "parts", "--file-size", "5MB"),
        ("merge", tmp_path / "parts", "-o", tmp_path / "one"),
    ):
        arguments = [sys.executable, "-c", PEAK, *map(str, command), "--no-fsync", "-q"]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stderr.splitlines()[-1]) / 1024 < LIMIT_MIB, command[0]
    with open_codes(path) as before, open_codes(tmp_path / "one" / "00000.codes.safetensors") as after:
        assert after.header.digests == before.header.digests
