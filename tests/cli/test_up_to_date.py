"""When an output that is there counts as made: only if it says that this input, with these options, made it."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from lfq_cli.codesfile import create, open_codes
from lfq_cli.errors import TensorError
from lfq_cli.fingerprint import WHOLE_BYTES, fingerprint

OUT = "x.codes.safetensors"


@pytest.fixture(autouse=True)
def inputs(lfq):
    """A checkpoint of 8 bits and x.npy; every file is of the same moment, so that its age tells nothing."""
    description = {"format": "lfq-checkpoint", "version": 1, "config": {"type": "lfq", "dim": 8, "codebook_size": 256}}
    save_file({}, "c.safetensors", metadata={"lfq": json.dumps(description)})
    save("x.npy", seed=0)


def save(name, seed, rows=100, nan=False):
    values = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    if nan:
        values[3, 4] = np.nan
    np.save(name, values)


def encode(lfq, *options):
    return lfq("encode", "c.safetensors", "x.npy", "-o", OUT, *options)


def made_from():
    with safe_open(OUT, "np") as file:
        return json.loads(file.metadata()["lfq"])["made_from"]


def refused(result, text):
    code, _, err = result
    assert code == 1
    assert text in err
    assert "--overwrite" in err


def test_the_output_says_what_it_was_made_from(lfq):
    encode(lfq)
    size, digest = fingerprint(Path("x.npy"), TensorError)
    assert size == Path("x.npy").stat().st_size
    assert made_from() == {"bytes": size, "fingerprint": digest, "nan": {"policy": "error", "zeroed": 0}}


def test_an_older_file_that_is_moved_onto_the_input_is_seen(lfq):
    save("old.npy", seed=1)
    os.utime("old.npy", ns=(10**9, 10**9))
    encode(lfq)
    shutil.move("old.npy", "x.npy")
    refused(encode(lfq), "made from other content than x.npy has now")
    assert encode(lfq, "--overwrite")[0] == 0
    assert encode(lfq)[0] == 0


def test_a_file_of_another_size_is_named(lfq):
    encode(lfq)
    save("x.npy", seed=0, rows=101)
    refused(encode(lfq), "[101, 8]")


def test_a_newer_time_alone_changes_nothing(lfq):
    encode(lfq)
    os.utime("x.npy", ns=(2 * 10**18, 2 * 10**18))
    code, out, _ = encode(lfq)
    assert code == 0
    assert "up to date" in out
    assert encode(lfq, "--status")[0] == 0
    save("x.npy", seed=1)
    os.utime("x.npy", ns=(2 * 10**18, 2 * 10**18))
    assert encode(lfq, "--status")[0] == 5


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_large_file_that_was_changed_in_place_is_seen(lfq, place):
    """Wherever: in the parts that the fingerprint reads by what they hold, in between by the file's time."""
    save("x.npy", seed=0, rows=3 * WHOLE_BYTES // 32)
    encode(lfq)
    values = np.load("x.npy", mmap_mode="r+")
    values[place * len(values) // 101 if place > 0 else place] *= -1
    values.flush()
    os.utime("x.npy", ns=(2 * 10**18, 2 * 10**18))
    refused(encode(lfq), "than x.npy")


@pytest.mark.parametrize(("first", "then"), [("zero", "error"), ("error", "zero")])
def test_what_was_done_about_nan_counts(lfq, first, then):
    encode(lfq, "--nan", first)
    refused(encode(lfq, "--nan", then), f"made with --nan {first}, not {then}")


@pytest.mark.parametrize("rows", [7, 100_000])
def test_zeroed_values_are_counted(lfq, rows):
    save("x.npy", seed=0, rows=rows, nan=True)
    assert encode(lfq)[0] == 1
    assert encode(lfq, "--nan", "zero")[0] == 0
    assert made_from()["nan"] == {"policy": "zero", "zeroed": 1}
    before = Path(OUT).read_bytes()
    assert "up to date" in encode(lfq, "--nan", "zero")[1]
    encode(lfq, "--nan", "zero", "--overwrite")
    assert Path(OUT).read_bytes() == before


def test_equal_inputs_give_equal_bytes_wherever_and_whenever(lfq):
    encode(lfq)
    Path("elsewhere").mkdir()
    shutil.copy("x.npy", "elsewhere/y.npy")
    lfq("encode", "c.safetensors", "elsewhere/y.npy", "-o", "y.codes.safetensors")
    assert Path("y.codes.safetensors").read_bytes() == Path(OUT).read_bytes()


def test_an_output_of_version_1_does_not_say_it(lfq):
    encode(lfq)
    with open_codes(OUT) as codes:
        header, stream = replace(codes.header, made_from=None), codes["data"].stream(0, 100)
    with create(Path(OUT), header, overwrite=True) as writer, writer.tensor("data") as out:
        out.append(stream)
    with safe_open(OUT, "np") as file:
        assert json.loads(file.metadata()["lfq"])["version"] == 1
    refused(encode(lfq), "does not say what it was made from")
