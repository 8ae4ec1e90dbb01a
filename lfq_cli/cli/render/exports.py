"""The tables that `lfq export-codebook` writes."""

from __future__ import annotations

from lfq_cli.cli.messages import printable, shape, size
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.console import new_table, note, print_json, print_table
from lfq_cli.jobs.export import ExportPlan


def announce_export(plan: ExportPlan, display: Display) -> None:
    """What is about to be written, and its size."""
    if not display.quiet:
        tables = ", ".join(f"{name} {shape(sizes)}" for name, sizes in plan.shapes.items())
        note(f"lfq: {tables}: {size(plan.nbytes)} of {plan.dtype}")


def show_export(plan: ExportPlan, display: Display, *, written: bool) -> None:
    """What was written."""
    status = "written" if written else "planned"
    if display.json:
        tables = {name: list(sizes) for name, sizes in plan.shapes.items()}
        print_json(
            {"output": str(plan.output), "status": status, "tables": tables, "rows": [plan.rows.start, plan.rows.stop]}
            | {"dtype": plan.dtype, "bytes": plan.nbytes}
        )
    elif not display.quiet:
        table = new_table("output", "table", "shape", "status")
        for name, sizes in plan.shapes.items():
            table.add_row(printable(str(plan.output)), name, shape(sizes), status)
        print_table(table)
