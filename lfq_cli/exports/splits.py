"""Which samples belong to training and which to validation: by a hash of the key, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lfq_cli.errors import OptionError

_STEPS = 1 << 32


def parse_splits(value: str) -> dict[str, float]:
    """ "train=0.99,val=0.01" -> shares. Raises OptionError unless they add up to 1 and the names are unique."""
    shares: dict[str, float] = {}
    for part in value.split(","):
        name, _, share = part.partition("=")
        try:
            number = float(share)
        except ValueError:
            number = -1.0
        if not name.isidentifier() or name in shares or not 0 < number <= 1:
            raise OptionError(f"--split {value!r}: {part!r} is not a NAME=SHARE", "as train=0.99,val=0.01")
        shares[name] = number
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise OptionError(f"--split {value!r}: the shares are {sum(shares.values()):g} together, expected 1")
    return shares


def split(keys: Sequence[str], shares: Mapping[str, float]) -> NDArray[np.int64]:
    """The number of each key's split: its sha256 as a fraction of 2^32, compared with the cumulative shares."""
    ends = np.round(np.cumsum(list(shares.values())) * _STEPS).astype(np.int64)
    ends[-1] = _STEPS
    places = [int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:4], "big") for key in keys]
    return np.searchsorted(ends, places, side="right").astype(np.int64)
