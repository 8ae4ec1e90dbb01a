"""What `lfq verify` found."""

from __future__ import annotations

from collections.abc import Sequence

from lfq_cli.cli.messages import error_lines, printable
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.console import MOST_ROWS, heading, more_rows, new_table, note, print_json, print_table
from lfq_cli.jobs.verify import Verdict
from lfq_cli.jobs.verify import as_json as verdict_json
from lfq_cli.wording import counted


def show_verdicts(verdicts: Sequence[Verdict], display: Display) -> None:
    """A row per file, with statistics per bit where the source was encoded again."""
    bad = [verdict for verdict in verdicts if verdict.status in ("damaged", "different")]
    failed = [verdict for verdict in verdicts if verdict.status == "failed"]
    if display.json:
        print_json({"files": [verdict_json(verdict) for verdict in verdicts]})
    else:
        for verdict in (*bad, *failed):
            if verdict.error is not None:
                note(error_lines(verdict.error))
        if not display.quiet:
            _show_verdict_table(verdicts, display)


def _show_verdict_table(verdicts: Sequence[Verdict], display: Display) -> None:
    compared = ("indices differ", "bits differ", "|z| < 1e-5") if any(each.comparisons for each in verdicts) else ()
    table = new_table("codes", "vectors", "status", *compared, right=(1, 3, 4, 5))
    worth_a_look = [verdict for verdict in verdicts if verdict.status not in ("whole", "same")]
    shown = verdicts if display.verbose or len(verdicts) <= MOST_ROWS else worth_a_look[:MOST_ROWS]
    for verdict in shown:
        row = [printable(str(verdict.path)), f"{verdict.vectors:,}" if verdict.vectors else "", verdict.status]
        comparisons = [comparison.as_json() for comparison in verdict.comparisons.values()]
        if comparisons:
            worst = {key: max(shares[key] for shares in comparisons) for key in ("indices_differ", "bits_differ")}
            row += [f"{share:.3%}" for share in worst.values()]
            row.append(f"{max(shares['margin']['1e-05'] for shares in comparisons):.3%}")
        table.add_row(*row)
    if shown:
        print_table(table)
    for verdict in verdicts:
        if verdict.status == "different" or (verdict.comparisons and display.verbose):
            _show_bits(verdict)
    counts = {v.status: sum(o.status == v.status for o in verdicts) for v in verdicts}
    totals = ", ".join(f"{count} {status}" for status, count in counts.items())
    note(f"lfq: {totals}{more_rows(len(shown), len(verdicts))}")


def _show_bits(verdict: Verdict) -> None:
    for name, comparison in verdict.comparisons.items():
        shares = comparison.as_json()
        heading(f"{verdict.path}: {name}, {counted(comparison.vectors, 'vector')} encoded again")
        table = new_table("bit", "differ", *(f"|z| < {margin}" for margin in shares["margin_by_bit"]), right=range(9))
        for bit, share in enumerate(shares["bits_differ_by_bit"]):
            table.add_row(str(bit), f"{share:.3%}", *(f"{m[bit]:.3%}" for m in shares["margin_by_bit"].values()))
        print_table(table)
