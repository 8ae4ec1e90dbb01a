"""Where the features are: --layout, --channel-axis, and what is reported where no option says it."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

OUT = "x.codes.safetensors"


@pytest.fixture(autouse=True)
def checkpoint(lfq):
    description = {"format": "lfq-checkpoint", "version": 1, "config": {"type": "lfq", "dim": 8, "codebook_size": 256}}
    save_file({}, "c.safetensors", metadata={"lfq": json.dumps(description)})


def values(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def encode(lfq, x, *options):
    np.save("x.npy", x)
    return lfq("encode", "c.safetensors", "x.npy", "-o", OUT, "--packing", "ints", "--overwrite", *options)


def source():
    with safe_open(OUT, "np") as file:
        return json.loads(file.metadata()["lfq"])["tensors"]["data"]["source"]


def by_definition(x, axis):
    bits = np.moveaxis(x, axis, -1) > 0
    return bits @ (1 << np.arange(7, -1, -1))


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((8,), 0),
        ((8,), -1),
        ((5, 8), 1),
        ((8, 5), 0),
        ((8, 8), 0),
        ((8, 3, 4), 0),
        ((3, 8, 4), 1),
        ((8, 8, 8), 0),
        ((8, 8, 8), -2),
        ((2, 3, 8, 4), 2),
        ((2, 3, 8, 4), -2),
        ((8, 3, 2, 4, 5), 0),
    ],
)
def test_channel_axis(lfq, shape, axis):
    x = values(*shape)
    code, _, err = encode(lfq, x, "--channel-axis", axis)
    assert code == 0
    assert "note" not in err
    indices = load_file(OUT)["data"]
    assert np.array_equal(indices, by_definition(x, axis))
    assert source() == {"shape": list(shape), "dtype": "F32", "channel_axis": axis % len(shape)}
    assert lfq("decode", "c.safetensors", OUT, "-o", "y.npy", "--overwrite")[0] == 0
    assert np.array_equal(np.load("y.npy"), np.where(x > 0, 1, -1))
    assert lfq("verify", OUT, "--checkpoint", "c.safetensors", "--source", "x.npy")[0] == 0
    assert f"axis {axis % len(shape)}" in lfq("inspect", OUT)[1]


@pytest.mark.parametrize("packing", ["bits", "rows", "ints"])
def test_every_packing_of_a_single_sample(lfq, packing):
    x = values(8, 3, 5)
    np.save("x.npy", x)
    assert lfq("encode", "c.safetensors", "x.npy", "-o", OUT, "--packing", packing, "--channel-axis", 0)[0] == 0
    assert lfq("decode", "c.safetensors", OUT, "-o", "y.npy")[0] == 0
    assert np.array_equal(np.load("y.npy"), np.where(x > 0, 1, -1))


@pytest.mark.parametrize(
    ("shape", "options", "axis"),
    [
        ((5, 8), ["--layout", "channel-first"], 1),
        ((8, 8), ["--layout", "channel-first"], 1),
        ((5, 8, 3), ["--layout", "channel-first"], 1),
        ((5, 3, 8), ["--layout", "channel-last"], 2),
        ((8, 3, 8), ["--layout", "channel-last"], 2),
    ],
)
def test_a_layout_that_was_given_is_no_assumption(lfq, shape, options, axis):
    code, _, err = encode(lfq, values(*shape), *options)
    assert code == 0
    assert "note" not in err
    assert source() == {"shape": list(shape), "dtype": "F32", "channel_axis": axis}


@pytest.mark.parametrize(
    ("shape", "axis", "others"),
    [
        ((8, 8), 1, "axis 0 has"),
        ((8, 5, 8), 2, "axis 0 has"),
        ((8, 8, 8), 2, "axes 0 and 1 have"),
        ((8, 8, 3, 8), 1, "axes 0 and 3 have"),
    ],
)
def test_what_was_assumed_is_said_and_recorded(lfq, shape, axis, others):
    x = values(*shape)
    code, _, err = encode(lfq, x)
    assert code == 0
    assert f"lfq: note: x.npy: the features are taken to be on axis {axis}; {others} 8 entries too" in err
    assert "--channel-axis" in err
    assert np.array_equal(load_file(OUT)["data"], by_definition(x, axis))
    assert source()["axis_is_assumed"] is True
    report = json.loads(encode(lfq, x, "--json")[1])
    assert "--channel-axis" in report["outputs"][0]["assumptions"][0]


def test_it_is_said_once(lfq):
    for k in range(30):
        Path("in").mkdir(exist_ok=True)
        np.save(f"in/{k:02}.npy", values(8, 8))
    _, _, err = lfq("encode", "c.safetensors", "in", "-o", "out")
    notes = [line for line in err.splitlines() if "note" in line]
    assert len(notes) == 1
    assert "in/00.npy (and 29 more): the features are taken" in notes[0]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8, 3, 4), [], "--channel-axis 0: the features are on axis 0"),
        ((8, 5), [], "--channel-axis 0: the features are on axis 0"),
        ((8, 5), ["--layout", "channel-first"], "--channel-axis 0: the features are on axis 0"),
        ((2, 3, 8, 4), [], "--channel-axis 2: the features are on axis 2"),
        ((5, 8, 3), [], "--layout channel-first: the features are on axis 1"),
        ((5, 3, 8), ["--channel-axis", 0], "--layout channel-last: the features are on the last axis"),
        ((8,), ["--layout", "channel-first"], "has 1 axis (shape 8), which --layout channel-first does not fit"),
        ((5, 8), ["--channel-axis", 2], "has 2 axes (shape 5×8), which --channel-axis 2 does not fit"),
        ((5, 8), ["--channel-axis", -3], "which --channel-axis -3 does not fit"),
    ],
)
def test_the_error_names_the_option_that_fits(lfq, shape, options, message):
    code, _, err = encode(lfq, values(*shape), *options)
    assert code == 1
    assert message in err
    assert not Path(OUT).exists()


def test_both_options_are_one_too_many(lfq):
    code, _, err = encode(lfq, values(5, 8), "--layout", "channel-last", "--channel-axis", 1)
    assert code == 2
    assert "leave one of them out" in err
