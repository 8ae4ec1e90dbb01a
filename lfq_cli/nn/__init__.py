"""The torch modules: the numerics of record, for training and for checkpoints with weights.

Knows tensors and parameters; knows nothing of files or the command line.
"""

from __future__ import annotations

from lfq_cli.nn.grouped import GroupedResidualLFQ
from lfq_cli.nn.lfq import LFQ, LossBreakdown, Return
from lfq_cli.nn.residual import ResidualLFQ
from lfq_cli.nn.stacked import StackedLFQ

__all__ = ["LFQ", "GroupedResidualLFQ", "LossBreakdown", "ResidualLFQ", "Return", "StackedLFQ"]
