"""Encode and decode take the checkpoint first: what an error says where the arguments were swapped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lfq_cli.checkpoints import Facts
    from lfq_cli.quantizer import Quantizer

_LOOKED_AT = 8  # inputs, which may be thousands


def load_first(path: Path, facts: Facts, inputs: Sequence[str]) -> Quantizer:
    """The quantizer of the checkpoint at `path`. The CheckpointError that there is none names an input that is one."""
    from lfq_cli import checkpoints, native
    from lfq_cli.errors import CheckpointError
    from lfq_cli.jobs.file_types import described_format
    from lfq_cli.storage.urlpath import path_of

    try:
        return checkpoints.load(path, facts)
    except CheckpointError as error:
        for name in inputs[:_LOOKED_AT]:
            if name and described_format(path_of(name)) == native.FORMAT:
                raise CheckpointError(error.message, f"{name} is a checkpoint: name it first") from error
        raise
