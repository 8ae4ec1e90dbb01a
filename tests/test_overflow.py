"""Inputs that are numbers and become NaN on the way to their bits: infinite ones, and those beyond float32.

`--nan error` names the first such vector, `--nan zero` gives the reference's bits, on every road from floats to bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import device
import numpy as np
import pytest
from numpy.typing import NDArray

import lfq_cli as lfq
from lfq_cli import backends, native, open_codes
from lfq_cli.bits import unpack
from lfq_cli.errors import LfqError, TensorError
from lfq_cli.floats import FORMATS
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.pack import PackOptions, pack
from lfq_cli.jobs.plan import Job, name_samples
from lfq_cli.pipeline.samples import SampleOptions
from lfq_cli.quantizer import Quantizer

Array = NDArray[Any]

RNG = np.random.default_rng(0)
PAIRS = np.kron(np.eye(3, dtype=np.float32), np.float32([[1, -1]]))
"""z[k] = x[2k] - x[2k + 1]."""
ROTATION = np.linalg.qr(RNG.standard_normal((6, 6)))[0].astype(np.float32)


def projecting(weight: Array, prefix: str = "") -> dict[str, Array]:
    return {f"{prefix}project_in.weight": weight, f"{prefix}project_out.weight": np.ones(weight.T.shape, np.float32)}


PROJECTED = Quantizer(dim=6, codebook_dim=3, weights=projecting(PAIRS))
LEVELS = Quantizer(dim=6, codebook_dim=3, num_quantizers=4, weights=projecting(PAIRS))
STACKED = Quantizer(
    dim=6,
    codebook_dim=3,
    num_quantizers=2,
    stacked=True,
    weights=projecting(PAIRS, "layers.0.") | projecting(PAIRS, "layers.1."),
)
ON_A_SPHERE = Quantizer(dim=6, codebook_dim=3, spherical=True, weights=projecting(4 * PAIRS))
COSINE = Quantizer(
    dim=6,
    codebook_dim=3,
    cosine_sim_project_in=True,
    weights={"project_in.weight": PAIRS.T, "project_out.weight": np.ones((6, 3), np.float32)},
)
ROTATED = Quantizer(dim=6, codebook_dim=6, weights={"orthogonal_rot": ROTATION})
SPHERE = Quantizer(dim=6, codebook_dim=6, spherical=True)

INF = np.inf
OVERFLOWS: dict[str, tuple[Quantizer, str, list[float]]] = {
    "inf - inf": (PROJECTED, "<f4", [INF, INF, 1, 1, 1, 1]),
    "inf * 0": (PROJECTED, "<f4", [1, 1, -INF, 1, 1, 1]),
    "float16": (PROJECTED, "<f2", [1, 1, -INF, 1, 1, 1]),
    "beyond float32": (PROJECTED, "<f8", [1e300, 1, 1, 1, 1, 1]),
    "levels": (LEVELS, "<f4", [INF, INF, 1, 1, 1, 1]),
    "stacked": (STACKED, "<f4", [INF, INF, 1, 1, 1, 1]),
    "finite, then a sphere": (ON_A_SPHERE, "<f4", [3e38, 0, 1, 1, 1, 1]),
    "cosine": (COSINE, "<f4", [INF, 1, 1, 1, 1, 1]),
    "rotated": (ROTATED, "<f4", [INF, -INF, 1, 1, 1, 1]),
    "a sphere alone": (SPHERE, "<f4", [INF, 1, 1, 1, 1, 1]),
}
ON_DEVICE = pytest.mark.parametrize("on_device", [False, True], ids=["cpu", "device"])
EVERY = pytest.mark.parametrize("case", OVERFLOWS)


def made(case: str, shape: tuple[int, ...] = (2, 7, 6), at: tuple[int, ...] = (1, 3)) -> tuple[Quantizer, Array]:
    """The quantizer, and ordinary vectors with features last but for the one at `at` and one behind it."""
    quantizer, dtype, vector = OVERFLOWS[case]
    x = RNG.standard_normal(shape).astype(dtype)
    x[at] = x.reshape(-1, 6)[-1] = vector
    return quantizer, x


def working(on_device: bool, block_values: int | None = None) -> AbstractContextManager[None]:
    return device.selected(block_values=block_values) if on_device else nullcontext()


def encode_file(quantizer: Quantizer, x: Array, folder: Path, **options: Any) -> Path:
    np.save(folder / "x.npy", x)
    codes = folder / "x.codes.safetensors"
    options = {"durable": False, "overwrite": True} | options
    (outcome,) = encode(quantizer, [Job(folder / "x.npy", codes)], EncodeOptions(**options))
    if outcome.error:
        raise outcome.error
    return codes


def bits_in(codes: Path, name: str = "data") -> Array:
    with open_codes(codes) as file:
        info = file[name].info
        return unpack(file[name].stream(0, info.vectors), info.vectors, info.bits_per_vector)


def expected_bits(quantizer: Quantizer, x: Array) -> Array:
    """The signs of what the module rounds; NaN gives 0."""
    import torch

    from lfq_cli.nn.saved import module_of

    vectors = torch.from_numpy(x.reshape(-1, x.shape[-1])).float()
    latents = module_of(quantizer).latents(vectors).numpy()
    assert np.isnan(latents).any()
    return np.asarray(latents > 0)


@ON_DEVICE
@EVERY
def test_a_file_is_refused_and_the_vector_named(case: str, on_device: bool, tmp_path: Path) -> None:
    quantizer, x = made(case)
    with working(on_device), pytest.raises(TensorError) as raised:
        encode_file(quantizer, x, tmp_path)
    assert raised.value.message == (
        f"{tmp_path / 'x.npy'}: 'data' holds infinite or huge values that become NaN in the quantizer, the first"
        " vector at [1, 3, :]"
    )
    assert raised.value.hint == "--nan zero encodes NaN as bit 0, as the reference does"


@ON_DEVICE
@EVERY
def test_zero_gives_the_bits_of_the_module_and_counts_nan_of_the_input_only(
    case: str, on_device: bool, tmp_path: Path
) -> None:
    quantizer, x = made(case)
    x[0, 0, 0] = x[1, 3, 5] = np.nan
    with working(on_device):
        codes = encode_file(quantizer, x, tmp_path, zero_nan=True)
    assert np.array_equal(bits_in(codes), expected_bits(quantizer, x))
    with open_codes(codes) as file:
        assert file.header.made_from is not None
        assert file.header.made_from.zeroed == 2


@ON_DEVICE
def test_nan_of_the_input_is_named_first(on_device: bool, tmp_path: Path) -> None:
    quantizer, x = made("inf - inf")
    x[1, 5, 2] = np.nan
    with working(on_device), pytest.raises(TensorError, match=r"holds 1 NaN, the first at \[1, 5, 2\]"):
        encode_file(quantizer, x, tmp_path)


@ON_DEVICE
@pytest.mark.parametrize("block_values", [100, 1000])
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_any_layout_and_blocks(axis: int, block_values: int, on_device: bool, tmp_path: Path, monkeypatch: Any) -> None:
    """Blocks of several items, and parts of one; several threads."""
    quantizer, x = made("inf - inf", (3, 10, 20, 6), (2, 4, 7))
    select = backends.select

    def smaller(*arguments: Any, **options: Any) -> Any:
        backend = select(*arguments, **options)
        backend.block_values = lambda spec: block_values
        return backend

    monkeypatch.setattr(backends, "select", smaller)
    where = ["2", "4", "7"]
    where.insert(axis, ":")
    with working(on_device, block_values), pytest.raises(TensorError) as raised:
        encode_file(quantizer, np.ascontiguousarray(np.moveaxis(x, -1, axis)), tmp_path, layout=axis)
    assert raised.value.message.endswith(f"the first vector at [{', '.join(where)}]")


def test_a_part_names_the_row_of_the_whole(tmp_path: Path) -> None:
    quantizer, x = made("inf - inf", (25, 2, 6), (23, 1))
    np.save(tmp_path / "x.npy", x)
    options = EncodeOptions(durable=False, part_rows=10)
    outcomes = encode(quantizer, [Job(tmp_path / "x.npy", tmp_path / "out")], options)
    (error,) = [outcome.error for outcome in outcomes if outcome.error]
    assert "the first vector at [23, 1, :]" in str(error)


def test_compressed_files(tmp_path: Path) -> None:
    quantizer, x = made("inf - inf")
    np.savez_compressed(tmp_path / "x.npz", data=x)
    jobs = [Job(tmp_path / "x.npz", tmp_path / "x.codes.safetensors")]
    (outcome,) = encode(quantizer, jobs, EncodeOptions(durable=False))
    assert "the first vector at [1, 3, :]" in str(outcome.error)


@ON_DEVICE
@EVERY
def test_a_sample_is_refused_and_the_others_encoded(case: str, on_device: bool, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    quantizer, x = made(case, (5, 4, 6), (2, 1))
    for k in range(4):  # the last two samples hold such a vector
        np.save(tmp_path / "in" / f"{k}.npy", x[(0, 1, 2, 4)[k]])
    found = {}
    for skip_bad in (False, True):
        inputs, missed = name_samples([str(tmp_path / "in")], tmp_path / "out", stacked=False, inputs_kept=[])
        chosen = PackOptions(samples=SampleOptions(), skip_bad=skip_bad)
        with working(on_device):
            found[skip_bad] = list(pack(quantizer, inputs, tmp_path / "out", chosen, missed=missed))
    (refused,), (written,) = found[False], found[True]
    assert "2.npy: 'data' holds infinite or huge values that become NaN in the quantizer" in str(refused.error)
    assert "the first vector at [1, :]" in str(refused.error)
    assert isinstance(refused.error, LfqError)
    assert refused.error.hint is not None
    assert "--skip-bad leaves the sample out" in refused.error.hint
    assert (written.samples, written.skipped) == (2, 2)


@EVERY
def test_samples_with_nan_as_zero(case: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    quantizer, x = made(case)
    for k in range(2):
        np.save(tmp_path / "in" / f"{k}.npy", x[k])
    inputs, missed = name_samples([str(tmp_path / "in")], tmp_path / "out", stacked=False, inputs_kept=[])
    chosen = PackOptions(samples=SampleOptions(zero_nan=True))
    (written,) = pack(quantizer, inputs, tmp_path / "out", chosen, missed=missed)
    assert written.error is None
    (codes,) = (tmp_path / "out").glob("*.codes.safetensors")
    assert np.array_equal(bits_in(codes), expected_bits(quantizer, x))


def test_in_python(tmp_path: Path) -> None:
    quantizer, x = made("inf - inf")
    native.write(quantizer, tmp_path / "c.safetensors", overwrite=False)
    codec = lfq.load(tmp_path / "c.safetensors")
    with pytest.raises(TensorError, match=r"become NaN in the quantizer, the first vector at \[1, 3, :\]"):
        codec.encode(x)
    tokens = codec.encode(x, nan="zero")
    assert np.array_equal(tokens.bits.reshape(-1, 3), expected_bits(quantizer, x))
    out = tmp_path / "out.codes.safetensors"
    with (
        pytest.raises(TensorError, match=r"become NaN in the quantizer, the first vector at \[3, :\]"),
        lfq.create(out, codec) as file,
    ):
        file.append(x)
    assert not out.exists()
    with lfq.create(out, codec, nan="zero") as file:
        file.append(x)
    assert np.array_equal(bits_in(out, "latents"), expected_bits(quantizer, x))


def test_float16_products_overflow_earlier_and_the_hint_says_so(tmp_path: Path) -> None:
    _, x = made("inf - inf")
    x[np.isinf(x)] = 1e5
    assert encode_file(PROJECTED, x, tmp_path).exists()
    with pytest.raises(TensorError, match=r"infinite or huge values") as raised:
        encode_file(PROJECTED, x, tmp_path, compute_dtype="float16")
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("--compute-dtype float32 takes larger values; ")


@ON_DEVICE
@pytest.mark.parametrize(
    "quantizer",
    [
        Quantizer(dim=6, codebook_dim=6),
        Quantizer(dim=6, codebook_dim=6, soft_clamp_input_value=2.0),
        Quantizer(dim=6, codebook_dim=6, num_quantizers=5),
        Quantizer(dim=6, codebook_dim=3, num_codebooks=2),
    ],
    ids=["plain", "clamped", "levels", "codebooks"],
)
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_infinity_has_a_sign_where_nothing_is_computed(
    dtype: str, quantizer: Quantizer, on_device: bool, tmp_path: Path
) -> None:
    x = np.array([[INF, -INF, 1, -1, -INF, INF]] * 3, dtype)
    with working(on_device):
        found = bits_in(encode_file(quantizer, x, tmp_path))
    assert np.array_equal(found[:, :6], x > 0)


def test_an_infinite_latent_has_a_sign(tmp_path: Path) -> None:
    """Infinity in a projection that no other infinity and no 0 meets."""
    weight = np.array([[1, 2, 3, 4, 5, 6], [-1, -2, -3, -4, -5, -6]], np.float32)
    quantizer = Quantizer(dim=6, codebook_dim=2, weights=projecting(weight))
    x = np.array([[INF, 1, 2, 3, 4, 5], [1, -INF, 1, 1, 1, 1]], np.float32)
    assert bits_in(encode_file(quantizer, x, tmp_path)).tolist() == [[True, False], [False, True]]


def test_a_backend_says_which_blocks_hold_nan_of_either_kind() -> None:
    for case, (quantizer, dtype, vector) in OVERFLOWS.items():
        raw = np.array(vector, dtype).reshape(1, 6, 1)
        spec = FORMATS[{"<f2": "F16", "<f4": "F32", "<f8": "F64"}[dtype]]
        backend = backends.select("cpu", quantizer, "float32", decoding=False)
        assert backend.encode(raw.view(spec.storage), spec)[1], case
        assert not backend.encode(np.ones_like(raw).view(spec.storage), spec)[1], case
