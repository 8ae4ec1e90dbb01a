"""Every quantizer, format and layout through the device's pipeline: what the plain definition gives.

On the CPU here; `make gpu` runs the same on CUDA (tests/device.py). Needs nothing but pytest beside the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import device
import numpy as np
import pytest
import torch
from grid import quantizers, routes
from grid.cells import Cell, Prepared

from lfq_cli import backends, floats, open_codes
from lfq_cli.backends import DeviceBackend, FloatsToRead, TorchBackend, device_backend, lanes
from lfq_cli.backends.halving import pieces
from lfq_cli.backends.lanes import Lane, Ring
from lfq_cli.bits import pack, unpack
from lfq_cli.cpus import use_threads
from lfq_cli.dtypes import PLAIN_FLOATS
from lfq_cli.errors import DeviceError, LfqNote, TensorError
from lfq_cli.floats import FORMATS
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.plan import Job
from lfq_cli.layout import Block
from lfq_cli.quantizer import Quantizer

RNG = np.random.default_rng(0)
CLEAR = 1e-5
"""How far from 0 a latent is whose bit does not depend on the order of a sum."""

PROJECTED = Quantizer(
    dim=12,
    codebook_dim=5,
    weights={
        "project_in.weight": RNG.standard_normal((5, 12)).astype(np.float32),
        "project_in.bias": RNG.standard_normal(5).astype(np.float32),
        "project_out.weight": RNG.standard_normal((12, 5)).astype(np.float32),
        "project_out.bias": RNG.standard_normal(12).astype(np.float32),
    },
)
LEVELS = Quantizer(dim=6, codebook_dim=6, num_quantizers=8)

QUICK = (
    "encode",
    "encode --packing rows",
    "encode --samples-per-file",
    "decode",
    "decode --no-project-out",
    "decode --dtype float16",
    "decode --dtype bfloat16",
    "decode --dtype float64",
    "verify --checkpoint --source",
    "load(), encode, decode",
)
ROUTES = [
    name
    for name, route in routes.ROUTES.items()
    if (name in QUICK if device.IS_CPU else route.command in ("encode", "decode", "verify", "load"))
]


@pytest.mark.slow
@pytest.mark.parametrize("name", quantizers.QUANTIZERS)
def test_every_quantizer(name: str, lfq: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    prepared = Prepared(quantizers.QUANTIZERS[name], tmp_path_factory.mktemp("quantizer"))
    for route in (routes.ROUTES[route] for route in ROUTES):
        if route.refused(quantizers.QUANTIZERS[name]) is not None:  # tests/test_grid.py
            continue
        with pytest.MonkeyPatch.context() as patches, device.selected():
            patches.chdir(tmp_path_factory.mktemp("cell"))
            route.run(Cell(prepared, lfq))


def test_no_quick_route_is_missing() -> None:
    assert set(QUICK) <= set(routes.ROUTES)


# Formats, layouts, blocks


def stored(values: np.ndarray, name: str) -> floats.Raw:
    """float32 -> the nearest value of a format, as stored."""
    from lfq_cli.nn.blocks import DTYPES

    spec = FORMATS[name]
    tensor = torch.from_numpy(values).to(DTYPES[name])
    return tensor.view(torch.uint8).numpy().view(spec.storage).reshape(values.shape)


def clear_bits_equal(quantizer: Quantizer, found: np.ndarray, expected: np.ndarray, latents: np.ndarray) -> None:
    """The streams agree wherever |z| is large enough for its sign to be certain, and that is nearly everywhere."""
    differ = unpack(found ^ expected, len(latents), quantizer.bits_per_vector)
    certain = np.abs(latents) > CLEAR
    assert certain.mean() > 0.9
    assert not differ[certain].any()


@pytest.mark.parametrize("quantizer", [PROJECTED, LEVELS], ids=["projected", "levels"])
@pytest.mark.parametrize("shape", [(37, 1), (1, 37), (5, 9), (3, 64)], ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_and_layout(name: str, shape: tuple[int, int], quantizer: Quantizer) -> None:
    outer, inner = shape
    values = RNG.standard_normal((outer, quantizer.dim, inner)).astype(np.float32)
    raw, spec = stored(values, name), FORMATS[name]
    plain, backend = TorchBackend(quantizer, "float32"), device.backend_on_device(quantizer)
    stream, has_nan = backend.encode(raw, spec)
    assert not has_nan
    expected, _ = plain.encode(raw, spec)
    if quantizer.has_projections:
        clear_bits_equal(quantizer, stream, expected, plain.latents(raw, spec))
    else:  # nothing is summed
        assert np.array_equal(stream, expected)
    np.testing.assert_allclose(backend.latents(raw, spec), plain.latents(raw, spec), rtol=1e-5, atol=1e-5)
    if name in PLAIN_FLOATS.values():
        for project_out in (True, False):
            made = backend.decode(expected, outer, inner, spec, project_out=project_out)
            right = plain.decode(expected, outer, inner, spec, project_out=project_out)
            assert made.dtype == right.dtype
            unit = {"F16": 1e-3, "BF16": 1e-2}.get(name, 1e-5)  # of a value rounded to the neighbour
            as_floats = [floats.to_float32(each, spec) for each in (made, right)]
            np.testing.assert_allclose(*as_floats, rtol=unit, atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_nan_is_counted_on_the_device(name: str, count: int) -> None:
    raw = stored(np.ones((4, 12, 5), np.float32), name)
    where = RNG.choice(raw.size, count, replace=False)
    raw.reshape(-1)[where] = stored(np.full(1, np.nan, np.float32), name)
    blocks = [FloatsToRead(raw.shape, lambda into: np.copyto(into, raw))]
    with closing(device.backend_on_device(PROJECTED).encode_blocks(blocks, FORMATS[name])) as encoded:
        ((_, nan_values, nan_latents),) = encoded
    assert nan_values == count
    assert nan_latents == 5 * len({(at // 60, at % 5) for at in where})  # all 5 of each vector that holds NaN


@pytest.mark.parametrize("compute_dtype", ["bfloat16", "float16"])
def test_half_precision_is_what_the_module_computes(compute_dtype: str) -> None:
    raw = RNG.standard_normal((8000, 12, 1)).astype(np.float32)
    backend, plain = device.backend_on_device(PROJECTED, compute_dtype), TorchBackend(PROJECTED, compute_dtype)
    stream, _ = backend.encode(raw, FORMATS["F32"])
    expected, _ = plain.encode(raw, FORMATS["F32"])
    assert unpack(stream ^ expected, 8000, 5).mean() < 0.01
    exact, _ = TorchBackend(PROJECTED, "float32").encode(raw, FORMATS["F32"])
    assert unpack(stream ^ exact, 8000, 5).any()
    made = backend.decode(stream, 8000, 1, FORMATS["F32"], project_out=True)
    right = plain.decode(stream, 8000, 1, FORMATS["F32"], project_out=True)
    np.testing.assert_allclose(made, right, rtol=2e-2, atol=2e-2)


def test_a_device_without_a_format_is_given_another() -> None:
    """As MPS is, which has no float64 and no float of 8 bits."""
    backend = device.backend_on_device(PROJECTED)
    raw = RNG.standard_normal((40, 12, 1))
    expected, _ = backend.encode(raw, FORMATS["F64"])
    values = backend.decode(expected, 40, 1, FORMATS["F64"], project_out=True).copy()
    backend._formats = frozenset({"F32", "F16", "BF16"})
    stream, _ = backend.encode(raw, FORMATS["F64"])
    assert np.array_equal(stream, expected)
    again = backend.decode(stream, 40, 1, FORMATS["F64"], project_out=True)
    assert again.dtype == np.float64
    assert np.array_equal(again, values)


# Files: any blocks, any number of threads


@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize("block_values", [1, 100, 1000, 1 << 20])
@pytest.mark.parametrize("shape", [(700, 12), (2, 12, 37, 9)], ids=str)
def test_files_in_any_blocks(shape: tuple[int, ...], block_values: int, threads: int, tmp_path: Path) -> None:
    if block_values == 1:
        shape = (*shape[:-1], min(shape[-1], 12))  # a block for every vector takes its time
    np.save(tmp_path / "x.npy", RNG.standard_normal(shape))
    plain, codes = tmp_path / "plain.codes.safetensors", tmp_path / "x.codes.safetensors"
    encode_file(tmp_path / "x.npy", plain)
    decode_file(plain, tmp_path / "plain.npy")
    with device.selected(block_values=block_values), use_threads(threads):
        encode_file(tmp_path / "x.npy", codes)
        decode_file(plain, tmp_path / "y.npy")
    if device.IS_CPU:
        assert codes.read_bytes() == plain.read_bytes()
    found, expected = np.load(tmp_path / "y.npy"), np.load(tmp_path / "plain.npy")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def with_nan(tmp_path: Path) -> Path:
    x = RNG.standard_normal((2, 12, 30, 7)).astype(np.float32)
    x[1, 4, 3, 2] = x[1, 11, 29, 6] = np.nan
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


def test_nan_of_a_file_is_named_as_on_the_cpu(with_nan: Path) -> None:
    with device.selected(block_values=300), pytest.raises(TensorError) as raised:
        encode_file(with_nan, with_nan.with_suffix(".codes.safetensors"))
    assert raised.value.message == f"{with_nan}: 'data' holds 2 NaN, the first at [1, 4, 3, 2]"


def test_nan_of_a_file_is_counted_as_on_the_cpu(with_nan: Path) -> None:
    codes = with_nan.with_suffix(".codes.safetensors")
    with device.selected(block_values=300):
        encode_file(with_nan, codes, zero_nan=True)
    with open_codes(codes) as file:
        assert file.header.made_from is not None
        assert file.header.made_from.zeroed == 2


def test_the_host_looks_at_no_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file to the device and back into a file: bytes are read and written, nothing else is done with them."""
    np.save(tmp_path / "x.npy", RNG.standard_normal((2, 12, 37, 9)).astype(np.float32))
    with device.selected(block_values=1000):
        for function in ("positive", "has_nan", "is_nan", "to_float32", "from_float32", "has_extremes"):
            for module in (floats, device_backend):
                if hasattr(module, function):
                    monkeypatch.setattr(module, function, None)
        monkeypatch.setattr("lfq_cli.pipeline.encode.read_block", None)
        encode_file(tmp_path / "x.npy", tmp_path / "x.codes.safetensors")
        for dtype in PLAIN_FLOATS.values():
            decode_file(tmp_path / "x.codes.safetensors", tmp_path / f"{dtype}.safetensors", dtype=dtype)


def test_a_file_that_ends_early_leaves_all_lanes(tmp_path: Path) -> None:
    """An error while a block is read: what is under way ends, and the lanes are used again."""
    backend = device.backend_on_device(PROJECTED)
    raw = RNG.standard_normal((50, 12, 1)).astype(np.float32)

    def refuse(into: floats.Raw) -> None:
        raise TensorError("ends early")

    whole = FloatsToRead(raw.shape, lambda into: np.copyto(into, raw))
    for _ in range(30):
        blocks = [whole, whole, FloatsToRead(raw.shape, refuse)]
        with pytest.raises(TensorError), closing(backend.encode_blocks(blocks, FORMATS["F32"])) as encoded:
            list(encoded)
    with closing(backend.encode_blocks([whole] * 30, FORMATS["F32"])) as encoded:
        assert len({stream.tobytes() for stream, *_ in encoded}) == 1


def encode_file(source: Path, codes: Path, **options: Any) -> None:
    (outcome,) = encode(PROJECTED, [Job(source, codes)], EncodeOptions(durable=False, **options))
    if outcome.error:
        raise outcome.error


def decode_file(codes: Path, out: Path, **options: Any) -> None:
    (outcome,) = decode(PROJECTED, [Job(codes, out)], DecodeOptions(durable=False, **options))
    if outcome.error:
        raise outcome.error


# Lanes


class WatchedStream:
    """A stream that knows whether work was queued that nobody waited for."""

    asynchronous = False

    def __init__(self, device: torch.device) -> None:
        self.queued = self.marked = False

    @contextmanager
    def queueing(self) -> Iterator[None]:
        self.queued, self.marked = True, False
        yield

    def mark(self) -> None:
        self.marked = True

    def wait(self) -> None:
        assert self.marked or not self.queued
        self.queued = False


def number_on(lane: Lane, k: int) -> Callable[[], int]:
    """Puts k into the lane's memory, and finds it there at the end; 49, 99, ... fail."""
    stream: Any = lane.stream
    assert not stream.queued
    memory = lane.taken.get(8).numpy().view(np.int64)
    memory[0] = k
    with stream.queueing():
        if k % 50 == 49:
            raise KeyError(k)

    def finish() -> int:
        assert not stream.queued
        return int(memory[0])

    return finish


def use_ring(ring: Ring, seed: int) -> None:
    """Twenty runs of some numbers each, of which some end early and some fail."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        first, count, stop = (int(rng.integers(1, most)) for most in (1000, 20, 40))
        wanted, done = range(first, first + count), []
        with closing(ring.run(partial(number_on, k=k) for k in wanted)) as results, suppress(KeyError):
            done += islice(results, stop)
        assert done == list(wanted)[: len(done)]
        assert len(done) == min(stop, count) or any(k % 50 == 49 for k in wanted)


@pytest.mark.parametrize("ring_size", [1, 2, 5])
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_memory_is_used_again_only_when_its_work_is_done(ring_size: int, threads: int) -> None:
    """Of every lane, by any number of threads, some of which stop early or fail; none waits for ever."""
    ring = Ring(torch.device("cpu"), ring_size)
    with patch.object(lanes, "stream_on", WatchedStream), ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(use_ring, ring, seed) for seed in range(threads)]
        for future in running:
            future.result(timeout=60)
    assert ring._free.qsize() == ring_size


def test_several_blocks_are_under_way_at_once() -> None:
    """The next blocks are read before the first is waited for: as many as there are lanes."""
    seen: list[str] = []

    def start_of(k: int) -> Callable[[Lane], Callable[[], None]]:
        def start(lane: Lane) -> Callable[[], None]:
            seen.append(f"start {k}")
            return lambda: seen.append(f"end {k}")

        return start

    list(Ring(torch.device("cpu"), 2).run(map(start_of, range(4))))
    assert seen == ["start 0", "start 1", "end 0", "start 2", "end 1", "start 3", "end 2", "end 3"]


# A device that runs out of memory


@pytest.mark.parametrize("most", [1, 5, 8, 100, 999, None])
@pytest.mark.parametrize("outer", [slice(0, 7), slice(3, 4)])
@pytest.mark.parametrize("inner", [slice(0, 1), slice(0, 20), slice(5, 18)])
def test_pieces_are_the_block_in_order(most: int | None, outer: slice, inner: slice) -> None:
    vectors = np.arange(10 * 20).reshape(10, 20)
    found = list(pieces(Block(outer, inner), most))
    assert all(piece.vectors <= (most or 1 << 30) for piece in found)
    joined = np.concatenate([vectors[piece.outer, piece.inner].ravel() for piece in found])
    assert np.array_equal(joined, vectors[outer, inner].ravel())


def out_of_memory_above(limit: int, compute: Any) -> Any:
    def limited(x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        result: torch.Tensor = compute(x, *rest, **more)
        return result

    return limited


def limited_to(limit: int) -> DeviceBackend:
    backend = device.backend_on_device(PROJECTED)
    backend._module.latents = out_of_memory_above(limit, backend._module.latents)
    backend._module.decode_bits = out_of_memory_above(limit, backend._module.decode_bits)
    return backend


@pytest.mark.parametrize("limit", [8, 17, 100, 999])
@pytest.mark.parametrize("inner", [1, 10, 125])
def test_halves_give_the_same(limit: int, inner: int) -> None:
    x = RNG.standard_normal((1000 // inner, 12, inner)).astype(np.float32)
    whole, small = device.backend_on_device(PROJECTED), limited_to(limit)
    expected, _ = whole.encode(x, FORMATS["F32"])
    values = whole.decode(expected, len(x), inner, FORMATS["F32"], project_out=True)
    with pytest.warns(LfqNote, match=r"out of memory for [\d,]+ vectors at once; halving") as caught:
        stream, _ = small.encode(x, FORMATS["F32"])
    assert np.array_equal(stream, expected)
    again = small.decode(stream, len(x), inner, FORMATS["F32"], project_out=True)  # in pieces from the start
    np.testing.assert_allclose(again, values, rtol=1e-5, atol=1e-5)
    small.encode(x, FORMATS["F32"])
    assert len(caught) <= 7  # 1000, 500, ..., 16: each size is found too large once


def test_a_vector_that_does_not_fit_is_an_error() -> None:
    with pytest.warns(LfqNote), pytest.raises(DeviceError, match="out of memory for 8 vectors"):
        limited_to(0).encode(RNG.standard_normal((16, 12, 1)).astype(np.float32), FORMATS["F32"])


@pytest.mark.skipif(device.IS_CPU, reason="needs the memory of a GPU: make gpu")
def test_a_gpu_that_really_runs_out() -> None:
    """The process gets less memory than a block takes, and then as much as ever."""
    wide = Quantizer(
        dim=4096,
        codebook_dim=16,
        weights={"project_in.weight": RNG.standard_normal((16, 4096)).astype(np.float32)}
        | {"project_out.weight": RNG.standard_normal((4096, 16)).astype(np.float32)},
    )
    backend = device.backend_on_device(wide)
    raw = RNG.standard_normal((1 << 14, 4096, 1)).astype(np.float32)  # 256 MiB
    expected, _ = backend.encode(raw, FORMATS["F32"])
    values = backend.decode(expected, len(raw), 1, FORMATS["F32"], project_out=True).copy()
    torch.cuda.empty_cache()
    found = torch.device(device.NAME).index or 0  # torch wants a number here
    total = torch.cuda.get_device_properties(found).total_memory
    held = torch.cuda.memory_reserved(found)
    torch.cuda.set_per_process_memory_fraction((held + (96 << 20)) / total, found)
    try:
        with pytest.warns(LfqNote, match="out of memory for 16,384 vectors at once; halving"):
            stream, _ = backend.encode(raw, FORMATS["F32"])
        again = backend.decode(stream, len(raw), 1, FORMATS["F32"], project_out=True)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, found)
    clear_bits_equal(wide, stream, expected, backend.latents(raw, FORMATS["F32"]))
    np.testing.assert_allclose(again, values, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(device.IS_CPU, reason="needs a GPU: make gpu")
def test_host_memory_is_pinned() -> None:
    lane = Lane(torch.device(device.NAME))
    assert lane.taken.get(1000).is_pinned()
    assert lane.given.get(1000).is_pinned()


# Which backend works


def test_the_command_takes_the_device_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "torch_device", lambda name: torch.device("meta" if name == "cuda" else name))
    made: list[Any] = []
    monkeypatch.setattr(backends, "DeviceBackend", lambda *arguments: made.append(arguments[1:]))
    backends.select("cuda", PROJECTED, "float32", decoding=False)
    assert made == [(torch.device("meta"), "float32")]
    assert isinstance(backends.select("cpu:0", PROJECTED, "float32", decoding=False), TorchBackend)


def test_bits_are_packed_as_the_stream_is() -> None:
    from lfq_cli.nn import blocks

    bits = RNG.random((57, 13)) > 0.5
    stream = blocks.pack(torch.from_numpy(bits).to(device.NAME)).cpu().numpy()
    assert np.array_equal(stream, pack(bits))
    part = torch.from_numpy(stream[13 * 7 // 8 :]).to(device.NAME)
    assert np.array_equal(blocks.unpack(part, 13 * 7 % 8, 50, 13).cpu().numpy(), bits[7:])
