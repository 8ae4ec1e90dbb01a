"""`lfq import`, `--num-quantizers`, `--codebook-dims` and `lfq inspect` on foreign checkpoints, as commands."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from families import kronos, lucidrains, open_magvit2, refused, residual
from safetensors.numpy import load_file

from lfq_cli import checkpoints, load, open_codes
from lfq_cli.errors import CheckpointError, LfqNote

FACTS = ("--codebook-scale", "1", "--no-spherical", "--soft-clamp", "none")


def floats(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


STATES = {
    "lucidrains": (lucidrains.state_dict(1, codebook_dim=6, dim=16), (50, 16)),
    "plain": (lucidrains.state_dict(1, codebook_dim=6), (50, 6)),
    "residual": (residual.state_dict(1, levels=4, dim=9), (50, 9)),
    "grouped": (residual.state_dict(1, levels=4, groups=2), (50, 8)),
    "kronos": (kronos.state_dict(1), (5, 10, 20)),
    "open-magvit2": (open_magvit2.state_dict(1), (2, 18, 4, 4)),
}


@pytest.mark.parametrize("output", ["native.safetensors", "native"])
@pytest.mark.parametrize("name", STATES)
def test_an_imported_checkpoint_is_the_foreign_one(lfq, name, output):
    """The same digest, bytes and values; codes of one decode with the other, and nothing else of the model is in it."""
    state, shape = STATES[name]
    torch.save({"state_dict": state}, "foreign.ckpt")
    np.save("x.npy", floats(*shape))
    code, out, _ = lfq("import", "foreign.ckpt", "-o", output, "--json")
    assert code == 0
    report = json.loads(out)
    foreign, native = checkpoints.load(Path("foreign.ckpt")), checkpoints.load(Path(output))
    assert report["checkpoint_sha256"] == foreign.digest == native.digest
    assert report["assumed"] == native.assumptions() == foreign.assumptions()
    assert report["config"] == native.full_config()
    for checkpoint, folder in (("foreign.ckpt", "a"), (output, "b")):
        assert lfq("encode", checkpoint, "x.npy", "-o", folder, "-q")[0] == 0
    assert Path("a/x.codes.safetensors").read_bytes() == Path("b/x.codes.safetensors").read_bytes()
    assert lfq("decode", "foreign.ckpt", "b", "-o", "c", "-q")[0] == 0
    assert lfq("decode", output, "a", "-o", "d", "-q")[0] == 0
    assert Path("c/x.safetensors").read_bytes() == Path("d/x.safetensors").read_bytes()


def test_import_refuses_what_exists_and_plans(lfq):
    torch.save(STATES["plain"][0], "foreign.pt")
    code, out, err = lfq("import", "foreign.pt", "-o", "n.safetensors", "--dry-run")
    assert code == 0
    assert "planned" in out
    assert "assumed" in err
    assert not Path("n.safetensors").exists()
    assert lfq("import", "foreign.pt", "-o", "n.safetensors", *FACTS)[0] == 0
    first = Path("n.safetensors").read_bytes()
    code, _, err = lfq("import", "foreign.pt", "-o", "n.safetensors", "--spherical")
    assert code == 1
    assert "exists" in err
    assert Path("n.safetensors").read_bytes() == first
    assert lfq("import", "foreign.pt", "-o", "n.safetensors", "--overwrite", "--spherical")[0] == 0
    assert checkpoints.load(Path("n.safetensors")).spherical
    assert lfq("import", "foreign.pt", "-o", "foreign.pt", "--overwrite")[0] == 2


@pytest.mark.parametrize("name", ["plain", "lucidrains"])
def test_a_scale_that_the_clamp_forbids_is_not_assumed(lfq, name):
    """A clamp of 0.5 goes with no scale of 1; the scale decides no bit, but the module is built with it."""
    torch.save(STATES[name][0], "m.pt")
    np.save("x.npy", floats(*STATES[name][1]))
    clamp = ("--soft-clamp", "0.5", "--no-spherical")
    code, _, err = lfq("encode", "m.pt", "x.npy", "-o", "out", *clamp)
    if name == "lucidrains":
        assert code == 1
        assert "does not say codebook_scale, and the usual 1.0 is above its soft clamp 0.5" in err
        assert "--codebook-scale" in err
    else:  # by signs alone
        assert code == 0
    assert lfq("encode", "m.pt", "x.npy", "-o", "out", "--overwrite", *clamp, "--codebook-scale", "0.25")[0] == 0
    for command in (("decode", "m.pt", "out", "-o", "back"), ("export-codebook", "m.pt", "-o", "t.safetensors")):
        known = ("--codebook-scale", "0.25") if command[0] == "export-codebook" else ()
        assert lfq(*command, *clamp, *known)[0] == 0
    with pytest.warns(LfqNote, match="assumed"):
        codec = load("m.pt", soft_clamp=0.5, spherical=False)
    with pytest.raises(CheckpointError, match="does not say codebook_scale"):
        codec.module  # noqa: B018
    assert lfq("export-codebook", "m.pt", "-o", "t2.safetensors", *clamp)[0] == 1


def test_import_never_replaces_what_it_reads(lfq):
    Path("hf").mkdir()
    torch.save(STATES["plain"][0], "hf/pytorch_model.bin")
    Path("hf/config.json").write_text('{"model_type": "x"}')
    code, _, err = lfq("import", "hf", "-o", "hf", "--overwrite")
    assert code == 2
    assert "would be replaced" in err
    assert Path("hf/config.json").read_text() == '{"model_type": "x"}'
    assert lfq("import", "hf", "-o", "n.safetensors")[0] == 0
    Path("native").mkdir()
    assert lfq("import", "n.safetensors", "-o", "native", "--overwrite")[0] == 0
    assert lfq("import", "native/model.safetensors", "-o", "native", "--overwrite")[0] == 2
    np.save("x.npy", floats(5, 6))
    assert lfq("encode", "native", "x.npy", "-o", "native/model.safetensors", "--overwrite")[0] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--codebook-dims", "5,5"), "add up to 6"),
        (("--family", "lucidrains"), "no family"),
        (("--num-codebooks", "2"), "num_codebooks"),
        (("--bit-order", "lsb"), "bit_order"),
    ],
)
def test_an_option_that_contradicts_a_native_checkpoint(lfq, options, message):
    torch.save(STATES["plain"][0], "p.pt")
    np.save("x.npy", floats(5, 6))
    assert lfq("import", "p.pt", "-o", "n.safetensors")[0] == 0
    code, _, err = lfq("encode", "n.safetensors", "x.npy", "-o", "out", *options)
    assert code == 2
    assert message in err


def test_what_a_native_checkpoint_assumes_can_be_overridden(lfq):
    state, shape = STATES["open-magvit2"]
    torch.save(state, "m.pt")
    np.save("x.npy", floats(*shape))
    assert lfq("import", "m.pt", "-o", "n.safetensors")[0] == 0
    assert lfq("encode", "n.safetensors", "x.npy", "-o", "out", "--codebook-dims", "6,12")[0] == 0
    with open_codes("out/x.codes.safetensors") as codes:
        assert codes["data"].shape == (2, 4, 4, 2)
        assert set(codes.header.assumed) == {"bit_order"}


def test_decoding_again_with_other_facts_is_another_output(lfq):
    torch.save(STATES["plain"][0], "p.pt")
    np.save("x.npy", floats(5, 6))
    assert lfq("encode", "p.pt", "x.npy", "-o", "out")[0] == 0
    assert lfq("decode", "p.pt", "out", "-o", "back", *FACTS)[0] == 0
    assert "up to date" in lfq("decode", "p.pt", "out", "-o", "back", *FACTS)[2]
    code, _, err = lfq("decode", "p.pt", "out", "-o", "back", "--codebook-scale", "2", "--spherical")
    assert code == 1
    assert "is not what this run would make" in err


def test_import_keeps_the_layout(lfq):
    torch.save(STATES["plain"][0], "foreign.pt")
    assert lfq("import", "foreign.pt", "-o", "n.safetensors", "--layout", "channel-first", *FACTS)[0] == 0
    np.save("x.npy", floats(3, 6, 11))
    assert lfq("encode", "n.safetensors", "x.npy", "-o", "out")[0] == 0
    with open_codes("out/x.codes.safetensors") as codes:
        assert codes["data"].shape == (3, 11)


@pytest.mark.parametrize("name", ["residual", "grouped"])
@pytest.mark.parametrize("levels", [1, 3, 4])
def test_the_first_levels_are_those_of_the_whole(lfq, name, levels):
    state, shape = STATES[name]
    torch.save(state, "r.pt")
    np.save("x.npy", floats(*shape))
    groups = 2 if name == "grouped" else 1
    assert lfq("encode", "r.pt", "x.npy", "-o", "all", *FACTS[2:])[0] == 0
    assert lfq("encode", "r.pt", "x.npy", "-o", "few", "--num-quantizers", levels, *FACTS[2:])[0] == 0
    with open_codes("all/x.codes.safetensors") as codes, open_codes("few/x.codes.safetensors") as few:
        whole = codes["data"][...].reshape(50, groups, 4)
        assert np.array_equal(few["data"][...], whole[..., :levels].reshape(50, -1))
        assert few.header.quantizer["num_quantizers"] == levels
    for source, options in (("all", ("--num-quantizers", levels)), ("few", ())):
        result = lfq("decode", "r.pt", f"{source}/x.codes.safetensors", "-o", f"d-{source}", *options, *FACTS[2:])
        assert result[0] == 0, result[2]
    assert np.array_equal(*(load_file(f"d-{source}/x.safetensors")["data"] for source in ("all", "few")))
    if levels < 4:
        code, _, err = lfq("decode", "r.pt", "few/x.codes.safetensors", "-o", "e", "--num-quantizers", 4, *FACTS[2:])
        assert code == 1
        assert f"has {levels} levels, 4 were asked for" in err


def test_only_a_residual_quantizer_has_levels(lfq):
    torch.save(STATES["plain"][0], "p.pt")
    np.save("x.npy", floats(5, 6))
    code, _, err = lfq("encode", "p.pt", "x.npy", "-o", "out", "--num-quantizers", 2)
    assert code == 1
    assert "not a residual quantizer" in err


@pytest.mark.parametrize("wrong", ["", "6,", "6;12", "0,18", "65", "x", "6,-12", "1.5"])
def test_dims_that_are_no_list(lfq, wrong):
    code, _, err = lfq("encode", "p.pt", "x.npy", "-o", "out", "--codebook-dims", wrong)
    assert code == 2
    assert "--codebook-dims" in err


@pytest.mark.parametrize("given_at", ["encode", "decode", "neither"])
def test_codebook_dims_may_be_given_at_either_end(lfq, given_at):
    """Cut or whole, the packed bytes are the same; only the indices are others."""
    state, shape = STATES["open-magvit2"]
    torch.save(state, "m.pt")
    np.save("x.npy", floats(*shape))
    options = {given_at: ("--codebook-dims", "6,12", "--bit-order", "lsb")}
    assert lfq("encode", "m.pt", "x.npy", "-o", "out", *options.get("encode", ()))[0] == 0
    code, _, err = lfq("decode", "m.pt", "out", "-o", "back", *options.get("decode", ()))
    assert code == 0, err
    assert np.array_equal(load_file("back/x.safetensors")["data"], np.where(floats(*shape) > 0, 1, -1))
    with open_codes("out/x.codes.safetensors") as codes:
        assert codes["data"].shape == ((2, 4, 4, 2) if given_at == "encode" else (2, 4, 4))
        assert set(codes.header.assumed) == (set() if given_at == "encode" else {"bit_order", "factorized_bits"})


@pytest.mark.parametrize("name", STATES)
def test_inspect_says_what_was_read_and_what_is_assumed(lfq, name):
    torch.save({"state_dict": STATES[name][0]}, "foreign.ckpt")
    code, out, _ = lfq("inspect", "foreign.ckpt", "--json")
    assert code == 0
    (report,) = json.loads(out)["paths"][0]["quantizers"]
    quantizer = checkpoints.load(Path("foreign.ckpt"))
    assert report["assumed"] == quantizer.assumptions()
    assert report["config"] == quantizer.full_config()
    assert set(report["shown_by"]) <= {f"state_dict.{key}" for key in STATES[name][0]}
    assert report["shown_by"]
    assert report["codebook_dims"] == list(quantizer.codebook_dims)
    code, out, _ = lfq("inspect", "foreign.ckpt")
    assert code == 0
    assert report["shown_by"][0] in out
    assert f"family {report['family']}" in out
    for fact in report["assumed"]:
        assert re.search(rf"{fact} .*assumed", out), fact


@pytest.mark.parametrize("name", ["ibq", "fsq", "cast_mask", "maskbit_generator", "kronos_predictor"])
def test_inspect_says_why_there_is_no_quantizer(lfq, name):
    torch.save(refused.CASES[name].make(1), "foreign.ckpt")
    torch.save(refused.CASES[name].make(1), "foreign.pt")
    code, _, err = lfq("inspect", "foreign.ckpt")
    assert code == 1
    assert "no lookup-free quantizer in it; it looks like" in err
    code, out, _ = lfq("inspect", "foreign.pt")  # it may be a file of tensors all the same
    assert code == 0
    assert "no lookup-free quantizer in it; it looks like" in out
