"""Checkpoints of type stacked_lfq: load, encode, decode, stats, export-codebook, verify, import."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

import lfq_cli
from lfq_cli import checkpoints
from lfq_cli.errors import CheckpointError
from lfq_cli.quantizer import Quantizer

DIM, BITS, LEVELS = 6, 4, 3


@pytest.fixture
def stack(lfq):
    """A stack saved in the working folder as stack.safetensors, with 300 vectors in x.npy."""
    torch.manual_seed(3)
    module = lfq_cli.StackedLFQ(dim=DIM, num_quantizers=LEVELS, codebook_size=2**BITS).eval().requires_grad_(False)
    module.save_pretrained("stack.safetensors")
    np.save("x.npy", np.random.default_rng(0).standard_normal((300, DIM), np.float32))
    return module


def codes(name):
    return safetensors.numpy.load_file(name)["data"]


@pytest.mark.parametrize("levels", [None, 2])
def test_encode_and_decode_are_the_modules(lfq, stack, levels):
    options = [] if levels is None else ["--num-quantizers", levels]
    assert lfq("encode", "stack.safetensors", "x.npy", "-o", "x.safetensors", *options)[0] == 0
    x = torch.from_numpy(np.load("x.npy"))
    bits = stack.encode_bits(x, levels)
    assert np.array_equal(codes("x.safetensors"), np.packbits(bits.numpy()))
    assert lfq("decode", "stack.safetensors", "x.safetensors", "-o", "y.npy", *options)[0] == 0
    assert np.array_equal(np.load("y.npy"), stack.decode_bits(bits).numpy())
    assert torch.equal(lfq_cli.load("stack.safetensors").encode_bits(x, levels), bits)


def test_bare_codes_are_those_of_all_levels(lfq, stack):
    lfq("encode", "stack.safetensors", "x.npy", "-o", "x.safetensors")
    assert lfq("decode", "stack.safetensors", "x.safetensors", "-o", "y.npy", "--no-project-out")[0] == 0
    bits = stack.encode_bits(torch.from_numpy(np.load("x.npy"))).numpy()
    assert np.array_equal(np.load("y.npy"), np.where(bits, 1, -1))


def test_tables_and_bias_add_up_to_the_decoded_vector(lfq, stack):
    assert lfq("export-codebook", "stack.safetensors", "-o", "tables.safetensors")[0] == 0
    tables = safetensors.numpy.load_file("tables.safetensors")
    x = torch.from_numpy(np.load("x.npy"))
    quantized, indices, _ = stack(x)
    rows = sum(tables[f"codebook.{level}"][indices[:, level]] for level in range(LEVELS))
    np.testing.assert_allclose(rows + tables["bias"], quantized.numpy(), atol=1e-5)


def test_the_other_commands_know_it(lfq, stack):
    lfq("encode", "stack.safetensors", "x.npy", "-o", "x.safetensors")
    assert lfq("verify", "x.safetensors", "--checkpoint", "stack.safetensors", "--source", "x.npy")[0] == 0
    assert lfq("stats", "x.safetensors")[0] == 0
    found = json.loads(lfq("inspect", "stack.safetensors", "--json")[1])["paths"][0]["quantizers"][0]
    assert found["config"]["type"] == "stacked_lfq"
    assert found["codebook_dims"] == [BITS] * LEVELS
    assert lfq("import", "stack.safetensors", "-o", "two", "--num-quantizers", 2)[0] == 0
    assert checkpoints.load(Path("two")).num_quantizers == 2


def weights(levels=2):
    shapes = {"project_in.weight": (BITS, DIM), "project_out.weight": (DIM, BITS)}
    return {f"layers.{q}.{name}": np.ones(shape, np.float32) for q in range(levels) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {}}, "without projections"),
        ({"num_quantizers": None}, "num_quantizers is missing"),
        ({"num_quantizers": 3}, "only some groups or levels"),
        ({"groups": 2}, "no groups"),
        ({"soft_clamp_input_value": 2.0}, "no soft clamp"),
        ({"num_codebooks": 2}, "num_codebooks"),
        ({"codebook_dim": 5}, "layers.0.project_in.weight has shape"),
    ],
)
def test_stacks_that_cannot_be(change, message):
    good = {"dim": DIM, "codebook_dim": BITS, "num_quantizers": 2, "stacked": True, "weights": weights()}
    assert Quantizer(**good).type == "stacked_lfq"
    with pytest.raises(CheckpointError, match=message):
        Quantizer(**good | change)
