"""Files in, files out, against `vector_quantize_pytorch.LFQ` 1.32 in eval mode.

The checkpoint is the reference's own state dict in every container, and the same quantizer saved natively. Without a
projection or rotation bits are a comparison: tokens and decoded values are exactly the reference's. With one they
come from a matrix product, whose last bits depend on its shape: tokens are held to exactness away from 0 (MARGIN);
decoded values are bit for bit those of the reference's `indices_to_codes` on the same indices, one block being one
product of the reference's shape (tests/test_pipeline.py cuts it), and near those of its `forward`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vector_quantize_pytorch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lfq_cli
from lfq_cli import checkpoints
from lfq_cli.checkpoints import Facts
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.plan import Job
from lfq_cli.nn import LFQ
from lfq_cli.quantizer import Quantizer

SIZES = [(bits, codebooks) for bits in (1, 2, 6, 8, 10, 16, 18) for codebooks in (1, 4)]
UNPROJECTED: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale 0.5": {"codebook_scale": 0.5},
    "scale 2": {"codebook_scale": 2.0},
    "scale 0.3": {"codebook_scale": 0.3},
    "spherical": {"spherical": True},
    "spherical scale 0.5": {"spherical": True, "codebook_scale": 0.5},
    "spherical scale 2": {"spherical": True, "codebook_scale": 2.0},
    "spherical scale 3": {"spherical": True, "codebook_scale": 3.0},  # exact sums, no power of two: order tells
    "spherical scale 0.3": {"spherical": True, "codebook_scale": 0.3},
    "soft clamp": {"soft_clamp_input_value": 2.5},
    "spherical soft clamp": {"spherical": True, "soft_clamp_input_value": 1.0},
    "codebook axis": {"keep_num_codebooks_dim": True},
}
DIM = 37
LINEAR: dict[str, dict[str, Any]] = {
    "projections": {"dim": DIM},
    "no bias": {"dim": DIM, "projection_has_bias": False},
    "forced projections": {"has_projections": True},
    "cosine": {"dim": DIM, "cosine_sim_project_in": True},
    "cosine scale": {"dim": DIM, "cosine_sim_project_in": True, "cosine_sim_project_in_scale": 3.0},
    "rotation": {"orthogonal_rotation": True},
    "rotation soft clamp": {"orthogonal_rotation": True, "soft_clamp_input_value": 1.5},
    "projections spherical": {"dim": DIM, "spherical": True, "codebook_scale": 0.3},
    "codebook axis": {"dim": DIM, "keep_num_codebooks_dim": True},
    "everything": {
        "dim": DIM,
        "orthogonal_rotation": True,
        "spherical": True,
        "soft_clamp_input_value": 3.0,
        "codebook_scale": 0.3,
    },
}
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LAYOUTS = {"b n d": (3, 18), "b d h w": (2, 5, 4), "b d t h w": (2, 3, 2, 4)}  # the positions
CHECKPOINTS = (".safetensors", ".pt", ".ckpt", "native")

# A z this near to 0 may round to either sign: x is standard normal and so is, about, z; the rounding of a sum of up to
# 72 float32 products is some 1e-7.
MARGIN = 1e-5


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small tensors: waiting for the disk and for other threads would be most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@lru_cache(maxsize=2)
def reference(options: str, bits: int, codebooks: int) -> Any:
    torch.manual_seed(bits + 100 * codebooks)
    chosen = UNPROJECTED.get(options) or LINEAR.get(options) or {}
    return vector_quantize_pytorch.LFQ(codebook_size=2**bits, num_codebooks=codebooks, **chosen).eval()


def linear_reference(options: str, bits: int, codebooks: int) -> Any:
    torch.manual_seed(bits + 100 * codebooks)
    return vector_quantize_pytorch.LFQ(codebook_size=2**bits, num_codebooks=codebooks, **LINEAR[options]).eval()


def facts_of(ref: Any) -> Facts:
    """Everything the state dict does not say."""
    return Facts(
        codebook_scale=ref.codebook_scale,
        spherical=ref.spherical,
        soft_clamp=ref.soft_clamp_input_value or "none",
        num_codebooks=ref.num_codebooks,
        keep_num_codebooks_dim=ref.keep_num_codebooks_dim,
        cosine_scale=getattr(ref.project_in, "scale", None),
    )


def saved(ref: Any, kind: str, folder: Path, channel_first: bool | None = None) -> Quantizer:
    """The reference's weights written as `kind` and loaded again by lfq."""
    state = ref.state_dict()
    path = folder / f"checkpoint{kind if kind != 'native' else '.native.safetensors'}"
    if kind == ".safetensors":
        save_file(state, path)
    elif kind == ".pt":
        torch.save(state, path)
    elif kind == ".ckpt":
        wrapped = {f"model.quantizer.{name}": value for name, value in state.items()}
        wrapped["model.encoder.weight"] = torch.ones(3, 3)
        torch.save({"state_dict": wrapped, "epoch": 3, "optimizer_states": [{"step": 1}]}, path)
    else:
        native_module(ref, channel_first).save_pretrained(path)
        return checkpoints.load(path)
    return checkpoints.load(path, facts_of(ref))


def native_module(ref: Any, channel_first: bool | None) -> LFQ:
    cosine = getattr(ref.project_in, "scale", None)
    module = LFQ(
        dim=ref.dim,
        codebook_size=ref.codebook_size,
        num_codebooks=ref.num_codebooks,
        keep_num_codebooks_dim=ref.keep_num_codebooks_dim,
        codebook_scale=ref.codebook_scale,
        has_projections=ref.has_projections,
        projection_has_bias="project_out.bias" in ref.state_dict(),
        soft_clamp_input_value=ref.soft_clamp_input_value,
        cosine_sim_project_in=cosine is not None,
        cosine_sim_project_in_scale=cosine,
        channel_first=channel_first,
        spherical=ref.spherical,
        orthogonal_rotation=ref.orthogonal_rotation,
    )
    module.load_state_dict(ref.state_dict())
    return module


# 2^-150 is the float64 that rounds to float32 0, the next one rounds to the smallest subnormal.
SPECIALS = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-40, -1e-40, 1e-30, 1e30, -1e30, 3e38, -3e38]
SPECIALS += [6e-8, -6e-8, 65504.0, 1e300, -1e300, 1e-46, 2.0**-150, float(np.nextafter(2.0**-150, 1)), 5e-324]
FEW_SPECIALS = [0.0, -0.0, 1e-40, np.inf, -np.inf]  # with a product, overflow would depend on the order of summation


def awkward(positions: tuple[int, ...], dim: int, specials: list[float], *, channel_last: bool, seed: int) -> Tensor:
    """Normal float64 values; every other vector has one special value, some are all zero."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((*positions, dim))
    flat = vectors.reshape(-1, dim)
    for row, special in zip(range(0, len(flat), 2), itertools.cycle(specials), strict=False):
        flat[row, rng.integers(dim)] = special
    flat[-1] = 0
    return torch.from_numpy(vectors if channel_last else np.ascontiguousarray(np.moveaxis(vectors, -1, 1)))


def files_of_all(folder: Path, dim: int, layouts: dict[str, tuple[int, ...]], specials: list[float]) -> Path:
    """One file: a tensor of every dtype in every layout."""
    tensors = {}
    for layout, positions in layouts.items():
        master = awkward(positions, dim, specials, channel_last=layout.endswith(" d"), seed=len(tensors))
        tensors |= {f"{layout} {dtype}": master.to(DTYPES[dtype]).contiguous() for dtype in DTYPES}
    save_file(tensors, folder / "x.safetensors")
    return folder / "x.safetensors"


def road(
    quantizer: Quantizer, source: Path, dtype: str = "F32", project_out: bool = True, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tokens, decoded) of every tensor, through both files."""
    codes, out = source.parent / "x.codes.safetensors", source.parent / "y.safetensors"
    for path in (codes, out):
        path.unlink(missing_ok=True)
    outcomes = [
        *encode(quantizer, [Job(source, codes)], EncodeOptions(zero_nan=True, **options)),
        *decode(quantizer, [Job(codes, out)], DecodeOptions(dtype=dtype, project_out=project_out)),
    ]
    assert [(outcome.status, outcome.error) for outcome in outcomes] == [("written", None)] * 2
    with lfq_cli.open_codes(codes) as file:
        tokens = {name: torch.from_numpy(file[name][...]) for name in file}
    return tokens, load_file(out)


def same_bits(found: Tensor, expected: Tensor) -> bool:
    pattern = torch.int32 if expected.dtype == torch.float32 else torch.int64
    return found.shape == expected.shape and torch.equal(
        found.contiguous().view(pattern), expected.contiguous().view(pattern)
    )


def quantize(ref: Any, x: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """The reference's (quantized, indices); `layout` says where its channels are."""
    ref.channel_first = not layout.endswith(" d")
    with torch.no_grad():
        quantized, indices, _ = ref(x.float())
    return quantized, indices.long()


# Without a matrix product: everything exact.


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "codebooks"), SIZES)
@pytest.mark.parametrize("options", UNPROJECTED)
def test_unprojected_is_exactly_the_reference(options: str, bits: int, codebooks: int, tmp_path: Path) -> None:
    ref = reference(options, bits, codebooks)
    kind = CHECKPOINTS[(bits + codebooks + list(UNPROJECTED).index(options)) % 3]
    source = files_of_all(tmp_path, ref.dim, LAYOUTS, SPECIALS)
    tokens, decoded = road(saved(ref, kind, tmp_path), source)
    check_exact(ref, source, tokens, decoded)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "codebooks"), SIZES)
@pytest.mark.parametrize("options", UNPROJECTED)
def test_unprojected_channel_first_is_exactly_the_reference(
    options: str, bits: int, codebooks: int, tmp_path: Path
) -> None:
    """(b d n): channel_first of a native checkpoint; the layout option for one that does not say it."""
    ref = reference(options, bits, codebooks)
    source = files_of_all(tmp_path, ref.dim, {"b d n": (3, 18)}, SPECIALS)
    native = road(saved(ref, "native", tmp_path, channel_first=True), source)
    check_exact(ref, source, *native)
    by_option = road(saved(ref, ".safetensors", tmp_path), source, layout="channel-first")
    assert all(torch.equal(by_option[0][name], native[0][name]) for name in native[0])
    assert all(same_bits(by_option[1][name], native[1][name]) for name in native[1])


def check_exact(ref: Any, source: Path, tokens: dict[str, Tensor], decoded: dict[str, Tensor]) -> None:
    for name, x in load_file(source).items():
        quantized, indices = quantize(ref, x, name.rsplit(" ", 1)[0])
        assert tokens[name].shape == indices.shape, name
        assert torch.equal(tokens[name], indices), name
        assert same_bits(decoded[name], quantized), name


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
@pytest.mark.parametrize("options", ["scale 0.3", "spherical", "spherical scale 0.3"])
def test_decoded_dtypes_are_the_reference_rounded_once(options: str, dtype: str, tmp_path: Path) -> None:
    ref = reference(options, 10, 4)
    source = files_of_all(tmp_path, ref.dim, {"b n d": (3, 18)}, SPECIALS)
    _, decoded = road(saved(ref, ".pt", tmp_path), source, dtype=dtype)
    quantized, _ = quantize(ref, load_file(source)["b n d F32"], "b n d")
    assert decoded["b n d F32"].dtype == DTYPES[dtype]
    assert torch.equal(decoded["b n d F32"], quantized.to(DTYPES[dtype]))


# With one.


def latents(ref: Any, x: Tensor, layout: str) -> Tensor:
    """z [..., c, d] as the reference computes it, before the sphere, which keeps signs."""
    x = x.float() if layout.endswith(" d") else x.float().movedim(1, -1)
    with torch.no_grad():
        z = ref.project_in(x)
        if ref.soft_clamp_input_value is not None:
            z = (z / ref.soft_clamp_input_value).tanh() * ref.soft_clamp_input_value
        z = z.unflatten(-1, (ref.num_codebooks, ref.codebook_dim))
        return z @ ref.orthogonal_rot if ref.orthogonal_rotation else z


def check_linear(ref: Any, source: Path, tokens: dict[str, Tensor], decoded: dict[str, Tensor]) -> None:
    doubtful = total = 0
    for name, x in load_file(source).items():
        layout = name.rsplit(" ", 1)[0]
        quantized, indices = quantize(ref, x, layout)
        clear = (latents(ref, x, layout).abs() > MARGIN).all(-1)
        clear = clear if ref.keep_num_codebooks_dim else clear.squeeze(-1)
        assert tokens[name].shape == indices.shape, name
        assert torch.equal(tokens[name][clear], indices[clear]), name
        doubtful, total = doubtful + int((~clear).sum()), total + clear.numel()
        with torch.no_grad():
            codes = ref.indices_to_codes(tokens[name])
        assert same_bits(decoded[name], codes), name
        same_tokens = (tokens[name] == indices).all()
        assert not same_tokens or torch.allclose(decoded[name], quantized, rtol=1e-6, atol=1e-6), name
    assert doubtful <= 0.4 * total  # infinities, zero vectors, and a few z near 0: most are held to exactness


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "codebooks"), SIZES)
@pytest.mark.parametrize("options", LINEAR)
def test_linear_is_the_reference_away_from_zero(options: str, bits: int, codebooks: int, tmp_path: Path) -> None:
    ref = linear_reference(options, bits, codebooks)
    kind = CHECKPOINTS[(bits + codebooks + list(LINEAR).index(options)) % 3]
    source = files_of_all(tmp_path, ref.dim, LAYOUTS, FEW_SPECIALS)
    check_linear(ref, source, *road(saved(ref, kind, tmp_path), source))

    channel_first = files_of_all(tmp_path, ref.dim, {"b d n": (3, 18)}, FEW_SPECIALS)
    check_linear(ref, channel_first, *road(saved(ref, "native", tmp_path, channel_first=True), channel_first))


@pytest.mark.parametrize("options", ["projections", "cosine scale", "everything"])
def test_without_project_out_codes_are_the_reference_s(options: str, tmp_path: Path) -> None:
    ref = linear_reference(options, 10, 4)
    source = files_of_all(tmp_path, ref.dim, LAYOUTS, FEW_SPECIALS)
    tokens, decoded = road(saved(ref, ".pt", tmp_path), source, project_out=False)
    for name, indices in tokens.items():
        ref.channel_first = not name.startswith("b n d")
        assert same_bits(decoded[name], ref.indices_to_codes(indices, project_out=False)), name


# Checkpoints: one quantizer, however it was saved.


@pytest.mark.parametrize("codebooks", [1, 4])
@pytest.mark.parametrize("options", [*UNPROJECTED, *LINEAR])
def test_every_container_holds_the_same_quantizer(options: str, codebooks: int, tmp_path: Path) -> None:
    ref = linear_reference(options, 8, codebooks) if options in LINEAR else reference(options, 8, codebooks)
    loaded = {kind: saved(ref, kind, tmp_path) for kind in CHECKPOINTS}
    digests = {kind: quantizer.digest for kind, quantizer in loaded.items()}
    assert len(set(digests.values())) == 1, digests
    assert {quantizer.index_tail for quantizer in loaded.values()} == {
        (codebooks,) if ref.keep_num_codebooks_dim else ()
    }


def test_tokens_need_none_of_the_facts_that_only_decoding_needs(tmp_path: Path) -> None:
    """Encoded without a fact, decoded with all of them: codes of the same checkpoint."""
    ref = reference("spherical scale 2", 10, 1)
    source = files_of_all(tmp_path, ref.dim, LAYOUTS, [0.0, -0.0])
    full = saved(ref, ".pt", tmp_path)
    expected, _ = road(full, source)
    bare = checkpoints.load(tmp_path / "checkpoint.pt")
    codes, out = tmp_path / "bare.codes.safetensors", tmp_path / "bare.safetensors"
    (outcome,) = encode(bare, [Job(source, codes)], EncodeOptions())
    assert outcome.status == "written", outcome.error
    with lfq_cli.open_codes(codes) as file:
        assert all(np.array_equal(file[name][...], expected[name].numpy()) for name in file)
    (outcome,) = decode(full, [Job(codes, out)], DecodeOptions())
    assert outcome.status == "written", outcome.error
    for name, x in load_file(source).items():
        quantized, _ = quantize(ref, x, name.rsplit(" ", 1)[0])
        assert same_bits(load_file(out)[name], quantized), name
