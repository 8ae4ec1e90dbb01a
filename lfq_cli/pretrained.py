"""Saved checkpoint -> torch module, for Python callers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lfq_cli import checkpoints
from lfq_cli.checkpoints import Facts
from lfq_cli.nn import LFQ
from lfq_cli.nn.saved import module_of


def load(path: str | Path, **facts: Any) -> LFQ:
    """The quantizer saved at `path` as a module in eval mode, on the CPU in float32.

    facts: what a foreign state dict does not say, as the command line's options: module, codebook_scale, spherical,
    soft_clamp ("none" for no clamp), num_codebooks, keep_num_codebooks_dim, bit_order, cosine, cosine_scale.
    Raises CheckpointError for what is no such checkpoint, or where a fact is missing.
    """
    quantizer = checkpoints.load(Path(path), Facts(**facts))
    quantizer.require(*sorted(quantizer.unknown))
    return module_of(quantizer)
