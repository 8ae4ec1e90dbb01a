"""Memory does not grow with the file: a gigabyte of float32 through encode, stats and decode.

The input is sparse: a header, and a length; nothing but zeros is read. Each command runs as a user runs it, in a
process of its own, with its peak resident memory reported at exit. torch has no part in it: numpy does everything.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lfq_cli
from lfq_cli import native
from lfq_cli.container import header_bytes
from lfq_cli.quantizer import Quantizer

pytestmark = pytest.mark.slow

GIB = 1 << 30
BITS = 16
POSITIONS = GIB // 4 // BITS
LIMIT_MIB = 300

# ru_maxrss of a child begins at its parent's peak (Linux keeps it across exec), and pytest's has torch in it; VmHWM is
# the child's own. The data is not to be waited for: the disk is not what is measured.
CHILD = """
import os, resource, sys
from pathlib import Path
os.fsync = lambda _: None
from lfq_cli.cli import main
try:
    main()
finally:
    status = Path("/proc/self/status")
    lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")] if status.exists() else []
    peak = int(lines[0].split()[1]) if lines else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak_kib={peak} torch={'torch' in sys.modules}", file=sys.stderr)
"""

CASES = {
    "channel-last": ((POSITIONS, BITS), False),
    "channel-first, one item": ((1, BITS, 1 << 12, POSITIONS >> 12), True),
}


def lfq(*arguments: str | Path) -> str:
    """stdout of the command, which must end well, below the limit, and without torch."""
    stdout, peak_mib = run(*arguments)
    assert peak_mib < LIMIT_MIB, f"{arguments[0]}: {peak_mib:.0f} MiB"
    return stdout


def run(*arguments: str | Path) -> tuple[str, float]:
    """stdout of the command, and its peak memory in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.endswith("torch=False")
    return done.stdout, int(line.split()[0].removeprefix("peak_kib=")) / 1024


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="POSIX")
@pytest.mark.parametrize("case", CASES)
def test_a_gigabyte_passes_in_constant_memory(case: str, tmp_path: Path) -> None:
    shape, channel_first = CASES[case]
    native.write(Quantizer(dim=BITS, codebook_dim=BITS, channel_first=channel_first), tmp_path / "c.safetensors")
    source, codes, out = (tmp_path / name for name in ("x.safetensors", "x.codes.safetensors", "y.safetensors"))
    head = header_bytes({}, {"x": ("F32", shape)})
    with source.open("wb") as file:
        file.write(head)
        file.seek(len(head))
        file.write(np.ones(1, np.float32).tobytes())  # position 0, channel 0
        file.truncate(len(head) + GIB)

    lfq("encode", tmp_path / "c.safetensors", source, "-o", codes, "--json")
    assert codes.stat().st_size == pytest.approx(GIB / 32, rel=0.001)
    with lfq_cli.open_codes(codes) as file_of_codes:
        assert file_of_codes["x"][0].reshape(-1)[0] == 1 << 15
    assert f'"count": {POSITIONS}' in lfq("stats", codes, "--json")
    lfq("decode", tmp_path / "c.safetensors", codes, "-o", out, "--json", "--dtype", "float16")
    assert out.stat().st_size == pytest.approx(GIB / 2, rel=0.001)
    out.unlink()


def test_more_than_eight_threads_need_no_more_memory(tmp_path: Path) -> None:
    native.write(Quantizer(dim=18, codebook_dim=18), tmp_path / "c.safetensors")
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (1 << 22, 18))
    peaks = {}
    for threads in ("8", "64"):
        for arguments in (
            ("encode", "x.npy", "x.codes.safetensors"),
            ("decode", "x.codes.safetensors", "y.safetensors"),
        ):
            command, source, out = arguments
            names = [tmp_path / name for name in ("c.safetensors", source)]
            _, peak = run(command, *names, "-o", tmp_path / out, "--overwrite", "-q", "--threads", threads)
            peaks[command, threads] = peak
    assert peaks["encode", "64"] < 1.25 * peaks["encode", "8"]
    assert peaks["decode", "64"] < 1.25 * peaks["decode", "8"]
