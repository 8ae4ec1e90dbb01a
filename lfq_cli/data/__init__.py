"""Codes as data sets for training: samples by number, batches in a shuffled order (docs/data.md).

    CodesDataset("tokens/")                samples by number, map style
    CodesBatches("tokens/", 64, seed=0)    ready batches, a new order every epoch, for any number of ranks and workers
    codes_of(packed, quantizer)            packed bits to code vectors, on the device

Only CodesBatches and codes_of need torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lfq_cli.data.dataset import CodesDataset, open_codes
from lfq_cli.data.expand import codes_of

if TYPE_CHECKING:
    from lfq_cli.data.batches import CodesBatches

__all__ = ["CodesBatches", "CodesDataset", "codes_of", "open_codes"]


def __getattr__(name: str) -> Any:
    if name != "CodesBatches":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lfq_cli.data.batches import CodesBatches  # imports torch, where it is installed

    return CodesBatches
