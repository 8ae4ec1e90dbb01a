"""What is timed: ours, the floor under it, and the peer a user would pick. Each runs in a process of its own.

`python -m benchmarks.contenders NAME JSON-ARGUMENTS` prints one JSON object: seconds of the work alone (imports and
set-up left out), bytes of memory at the peak. Every function returns the work as a callable, so that set-up is not
timed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[], Any]

READ_BYTES = 1 << 20
PEER_BATCH_BYTES = 64 << 20  # of input: the fastest of 16, 64 and 256 MiB for the peer on two cores


# floors


def read_floor(path: str) -> Work:
    """Reads the file into one buffer."""

    def work() -> None:
        buffer = bytearray(READ_BYTES)
        with Path(path).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    return work


def files_floor(folder: str) -> Work:
    """Opens, reads and closes every file below the folder; their names are known before."""
    paths = sorted(str(path) for path in Path(folder).rglob("*.npy"))

    def work() -> None:
        buffer = bytearray(READ_BYTES)
        for path in paths:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - the plainest loop
                file.readinto(buffer)

    return work


def write_floor(nbytes: int, path: str) -> Work:
    """Writes so many bytes from one buffer; the system's buffers, as ours without fsync."""

    buffer = memoryview(os.urandom(READ_BYTES))
    _remove(path)

    def work() -> None:
        with Path(path).open("wb", buffering=0) as file:
            for _ in range(nbytes // READ_BYTES):
                file.write(buffer)
            file.write(buffer[: nbytes % READ_BYTES])

    return work


def copy_floor(folder: str, output: str) -> Work:
    """Copies the codes files of the folder into one, through one buffer."""
    _remove(output)

    def work() -> None:
        buffer = bytearray(READ_BYTES)
        with Path(output).open("wb", buffering=0) as out:
            for path in sorted(Path(folder).glob("*.safetensors")):
                with path.open("rb", buffering=0) as file:
                    while count := file.readinto(buffer):
                        out.write(memoryview(buffer)[:count])

    return work


def linear_floor(path: str, checkpoint: str) -> Work:
    """The bare matrix product of project_in on the same vectors as float32, in blocks of ours; they are in memory.

    With torch's own threads on every core.
    """
    import torch
    from safetensors import safe_open

    from lfq_cli.floats import FORMATS

    threads = torch.get_num_threads()
    quantizer, backend = _linear(checkpoint)
    torch.set_num_threads(threads)
    weight, bias = (torch.from_numpy(quantizer.weights[f"project_in.{part}"].copy()) for part in ("weight", "bias"))
    rows = max(1, backend.block_values(FORMATS["F32"]) // quantizer.dim)
    with safe_open(path, "pt") as file:
        x = file.get_tensor("x").float()

    @torch.inference_mode()
    def work() -> None:
        for start in range(0, len(x), rows):
            torch.nn.functional.linear(x[start : start + rows], weight, bias)

    return work


# ours


def products_floor(bits: int, vectors: int) -> Work:
    """The products of half codebooks that the exact loss and its gradient take, in one thread."""
    import torch

    torch.set_num_threads(1)
    high, low = torch.rand(vectors, 2 ** (bits // 2)), torch.rand(vectors, 2 ** (bits - bits // 2))

    def work() -> None:
        total = high.T @ low
        low @ total.T
        high @ total

    return work


def ours_loss(bits: int, vectors: int) -> Work:
    """lfq_cli.LFQ in training."""
    from lfq_cli import LFQ

    return _training(LFQ(codebook_size=2**bits, dim=bits), bits, vectors)


def ours_encode(path: str, checkpoint: str, output: str) -> Work:
    """File to file, as `lfq encode --no-fsync`."""
    from lfq_cli import backends, checkpoints
    from lfq_cli.jobs.encode import EncodeOptions, encode
    from lfq_cli.jobs.plan import Job

    quantizer = checkpoints.load(Path(checkpoint))
    if quantizer.is_linear:
        backends.select("auto", quantizer, "float32", decoding=False)  # imports torch
    options = EncodeOptions(durable=False)
    _remove(output)
    return lambda: _all_written(encode(quantizer, [Job(Path(path), Path(output))], options))


def ours_decode(path: str, checkpoint: str, output: str, dtype: str = "F32") -> Work:
    """File to file, as `lfq decode --no-fsync`."""
    from lfq_cli import backends, checkpoints
    from lfq_cli.jobs.decode import DecodeOptions, decode
    from lfq_cli.jobs.plan import Job

    quantizer = checkpoints.load(Path(checkpoint))
    if quantizer.is_linear:
        backends.select("auto", quantizer, "float32", decoding=True)
    options = DecodeOptions(dtype=dtype, durable=False)
    _remove(output)
    return lambda: _all_written(decode(quantizer, [Job(Path(path), Path(output))], options))


def ours_pack(source: str, checkpoint: str, output: str) -> Work:
    """Samples of files or a shard into one file, as `lfq encode --samples-per-file --no-fsync`; planned too."""
    from lfq_cli import checkpoints
    from lfq_cli.jobs.pack import PackOptions, pack
    from lfq_cli.jobs.plan import name_samples
    from lfq_cli.pipeline.samples import SampleOptions

    quantizer = checkpoints.load(Path(checkpoint))
    options = PackOptions(SampleOptions(layout=0), samples_per_file=1 << 30, overwrite=True, durable=False)

    def work() -> None:
        inputs, _ = name_samples([source], Path(output), stacked=False, inputs_kept=[])
        _all_written(pack(quantizer, inputs, Path(output), options))

    return work


def ours_merge(folder: str, output: str) -> Work:
    """All codes files of the folder into one, as `lfq merge --no-fsync`."""
    from lfq_cli.jobs.merge import MergeOptions, Outputs, merge

    paths = sorted(Path(folder).glob("*.safetensors"))
    _remove(output)
    return lambda: _all_written(merge(paths, Outputs(Path(output), is_folder=False), MergeOptions(durable=False)))


def ours_batches(folder: str, count: int, memory: bool) -> Work:
    """So many shuffled batches of 64 samples, int32 indices."""
    from lfq_cli.data import CodesBatches, CodesDataset

    dataset = CodesDataset(folder, dtype="int32", memory=memory, keys=False)

    def work() -> None:
        done = 0
        while done < count:
            for _ in CodesBatches(dataset, 64):
                done += 1
                if done == count:
                    return

    return work


def memmap_batches(folder: str, count: int) -> Work:
    """The same indices in an int32 .npy, mapped, by lists of 64 numbers."""
    import numpy as np

    from lfq_cli.data import CodesDataset

    path = Path(folder) / "plain.npy"
    if not path.exists():
        dataset = CodesDataset(folder, dtype="int32", memory=False, keys=False)
        every = dataset.batch(range(len(dataset)))["x"]
        np.save(path, every.reshape(len(dataset), -1))
    plain = np.load(path, mmap_mode="r")
    order = np.random.default_rng(0).permutation(np.arange(count * 64) % len(plain))
    numbers = [order[64 * k : 64 * k + 64].tolist() for k in range(count)]

    def work() -> None:
        for each in numbers:
            np.asarray(plain[each])

    return work


def ours_export(folder: str, name: str, output: str, dtype: str | None = None) -> Work:
    """All samples of the folder, as `lfq export NAME --no-fsync`."""
    import shutil

    from lfq_cli.exports.run import ExportOptions, export

    shutil.rmtree(output, ignore_errors=True)
    options = ExportOptions(dtype=dtype, durable=False)
    return lambda: _all_written(export(name, [folder], Path(output), options))


def ours_stats(path: str) -> Work:
    """The statistics of `lfq stats`."""
    from lfq_cli.jobs.stats import stats

    return lambda: stats([Path(path)])


def ours_slices(path: str, count: int, length: int) -> Work:
    """So many random slices of `open_codes`."""
    import numpy as np

    from lfq_cli import open_codes

    codes = open_codes(path)["x"]
    starts = np.random.default_rng(3).integers(0, len(codes) - length, count).tolist()

    def work() -> None:
        for start in starts:
            codes[start : start + length]

    return work


# peers


def reference_encode(path: str, checkpoint: str, output: str) -> Work:
    """vector_quantize_pytorch: load, forward in eval in batches, save int32 with safetensors."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    module = _reference(checkpoint)
    _remove(output)

    @torch.no_grad()
    def work() -> None:
        with safe_open(path, "pt") as file:
            x = file.get_tensor("x")
        rows = max(1, PEER_BATCH_BYTES // (x[0].numel() * x.element_size()))
        batches = (x[start : start + rows] for start in range(0, len(x), rows))
        if module.has_projections:  # in the input's dtype it would give other tokens, and no bias fits
            batches = (batch.float() for batch in batches)
        batches = (batch.float() for batch in batches) if hasattr(module, "layers") else batches
        indices = [module(b if b.ndim >= 3 else b[None])[1].to(torch.int32) for b in batches]
        save_file({"x": torch.cat([i if x.ndim >= 3 else i[0] for i in indices])}, output)

    return work


def reference_decode(path: str, checkpoint: str, output: str) -> Work:
    """vector_quantize_pytorch: load int32, indices_to_codes in batches, save with safetensors."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    from lfq_cli import checkpoints

    module = _reference(checkpoint)
    dim = checkpoints.load(Path(checkpoint)).dim
    _remove(output)

    @torch.no_grad()
    def work() -> None:
        with safe_open(path, "pt") as file:
            indices = file.get_tensor("x")
        rows = max(1, PEER_BATCH_BYTES // (4 * dim * max(1, indices[0].numel())))
        batches = (indices[start : start + rows] for start in range(0, len(indices), rows))
        if hasattr(module, "layers"):
            decoded = [module.get_output_from_indices(b[None])[0] for b in batches]
        else:
            decoded = [module.indices_to_codes(b) for b in batches]
        save_file({"x": torch.cat(decoded).contiguous()}, output)

    return work


def reference_loss(bits: int, vectors: int) -> Work:
    """vector_quantize_pytorch.LFQ in training."""
    from vector_quantize_pytorch import LFQ

    return _training(LFQ(codebook_size=2**bits, dim=bits), bits, vectors)


def numpy_stats(path: str, bits: int) -> Work:
    """What a user writes: unpackbits, a dot product, bincount, a million indices at a time."""
    import numpy as np
    from safetensors.numpy import load_file

    weights = 1 << np.arange(bits)[::-1]

    def work() -> None:
        stream = load_file(path)["x"]
        counts = np.zeros(1 << bits, np.int64)
        step = (1 << 20) * bits // 8
        for start in range(0, stream.size, step):
            rows = np.unpackbits(stream[start : start + step])
            rows = rows[: rows.size - rows.size % bits].reshape(-1, bits)
            counts += np.bincount(rows @ weights, minlength=counts.size)

    return work


def int32_slices(path: str, count: int, length: int) -> Work:
    """Random slices of plain int32 indices through safetensors' get_slice."""
    import numpy as np
    from safetensors import safe_open

    codes = safe_open(path, "numpy").get_slice("x")
    starts = np.random.default_rng(3).integers(0, codes.get_shape()[0] - length, count).tolist()

    def work() -> None:
        for start in starts:
            codes[start : start + length]

    return work


def faiss_pack(path: str, bits: int, output: str) -> Work:
    """faiss: the signs as 0 and 1, then pack_bitstrings (a vector to whole bytes), saved with safetensors."""
    import faiss
    import numpy as np
    from safetensors.numpy import load_file, save_file

    _remove(output)

    def work() -> None:
        x = load_file(path)["x"]
        rows = PEER_BATCH_BYTES // (4 * bits)
        parts = [
            faiss.pack_bitstrings((x[start : start + rows] > 0).astype(np.int32), 1) for start in range(0, len(x), rows)
        ]
        save_file({"x": np.concatenate(parts)}, output)

    return work


def faiss_lsh(path: str, bits: int, output: str) -> Work:
    """faiss: the codes of an IndexLSH without rotation and thresholds, which are signs; saved with safetensors."""
    import faiss
    import numpy as np
    from safetensors.numpy import load_file, save_file

    index = faiss.IndexLSH(bits, bits, False, False)
    _remove(output)

    def work() -> None:
        x = load_file(path)["x"]
        rows = PEER_BATCH_BYTES // (4 * bits)
        parts = [index.sa_encode(x[start : start + rows]) for start in range(0, len(x), rows)]
        save_file({"x": np.concatenate(parts)}, output)

    return work


def _training(module: Any, bits: int, vectors: int) -> Work:
    """Forward and backward at the default inverse temperature, 100, in one thread; what is made once is made before."""
    import torch

    torch.set_num_threads(1)
    module.train()
    x = torch.randn(vectors // 64, 64, bits, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def work() -> None:
        quantized, _, loss = module(x)
        (quantized.sum() + loss).backward()

    work()
    return work


def _remove(path: str) -> None:
    """Nothing of the run before: giving back the memory of an old gigabyte takes as long as writing a new one."""
    Path(path).unlink(missing_ok=True)


def _all_written(outcomes: Any) -> None:
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error


def _linear(checkpoint: str) -> Any:
    from lfq_cli import backends, checkpoints

    quantizer = checkpoints.load(Path(checkpoint))
    return quantizer, backends.select("auto", quantizer, "float32", decoding=False)


def _reference(checkpoint: str) -> Any:
    import torch
    from vector_quantize_pytorch import LFQ, ResidualLFQ

    from lfq_cli import checkpoints

    quantizer = checkpoints.load(Path(checkpoint))
    facts = {"dim": quantizer.dim, "codebook_size": quantizer.codebook_size}
    if quantizer.num_quantizers is None:
        module: Any = LFQ(**facts, num_codebooks=quantizer.num_codebooks)
    else:
        module = ResidualLFQ(**facts, num_quantizers=quantizer.num_quantizers)
    module.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in quantizer.weights.items()}, strict=False)
    return module.eval()


def peak_bytes() -> int:
    """The most memory this process had resident so far (Linux: without what it inherited from its parent)."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    name, arguments = sys.argv[1:]
    work = globals()[name](**json.loads(arguments))
    start = time.perf_counter()
    work()
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
