"""What `lfq encode --status` found: how much of a tree is done, and what is not."""

from __future__ import annotations

from collections.abc import Sequence

from lfq_cli.cli.messages import error_lines, printable, size
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.console import MOST_ROWS, new_table, note, print_json, print_table
from lfq_cli.jobs.outcome import Outcome

_STATES = {"up to date": "current", "refused": "stale", "planned": "missing", "failed": "failed"}


def show_status(outcomes: Sequence[Outcome], display: Display) -> None:
    """Files and bytes of inputs by state, and those that are not current."""
    found: dict[str, list[Outcome]] = {state: [] for state in _STATES.values()}
    for outcome in outcomes:
        found[_STATES[outcome.status]].append(outcome)
    left = [(state, outcome) for state, some in found.items() if state != "current" for outcome in some]
    if display.json:
        print_json(
            {
                **{state: {"files": len(some), "bytes": _bytes(some)} for state, some in found.items()},
                "left": [{"state": state, "input": str(o.source), "output": str(o.output)} for state, o in left],
            }
        )
    elif not display.quiet:
        table = new_table("state", "files", "input", right=(1, 2))
        for state, some in found.items():
            if some or state != "failed":
                table.add_row(state, f"{len(some):,}", size(_bytes(some)))
        print_table(table)
        shown = left if display.verbose else left[:MOST_ROWS]
        for state, outcome in shown:
            reason = error_lines(outcome.error) if outcome.error is not None else f"{outcome.output} is not there"
            note(f"lfq: {state}: {printable(str(outcome.source))}: {reason.removeprefix('lfq: error: ')}")
        if len(shown) < len(left):
            note(f"lfq: … and {len(left) - len(shown):,} more (-v names them)")


def _bytes(outcomes: Sequence[Outcome]) -> int:
    """Bytes of the inputs' files or, for parts, of their data, where they exist."""
    total = 0
    for outcome in outcomes:
        if outcome.part is not None:
            total += outcome.bytes_in
            continue
        try:
            total += outcome.source.stat().st_size
        except OSError:
            continue
    return total
