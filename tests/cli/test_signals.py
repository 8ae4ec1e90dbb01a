"""^C, SIGTERM and a closed pipe, with real processes: exit code, one line, nothing half-written, within a second."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lfq_cli import native
from lfq_cli.files import PARTIAL_PREFIX
from lfq_cli.quantizer import Quantizer

pytestmark = pytest.mark.slow

HUGE = 3_000_000_000  # vectors of 8 float32: 96 GB of zeros in a sparse file, which no run ends with in a test's time


@pytest.fixture
def huge(tmp_path):
    """A checkpoint, a huge input, and a small one before it."""
    native.write(Quantizer(dim=8, codebook_dim=8), tmp_path / "c.safetensors")
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", np.ones((100, 8), np.float32))
    header = np.lib.format.header_data_from_array_1_0(np.ones((1, 8), np.float32)) | {"shape": (HUGE, 8)}
    with (tmp_path / "in" / "b.npy").open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        file.truncate(file.tell() + HUGE * 32)
    return tmp_path


def start(folder, *more):
    command = [sys.executable, "-m", "lfq_cli", "encode", "c.safetensors", "in", "-o", "out", *more]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until_it_writes(folder):
    """Until the huge output has begun."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if any(path.stat().st_size > 1 << 20 for path in folder.glob(f"out/{PARTIAL_PREFIX}*")):
            return
        time.sleep(0.01)
    pytest.fail("it did not begin")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly_and_soon(huge, number, code):
    process = start(huge)
    wait_until_it_writes(huge)
    process.send_signal(number)
    sent = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < 1
    assert process.returncode == code
    assert "interrupted" in err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert sorted(path.name for path in (huge / "out").iterdir()) == ["a.codes.safetensors"]


def test_a_second_signal_ends_at_once(huge):
    process = start(huge)
    wait_until_it_writes(huge)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130
    assert not (huge / "out" / "b.codes.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts(huge, number):
    """At twenty moments between start and work: never a traceback of ours, never something half-written."""
    for k in range(20):
        process = start(huge)
        time.sleep(0.05 + 0.02 * k)
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
        # before Python could set a handler; or by Python's own, before it ran any line of ours
        in_python = process.returncode == -number or (process.returncode == 1 and "lfq_cli" not in err)
        assert process.returncode == 128 + number or in_python, (k, err)
        assert {path.name for path in huge.glob("out/*")} <= {"a.codes.safetensors"}


def test_a_closed_pipe_is_quiet(huge):
    (huge / "in" / "b.npy").unlink()
    for _ in range(2):
        with start(huge, "--json", "--overwrite") as process:
            process.stdout.close()
            err = process.stderr.read()
        assert "Traceback" not in err
        assert "BrokenPipe" not in err
    assert Path(huge, "out", "a.codes.safetensors").exists()
