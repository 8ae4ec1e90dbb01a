"""Reading ahead: whatever is read, in whatever pieces the ranges come, the bytes are those of the object."""

from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lfq_cli.storage import ranges

_RANGE, _HEAD = 64, 24


@given(
    size=st.integers(1, 2000),
    piece=st.integers(1, 2 * _RANGE),
    reads=st.lists(st.tuples(st.integers(0, 1999), st.integers(0, 300)), max_size=20),
    seed=st.integers(0, 2**32),
)
@example(size=1793, piece=1, reads=[(0, 193), (1025, 192), (129, 64)], seed=0)  # more ranges than are held at once
def test_any_read_brings_the_bytes_of_the_object(size, piece, reads, seed):
    stored = np.random.default_rng(seed).bytes(size)
    asked = []

    def start(position, count):
        asked.append((position, count))
        came = Future()
        data = stored[position : position + count]
        came.set_result([data[k : k + piece] for k in range(0, len(data), piece)])
        return came

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "RANGE_BYTES", _RANGE)
        patch.setattr(ranges, "HEAD_BYTES", _HEAD)
        ahead = ranges.ReadAhead(start, lambda position, count: stored[position : position + count], size)
        for position, count in [*reads, *((k, 50) for k in range(0, size, 50))]:
            expected = stored[position : position + count]
            view = memoryview(bytearray(len(expected)))
            ahead.read_into(position, view)
            assert view == expected
    assert all(position % _RANGE == 0 and count == min(_RANGE, size - position) for position, count in asked)
