"""Saved checkpoint -> torch module, for Python callers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lfq_cli import checkpoints
from lfq_cli.checkpoints import Facts
from lfq_cli.errors import LfqNote
from lfq_cli.nn.saved import AnyLFQ, module_of


def load(path: str | Path, **facts: Any) -> AnyLFQ:
    """The quantizer saved at `path` as a module in eval mode, on the CPU in float32.

    facts: what a foreign state dict does not say, as the command line's options: module, family, codebook_scale,
    spherical, soft_clamp ("none" for no clamp), num_codebooks, codebook_dims (as [6, 12]), keep_num_codebooks_dim,
    bit_order, cosine, cosine_scale. Warns of what is assumed. Raises CheckpointError for what is no such checkpoint, or
    where a fact is missing.
    """
    quantizer = checkpoints.load(Path(path), Facts(**facts))
    module = module_of(quantizer)
    if quantizer.assumed:
        warnings.warn("; ".join(quantizer.assumption_text()), LfqNote, stacklevel=2)
    return module
