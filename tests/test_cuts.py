"""How bits are cut into indices changes none of them: any cut is taken, and any decodes the codes of the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families import kronos, lucidrains, open_magvit2
from safetensors.numpy import load_file

from lfq_cli import LFQ, ResidualLFQ, checkpoints, load, open_codes
from lfq_cli.checkpoints import Facts
from lfq_cli.errors import CodesFileError, LfqNote, OptionError
from lfq_cli.jobs.decode import matching_quantizer

DIM = 12
FACTS = ("--codebook-scale", "1", "--no-spherical", "--soft-clamp", "none")


def module(**options):
    torch.manual_seed(3)
    return LFQ(**options).eval()


CHECKPOINTS = {
    "native": (lambda: module(dim=DIM, codebook_size=2**12), ()),
    "native, axis kept": (lambda: module(codebook_size=2**12, keep_num_codebooks_dim=True), ()),
    "native, codebooks": (lambda: module(codebook_size=2**4, num_codebooks=3), ()),
    "native, cut": (lambda: module(codebook_size=2**12, factorized_bits=[6, 6]), ()),
    "native, spherical codebooks": (lambda: module(codebook_size=2**6, num_codebooks=2, spherical=True), ()),
    "native, rotated codebooks": (lambda: module(codebook_size=2**6, num_codebooks=2, orthogonal_rotation=True), ()),
    "native, projected": (lambda: module(codebook_size=2**12, dim=7), ()),
    "native, lsb": (lambda: module(codebook_size=2**12, bit_order="lsb"), ()),
    "lucidrains": (lambda: lucidrains.state_dict(1, codebook_dim=DIM), FACTS),
    "lucidrains, projected codebooks": (
        lambda: lucidrains.state_dict(1, codebook_dim=6, num_codebooks=2, dim=7),
        FACTS,
    ),
    "kronos": (lambda: kronos.state_dict(1, s1_bits=5, s2_bits=7), ()),
    "open-magvit2": (lambda: open_magvit2.state_dict(1, bits=DIM), ()),
}
CUTS = [None, "12", "4,8", "6,6", "5,1,6"]


def saved(kind):
    """Saves the checkpoint of a kind, and an input of its features; gives the options that it needs."""
    make, options = CHECKPOINTS[kind]
    made = make()
    if isinstance(made, LFQ):
        made.save_pretrained("model.safetensors")
    else:
        torch.save(made, "model.pt")
    features = 7 if "projected" in kind else DIM
    shape = (2, DIM, 3, 1) if kind == "open-magvit2" else (2, 3, features)
    np.save("x.npy", np.random.default_rng(4).standard_normal(shape).astype(np.float32))
    return next(path for path in ("model.safetensors", "model.pt") if Path(path).exists()), options


def cut_by(dims):
    return () if dims is None else ("--codebook-dims", dims)


def run(lfq, *arguments):
    code, out, err = lfq(*arguments)
    assert code == 0, err
    return out


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_codes_of_any_cut_are_decoded_with_any_other(lfq, kind):
    checkpoint, options = saved(kind)
    values = None
    for number, dims in enumerate(CUTS):
        run(lfq, "encode", checkpoint, "x.npy", "-o", str(number), "--no-fsync", *options, *cut_by(dims))
        with open_codes(f"{number}/x.codes.safetensors") as codes:
            info = codes.header.tensors["data"]
            if dims is not None:
                assert info.codebook_dims == tuple(map(int, dims.split(",")))
                kept = len(info.codebook_dims) > 1 or (kind == "native, axis kept" and dims == "12")
                assert info.shape == info.positions + ((len(info.codebook_dims),) if kept else ())
        others = [cut_by(None), cut_by(CUTS[number - 1])]
        for other in others:
            run(lfq, "decode", checkpoint, codes.path, "-o", "d", "--no-fsync", *options, *other)
            decoded = load_file("d/x.safetensors")["data"]  # written once: what any other cut makes is up to date
            values = decoded if values is None else values
            assert np.array_equal(decoded, values)
        run(lfq, "verify", codes.path, "--checkpoint", checkpoint, "--source", "x.npy", *options, *others[1])
        Path("d/x.safetensors").unlink()


@pytest.mark.parametrize("dims", [[4, 8], (4, 8), np.array([4, 8]), (np.int64(4), np.uint8(8))])
@pytest.mark.parametrize("kind", ["native", "kronos"])
def test_load_takes_any_sequence_of_integers(lfq, kind, dims):
    checkpoint, _ = saved(kind)
    assert load(checkpoint, codebook_dims=dims).codebook_dims == (4, 8)


@pytest.mark.parametrize("dims", ["4,8", 12, [4.0, 8.0], [], [0, 12], [65], ["4", "8"], None.__class__])
def test_other_dims_are_refused(lfq, dims):
    checkpoint, _ = saved("native")
    with pytest.raises(OptionError, match=r"codebook_dims is .*, expected the bits of each index"):
        load(checkpoint, codebook_dims=dims)


@pytest.mark.filterwarnings("ignore::lfq_cli.errors.LfqNote")
@pytest.mark.parametrize("dims", [dims for dims in CUTS if dims != "12"])
@pytest.mark.parametrize("kind", ["native", "native, codebooks", "native, lsb", "kronos", "open-magvit2", "lucidrains"])
def test_the_module_has_the_indices_of_the_codes_file(lfq, kind, dims):
    checkpoint, options = saved(kind)
    run(lfq, "encode", checkpoint, "x.npy", "-o", "out", *options, *cut_by(dims))
    with open_codes("out/x.codes.safetensors") as codes:
        stored = torch.from_numpy(codes["data"][...])
    facts = {"codebook_scale": 1.0, "spherical": False, "soft_clamp": "none"} if kind == "lucidrains" else {}
    quantizer = load(checkpoint, codebook_dims=None if dims is None else tuple(map(int, dims.split(","))), **facts)
    quantized, indices, _ = quantizer(torch.from_numpy(np.load("x.npy")))
    assert torch.equal(indices, stored)
    assert torch.equal(quantizer.indices_to_codes(stored), quantized)
    # and back into a file, which is the same quantizer
    quantizer.save_pretrained("again.safetensors")
    run(lfq, "decode", "again.safetensors", "out", "-o", "back")
    assert np.array_equal(load_file("back/x.safetensors")["data"], quantized.numpy())
    run(lfq, "encode", "again.safetensors", "x.npy", "-o", "out2")
    with open_codes("out2/x.codes.safetensors") as codes:
        assert np.array_equal(codes["data"][...], stored.numpy())
    assert torch.equal(load("again.safetensors")(torch.from_numpy(np.load("x.npy"))).indices, stored)


def test_kronos_gives_the_two_indices_of_its_language_model(lfq):
    """The smallest case that was wrong: one index of all bits."""
    torch.save(kronos.state_dict(1), "model.pt")
    x = np.random.default_rng(1).standard_normal((1, 20)).astype(np.float32)
    indices = load("model.pt")(torch.from_numpy(x)).indices
    assert indices.tolist() == kronos.encode_half(kronos.state_dict(1), x).tolist()


def test_a_cut_that_is_given_is_assumed_no_more(lfq):
    torch.save(open_magvit2.state_dict(1, bits=DIM), "model.pt")
    run(lfq, "import", "model.pt", "-o", "native.safetensors")
    for dims in ((12,), (5, 7)):
        for path in ("model.pt", "native.safetensors"):
            assert checkpoints.load(Path(path), Facts(codebook_dims=dims)).assumed == {"bit_order"}
    with pytest.warns(LfqNote, match="factorized_bits none"):
        load("native.safetensors")


@pytest.mark.parametrize("dims", ["5,8", "13", "12,12"])
@pytest.mark.parametrize("kind", ["native", "native, codebooks", "kronos"])
def test_a_cut_of_other_bits_is_refused(lfq, kind, dims):
    checkpoint, _ = saved(kind)
    code, _, err = lfq("encode", checkpoint, "x.npy", "-o", "out", "--codebook-dims", dims)
    if (kind, dims) == ("kronos", "12,12"):  # that would be two codebooks of its bits
        assert code == 1
        return
    assert code == 2
    assert f"--codebook-dims {dims} make" in err
    assert "expected numbers that add up to 12" in err


def test_levels_are_not_cut(lfq):
    ResidualLFQ(dim=4, num_quantizers=3, codebook_size=16).save_pretrained("model.safetensors")
    np.save("x.npy", np.ones((2, 4), np.float32))
    run(lfq, "encode", "model.safetensors", "x.npy", "-o", "out", "--codebook-dims", "4,4,4")
    code, _, err = lfq("encode", "model.safetensors", "x.npy", "-o", "out", "--codebook-dims", "6,6")
    assert code == 2
    assert "an index for every level" in err


def test_an_axis_cannot_be_dropped_that_several_indices_need(lfq):
    checkpoint, _ = saved("kronos")
    code, _, err = lfq("encode", checkpoint, "x.npy", "-o", "out", "--drop-num-codebooks-dim")
    assert code == 1
    assert "false with several indices" in err


@pytest.mark.parametrize("kept", [True, False])
def test_where_one_index_stands_can_be_given_for_any_checkpoint(lfq, kept):
    for number, module in enumerate(
        (LFQ(codebook_size=2**DIM), LFQ(codebook_size=2**DIM, keep_num_codebooks_dim=True))
    ):
        module.save_pretrained(f"{number}.safetensors")
        np.save("x.npy", np.ones((2, 3, DIM), np.float32))
        option = "--keep-num-codebooks-dim" if kept else "--drop-num-codebooks-dim"
        run(lfq, "encode", f"{number}.safetensors", "x.npy", "-o", f"{number}", option)
        with open_codes(f"{number}/x.codes.safetensors") as codes:
            assert codes["data"].shape == ((2, 3, 1) if kept else (2, 3))
        run(lfq, "decode", f"{number}.safetensors", f"{number}", "-o", "back")
        assert np.array_equal(load_file("back/x.safetensors")["data"], np.load("x.npy"))
        Path("back/x.safetensors").unlink()


@pytest.mark.parametrize(("kind", "cut"), [("native, spherical codebooks", "12"), ("native", None)])
def test_codes_of_other_codebooks_are_refused_where_codebooks_decide_values(lfq, kind, cut):
    """One sphere of 12 bits is not two of 6."""
    checkpoint, _ = saved(kind)
    run(lfq, "encode", checkpoint, "x.npy", "-o", "out", *cut_by(cut))
    LFQ(codebook_size=2**12, spherical=True).save_pretrained("other.safetensors")
    code, _, err = lfq("decode", "other.safetensors", "out/x.codes.safetensors", "-o", "back")
    assert code == 1
    assert "made by another checkpoint" in err


def test_unprojected_codebooks_are_a_cut_too(lfq):
    """Three codebooks of 4 bits, or one of 12 that is cut: the same bits and values."""
    LFQ(codebook_size=2**4, num_codebooks=3).save_pretrained("three.safetensors")
    LFQ(codebook_size=2**12).save_pretrained("one.safetensors")
    np.save("x.npy", np.random.default_rng(4).standard_normal((2, 3, DIM)).astype(np.float32))
    run(lfq, "encode", "three.safetensors", "x.npy", "-o", "three")
    run(lfq, "encode", "one.safetensors", "x.npy", "-o", "one")
    for checkpoint in ("one", "three"):
        for codes in ("one", "three"):
            run(lfq, "decode", f"{checkpoint}.safetensors", codes, "-o", f"{checkpoint}-{codes}")
            decoded = load_file(f"{checkpoint}-{codes}/x.safetensors")["data"]
            assert np.array_equal(decoded, np.where(np.load("x.npy") > 0, 1, -1))


@pytest.mark.parametrize(
    "change",
    [
        {"factorized_bits": [7, 5]},
        {"factorized_bits": [9, 9]},
        {"factorized_bits": "5"},
        {"factorized_bits": None},
        {"codebook_size": None},
        {"codebook_size": 2**6, "num_codebooks": 2},
        {"num_codebooks": "1"},
        {"keep_num_codebooks_dim": 3},
    ],
)
def test_a_header_that_cuts_otherwise_than_its_tensors_is_refused(lfq, change):
    checkpoint, _ = saved("kronos")
    run(lfq, "encode", checkpoint, "x.npy", "-o", "out")
    quantizer = checkpoints.load(Path(checkpoint))
    with open_codes("out/x.codes.safetensors") as codes:
        assert matching_quantizer(codes, quantizer).codebook_dims == (5, 7)
        codes.header = replace(codes.header, quantizer=codes.header.quantizer | change)
        if "keep_num_codebooks_dim" in change:  # where indices are decides nothing
            assert matching_quantizer(codes, quantizer).keep_num_codebooks_dim is None
            return
        with pytest.raises(CodesFileError, match=r"contradicts the checkpoint|made by another checkpoint"):
            matching_quantizer(codes, quantizer)
