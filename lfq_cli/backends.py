"""Where arithmetic runs. A backend turns one block of floats into a run of the stream, and back.

Blocks are [outer, channels, inner] (layout.py). Without projection and rotation bits are a comparison, which numpy
does; with them the torch modules of `nn` compute, the one owner of the matrix product.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from einops import rearrange

from lfq_cli import bits as packed_bits
from lfq_cli import kernels
from lfq_cli.bits import Packed
from lfq_cli.cpus import threads
from lfq_cli.errors import DeviceError, LfqNote
from lfq_cli.floats import FloatFormat, Floats, Raw, from_float32, has_extremes, has_nan, positive, to_float32
from lfq_cli.numerics import bits_by_formula, residual_bits, residual_codes, residual_latents
from lfq_cli.quantizer import Quantizer

if TYPE_CHECKING:
    import torch


BLOCK_VALUES = 1 << 20
"""What is computed stays in cache, and a block is worth its interpreted lines. Encoding 1 GiB with 2^19, 2^20, 2^22 and
2^23 values: 4.7, 5.0, 3.5, - GB/s (float32, 512 -> 18), 1.9, 2.0, 1.7, 1.1 GB/s (bfloat16); two cores of an AMD EPYC.
"""


_VALUES_OF_ALL_THREADS = 1 << 21
"""Memory with 64 threads: 57 MiB without a projection and 276 MiB with one; with 2^23 values 78 and 342 MiB."""


def _block_values() -> int:
    """Values of a block: fewer where many threads have one each, so that memory does not grow with them."""
    return min(BLOCK_VALUES, max(1 << 14, _VALUES_OF_ALL_THREADS // threads()))


COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
LARGE_ITEM = 64
"""Positions of a channel-first item from which the product reads it as it lies, one item at a time: with 256 positions
1.9 times as fast as turning the block's floats first, with 16 positions 0.8 times (512 -> 18, one thread)."""


class Backend(Protocol):
    """One place to compute, in blocks of about `block_values` floats."""

    block_values: int
    quantizer: Quantizer
    compute_dtype: str
    """What is really computed in: float32 where there is nothing but a comparison, whatever was asked for."""
    forks: bool
    """Whether a forked process can go on with it: not where torch has threads or a device."""

    def working(self) -> AbstractContextManager[object]:
        """A block in which the backend works: what it has to set for the whole process is given back at its end."""
        ...

    def encode(self, raw: Raw, spec: FloatFormat) -> tuple[Packed, bool]:
        """raw [outer, dim, inner] as stored -> (stream of its outer * inner vectors, whether raw holds NaN).

        NaN gives bit 0.
        """
        ...

    def latents(self, raw: Raw, spec: FloatFormat) -> Floats:
        """raw [outer, dim, inner] as stored -> z [outer * inner, B], whose signs are the bits (but for extremes)."""
        ...

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """The stream of outer * inner vectors -> floats as stored [outer, dim, inner].

        They may lie in a buffer that this thread's next call writes over.
        """
        ...


def select(device: str, quantizer: Quantizer, compute_dtype: str, *, decoding: bool) -> Backend:
    """The backend for `device` ("auto", "cpu", "cuda", "cuda:N", "mps").

    compute_dtype: that of products, and of all that a residual quantizer does; where bits are signs and codes constants
    nothing is computed in it, on no device. Raises DeviceError where the device is not there, CheckpointError where
    values would depend on a scale that cannot be.
    """
    if compute_dtype not in COMPUTE_DTYPES:
        raise DeviceError(f"cannot compute in {compute_dtype!r}", f"expected {', '.join(COMPUTE_DTYPES)}")
    if decoding:
        quantizer.require_scale_within_clamp()
    compute_dtype = computed_in(quantizer, compute_dtype)
    if device in ("auto", "cpu"):
        if _is_plain_residual(quantizer) and compute_dtype == "float32":
            return ResidualNumpyBackend(quantizer)
        if quantizer.bits_are_signs and not (decoding and quantizer.code_magnitude() is None):
            return NumpyBackend(quantizer)
    return TorchBackend(quantizer, _torch_device(device), compute_dtype)


def computed_in(quantizer: Quantizer, asked_for: str) -> str:
    """The dtype that a quantizer's arithmetic is done in: float32 where it is none but a comparison."""
    return "float32" if quantizer.bits_are_signs else asked_for


def tell_unused(asked_for: str, quantizer: Quantizer) -> None:
    """Notes that nothing is computed in the dtype that was asked for."""
    if asked_for != computed_in(quantizer, asked_for):
        warnings.warn(
            f"--compute-dtype {asked_for} changes nothing: this quantizer only compares its inputs with 0",
            LfqNote,
            stacklevel=2,
        )


def _is_plain_residual(quantizer: Quantizer) -> bool:
    """Whether there is nothing but levels."""
    return _has_plain_levels(quantizer) and not quantizer.has_projections


def _has_plain_levels(quantizer: Quantizer) -> bool:
    """Whether levels are comparisons and subtractions of a constant."""
    shaped = quantizer.has_rotation or quantizer.spherical or quantizer.soft_clamp_input_value is not None
    return quantizer.is_residual and not quantizer.stacked and not shaped


class NumpyBackend:
    """Comparison and packing, a table look-up on the way back. Never imports torch."""

    compute_dtype = "float32"
    forks = True

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        self.block_values = _block_values()
        self._magnitude = quantizer.code_magnitude()
        self._scratch = threading.local()

    def working(self) -> AbstractContextManager[object]:
        """As in Backend; nothing is set."""
        return nullcontext()

    def encode(self, raw: Raw, spec: FloatFormat) -> tuple[Packed, bool]:
        """As in Backend."""
        formula = self._needs_formula(raw, spec)
        if not formula and (found := kernels.signs(raw, spec.name)) is not None:
            return found
        nan = has_nan(raw, spec)
        above = bits_by_formula(to_float32(raw, spec), self.quantizer) if formula else positive(raw, spec, has_nan=nan)
        if raw.shape[2] > 1:
            above = np.ascontiguousarray(rearrange(above, "o c i -> o i c"))
        return packed_bits.pack(above), nan

    def latents(self, raw: Raw, spec: FloatFormat) -> Floats:
        """As in Backend; a clamp or a sphere moves no sign."""
        return rearrange(to_float32(raw, spec), "o c i -> (o i) c")

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """As in Backend; there is nothing to project."""
        width = self.quantizer.bits_per_vector
        table = self._table(spec)
        if inner > 1:
            out = self._buffer(outer * inner * width, spec).reshape(outer, width, inner)
            if kernels.decode(stream, table[0, :1], table[255, :1], out):
                return out
            by_vector = packed_bits.unpack(stream, outer * inner, width)
            stream = packed_bits.pack(np.ascontiguousarray(rearrange(by_vector, "(o i) c -> o c i", o=outer)))
        octets = self._buffer(8 * stream.size, spec).reshape(-1, 8)
        np.take(table, stream, axis=0, out=octets, mode="clip")  # "raise" would go through a copy
        return octets.reshape(-1)[: outer * inner * width].reshape(outer, width, inner)

    def _buffer(self, count: int, spec: FloatFormat) -> Raw:
        """This thread's buffer for `count` values: fresh memory for every block would cost its page faults."""
        held: Raw | None = getattr(self._scratch, "values", None)
        if held is None or held.dtype != spec.storage or held.size < count:
            held = self._scratch.values = np.empty(count, spec.storage)
        return held[:count]

    def _needs_formula(self, raw: Raw, spec: FloatFormat) -> bool:
        """Whether clamping or normalising could make a bit other than `x > 0`."""
        quantizer = self.quantizer
        assumed = quantizer.assumed & {"spherical", "soft_clamp_input_value"}
        if assumed and has_extremes(raw, spec, *_SAFE_INPUTS):
            quantizer.require(*sorted(assumed), why=_WHY_EXTREMES)
        scales = [quantizer.codebook_scale] if quantizer.spherical else []
        if quantizer.soft_clamp_input_value is not None:
            scales.append(quantizer.soft_clamp_input_value)
        if not scales:
            return False
        usual = all(_USUAL_SCALES[0] <= scale <= _USUAL_SCALES[1] for scale in scales)
        return not usual or has_extremes(raw, spec, *_SAFE_INPUTS)

    def _table(self, spec: FloatFormat) -> Raw:
        """The eight values of every byte of the stream, as stored: [256, 8]."""
        assert self._magnitude is not None  # select() gives such quantizers to torch
        every_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
        return from_float32(np.where(every_byte, self._magnitude, -self._magnitude), spec)


class ResidualNumpyBackend:
    """A comparison and a subtraction for every level, sums of ±2^-level on the way back. Never imports torch."""

    compute_dtype = "float32"
    forks = True

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        self.block_values = _block_values()

    def working(self) -> AbstractContextManager[object]:
        """As in Backend; nothing is set."""
        return nullcontext()

    def encode(self, raw: Raw, spec: FloatFormat) -> tuple[Packed, bool]:
        """As in Backend."""
        if "soft_clamp_input_value" in self.quantizer.assumed and has_extremes(raw, spec, *_SAFE_INPUTS):
            self.quantizer.require("soft_clamp_input_value", why=_WHY_EXTREMES)
        found = kernels.residual(raw, spec.name, self.quantizer.codebook_dim, self.quantizer.num_quantizers or 1)
        if found is not None:
            return found
        return packed_bits.pack(residual_bits(to_float32(raw, spec), self.quantizer)), has_nan(raw, spec)

    def latents(self, raw: Raw, spec: FloatFormat) -> Floats:
        """As in Backend: what each level is left with."""
        return residual_latents(to_float32(raw, spec), self.quantizer)

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """As in Backend; there is nothing to project."""
        bits = packed_bits.unpack(stream, outer * inner, self.quantizer.bits_per_vector)
        values = rearrange(residual_codes(bits, self.quantizer), "(o i) c -> o c i", o=outer)
        return from_float32(np.ascontiguousarray(values), spec)


class _TorchSettings:
    """What torch has for the whole process: set when the first backend begins to work, restored when the last ends.

    Backends may work in several threads at once; each restoring what it found would leave another's settings behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = self._holders_of_one_thread = 0
        self._precision = ""
        self._count = 0

    @contextmanager
    def held(self, *, one_thread: bool) -> Iterator[None]:
        """A block in which products are exact and, if asked for, each is done by one thread."""
        with self._lock:
            self._begin(one_thread=one_thread)
        try:
            yield
        finally:
            with self._lock:
                self._end(one_thread=one_thread)

    def _begin(self, *, one_thread: bool) -> None:
        import torch

        if not self._holders:
            self._precision = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")  # TF32 changes tokens
        self._holders += 1
        if one_thread:
            if not self._holders_of_one_thread:
                self._count = torch.get_num_threads()
            self._holders_of_one_thread += 1
            torch.set_num_threads(1)  # several blocks at once overlap with reading: 1.7 times torch's own threads

    def _end(self, *, one_thread: bool) -> None:
        import torch

        self._holders -= 1
        if not self._holders:
            torch.set_float32_matmul_precision(self._precision)
        if one_thread:
            self._holders_of_one_thread -= 1
            if not self._holders_of_one_thread:
                torch.set_num_threads(self._count)


_torch_settings = _TorchSettings()


class TorchBackend:
    """The torch module of the quantizer on a device, in a compute dtype."""

    forks = False

    def __init__(self, quantizer: Quantizer, device: torch.device, compute_dtype: str) -> None:
        import torch

        from lfq_cli.nn.saved import module_of
        from lfq_cli.nn.turned import turn_projections

        self.quantizer = quantizer
        self.compute_dtype = compute_dtype
        widened = -(-quantizer.bits_per_vector // quantizer.dim)  # by levels, which are computed side by side
        # a device wants larger blocks: 16 MB of float32 hide what it costs to start its work
        self.block_values = max(1, (_block_values() if device.type == "cpu" else 4 * BLOCK_VALUES) // widened)
        self._dtype: torch.dtype = getattr(torch, compute_dtype)
        self._device = device
        self._module: Any = module_of(quantizer).to(device, self._dtype)
        # the same bits and sums as the module's (tests/test_numerics.py), in a third of the time
        self._numpy_levels = device.type == "cpu" and compute_dtype == "float32" and _has_plain_levels(quantizer)
        if device.type == "cpu":
            turn_projections(self._module)

    def working(self) -> AbstractContextManager[object]:
        """As in Backend."""
        return _torch_settings.held(one_thread=self._device.type == "cpu")

    def encode(self, raw: Raw, spec: FloatFormat) -> tuple[Packed, bool]:
        """As in Backend."""
        with self._computing():
            if self._device.type != "cpu":
                return self._of_vectors(self._packed, _as_tensor(raw, spec)).numpy(), has_nan(raw, spec)
            z = self._of_vectors(self._projected if self._numpy_levels else self._latents, _as_tensor(raw, spec))
            # a NaN in x is one in z, where few others are; a maximum is NaN if one of them is
            nan = z.numel() > 0 and bool(z.max().isnan()) and has_nan(raw, spec)
            bits = residual_bits(z.numpy()[..., None], self.quantizer) if self._numpy_levels else (z > 0).numpy()
            return packed_bits.pack(bits), nan

    def latents(self, raw: Raw, spec: FloatFormat) -> Floats:
        """As in Backend."""
        with self._computing():
            return np.asarray(self._of_vectors(self._latents, _as_tensor(raw, spec)).numpy())

    def decode(self, stream: Packed, outer: int, inner: int, spec: FloatFormat, *, project_out: bool) -> Raw:
        """As in Backend."""
        import torch

        width = self.quantizer.bits_per_vector
        with self._computing():
            by_vector = packed_bits.unpack(stream, outer * inner, width)
            if self._numpy_levels:
                codes = torch.from_numpy(residual_codes(by_vector, self.quantizer))
                y = self._module.unproject(codes) if project_out else codes
            else:
                values = partial(self._values, project_out=project_out)
                y = self._in_parts(values, torch.from_numpy(by_vector))
            y = rearrange(y, "(o i) c -> o c i", o=outer).contiguous()
        return from_float32(y.numpy(), spec)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Without gradients, and without an autocast of the caller's, which would change the compute dtype."""
        import torch

        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
            yield

    def _of_vectors(self, compute: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """compute(vectors) for x [outer, dim, inner], whose floats stay where they are if items are large enough."""
        import torch

        if self._device.type != "cpu" or x.shape[2] < LARGE_ITEM:
            return self._in_parts(compute, rearrange(x, "o c i -> (o i) c"))
        return torch.cat([self._in_parts(compute, rearrange(item, "c i -> i c")) for item in x])

    def _projected(self, x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self._module.project(x.to(self._dtype))
        return z

    def _latents(self, x: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = self._module.latents(x.to(self._device).to(self._dtype))
        return latents.cpu()

    def _packed(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, dim] -> the stream of its n vectors, packed on the device: an eighth of the bytes to move."""
        return pack_on_device(self._module.latents(x.to(self._device).to(self._dtype)) > 0).cpu()

    def _values(self, bits: torch.Tensor, *, project_out: bool) -> torch.Tensor:
        values: torch.Tensor = self._module.decode_bits(bits.to(self._device), project_out=project_out)
        return values.float().cpu()

    def _in_parts(self, compute: Callable[[torch.Tensor], torch.Tensor], vectors: torch.Tensor) -> torch.Tensor:
        """compute(vectors [n, ...]), on the CPU; of halves, with a note, where the device's memory is too small.

        Halves are of whole eights of vectors, so that their streams can be joined.
        """
        import torch

        try:
            return compute(vectors)
        except torch.cuda.OutOfMemoryError as error:  # on every device; torch.OutOfMemoryError from 2.5 on
            count = len(vectors)
            if count <= 8:
                raise DeviceError(f"{self._device}: out of memory for {count} vectors", "--device cpu") from error
        warnings.warn(f"{self._device}: out of memory for {count:,} vectors at once; halving", LfqNote, stacklevel=2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self.block_values = max(1, self.block_values // 2)  # for the tensors that follow
        half = -(-count // 16) * 8
        halves = vectors[:half], vectors[half:]
        return torch.cat([self._in_parts(compute, half) for half in halves])


def _as_tensor(raw: Raw, spec: FloatFormat) -> torch.Tensor:
    """raw as stored -> a tensor on the CPU that shares its memory, in torch's own dtype where it has one."""
    import torch

    dtypes = {"F16": torch.float16, "BF16": torch.bfloat16}
    if spec.name in dtypes:  # torch widens them 10 times as fast as numpy
        return torch.from_numpy(raw.view(np.int16)).view(dtypes[spec.name])
    return torch.from_numpy(to_float32(raw, spec))


def pack_on_device(above: torch.Tensor) -> torch.Tensor:
    """bits [n, B] bool on any device -> their stream, uint8, on that device: an eighth of the bytes to move."""
    import torch
    from torch.nn.functional import pad

    flat = above.flatten().to(torch.uint8)
    octets = pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=above.device)
    return (octets * weights).sum(-1, dtype=torch.uint8)


def _local_rank() -> int:
    """Which of this machine's devices is ours: what torchrun says, if it does."""
    rank = os.environ.get("LOCAL_RANK", "0")
    return int(rank) if rank.isdecimal() else 0


def _torch_device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device(f"cuda:{_local_rank()}" if torch.cuda.is_available() else "cpu")
    if "," in name:
        count = name.count(",") + 1
        raise DeviceError(
            f"--device {name}: a process works on one device",
            f"torchrun --nproc-per-node {count} --no-python lfq encode ... --shard auto --device auto",
        )
    try:
        device = torch.device(name)
    except RuntimeError as reason:
        raise DeviceError(f"--device {name} is no device", "expected auto, cpu, cuda, cuda:N or mps") from reason
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise DeviceError(f"--device {name} is not there", "--device auto takes what is")
    return device


# Normalising and clamping keep signs, but for values at the ends of float32: beside infinity or a huge value
# everything becomes 0, and a subnormal may. With inputs and scales in these bounds and at most 64 values a norm,
# neither happens: 2^-80 / (2^3 * 2^40) * 2^-20 is still a normal number.
_SAFE_INPUTS = 2.0**-80, 2.0**40
_WHY_EXTREMES = "; infinite, huge or subnormal values in the input make it matter"
_USUAL_SCALES = 2.0**-20, 2.0**20
