"""Tables in terminals of any width: nothing that a cell says is left out, and no number is broken."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from lfq_cli.cli.render import console
from lfq_cli.cli.render.console import new_table, print_table

NAMES = st.text("abc/.", max_size=60)
ROWS = st.tuples(NAMES, st.integers(0, 10**9), NAMES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(20, 120), rows=st.lists(st.tuples(NAMES, st.integers(0, 10**9), NAMES), min_size=1, max_size=4)
)
def test_every_cell_is_there_whole_in_a_terminal_of_any_width(monkeypatch, width, rows):
    terminal = Console(force_terminal=True, no_color=True, width=width, record=True, highlight=False, markup=False)
    terminal.file = open("/dev/null", "w")  # noqa: SIM115, PTH123 - what is recorded counts
    monkeypatch.setattr(console, "stdout", lambda: terminal)
    table = new_table("input", "vectors", "output", right=(1,))
    for first, number, second in rows:
        table.add_row(first, f"{number:,}", second)
    print_table(table)
    terminal.file.close()
    printed = terminal.export_text()
    assert "…" not in printed
    assert all(f" {number:,} " in printed for _, number, _ in rows)
    begins = [printed.splitlines()[0].index(name) for name in ("input", "output")]
    first, second = (
        "".join(line[begin : begin + 60].split("  ")[0].strip() for line in printed.splitlines()[1:])
        for begin in begins
    )
    assert second == "".join(name for *_, name in rows)
    assert first.startswith(rows[0][0][:4])


@pytest.mark.parametrize("columns", ["20", "40", "80"])
def test_outcomes_keep_their_names(lfq, monkeypatch, columns):
    import numpy as np
    from test_verify import checkpoint, floats

    np.save("latents.npy", floats(30, 12))
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, out, _ = lfq("encode", checkpoint(), "latents.npy", "-o", "out")
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert re.search(r"^latents\.npy +out/latents\.codes?\S* +1 +30 ", plain, re.MULTILINE)
