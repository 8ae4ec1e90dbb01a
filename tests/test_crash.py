"""SIGKILL at a hundred random moments of an encode and a decode: nothing under a final name is ever not whole, and the
same command run again goes on to the bytes of an undisturbed run."""

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lfq_cli import native
from lfq_cli.jobs.verify import VerifyOptions, verify
from lfq_cli.quantizer import Quantizer

pytestmark = pytest.mark.slow

KILLS = 50  # for each of encode and decode
KILLS_OF_PACKING = 12
FILES = 60
PACKED = ("--samples-per-file", "7", "--no-fsync")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources, a checkpoint, and what undisturbed runs make of them: codes/ and floats/."""
    folder = tmp_path_factory.mktemp("crash")
    native.write(Quantizer(dim=16, codebook_dim=16), folder / "c.safetensors")
    for k in range(FILES):
        path = folder / "in" / str(k % 3) / f"{k}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(k).standard_normal((20_000, 16)).astype(np.float32))
    run("encode", folder / "c.safetensors", folder / "in", "-o", folder / "codes").wait()
    run("decode", folder / "c.safetensors", folder / "codes", "-o", folder / "floats").wait()
    run("encode", folder / "c.safetensors", folder / "in", "-o", folder / "packed", *PACKED).wait()
    return folder


def run(*arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "lfq_cli", *map(str, arguments), "--no-progress", "-q"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def check_whole(folder: Path, expected: Path) -> int:
    """Every file under its final name passes verify and has the bytes of an undisturbed run; how many there are."""
    paths = list(folder.rglob("*.safetensors")) if folder.exists() else []
    for path in paths:
        assert path.read_bytes() == (expected / path.relative_to(folder)).read_bytes()
    codes = [path for path in paths if path.name.endswith(".codes.safetensors")]
    assert all(verdict.status == "whole" for verdict in verify(codes, VerifyOptions()))
    return len(paths)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_killed_run_goes_on(command: str, tree: Path, tmp_path: Path) -> None:
    source, expected = (tree / "in", tree / "codes") if command == "encode" else (tree / "codes", tree / "floats")
    out = tmp_path / "out"
    arguments = (command, tree / "c.safetensors", source, "-o", out)
    started = time.perf_counter()
    assert run(*arguments, "--dry-run").wait(timeout=60) == 0
    start_up = time.perf_counter() - started
    moments, killed, seen = random.Random(0), 0, []
    while killed < KILLS:
        process = run(*arguments)
        time.sleep(moments.uniform(0.5 * start_up, 1.2 * start_up))
        process.kill()
        killed += process.wait() == -9
        seen.append(check_whole(out, expected))
        if seen[-1] == FILES:  # done, between two kills: from the start
            for path in out.rglob("*.safetensors"):
                path.unlink()
    assert max(seen) > 0, "no kill came after the first output"
    assert run(*arguments).wait(timeout=120) == 0
    assert bytes_in(out) == bytes_in(expected)


def test_killed_packing_goes_on(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("encode", tree / "c.safetensors", tree / "in", "-o", out, *PACKED)
    started = time.perf_counter()
    assert run(*arguments, "--dry-run").wait(timeout=60) == 0
    took = time.perf_counter() - started
    moments, killed, seen = random.Random(1), 0, []
    while killed < KILLS_OF_PACKING:
        process = run(*arguments)
        time.sleep(moments.uniform(0.4 * took, 1.2 * took))
        process.kill()
        killed += process.wait() == -9
        seen.append(check_whole(out, tree / "packed"))
        if seen[-1] == -(-FILES // 7):
            for path in out.rglob("*.safetensors"):
                path.unlink()
    assert max(seen) > 0, "no kill came after the first output"
    assert run(*arguments).wait(timeout=120) == 0
    assert bytes_in(out) == bytes_in(tree / "packed")
