"""Where arithmetic runs. A backend converts one block of floats to a run of the stream, and back.

Without projection and rotation, bits are comparisons in numpy; with them the torch modules of `nn` compute: on the CPU
block by block, on a device in a pipeline.
"""

from __future__ import annotations

import warnings

from lfq_cli.backends.backend import Backend, CodesToRead, FloatsToRead
from lfq_cli.backends.device_backend import DeviceBackend
from lfq_cli.backends.devices import torch_device
from lfq_cli.backends.numpy_backend import NumpyBackend
from lfq_cli.backends.residual_numpy_backend import ResidualNumpyBackend, is_plain_residual
from lfq_cli.backends.torch_backend import LARGE_ITEM, TorchBackend
from lfq_cli.backends.torch_settings import exact_products
from lfq_cli.errors import DeviceError, LfqNote
from lfq_cli.quantizer import Quantizer

__all__ = [
    "COMPUTE_DTYPES",
    "LARGE_ITEM",
    "Backend",
    "CodesToRead",
    "DeviceBackend",
    "FloatsToRead",
    "NumpyBackend",
    "ResidualNumpyBackend",
    "TorchBackend",
    "computed_in",
    "exact_products",
    "select",
    "tell_unused",
    "torch_device",
]

COMPUTE_DTYPES = ("float32", "bfloat16", "float16")


def select(device: str, quantizer: Quantizer, compute_dtype: str, *, decoding: bool) -> Backend:
    """The backend for `device` ("auto", "cpu", "cuda", "cuda:N", "mps").

    compute_dtype: of products, and of everything a residual quantizer computes; unused where bits are signs and codes
    are constants, on any device. Raises DeviceError if the device does not exist, CheckpointError if values would
    depend on an invalid scale.
    """
    if compute_dtype not in COMPUTE_DTYPES:
        raise DeviceError(f"cannot compute in {compute_dtype!r}", f"expected {', '.join(COMPUTE_DTYPES)}")
    if decoding:
        quantizer.require_scale_within_clamp()
    compute_dtype = computed_in(quantizer, compute_dtype)
    if device in ("auto", "cpu"):
        if is_plain_residual(quantizer) and compute_dtype == "float32":
            return ResidualNumpyBackend(quantizer)
        if quantizer.bits_are_signs and not (decoding and quantizer.code_magnitude() is None):
            return NumpyBackend(quantizer)
    found = torch_device(device)
    if found.type == "cpu":
        return TorchBackend(quantizer, compute_dtype)
    return DeviceBackend(quantizer, found, compute_dtype)


def computed_in(quantizer: Quantizer, asked_for: str) -> str:
    """The dtype of a quantizer's arithmetic: float32 where it only compares."""
    return "float32" if quantizer.bits_are_signs else asked_for


def tell_unused(asked_for: str, quantizer: Quantizer) -> None:
    """Notes that nothing is computed in the requested dtype."""
    if asked_for != computed_in(quantizer, asked_for):
        warnings.warn(
            f"--compute-dtype {asked_for} changes nothing: this quantizer only compares its inputs with 0",
            LfqNote,
            stacklevel=2,
        )
