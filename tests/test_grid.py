"""Every quantizer through every command and call: the right value, or a reason (tests/grid)."""

import copy
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from grid import quantizers, routes
from grid.cells import Cell, Prepared, Refused

from lfq_cli import checkpoints
from lfq_cli.checkpoints import Facts
from lfq_cli.checkpoints.families import FAMILIES
from lfq_cli.cli import COMMANDS
from lfq_cli.errors import LfqError
from lfq_cli.packings import PACKINGS
from lfq_cli.quantizer.record import CONFIG_KEYS

pytestmark = pytest.mark.slow

PREPARED = {}


@pytest.fixture
def prepared(tmp_path_factory):
    """prepared(name): its files, made once."""

    def get(name):
        if name not in PREPARED:
            PREPARED[name] = Prepared(quantizers.QUANTIZERS[name], tmp_path_factory.mktemp("quantizer"))
        return PREPARED[name]

    return get


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """A disk with 1 GB of room, whatever the machine has."""
    usage = shutil.disk_usage(".")._replace(free=10**9)
    monkeypatch.setattr("lfq_cli.jobs.export.shutil.disk_usage", lambda _: usage)


@pytest.mark.parametrize("route", routes.ROUTES)
@pytest.mark.parametrize("name", quantizers.QUANTIZERS)
def test_cell(name, route, prepared, lfq):
    """Right, or refused by name: never a bug, and never missing."""
    cell = Cell(prepared(name), lfq)
    reason = routes.ROUTES[route].refused(quantizers.QUANTIZERS[name])
    if reason is None:
        routes.ROUTES[route].run(cell)
        return
    with pytest.raises((Refused, LfqError)) as raised:
        routes.ROUTES[route].run(cell)
    assert re.search(reason, str(raised.value)), raised.value
    assert getattr(raised.value, "code", 1) in (1, 2, 3)


@pytest.mark.parametrize("route", routes.ROUTES)
def test_a_route_sees_what_is_wrong(route, prepared, lfq):
    """Of a definition of something else every route fails."""
    whole = prepared("residual")
    cell = Cell(whole, lfq)
    assert cell.codes.exists()
    wrong = copy.copy(whole)
    wrong.config = replace(whole.config, dim=5, bit_order="lsb")
    wrong.bits = [[1 - bit for bit in row] for row in [*whole.bits, whole.bits[0]]]
    wrong.rows = whole.rows ^ np.uint64(1)
    wrong.indices = whole.indices ^ 1
    wrong.values, wrong.bare = whole.values + 1, whole.bare + 1
    if route == "inspect codes":  # which shows no values
        wrong.indices = whole.indices[0]
    with pytest.raises((AssertionError, ValueError)):
        routes.ROUTES[route].run(Cell(wrong, lfq))


# No row is missing


TAKE_NO_CHECKPOINT = {"train"}


def test_every_command_is_a_route():
    others = set(COMMANDS) - TAKE_NO_CHECKPOINT
    assert {route.command for route in routes.ROUTES.values()} == others | {"load", "open_codes"}


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_packing_is_a_route(packing):
    assert any(packing == "bits" or packing in name for name in routes.ROUTES)


def test_every_family_has_a_case():
    assert {case.family for case in quantizers.QUANTIZERS.values()} == {None, *FAMILIES}


def test_no_name_stands_twice():
    assert len(quantizers.QUANTIZERS) == sum(
        map(len, (quantizers.PLAIN, quantizers.CUT, quantizers.SHAPED, quantizers.LEVELS, quantizers.FAMILIES))
    )


def test_every_fact_of_a_quantizer_differs_between_cases(prepared):
    """A fact that a checkpoint may say, and that no case says otherwise than the rest, would not be tested."""
    values = {key: set() for key in CONFIG_KEYS}
    for name in quantizers.QUANTIZERS:
        cell = Cell(prepared(name), None)
        quantizer = checkpoints.load(cell.checkpoint, Facts(**cell.facts))
        for key in CONFIG_KEYS:
            values[key].add(getattr(quantizer, key))
    assert [key for key in CONFIG_KEYS if len(values[key]) < 2] == []
