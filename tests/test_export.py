"""`lfq export-codebook`: rows of its tables make what `lfq decode` makes of the same indices."""

import json

import numpy as np
import pytest
import torch
from families import kronos, lucidrains
from grid.routes import of_rows
from safetensors.numpy import load_file

from lfq_cli import LFQ, GroupedResidualLFQ, ResidualLFQ, load, open_codes

FACTS = ("--codebook-scale", "1", "--no-spherical", "--soft-clamp", "none")
TWO = {"codebook_size": 2**6, "num_codebooks": 2}
CHECKPOINTS = {
    "plain": (lambda: LFQ(codebook_size=2**8, codebook_scale=0.3), (), "exact"),
    "codebooks": (lambda: LFQ(**TWO), (), "exact"),
    "rotated codebooks": (lambda: LFQ(**TWO, orthogonal_rotation=True), (), "close"),
    "projected codebooks": (lambda: LFQ(**TWO, dim=7), (), "close"),
    "projected, without bias": (lambda: LFQ(**TWO, dim=7, projection_has_bias=False), (), "close"),
    "residual": (lambda: ResidualLFQ(dim=4, num_quantizers=3, codebook_size=2**4), (), "exact"),
    "residual, spherical": (
        lambda: ResidualLFQ(dim=4, num_quantizers=3, codebook_size=2**4, spherical=True), (), "exact",
    ),
    "residual, projected": (lambda: ResidualLFQ(dim=9, num_quantizers=3, codebook_size=2**4), (), "close"),
    "grouped": (lambda: GroupedResidualLFQ(dim=8, groups=2, num_quantizers=2, codebook_size=2**4), (), "exact"),
    "grouped, projected": (
        lambda: GroupedResidualLFQ(dim=12, groups=2, num_quantizers=2, codebook_size=2**4), (), "close",
    ),
    "cut": (lambda: LFQ(codebook_size=2**12), ("--codebook-dims", "4,8"), "exact"),
    "cut, lsb": (lambda: LFQ(codebook_size=2**12, bit_order="lsb"), ("--codebook-dims", "5,7"), "exact"),
    "cut, in the checkpoint": (lambda: LFQ(codebook_size=2**12, factorized_bits=[1, 9, 2]), (), "exact"),
    "cut, across codebooks": (lambda: LFQ(**TWO), ("--codebook-dims", "3,9"), "exact"),
    "cut, into one": (lambda: LFQ(**TWO), ("--codebook-dims", "12"), "exact"),
    "cut, spherical": (lambda: LFQ(codebook_size=2**12, spherical=True), ("--codebook-dims", "4,8"), "exact"),
    "cut, spherical codebooks": (lambda: LFQ(**TWO, spherical=True), ("--codebook-dims", "4,8"), "exact"),
    "cut, sphere that only torch rounds": (
        lambda: LFQ(codebook_size=2**12, spherical=True, codebook_scale=0.3), ("--codebook-dims", "4,8"), "exact",
    ),
    "cut, clamped": (
        lambda: LFQ(codebook_size=2**12, spherical=True, soft_clamp_input_value=1), ("--codebook-dims", "4,8"), "exact",
    ),
    "cut, rotated": (
        lambda: LFQ(codebook_size=2**12, orthogonal_rotation=True), ("--codebook-dims", "4,8"), "close",
    ),
    "cut, rotated codebooks": (
        lambda: LFQ(**TWO, orthogonal_rotation=True, bit_order="lsb"), ("--codebook-dims", "4,8"), "close",
    ),
    "cut, projected": (lambda: LFQ(codebook_size=2**12, dim=7), ("--codebook-dims", "4,8"), "close"),
    "cut, cosine": (
        lambda: LFQ(codebook_size=2**12, dim=7, cosine_sim_project_in=True), ("--codebook-dims", "4,8"), "close",
    ),
    "cut, projected, rotated, spherical codebooks": (
        lambda: LFQ(**TWO, dim=7, orthogonal_rotation=True, spherical=True), ("--codebook-dims", "4,8"), "close",
    ),
    "kronos": (lambda: kronos.state_dict(1, s1_bits=5, s2_bits=7), (), "exact"),
    "lucidrains, cut": (lambda: lucidrains.state_dict(1, codebook_dim=12), (*FACTS, "--codebook-dims", "4,8"), "exact"),
}  # fmt: skip


def run(lfq, *arguments):
    code, out, err = lfq(*arguments)
    assert code == 0, err
    return out


def saved(name):
    """Saves the checkpoint and an input; gives the checkpoint's name, options and exactness."""
    torch.manual_seed(3)
    make, options, how = CHECKPOINTS[name]
    made = make()
    if isinstance(made, dict):
        torch.save(made, "model.pt")
        return "model.pt", 12, options, how
    made.save_pretrained("model.safetensors")
    return "model.safetensors", made.dim, options, how


def compared(found, expected, how):
    if how == "exact":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("project_out", [(), ("--no-project-out",)])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_rows_make_what_decode_makes(lfq, name, project_out):
    checkpoint, dim, options, how = saved(name)
    np.save("x.npy", np.random.default_rng(1).standard_normal((60, dim)).astype(np.float32))
    run(lfq, "encode", checkpoint, "x.npy", "-o", "out", *options)
    run(lfq, "decode", checkpoint, "out/x.codes.safetensors", "-o", "back.npy", *options, *project_out)
    run(lfq, "export-codebook", checkpoint, "-o", "tables.safetensors", *options, *project_out)
    with open_codes("out/x.codes.safetensors") as codes:
        indices = codes["data"][...].reshape(60, -1)
        dims = codes.header.tensors["data"].codebook_dims
    tables = load_file("tables.safetensors")
    decoded = np.load("back.npy")
    compared(of_rows(tables, indices, decoded.shape[1]), decoded, how)
    if name.startswith(("cut", "kronos", "lucidrains")):
        rows = [tables[name].shape[0] for name in sorted(tables) if name != "bias"]
        assert rows == [2**bits for bits in dims]


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if name.startswith("cut") or name == "kronos"])
def test_row_i_is_what_index_i_decodes_to(lfq, name):
    """All other indices 0; by the module, which decodes indices."""
    checkpoint, dim, options, how = saved(name)
    run(lfq, "export-codebook", checkpoint, "-o", "tables.safetensors", *options)
    tables = load_file("tables.safetensors")
    module = load(checkpoint, **({"codebook_dims": [int(d) for d in options[1].split(",")]} if options else {}))
    for k, bits in enumerate(module.codebook_dims):
        indices = np.zeros((2**bits, len(module.codebook_dims)), np.int64)
        indices[:, k] = np.arange(2**bits)
        given = torch.from_numpy(indices if module.keep_num_codebooks_dim else indices[:, 0])
        compared(of_rows(tables, indices, dim), module.indices_to_codes(given).numpy(), how)


def test_a_range_is_of_the_rows_that_a_table_has(lfq):
    LFQ(codebook_size=2**12, factorized_bits=[4, 8]).save_pretrained("model.safetensors")
    report = json.loads(run(lfq, "export-codebook", "model.safetensors", "-o", "all.safetensors", "--json"))
    assert report["tables"] == {"codebook.0": [16, 4], "codebook.1": [256, 8]}
    assert report["rows"] == [0, 256]
    whole = load_file("all.safetensors")
    for first, last, of in ((10, 20, {"codebook.0", "codebook.1"}), (16, 256, {"codebook.1"})):
        run(lfq, "export-codebook", "model.safetensors", "-o", f"{first}.safetensors", "--range", f"{first}:{last}")
        part = load_file(f"{first}.safetensors")
        assert set(part) == of
        for name, rows in part.items():
            assert np.array_equal(rows, whole[name][first:last])
    code, _, err = lfq("export-codebook", "model.safetensors", "-o", "t.safetensors", "--range", "0:257")
    assert code == 2
    assert "not within the codebook's rows 0:256" in err


def test_more_codes_than_any_disk_holds(lfq):
    LFQ(codebook_size=2**64).save_pretrained("model.safetensors")
    for options in ((), ("--codebook-dims", "1,63")):
        code, _, err = lfq("export-codebook", "model.safetensors", "-o", "t.safetensors", *options)
        assert code == 1
        assert "codes are more than any disk holds" in err
        rows = ("--range", f"{2**62}:{2**62 + 3}")
        run(lfq, "export-codebook", "model.safetensors", "-o", f"{len(options)}.safetensors", *options, *rows)
    (table,) = load_file("0.safetensors").values()
    assert table.tolist() == [[-1, 1] + [-1] * 60 + [a, b] for a, b in ((-1, -1), (-1, 1), (1, -1))]
    (table,) = load_file("2.safetensors").values()
    assert table.tolist() == [[1] + [-1] * 60 + [a, b] for a, b in ((-1, -1), (-1, 1), (1, -1))]


def test_one_index_of_cut_codebooks_fits_into_npy(lfq):
    LFQ(**TWO).save_pretrained("model.safetensors")
    run(lfq, "export-codebook", "model.safetensors", "-o", "t.npy", "--codebook-dims", "12")
    assert np.load("t.npy").shape == (2**12, 12)
