"""A device that runs out of memory gets half as much at a time: the same tokens and values, and a note."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from lfq_cli.backends import LARGE_ITEM, TorchBackend
from lfq_cli.errors import DeviceError, LfqNote
from lfq_cli.floats import FORMATS
from lfq_cli.quantizer import Quantizer

RNG = np.random.default_rng(0)
PROJECTED = Quantizer(
    dim=12,
    codebook_dim=5,
    weights={
        "project_in.weight": RNG.standard_normal((5, 12)).astype(np.float32),
        "project_out.weight": RNG.standard_normal((12, 5)).astype(np.float32),
    },
)


def backend() -> TorchBackend:
    return TorchBackend(PROJECTED, torch.device("cpu"), "float32")


def out_of_memory_above(limit: int, compute: Any, seen: list[int]) -> Any:
    def limited(x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        seen.append(len(x))
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        result: torch.Tensor = compute(x, *rest, **more)
        return result

    return limited


@pytest.mark.parametrize("limit", [8, 17, 100, 999])
@pytest.mark.parametrize("inner", [1, 10, 125])
def test_halves_give_the_same(limit: int, inner: int) -> None:
    x = RNG.standard_normal((1000 // inner, 12, inner)).astype(np.float32)
    expected, _ = backend().encode(x, FORMATS["F32"])
    values = backend().decode(expected, len(x), inner, FORMATS["F32"], project_out=True)
    small, seen = backend(), []  # type: ignore[var-annotated]
    before = small.block_values
    module: Any = small._module
    module.latents = out_of_memory_above(limit, module.latents, seen)
    module.decode_bits = out_of_memory_above(limit, module.decode_bits, seen)
    at_once = inner if inner >= LARGE_ITEM else 1000
    with (
        pytest.warns(LfqNote, match=r"out of memory for [\d,]+ vectors at once; halving")
        if limit < at_once
        else nullcontext()
    ):
        stream, _ = small.encode(x, FORMATS["F32"])
    assert np.array_equal(stream, expected)
    with pytest.warns(LfqNote):
        again = small.decode(stream, len(x), inner, FORMATS["F32"], project_out=True)
    assert np.allclose(again, values, rtol=1e-6, atol=1e-6)
    assert small.block_values < before


def test_a_vector_that_does_not_fit_is_an_error() -> None:
    small = backend()
    module: Any = small._module
    module.latents = out_of_memory_above(0, module.latents, [])
    with pytest.warns(LfqNote), pytest.raises(DeviceError, match="out of memory for 8 vectors"):
        small.encode(RNG.standard_normal((16, 12, 1)).astype(np.float32), FORMATS["F32"])
