"""What people see: progress, tables, JSON. The only package that imports rich; one module an idea.

stdout is data: a table, or one JSON object. Progress and notes go to stderr, and only to a terminal where they move.
"""

from __future__ import annotations

from lfq_cli.cli.render.checkpoints import once, show_import, tell_assumptions
from lfq_cli.cli.render.comparison import show_comparison
from lfq_cli.cli.render.console import note
from lfq_cli.cli.render.exports import announce_export, show_export
from lfq_cli.cli.render.inspection import show_inspection
from lfq_cli.cli.render.outcomes import exit_if_failed, run_jobs, show_outcomes, total_size
from lfq_cli.cli.render.progress import progress_bar
from lfq_cli.cli.render.stats import show_stats
from lfq_cli.cli.render.verdicts import show_verdicts

__all__ = [
    "announce_export",
    "exit_if_failed",
    "note",
    "once",
    "progress_bar",
    "run_jobs",
    "show_comparison",
    "show_export",
    "show_import",
    "show_inspection",
    "show_outcomes",
    "show_stats",
    "show_verdicts",
    "tell_assumptions",
    "total_size",
]
