"""What earlier versions wrote is read as they read it (tests/golden/README.md)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import twin

from lfq_cli import open_codes

GOLDEN = Path(__file__).parent / "golden" / "0.1"
OPTIONS = {kind: options.split() for kind, options in json.loads((GOLDEN / "options.json").read_text()).items()}
PACKINGS = ("bits", "rows", "ints")
SUMS = {"rotated", "projected", "grouped", "cut_projected"}
"""Kinds that are decoded by a matrix product, whose last bit is the processor's."""


def codes_of(kind, packing="bits"):
    return GOLDEN / kind / f"{packing}.codes.safetensors"


def test_every_kind_is_listed_and_whole():
    assert {path.name for path in GOLDEN.iterdir() if path.is_dir()} == set(OPTIONS)
    files = {"checkpoint.safetensors", "imported.safetensors", "input.npy", "decoded.npy"}
    files |= {codes_of("", packing).name for packing in PACKINGS}
    for kind in OPTIONS:
        assert {path.name for path in (GOLDEN / kind).iterdir()} == files


@pytest.mark.parametrize("checkpoint", ["checkpoint", "imported"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_codes_decode_to_what_they_did(lfq, kind, checkpoint):
    options = OPTIONS[kind] if checkpoint == "checkpoint" else []
    for packing in PACKINGS:
        result = lfq(
            "decode", GOLDEN / kind / f"{checkpoint}.safetensors", codes_of(kind, packing), "-o", packing, *options,
            "--format", "npy",
        )  # fmt: skip
        assert result[0] == 0, result[2]
        decoded, expected = np.load(f"{packing}/{packing}.npy"), np.load(GOLDEN / kind / "decoded.npy")
        if kind in SUMS:
            np.testing.assert_allclose(decoded, expected, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("kind", OPTIONS)
def test_encoding_again_gives_the_same_indices(lfq, kind):
    Path("sources").mkdir()
    Path("codes").mkdir()
    for packing in PACKINGS:
        shutil.copy(GOLDEN / kind / "input.npy", f"sources/{packing}.npy")
        shutil.copy(codes_of(kind, packing), "codes")
    checkpoint = ("--checkpoint", GOLDEN / kind / "checkpoint.safetensors", *OPTIONS[kind])
    code, out, err = lfq("verify", "codes", *checkpoint, "--source", "sources", "--json")
    assert code == 0, err
    assert [file["status"] for file in json.loads(out)["files"]] == ["same"] * 3


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_packing_holds_the_bits_that_the_twin_reads(kind):
    found = [twin.read_codes_file(codes_of(kind, packing))["data"] for packing in PACKINGS]
    assert found[0][1] == found[1][1] == found[2][1]
    for packing, (entry, bits) in zip(PACKINGS, found, strict=True):
        with open_codes(codes_of(kind, packing)) as codes:
            indices = codes["data"][...]
        dims = tuple(entry["codebook_dims"])
        config = twin.Config(sum(dims), dims, bit_order=entry["bit_order"])
        assert indices.reshape(-1, len(dims)).tolist() == [list(each) for each in twin.indices_of(bits, config)]
        assert list(indices.shape) == entry["shape"]
