"""fingerprint.py against its definition: DESIGN, codes file 2, `made_from`."""

import hashlib

import pytest

from lfq_cli.errors import TensorError
from lfq_cli.fingerprint import WHOLE_BYTES, fingerprint

RUN = 64 << 10


def defined(content):
    """sha256 of the size and of up to 16 runs of 64 KiB at even distances, first and last included."""
    read = content
    if len(content) > 16 * RUN:
        starts = [k * (len(content) - RUN) // 15 for k in range(16)]
        assert (starts[0], starts[-1] + RUN) == (0, len(content))
        read = b"".join(content[start : start + RUN] for start in starts)
    return len(content), hashlib.sha256(len(content).to_bytes(8, "little") + read).hexdigest()


@pytest.mark.parametrize("size", [0, 1, RUN, WHOLE_BYTES - 1, WHOLE_BYTES, WHOLE_BYTES + 1, 2_000_003, 7 * WHOLE_BYTES])
def test_fingerprint(tmp_path, size):
    path = tmp_path / "x"
    content = hashlib.shake_128(b"lfq").digest(size)
    path.write_bytes(content)
    assert fingerprint(path, TensorError) == defined(content)


@pytest.mark.parametrize("size", [1, 1000, WHOLE_BYTES])
def test_no_change_of_a_small_file_goes_unseen(tmp_path, size):
    path = tmp_path / "x"
    seen = set()
    for place in (0, size // 3, size // 2, size - 1):
        path.write_bytes(bytes(place) + b"1" + bytes(size - place - 1))
        seen.add(fingerprint(path, TensorError)[1])
    assert len(seen) == len({0, size // 3, size // 2, size - 1})


def test_what_cannot_be_read_is_reported(tmp_path):
    with pytest.raises(TensorError, match="no such file"):
        fingerprint(tmp_path / "nothing", TensorError)
