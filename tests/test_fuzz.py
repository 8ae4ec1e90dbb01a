"""Broken files by the thousand: a right result or an LfqError; no other error, no hang, no memory for a number in a
header. `make fuzz` runs on for as long as one likes.
"""

import resource
import sys
import time
import warnings
from itertools import islice
from pathlib import Path

import pytest
from mutations import targets

from lfq_cli.errors import LfqError

pytestmark = pytest.mark.slow

FILES = {"foreign pt": 1500, "pt": 1500}
OTHERS = 3000
SLICES = 4
"""30,000 files in all, in slices that test workers share."""
SECONDS_A_FILE = 5
MEMORY_CAP = 300 << 20


@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize(
    "name",
    [
        "safetensors",
        "npy",
        "npz",
        "pt",
        "tar",
        "native",
        "foreign safetensors",
        "foreign pt",
        "codes",
        "samples",
        "counts",
    ],
)
def test_a_broken_file_is_read_right_or_refused(name: str, part: int, tmp_path: Path) -> None:
    import mutations

    target = targets(tmp_path)[name]
    path = tmp_path / f"broken{target.suffix}"
    refused = 0
    for whole in target.seeds:
        path.write_bytes(whole)
        target.read(path)
    before = peak_memory()
    count = FILES.get(name, OTHERS) // SLICES
    for number, data in enumerate(islice(mutations.broken(target, seed=part), count)):
        path.write_bytes(data)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                target.read(path)
            except LfqError:
                refused += 1
            except BaseException as error:
                kept = Path(f"/tmp/lfq-fuzz-{name.replace(' ', '-')}-{part}-{number}{target.suffix}")
                kept.write_bytes(data)
                raise AssertionError(f"{kept}: {type(error).__name__}: {error}") from error
        assert time.perf_counter() - start < SECONDS_A_FILE, (name, part, number)
    assert refused > count // 5, "hardly anything was broken"
    assert peak_memory() - before < MEMORY_CAP


def peak_memory() -> int:
    """The most memory this process had so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
