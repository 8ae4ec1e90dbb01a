"""The torch modules of `nn` on a device, in a pipeline: the host reads and writes, and never computes on floats.

Encoding: stored floats are read into pinned memory and copied; the device widens, transposes and projects them, finds
NaN, compares and packs, and returns the stream and two counts. Decoding: the stream is copied; the device expands and
projects it, and converts to the output's dtype and layout; floats return to pinned memory and are written from there.
Several blocks are in flight at once (lanes.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from struct import Struct
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lfq_cli.backends.backend import CodesToRead, FloatsToRead, widening
from lfq_cli.backends.halving import Halving
from lfq_cli.backends.lanes import Lane, Ring, Start
from lfq_cli.backends.torch_settings import exact_products
from lfq_cli.bits import Packed, StreamJoiner, stream_bytes
from lfq_cli.cpus import threads
from lfq_cli.floats import FORMATS, FloatFormat, Floats, Raw, from_float32, to_float32
from lfq_cli.layout import Block
from lfq_cli.quantizer import Quantizer

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

BLOCK_BYTES = 32 << 20
"""Of floats as stored: starting a block's work takes 0.5 ms of Python, which only one thread runs at a time. Encoding
512 -> 18 on an H100 with 16 cores: float32 with 16, 32 and 64 MiB 11, 20 and 24 GB/s; float16 with 8, 16 and 32 MiB 6,
12 and 21 GB/s.
"""

MOST_LANES = 10
"""Two more than there are threads; more pinned memory is not faster."""

_NAN_COUNTS = Struct("=qq")
"""Before a piece's stream: how many of its values and of its latents are NaN."""

_MPS_FORMATS = frozenset({"F32", "F16", "BF16"})


class DeviceBackend:
    """The torch module of the quantizer on a device, in a compute dtype.

    A Backend that has blocks read into its own memory, and computes several while others are read. On the CPU
    everything is the same except that nothing overlaps: the tests run it there.
    """

    forks = False

    def __init__(self, quantizer: Quantizer, device: torch.device, compute_dtype: str) -> None:
        import torch

        from lfq_cli.nn.saved import module_of

        self.quantizer = quantizer
        self.compute_dtype = compute_dtype
        self._dtype: torch.dtype = getattr(torch, compute_dtype)
        self._device = device
        self._formats = _MPS_FORMATS if device.type == "mps" else frozenset(FORMATS)
        self._module: Any = module_of(quantizer).to(device, self._dtype)
        self._ring = Ring(device, min(threads() + 2, MOST_LANES))
        self._own = threading.local()
        self._halving = Halving(str(device), torch.cuda.empty_cache if device.type == "cuda" else lambda: None)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # other streams must not use the weights before they are there

    def block_values(self, spec: FloatFormat) -> int:
        """As in Backend."""
        return BLOCK_BYTES // spec.itemsize // widening(self.quantizer)

    def working(self) -> AbstractContextManager[object]:
        """As in Backend."""
        return exact_products(one_thread=self._device.type == "cpu")

    def encode_blocks(self, blocks: Iterable[FloatsToRead], spec: FloatFormat) -> Generator[tuple[Packed, int, int]]:
        """Each block's stream, in order, and the counts of NaN in its values and in its latents."""

        def start_of(block: FloatsToRead) -> Start[tuple[Packed, int, int]]:
            def start(lane: Lane) -> Callable[[], tuple[Packed, int, int]]:
                nbytes = prod(block.shape) * spec.itemsize
                raw = lane.taken.get(nbytes).numpy().view(spec.storage).reshape(block.shape)
                block.read_into(raw)
                return self._start_encoding(lane, raw, spec)

            return start

        return self._ring.run(map(start_of, blocks))

    def decode_blocks(self, blocks: Iterable[CodesToRead], spec: FloatFormat, *, project_out: bool) -> Generator[Raw]:
        """Each block's floats, in order, as stored [outer, dim, inner]; valid until the next block is requested."""

        def start_of(block: CodesToRead) -> Start[Raw]:
            return lambda lane: self._start_decoding(lane, block, spec, project_out=project_out)

        return self._ring.run(map(start_of, blocks))

    def encode(self, raw: Raw, spec: FloatFormat) -> tuple[Packed, bool]:
        """As in Backend, for floats already in memory, one block at a time."""
        stream, nan_values, nan_latents = self._alone(lambda lane: self._start_encoding(lane, raw, spec))
        return stream, nan_values + nan_latents > 0

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """As in Backend, one block at a time."""
        block = CodesToRead(outer, inner, lambda: stream)
        return self._alone(lambda lane: self._start_decoding(lane, block, spec, project_out=project_out))

    def latents(self, raw: Raw, spec: FloatFormat) -> Floats:
        """As in Backend, one block at a time."""
        import torch

        x = self._host_tensor(raw, spec)

        def latents(piece: Block) -> torch.Tensor:
            vectors, _ = self._vectors(x[piece.outer, :, piece.inner])
            z: torch.Tensor = self._module.latents(vectors)
            return z.cpu()

        with self._computing():
            return np.asarray(torch.cat(list(self._halving.compute(latents, _whole(raw.shape[0], raw.shape[2])))))

    def _alone(self, start: Start[T]) -> T:
        """The result of a start, on a lane that is this thread's: its memory is valid until the next call."""
        lane: Lane | None = getattr(self._own, "lane", None)
        if lane is None:
            lane = self._own.lane = Lane(self._device)
        with lane.settled_on_error():
            finish = start(lane)
        lane.stream.mark()
        lane.stream.wait()
        return finish()

    def _start_encoding(self, lane: Lane, raw: Raw, spec: FloatFormat) -> Callable[[], tuple[Packed, int, int]]:
        """Queues a stored block [outer, dim, inner]; returns a function that waits for the stream and the counts of
        NaN in values and latents.
        """
        import torch

        from lfq_cli.nn import blocks

        x = self._host_tensor(raw, spec)
        asynchronous = lane.stream.asynchronous

        def encode(piece: Block) -> tuple[int, torch.Tensor]:
            vectors, nan_values = self._vectors(x[piece.outer, :, piece.inner], asynchronous=asynchronous)
            latents = self._module.latents(vectors)
            return piece.vectors, torch.cat([nan_values, blocks.count_nan(latents), blocks.pack(latents > 0)])

        with self._computing(lane):
            done = list(self._halving.compute(encode, _whole(raw.shape[0], raw.shape[2])))
            given = lane.given.get(sum(part.numel() for _, part in done))
            given.copy_(torch.cat([part for _, part in done]), non_blocking=asynchronous)
        counts = [vectors for vectors, _ in done]
        return lambda: _joined(given.numpy(), counts, self.quantizer.bits_per_vector)

    def _start_decoding(
        self, lane: Lane, block: CodesToRead, spec: FloatFormat, *, project_out: bool
    ) -> Callable[[], Raw]:
        """Queues a block's stream; returns a function that waits for its floats as stored [outer, dim, inner]."""
        from lfq_cli.nn import blocks

        quantizer, outer, inner = self.quantizer, block.outer, block.inner
        width, asynchronous = quantizer.bits_per_vector, lane.stream.asynchronous
        made = spec if spec.name in self._formats else FORMATS["F32"]
        shape = outer, quantizer.dim if project_out else quantizer.code_dim, inner
        given = lane.given.get(prod(shape) * made.itemsize).view(blocks.DTYPES[made.name]).view(shape)
        packed = block.read()
        taken = lane.taken.get(packed.size)
        taken.numpy()[:] = packed

        def decode(piece: Block) -> None:
            first = (piece.outer.start * inner + piece.inner.start) * width
            end = first + piece.vectors * width
            stream = taken[first // 8 : -(-end // 8)].to(self._device, non_blocking=asynchronous)
            bits = blocks.unpack(stream, first % 8, piece.vectors, width)
            vectors = self._module.decode_bits(bits, project_out=project_out).to(given.dtype)
            y = blocks.from_vectors(vectors, piece.outer.stop - piece.outer.start).contiguous()
            given[piece.outer, :, piece.inner].copy_(y, non_blocking=asynchronous)

        with self._computing(lane):
            for _ in self._halving.compute(decode, _whole(outer, inner)):
                pass
        raw = lane.given.get(prod(shape) * made.itemsize).numpy().view(made.storage).reshape(shape)
        return lambda: raw if made is spec else from_float32(raw, spec)

    @contextmanager
    def _computing(self, lane: Lane | None = None) -> Iterator[None]:
        """On the lane's stream, without gradients, and without the caller's autocast."""
        import torch

        queueing = nullcontext() if lane is None else lane.stream.queueing()
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False), queueing:
            yield

    def _host_tensor(self, raw: Raw, spec: FloatFormat) -> torch.Tensor:
        """Floats as stored -> a tensor sharing their memory; a float32 copy where the device lacks the format."""
        import torch

        from lfq_cli.nn import blocks

        if spec.name not in self._formats:
            raw, spec = to_float32(raw, spec), FORMATS["F32"]
        return torch.from_numpy(raw.view(f"i{spec.itemsize}")).view(blocks.DTYPES[spec.name])

    def _vectors(self, x: torch.Tensor, *, asynchronous: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """x [outer, dim, inner] on the host -> its vectors [n, dim] on the device, and the count of NaN values.

        To float32 first, as everywhere: float64 gives another half-precision number if it is rounded only once.
        """
        from lfq_cli.nn import blocks

        there = x.to(self._device, non_blocking=asynchronous).float()
        return blocks.to_vectors(there).to(self._dtype), blocks.count_nan(there)


def _whole(outer: int, inner: int) -> Block:
    return Block(slice(0, outer), slice(0, inner))


def _joined(given: Packed, counts: list[int], width: int) -> tuple[Packed, int, int]:
    """Pieces, each with its counts of NaN and its stream -> one stream, and the total counts of NaN."""
    joiner, streams, nan_values, nan_latents, place = StreamJoiner(), [], 0, 0, 0
    for vectors in counts:
        begin = place + _NAN_COUNTS.size
        end = begin + stream_bytes(vectors, width)
        own_values, own_latents = _NAN_COUNTS.unpack(given[place:begin].tobytes())
        nan_values += own_values
        nan_latents += own_latents
        streams.append(joiner.join(given[begin:end], vectors * width))
        place = end
    return np.concatenate([*streams, joiner.finish()]), nan_values, nan_latents
