"""The loops over data: what comes out does not depend on blocks, threads, layout, dtype or container.

Everything is compared byte for byte, with the slow twin as the judge. Matrix products are of small integers here: their
sums are exact in any order, so that the same holds for TorchBackend.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import twin
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import numpy as st_numpy

from lfq_cli import backends
from lfq_cli.backends import NumpyBackend, TorchBackend
from lfq_cli.cpus import use_threads
from lfq_cli.errors import LfqError
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.plan import Job
from lfq_cli.pipeline import workers
from lfq_cli.quantizer import Quantizer

pytestmark = pytest.mark.slow

Array = NDArray[Any]
BLOCK_VALUES = (1, 7, 64, 100, 300, 1000, 4096, 1 << 20, 1 << 30)
THREADS = (1, 2, 5)
PACKINGS = ("bits", "rows", "ints")
FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


def write_npy(path: Path, x: Array) -> None:
    np.save(path, x)


def write_npz(path: Path, x: Array) -> None:
    np.savez(path, data=x)


def write_compressed(path: Path, x: Array) -> None:
    np.savez_compressed(path, data=x)


def write_torch(path: Path, x: Array) -> None:
    torch.save(torch.from_numpy(x), path)


def write_safetensors(path: Path, x: Array) -> None:
    st_numpy.save_file({"data": x}, path)


CONTAINERS: dict[str, tuple[str, Callable[[Path, Array], None]]] = {
    "npy": (".npy", write_npy),
    "npz stored": (".npz", write_npz),
    "npz compressed": (".npz", write_compressed),
    "pt": (".pt", write_torch),
    "safetensors": (".safetensors", write_safetensors),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small tensors: waiting for the disk and for other threads would be most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


@contextmanager
def working_in(block_values: int, threads: int) -> Iterator[None]:
    """Every backend works in blocks of so many floats on so many threads."""
    select = backends.select

    def smaller(*args: Any, **options: Any) -> Any:
        backend = select(*args, **options)
        backend.block_values = lambda spec: block_values
        return backend

    with patch.object(backends, "select", smaller), use_threads(threads):
        yield


def encode_file(quantizer: Quantizer, source: Path, **options: Any) -> Path:
    codes = source.parent / "x.codes.safetensors"
    (outcome,) = encode(quantizer, [Job(source, codes)], EncodeOptions(overwrite=True, **options))
    if outcome.error:
        raise outcome.error
    return codes


def encode_array(quantizer: Quantizer, x: Array, folder: Path, container: str = "npy", **options: Any) -> Path:
    suffix, write = CONTAINERS[container]
    write(folder / f"x{suffix}", np.ascontiguousarray(x))
    return encode_file(quantizer, folder / f"x{suffix}", **options)


def decode_file(quantizer: Quantizer, codes: Path, suffix: str = ".safetensors", **options: Any) -> Path:
    out = codes.parent / f"y{suffix}"
    (outcome,) = decode(quantizer, [Job(codes, out)], DecodeOptions(overwrite=True, **options))
    if outcome.error:
        raise outcome.error
    return out


def codes_bytes(path: Path) -> bytes:
    """What follows the header."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def but_for_the_source(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and codes of a file, without what it says of the file that it was made from."""
    content = path.read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    description = json.loads(head["__metadata__"]["lfq"])
    assert set(description.pop("made_from")) == {"bytes", "fingerprint", "nan"}
    del description["header_sha256"]
    return description, codes_bytes(path)


def config_of(quantizer: Quantizer) -> twin.Config:
    return twin.Config(
        dim=quantizer.bits_per_vector,
        codebook_dims=quantizer.codebook_dims,
        codebook_scale=quantizer.codebook_scale,
        spherical=quantizer.spherical,
        channel_first=quantizer.channel_first,
        keep_num_codebooks_dim=quantizer.keep_num_codebooks_dim,
        soft_clamp_input_value=quantizer.soft_clamp_input_value,
        bit_order=quantizer.bit_order,
    )


SPECIALS = np.array([0.0, -0.0, 6e-8, -6e-8, 65504, -65504, np.inf, -np.inf, np.nan], np.float16)


@st.composite
def quantizers(draw: st.DrawFn) -> Quantizer:
    bits, codebooks = draw(st.integers(1, 10) | st.just(18)), draw(st.integers(1, 3))
    return Quantizer(
        dim=bits * codebooks,
        codebook_dim=bits,
        num_codebooks=codebooks,
        spherical=draw(st.booleans()),
        soft_clamp_input_value=draw(st.sampled_from([None, 1.0, 2.5])),
        channel_first=draw(st.sampled_from([None, True, False])),
        keep_num_codebooks_dim=True if draw(st.booleans()) else None,
        bit_order=draw(st.sampled_from(["msb", "lsb"])),
    )


@st.composite
def tensors(draw: st.DrawFn, quantizer: Quantizer, *, specials: bool = True) -> Array:
    """Values that float16 has; 1 to 5 axes, and any axis of positions may be empty."""
    positions = draw(st.lists(st.integers(0, 5), max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (*positions, quantizer.dim)
    x = (rng.standard_normal(shape) if specials else rng.integers(-8, 9, shape)).astype(np.float16)
    if specials:
        x = np.where(rng.random(shape) < 0.1, rng.choice(SPECIALS, shape), x)
    axis = twin.channel_axis(shape, quantizer.channel_first)
    return np.ascontiguousarray(np.moveaxis(x, -1, axis))


def vectors_of(x: Array, quantizer: Quantizer) -> Array:
    return twin.vectors_of(x.astype(np.float32), quantizer.channel_first)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_encode_is_the_twin_however_it_is_cut_and_stored(data: st.DataObject, folder: Path) -> None:
    quantizer = data.draw(quantizers())
    x = data.draw(tensors(quantizer))
    packing = data.draw(st.sampled_from(PACKINGS))
    whole = encode_array(quantizer, x.astype(np.float32), folder, packing=packing, zero_nan=True)
    content, codes = but_for_the_source(whole), codes_bytes(whole)

    bits = twin.bits_of(vectors_of(x, quantizer), config_of(quantizer))
    ((entry, found),) = twin.read_codes_file(whole).values()
    assert found == bits
    assert tuple(entry["shape"]) == twin.index_shape(x.shape, config_of(quantizer))

    for _ in range(3):
        with working_in(data.draw(st.sampled_from(BLOCK_VALUES)), data.draw(st.sampled_from(THREADS))):
            container = data.draw(st.sampled_from(list(CONTAINERS)))
            again = encode_array(quantizer, x.astype(np.float32), folder, container, packing=packing, zero_nan=True)
            assert but_for_the_source(again) == content
            dtype = FLOATS[data.draw(st.sampled_from(list(FLOATS)))]
            again = encode_array(quantizer, x.astype(dtype), folder, container, packing=packing, zero_nan=True)
            assert codes_bytes(again) == codes


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_decode_is_the_twin_however_it_is_cut(data: st.DataObject, folder: Path) -> None:
    quantizer = data.draw(quantizers())
    x = data.draw(tensors(quantizer))
    codes = encode_array(quantizer, x, folder, packing=data.draw(st.sampled_from(PACKINGS)), zero_nan=True)
    dtype = data.draw(st.sampled_from(["F32", "F64", "F16"]))
    whole = decode_file(quantizer, codes, dtype=dtype).read_bytes()

    y = st_numpy.load(whole)["data"]
    assert y.shape == x.shape
    expected = twin.codes_of(twin.bits_of(vectors_of(x, quantizer), config_of(quantizer)), config_of(quantizer))
    assert np.array_equal(twin.vectors_of(y, quantizer.channel_first), expected.astype(y.dtype))

    for _ in range(3):
        with working_in(data.draw(st.sampled_from(BLOCK_VALUES)), data.draw(st.sampled_from(THREADS))):
            assert decode_file(quantizer, codes, dtype=dtype).read_bytes() == whole
            assert np.array_equal(np.load(decode_file(quantizer, codes, ".npy", dtype=dtype)), y)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_both_layouts_give_the_same_codes(data: st.DataObject, folder: Path) -> None:
    quantizer = data.draw(quantizers().filter(lambda quantizer: quantizer.channel_first is False))
    x = data.draw(tensors(quantizer).filter(lambda x: x.ndim >= 3))
    packing = data.draw(st.sampled_from(PACKINGS))
    last = codes_bytes(encode_array(quantizer, x, folder, packing=packing, zero_nan=True))
    with working_in(data.draw(st.sampled_from(BLOCK_VALUES)), data.draw(st.sampled_from(THREADS))):
        moved = np.moveaxis(x, -1, 1)
        first = encode_array(quantizer, moved, folder, packing=packing, zero_nan=True, layout="channel-first")
        assert codes_bytes(first) == last
        y = st_numpy.load_file(decode_file(quantizer, first))["data"]
    assert y.shape == moved.shape


# With a matrix product


def integers(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-3, 4, shape).astype(np.float32)


@st.composite
def linear_quantizers(draw: st.DrawFn) -> Quantizer:
    """Projections and rotations of small integers: exact in float32 whatever the order of summation."""
    bits, codebooks, dim = draw(st.integers(1, 10)), draw(st.integers(1, 3)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = {}
    if draw(st.booleans()):
        weights = {
            "project_in.weight": integers(rng, bits * codebooks, dim),
            "project_out.weight": integers(rng, dim, bits * codebooks),
        }
        if draw(st.booleans()):
            weights |= {"project_in.bias": integers(rng, bits * codebooks), "project_out.bias": integers(rng, dim)}
    if not weights or draw(st.booleans()):
        weights["orthogonal_rot"] = np.eye(bits, dtype=np.float32)[rng.permutation(bits)]
    return Quantizer(
        dim=dim if "project_in.weight" in weights else bits * codebooks,
        codebook_dim=bits,
        num_codebooks=codebooks,
        codebook_scale=draw(st.sampled_from([1.0, 2.0, 0.5])),
        channel_first=draw(st.sampled_from([None, True, False])),
        bit_order=draw(st.sampled_from(["msb", "lsb"])),
        weights=weights,
    )


def twin_latents(x: Array, quantizer: Quantizer) -> Array:
    """z [n, B] by the twin's product and a plain loop over codebooks."""
    weights = quantizer.weights
    z = vectors_of(x, quantizer)
    if quantizer.has_projections:
        z = twin.project(z, weights["project_in.weight"], weights.get("project_in.bias"))
    if quantizer.has_rotation:
        fields = z.reshape(len(z), quantizer.num_codebooks, quantizer.codebook_dim)
        z = np.stack([field @ weights["orthogonal_rot"] for field in fields.astype(np.float64)] or [fields])
    return z.reshape(-1, quantizer.bits_per_vector).astype(np.float32)


def twin_decoded(bits: list[list[int]], quantizer: Quantizer) -> Array:
    weights = quantizer.weights
    y = twin.codes_of(bits, config_of(quantizer))
    if quantizer.has_rotation:
        fields = y.reshape(len(y), quantizer.num_codebooks, quantizer.codebook_dim)
        y = (fields @ weights["orthogonal_rot"].T).reshape(y.shape)
    if quantizer.has_projections:
        y = twin.project(y, weights["project_out.weight"], weights.get("project_out.bias"))
    return y


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_products_of_integers_are_the_twin_however_they_are_cut(data: st.DataObject, folder: Path) -> None:
    quantizer = data.draw(linear_quantizers())
    x = data.draw(tensors(quantizer, specials=False))
    packing = data.draw(st.sampled_from(PACKINGS))
    whole = but_for_the_source(encode_array(quantizer, x.astype(np.float32), folder, packing=packing))
    bits = twin.bits_of(twin_latents(x, quantizer), config_of(quantizer))
    ((_, found),) = twin.read_codes_file(folder / "x.codes.safetensors").values()
    assert found == bits
    decoded = decode_file(quantizer, folder / "x.codes.safetensors").read_bytes()
    y = st_numpy.load(decoded)["data"]
    assert y.shape == x.shape
    assert np.array_equal(twin.vectors_of(y, quantizer.channel_first), twin_decoded(bits, quantizer))

    for _ in range(2):
        with working_in(data.draw(st.sampled_from(BLOCK_VALUES)), data.draw(st.sampled_from(THREADS))):
            container = data.draw(st.sampled_from(list(CONTAINERS)))
            dtype = FLOATS[data.draw(st.sampled_from(list(FLOATS)))]
            again = encode_array(quantizer, x.astype(dtype), folder, container, packing=packing)
            assert codes_bytes(again) == whole[1]
            again = encode_array(quantizer, x.astype(np.float32), folder, container, packing=packing)
            assert but_for_the_source(again) == whole
            assert decode_file(quantizer, again).read_bytes() == decoded


# A product of real numbers in blocks of other sizes may take another path through BLAS. Measured for 256 -> 18 -> 256
# and 3000 vectors: blocks of one vector (a matrix-vector product) decode to values up to 2.0e-7 of the largest away,
# blocks of 2 to 1000 vectors to the same bits; no token differs. So tokens are held to exactness where |z| > MARGIN,
# decoded values to CLOSE of the largest.
MARGIN, CLOSE = 1e-5, 1e-6


@pytest.mark.parametrize("layout", ["channel-last", "channel-first"])
@pytest.mark.parametrize("block_values", [1, 4000, 100_000, 1 << 30])
def test_products_of_reals_agree_to_rounding(block_values: int, layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weights = {
        "project_in.weight": rng.standard_normal((18, 256)).astype(np.float32) / 16,
        "project_in.bias": rng.standard_normal(18).astype(np.float32),
        "project_out.weight": rng.standard_normal((256, 18)).astype(np.float32),
    }
    quantizer = Quantizer(dim=256, codebook_dim=18, channel_first=layout == "channel-first", weights=weights)
    x = rng.standard_normal((2, 256, 333) if quantizer.channel_first else (2, 333, 256)).astype(np.float32)
    whole = encode_array(quantizer, x, tmp_path)
    decoded = st_numpy.load_file(decode_file(quantizer, whole))["data"]
    expected = np.array(twin.read_codes_file(whole)["data"][1])
    with working_in(block_values, 2):
        again = st_numpy.load_file(decode_file(quantizer, whole))["data"]
        found = np.array(twin.read_codes_file(encode_array(quantizer, x, tmp_path))["data"][1])
    vectors = np.moveaxis(x, 1, -1) if quantizer.channel_first else x
    z = vectors.reshape(-1, 256).astype(np.float64) @ weights["project_in.weight"].T + weights["project_in.bias"]
    clear = np.abs(z) > MARGIN
    assert clear.mean() > 0.999
    assert np.array_equal(found[clear], expected[clear])
    assert np.array_equal(expected[clear], (z > 0)[clear])
    assert np.abs(again - decoded).max() <= CLOSE * np.abs(decoded).max()


# Shapes


SHAPES = [(6,), (1, 6), (0, 6), (7, 6), (0, 3, 6), (3, 0, 6), (0, 6, 2, 3), (2, 6, 0, 3), (2, 6, 3, 0), (0, 6, 0, 2, 0)]
SHAPES += [(2, 6, 2, 3), (1, 6, 1, 1), (2, 6, 1, 2, 3), (1, 6, 40, 50)]
ROTATED = Quantizer(dim=6, codebook_dim=3, num_codebooks=2, weights={"orthogonal_rot": np.eye(3, dtype=np.float32)})


@pytest.mark.parametrize("quantizer", [Quantizer(dim=6, codebook_dim=3, num_codebooks=2), ROTATED], ids=["np", "torch"])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_ndim_and_empty_tensors(
    shape: tuple[int, ...], container: str, quantizer: Quantizer, tmp_path: Path
) -> None:
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = np.where(x > 0, np.float32(1), np.float32(-1))
    for packing in PACKINGS:
        codes = encode_array(quantizer, x, tmp_path, container, packing=packing)
        ((entry, bits),) = twin.read_codes_file(codes).values()
        assert tuple(entry["shape"]) == twin.index_shape(shape, config_of(quantizer))
        assert bits == (twin.vectors_of(x, None) > 0).astype(int).tolist()
        assert np.array_equal(st_numpy.load_file(decode_file(quantizer, codes))["data"], expected)
        assert np.array_equal(np.load(decode_file(quantizer, codes, ".npy")), expected)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("outer", "inner"), [(1, 70_001), (2, 9_973), (3, 4096)])
@pytest.mark.parametrize("block_values", [500, 5_000, 100_000])
def test_an_item_larger_than_a_block_is_cut(
    outer: int, inner: int, packing: str, block_values: int, tmp_path: Path
) -> None:
    """Channel-first with few items: blocks are parts of the positions, a run for every channel."""
    quantizer = Quantizer(dim=18, codebook_dim=18, channel_first=True)
    x = np.random.default_rng(2).standard_normal((outer, 18, inner)).astype(np.float32)
    with working_in(max(block_values, 18 * inner // 50), 2):
        codes = encode_array(quantizer, x, tmp_path, packing=packing)
        decoded = decode_file(quantizer, codes)
    bits = np.moveaxis(x > 0, 1, 2)
    if packing == "bits":
        assert codes_bytes(codes) == np.packbits(bits).tobytes()
    elif packing == "rows":
        assert codes_bytes(codes) == np.packbits(bits, axis=-1).tobytes()
    else:
        assert codes_bytes(codes) == (bits @ (1 << np.arange(17, -1, -1))).astype("<i4").tobytes()
    assert np.array_equal(st_numpy.load_file(decoded)["data"], np.where(x > 0, 1, -1))


def test_blocks_are_cut_as_given(tmp_path: Path) -> None:
    """The guard of every test above: `working_in` reaches the backends."""
    sizes: list[int] = []
    encode_block = NumpyBackend.encode

    def watched(self: NumpyBackend, raw: Array, spec: Any) -> Any:
        sizes.append(raw.nbytes)
        return encode_block(self, raw, spec)

    quantizer = Quantizer(dim=4, codebook_dim=4)
    with patch.object(NumpyBackend, "encode", watched), working_in(16, 1):
        encode_array(quantizer, np.zeros((100, 4), np.float32), tmp_path)
    assert len(sizes) == 25
    assert set(sizes) == {64}
    assert isinstance(backends.select("auto", ROTATED, "float32", decoding=False), TorchBackend)


# NaN


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_nan_is_counted_and_found(data: st.DataObject, folder: Path) -> None:
    """The same message whatever the blocks: all of them counted, the first in C order named."""
    quantizer = Quantizer(dim=3, codebook_dim=3, channel_first=data.draw(st.booleans()))
    shape = (2, 3, 41) if quantizer.channel_first else (2, 41, 3)
    places = data.draw(st.lists(st.integers(0, 245), min_size=1, max_size=6, unique=True))
    dtype = FLOATS[data.draw(st.sampled_from(list(FLOATS)))]
    x = np.ones(shape, dtype)
    x.reshape(-1)[places] = data.draw(st.sampled_from([np.nan, -np.nan]))
    first = [int(axis) for axis in np.unravel_index(min(places), shape)]
    container = data.draw(st.sampled_from(list(CONTAINERS)))
    with working_in(data.draw(st.sampled_from(BLOCK_VALUES)), data.draw(st.sampled_from(THREADS))):
        with pytest.raises(LfqError) as raised:
            encode_array(quantizer, x, folder, container)
        assert f"'data' holds {len(places)} NaN, the first at {first}" in raised.value.message
        encode_array(quantizer, x, folder, container, zero_nan=True)
    above = np.moveaxis(x > 0, 1, 2) if quantizer.channel_first else x > 0
    assert codes_bytes(folder / "x.codes.safetensors") == np.packbits(above).tobytes()


def test_signalling_nan_is_nan(tmp_path: Path) -> None:
    """Patterns whose first mantissa bit is clear: comparing or converting them may set a floating-point flag."""
    quantizer = Quantizer(dim=8, codebook_dim=8, spherical=True)
    for name, pattern in {"F16": 0x7D01, "F32": 0x7F800001, "F64": 0x7FF0000000000001}.items():
        x = np.ones((3, 8), FLOATS[name])
        x.view(f"<u{x.itemsize}")[1, 2] = pattern
        with pytest.raises(LfqError, match=r"holds 1 NaN, the first at \[1, 2\]"):
            encode_array(quantizer, x, tmp_path)
        codes = encode_array(quantizer, x, tmp_path, zero_nan=True)
        assert codes_bytes(codes) == b"\xff\x00\xff"


@given(count=st.integers(0, 9), wanted=st.integers(0, 9), fails=st.integers(0, 12))
def test_one_ahead_is_in_order_and_never_two_at_once(count: int, wanted: int, fails: int) -> None:
    """At most one item further than what the caller has asked for; nothing runs once the caller has gone."""
    begun: list[int] = []
    ended: list[int] = []

    def work(item: int) -> int:
        assert begun == ended
        begun.append(item)
        if item == fails:
            raise ValueError("this one")
        time.sleep(0.001)
        ended.append(item)
        return item

    seen: list[int] = []
    with workers.start_workers() as pool, closing(pool.one_ahead(work, range(count))) as done:
        try:
            for item in done:
                seen.append(item)
                if len(seen) >= wanted:
                    break
        except ValueError:
            assert fails < count
        done.close()
        assert begun[: len(ended)] == ended
        assert seen == list(range(len(seen)))
        assert len(begun) <= len(seen) + 1 + (not seen)
