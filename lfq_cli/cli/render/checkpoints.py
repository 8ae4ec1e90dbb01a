"""What a quantizer is: the facts of a checkpoint, what was assumed of it, the one that an import wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from lfq_cli.cli.messages import assumption_lines, printable, shape
from lfq_cli.cli.options import Display
from lfq_cli.cli.render.console import heading, new_table, note, print_json, print_table
from lfq_cli.quantizer import Quantizer


def show_import(output: Path, quantizer: Quantizer, display: Display, *, written: bool) -> None:
    """The native checkpoint that was written, or would be."""
    status = "written" if written else "planned"
    if display.json:
        told = {"output": str(output), "status": status, "config": quantizer.full_config()}
        tensors = {name: list(weight.shape) for name, weight in quantizer.weights.items()}
        told |= {"assumed": quantizer.assumptions(), "tensors": tensors, "checkpoint_sha256": quantizer.digest}
        print_json(told)
    elif not display.quiet:
        heading(f"{output}: {status}")
        print_table(facts_table(quantizer))


def facts_table(quantizer: Quantizer) -> Table:
    """A row for each fact of the quantizer; those that were assumed say so."""
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
    """A line on stderr for what nobody told of the quantizer; with its hint."""
    for line in assumption_lines(quantizer):
        note(line)


def once(tell: Callable[[Quantizer], None]) -> Callable[[Quantizer], None]:
    """`tell`, but not twice for the same assumptions."""
    told: list[dict[str, Any]] = []

    def tell_new(quantizer: Quantizer) -> None:
        if quantizer.assumptions() not in told:
            told.append(quantizer.assumptions())
            tell(quantizer)

    return tell_new
