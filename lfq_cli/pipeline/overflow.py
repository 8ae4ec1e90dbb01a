"""Vectors of numbers that become NaN on the way to their bits: where the first one is, and the error that names it.

Infinity minus infinity, infinity times 0, infinity over an infinite norm: infinities of the input, or of sums beyond
the compute dtype. The reference gives bit 0 whatever the signs of the vector are.
"""

from __future__ import annotations

import numpy as np

from lfq_cli.backends import Backend
from lfq_cli.errors import TensorError
from lfq_cli.floats import FloatFormat, Raw
from lfq_cli.layout import position_of, positions_shape

NAN_HINT = "--nan zero encodes NaN as bit 0, as the reference does"


def first_vector(backend: Backend, raw: Raw, spec: FloatFormat) -> int:
    """The number in raw [outer, dim, inner], whose latents held NaN, of the first vector that is to blame.

    Where no latent is NaN now it is the first infinite one: numpy's are not normalised (Backend.latents), and sums may
    overflow in one order and not in another.
    """
    latents = backend.latents(raw, spec)
    for is_wrong in (np.isnan, np.isinf):
        wrong = is_wrong(latents).any(axis=1)
        if wrong.any():
            break
    return int(wrong.argmax())


def position(vector: int, shape: tuple[int, ...], axis: int, *, first_row: int = 0) -> str:
    """The index of a vector of a tensor, as numpy writes it, with features on `axis`: "[1, :, 3]"."""
    index = position_of(vector, positions_shape(shape, axis))
    if axis and index:
        index[0] += first_row
    return f"[{', '.join([*map(str, index[:axis]), ':', *map(str, index[axis:])])}]"


def error(tensor: str, index: str, compute_dtype: str) -> TensorError:
    """The error for a tensor whose vector at `index` is the first to become NaN."""
    larger = "--compute-dtype float32 takes larger values; " if compute_dtype == "float16" else ""
    return TensorError(
        f"{tensor} holds infinite or huge values that become NaN in the quantizer, the first vector at {index}",
        larger + NAN_HINT,
    )
