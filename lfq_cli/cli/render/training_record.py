"""What a checkpoint says of how `lfq train` made it, as a table. Any JSON object will do: the file may be another's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from lfq_cli.cli.messages import printable
from lfq_cli.cli.render.console import new_table


def training_table(record: Mapping[str, Any]) -> Table:
    """A row for each fact, the parts of its name joined by dots: `held_out.itq`."""
    table = new_table("training", "value")
    for name, value in _facts_of(record, ""):
        table.add_row(printable(name), printable(value))
    return table


def _facts_of(record: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _facts_of(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            for number, each in enumerate(value):
                yield f"{name}[{number}]", ", ".join(f"{key} {_shown(inner)}" for key, inner in each.items())
        else:
            yield name, _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, float):
        return f"{value:.4g}"  # --json has all digits
    return value if isinstance(value, str) else json.dumps(value)
