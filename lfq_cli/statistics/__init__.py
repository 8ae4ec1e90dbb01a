"""How codes are used: counters fed one run of indices at a time, and the records they produce.

Only arrays, no files. Formulas and sources: docs/statistics.md.
"""

from __future__ import annotations

from lfq_cli.statistics.comparison import TokenComparison, UsageComparison, compare
from lfq_cli.statistics.counter import MEMORY_BYTES, Counter
from lfq_cli.statistics.tables import FieldsTally, Tally
from lfq_cli.statistics.tokens import CountOptions, TokenCounts, index_axes
from lfq_cli.statistics.usage import BitStatistics, Estimate, PositionStatistics, TokenUsage, Usage

__all__ = [
    "MEMORY_BYTES",
    "BitStatistics",
    "CountOptions",
    "Counter",
    "Estimate",
    "FieldsTally",
    "PositionStatistics",
    "Tally",
    "TokenComparison",
    "TokenCounts",
    "TokenUsage",
    "Usage",
    "UsageComparison",
    "compare",
    "index_axes",
]
