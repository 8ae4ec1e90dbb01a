"""The inputs of the benchmarks, made once in a folder: tensor and codes files, checkpoints, a tree of small files."""

from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from lfq_cli.codesfile import CodesHeader, CodesTensor, MadeFrom, SourceInfo, create
from lfq_cli.codesfile.builder import Coding, SamplesBuilder
from lfq_cli.container import header_bytes, tensor_bytes
from lfq_cli.native import write
from lfq_cli.quantizer import Quantizer

TENSOR = "x"
CHUNK_BYTES = 1 << 24
_REPEATED = 1 << 22  # values drawn; longer tensors repeat them: drawing would take longer than the benchmarks


@dataclass(frozen=True)
class Tensor:
    """A tensor to make: its file's name says what it is."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return tensor_bytes(self.dtype, self.shape)

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.dtype.lower()}_{'x'.join(map(str, self.shape))}.safetensors"


def tensor_file(folder: Path, tensor: Tensor) -> Path:
    """A safetensors file of normal values under `folder`, made if it is not there."""
    path = folder / tensor.name
    if path.exists() and path.stat().st_size > tensor.nbytes:
        return path
    values = np.random.default_rng(0).standard_normal(_REPEATED, dtype=np.float32)
    if tensor.dtype == "F16":
        values = values.astype(np.float16)
    if tensor.dtype == "BF16":
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    with path.open("wb") as file:
        file.write(header_bytes({}, {TENSOR: (tensor.dtype, tensor.shape)}))
        left = prod(tensor.shape)
        while left:
            count = min(left, _REPEATED)
            file.write(values[:count].tobytes())
            left -= count
    return path


def checkpoint_file(folder: Path, *, dim: int, bits: int, codebooks: int = 1, levels: int | None = None) -> Path:
    """A native checkpoint, with random projections where dim is not codebooks * bits."""
    path = folder / f"lfq_{dim}_{codebooks}x{bits}{f'_q{levels}' if levels else ''}.safetensors"
    if path.exists():
        return path
    rng, width = np.random.default_rng(1), bits * codebooks
    weights = {}
    if dim != width:
        shapes = {
            "project_in.weight": (width, dim),
            "project_in.bias": (width,),
            "project_out.weight": (dim, width),
            "project_out.bias": (dim,),
        }
        weights = {name: (rng.standard_normal(shape) / 8).astype(np.float32) for name, shape in shapes.items()}
    facts = {"dim": dim, "codebook_dim": bits, "num_codebooks": codebooks, "num_quantizers": levels}
    write(Quantizer(**facts, weights=weights), path)
    return path


def small_files(folder: Path, *, count: int, nbytes: int, dim: int) -> Path:
    """A folder of `count` .npy files of `nbytes` of float32 [n, dim] in subfolders of a hundred."""
    tree = folder / f"small_{count}_{nbytes}_{dim}"
    if (tree / "done").exists():
        return tree
    shutil.rmtree(tree, ignore_errors=True)
    values = np.random.default_rng(2).standard_normal((nbytes // 4 // dim, dim), dtype=np.float32)
    for k in range(count):
        sub = tree / f"{k // 100:04}"
        sub.mkdir(parents=True, exist_ok=True)
        np.save(sub / f"{k:06}.npy", values)
    (tree / "done").touch()
    return tree


def sample_tree(folder: Path, *, count: int, side: int) -> Path:
    """A folder of `count` .npy files of float16 [18, side, side] in subfolders of a thousand."""
    tree = folder / f"tree_{count}_{side}"
    if (tree / "done").exists():
        return tree
    shutil.rmtree(tree, ignore_errors=True)
    rng = np.random.default_rng(6)
    for k in range(count):
        sub = tree / f"{k // 1000:03}"
        sub.mkdir(parents=True, exist_ok=True)
        np.save(sub / f"{k:08}.npy", rng.standard_normal((18, side, side), np.float32).astype(np.float16))
    (tree / "done").touch()
    return tree


def shard(folder: Path, *, count: int, side: int) -> Path:
    """A tar shard of `count` members of float16 [18, side, side]."""
    path = folder / f"shard_{count}_{side}.tar"
    if path.exists():
        return path
    rng, partial = np.random.default_rng(7), path.with_suffix(".partial")
    with tarfile.open(partial, "w") as archive:
        for k in range(count):
            data = io.BytesIO()
            np.save(data, rng.standard_normal((18, side, side), np.float32).astype(np.float16))
            member = tarfile.TarInfo(f"{k:08}.npy")
            member.size = data.tell()
            data.seek(0)
            archive.addfile(member, data)
    partial.rename(path)
    return path


def random_codes(folder: Path, *, bits: int, nbytes: int) -> tuple[Path, int]:
    """A codes file of about `nbytes` of uniform random indices of so many bits, and their number."""
    vectors = nbytes * 8 // bits // 8 * 8
    path = folder / f"random_{vectors}x{bits}.codes.safetensors"
    if not path.exists():
        source = SourceInfo((vectors, bits), "F32", 1)
        tensor = CodesTensor("x", (vectors,), (bits,), "msb", "bits", "U8", source)
        quantizer = Quantizer(dim=bits, codebook_dim=bits)
        header = CodesHeader(quantizer.config(), quantizer.digest, "float32", {"x": tensor})
        rng = np.random.default_rng(4)
        with create(path, header, durable=False) as writer, writer.tensor("x") as out:
            for first in range(0, tensor.stored_bytes, CHUNK_BYTES):
                size = min(CHUNK_BYTES, tensor.stored_bytes - first)
                out.append(rng.integers(0, 256, size, dtype=np.uint8))
    return path, vectors


def image_tokens(folder: Path, *, samples: int) -> Path:
    """A folder of four codes files of samples of 256 random indices of 18 bits."""
    tokens = folder / f"tokens_{samples}"
    if (tokens / "done").exists():
        return tokens
    shutil.rmtree(tokens, ignore_errors=True)
    tokens.mkdir(parents=True)
    codebook = Quantizer(dim=18, codebook_dim=18)
    coding = Coding(codebook.config(), codebook.digest, "float32", {}, codebook.codebook_dims, (), codebook.bit_order)
    rng = np.random.default_rng(8)
    for number in range(4):
        each = -(-samples // 4)
        with SamplesBuilder(coding, {TENSOR: SourceInfo((18, 16, 16), "F16", 0)}, {}, [], tokens) as builder:
            stream = rng.integers(0, 256, each * 576, dtype=np.uint8)
            builder.add([f"{number}/{k:014}" for k in range(each)], {TENSOR: stream}, {TENSOR: [256] * each}, {}, {})
            path = tokens / f"{number:05}.codes.safetensors"
            builder.write(path, MadeFrom(0, "error"), overwrite=True, durable=False)
    (tokens / "done").touch()
    return tokens


def sample_files(folder: Path, *, files: int, nbytes: int) -> Path:
    """A folder of codes files of about `nbytes` together, of samples of 273 vectors of 17 bits, an odd number in each:
    no file but the first begins at a byte where all are joined.
    """
    bits, codebook = 273 * 17, Quantizer(dim=17, codebook_dim=17)
    each = nbytes * 8 // bits // files | 1
    tokens = folder / f"samples_{files}x{each}"
    if (tokens / "done").exists():
        return tokens
    shutil.rmtree(tokens, ignore_errors=True)
    tokens.mkdir(parents=True)
    coding = Coding(codebook.config(), codebook.digest, "float32", {}, codebook.codebook_dims, (), codebook.bit_order)
    rng = np.random.default_rng(5)
    for number in range(files):
        stream = rng.integers(0, 256, -(-each * bits // 8), dtype=np.uint8)
        stream[-1] = 0
        with SamplesBuilder(coding, {TENSOR: SourceInfo((17, 13, 21), "F16", 0)}, {}, [], tokens) as builder:
            keys = [f"{number}/{k:08}" for k in range(each)]
            builder.add(keys, {TENSOR: stream}, {TENSOR: [273] * each}, {}, {})
            path = tokens / f"{number:05}.codes.safetensors"
            builder.write(path, MadeFrom(0, "error"), overwrite=True, durable=False)
    (tokens / "done").touch()
    return tokens
