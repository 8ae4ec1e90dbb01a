"""A quantizer's facts: those of a checkpoint, those assumed, and the result of an import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfq_cli.cli.messages import assumption_lines, printable, shape
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.console import heading, new_table, note, print_json, print_table
from lfq_cli.quantizer import Quantizer

if TYPE_CHECKING:
    from rich.table import Table


def show_import(output: Path, quantizer: Quantizer, display: Display, *, written: bool) -> None:
    """The native checkpoint that was or would be written."""
    status = "written" if written else "planned"
    if display.json:
        fields = {"output": str(output), "status": status, "config": quantizer.full_config()}
        tensors = {name: list(weight.shape) for name, weight in quantizer.weights.items()}
        fields |= {"assumed": quantizer.assumptions(), "tensors": tensors, "checkpoint_sha256": quantizer.digest}
        print_json(fields)
    elif not display.quiet:
        heading(f"{output}: {status}")
        print_table(facts_table(quantizer))


def facts_table(quantizer: Quantizer) -> Table:
    """A row for each fact of the quantizer; assumed ones are marked."""
    table = new_table("fact", "value")
    for fact, value in _facts_of(quantizer).items():
        table.add_row(fact, printable(value))
    return table


def _facts_of(quantizer: Quantizer) -> dict[str, str]:
    facts = {key: "not set" if value is None else str(value) for key, value in quantizer.full_config().items()}
    facts |= {key: f"{facts.get(key, 'not set')} (assumed, the file does not say)" for key in sorted(quantizer.assumed)}
    facts["bits per vector"] = f"{quantizer.bits_per_vector}: {'+'.join(map(str, quantizer.codebook_dims))}"
    facts["tensors"] = ", ".join(f"{name} {shape(w.shape)}" for name, w in quantizer.weights.items()) or "none needed"
    return facts | {"sha256": quantizer.digest}


def tell_assumptions(quantizer: Quantizer) -> None:
    """A line on stderr for the quantizer's assumptions, with its hint."""
    for line in assumption_lines(quantizer):
        note(line)


def once(tell: Callable[[Quantizer], None]) -> Callable[[Quantizer], None]:
    """`tell`, but only once for the same assumptions."""
    reported: list[dict[str, Any]] = []

    def tell_new(quantizer: Quantizer) -> None:
        if quantizer.assumptions() not in reported:
            reported.append(quantizer.assumptions())
            tell(quantizer)

    return tell_new
