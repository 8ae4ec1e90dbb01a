"""The weights of a module in the form that a saved quantizer holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn


def is_mask(name: str) -> bool:
    """Whether an entry of a state dict is a mask: the place values of bits, which are not weights."""
    return name == "mask" or name.endswith(".mask")


def weights_of(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Name -> a float32 copy, without masks."""
    return {
        name: value.detach().float().cpu().numpy().copy()
        for name, value in module.state_dict().items()
        if not is_mask(name)
    }
