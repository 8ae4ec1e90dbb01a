"""The table of what is measured. A case names its contenders; `bytes` is what GB/s counts, for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import (
    Tensor,
    checkpoint_file,
    image_tokens,
    random_codes,
    sample_files,
    sample_tree,
    shard,
    small_files,
    tensor_file,
)

Call = tuple[str, dict[str, Any]]
"""A function of contenders.py and its arguments; or ("command", {"argv": [...]}) for a whole process."""


@dataclass(frozen=True)
class Contest:
    """What runs: ours, the floor that nothing can be faster than, and the peer a user would pick."""

    nbytes: int
    ours: Call
    floor: Call | None = None
    peer: Call | None = None
    items: int = 0
    """Indices that are handled, where their number a second is what counts."""


@dataclass(frozen=True)
class Case:
    """A name and how to set it up in a folder. `target`: ours over the floor, at least (for times: at most)."""

    name: str
    set_up: Callable[[Path, int], Contest]
    target: float | None = None
    peer_target: float | None = None
    at_most: bool = False
    items_target: float | None = None
    """Indices a second, at least."""
    smoke: bool = False
    """Whether the quick run has it: one case of each kind."""


def encode_case(
    dtype: str, dim: int, bits: int, codebooks: int = 1, positions: tuple[int, ...] = (), levels: int | None = None
) -> Any:
    """Encode a tensor of about `nbytes`, channel-last [n, dim] or channel-first [n, dim, *positions]."""

    def set_up(folder: Path, nbytes: int) -> Contest:
        tensor = _tensor(dtype, dim, positions, nbytes)
        path = tensor_file(folder, tensor)
        checkpoint = checkpoint_file(folder, dim=dim, bits=bits, codebooks=codebooks, levels=levels)
        linear = dim != bits * codebooks
        arguments = {"path": str(path), "checkpoint": str(checkpoint)}
        floor: Call = ("linear_floor", arguments) if linear else ("read_floor", {"path": str(path)})
        peer: Call = ("reference_encode", {**arguments, "output": str(folder / "peer.safetensors")})
        return Contest(
            tensor.nbytes, ("ours_encode", {**arguments, "output": str(folder / "ours.safetensors")}), floor, peer
        )

    return set_up


def decode_case(
    dim: int, bits: int, codebooks: int = 1, positions: tuple[int, ...] = (), levels: int | None = None
) -> Any:
    """Decode codes of a tensor of about `nbytes` of float32."""

    def set_up(folder: Path, nbytes: int) -> Contest:
        tensor = _tensor("F32", dim, positions, nbytes)
        source = tensor_file(folder, tensor)
        checkpoint = checkpoint_file(folder, dim=dim, bits=bits, codebooks=codebooks, levels=levels)
        packed, plain = _codes(source, checkpoint, "bits"), _codes(source, checkpoint, "ints")
        arguments = {"checkpoint": str(checkpoint), "output": str(folder / "decoded.safetensors")}
        return Contest(
            tensor.nbytes,
            ("ours_decode", {"path": str(packed), **arguments}),
            ("write_floor", {"nbytes": tensor.nbytes, "path": str(folder / "written")}),
            ("reference_decode", {"path": str(plain), **arguments, "output": str(folder / "peer.safetensors")}),
        )

    return set_up


def stats_case(bits: int) -> Any:
    """Take the statistics of uniform random indices in a packed file of a quarter of `nbytes`."""

    def set_up(folder: Path, nbytes: int) -> Contest:
        packed, indices = random_codes(folder, bits=bits, nbytes=nbytes // 4)
        return Contest(
            packed.stat().st_size,
            ("ours_stats", {"path": str(packed)}),
            ("read_floor", {"path": str(packed)}),
            ("numpy_stats", {"path": str(packed), "bits": bits}),
            items=indices,
        )

    return set_up


def merge_case(folder: Path, nbytes: int) -> Contest:
    """Join four codes files of samples at bits that are not bytes, digests checked and made, against copying them."""
    tokens = sample_files(folder, files=4, nbytes=nbytes)
    sizes = [path.stat().st_size for path in tokens.glob("*.safetensors")]
    return Contest(
        sum(sizes),
        ("ours_merge", {"folder": str(tokens), "output": str(folder / "merged.codes.safetensors")}),
        ("copy_floor", {"folder": str(tokens), "output": str(folder / "copied")}),
    )


def pack_case(side: int) -> Any:
    """Files of a sample each (10,000 at full size) packed into one, planned too, against opening and reading them."""

    def set_up(folder: Path, nbytes: int) -> Contest:
        count = max(20, nbytes * 10_000 // FULL_BYTES)
        tree, checkpoint = sample_tree(folder, count=count, side=side), checkpoint_file(folder, dim=18, bits=18)
        ours = {"source": str(tree), "checkpoint": str(checkpoint), "output": str(folder / "packed")}
        return Contest(count * 36 * side**2, ("ours_pack", ours), ("files_floor", {"folder": str(tree)}))

    return set_up


def shard_case(side: int) -> Any:
    """The samples of a tar shard of an eighth of `nbytes` packed into one file, against reading the shard."""

    def set_up(folder: Path, nbytes: int) -> Contest:
        path = shard(folder, count=max(20, nbytes // 8 // (36 * side**2)), side=side)
        checkpoint = checkpoint_file(folder, dim=18, bits=18)
        ours = {"source": str(path), "checkpoint": str(checkpoint), "output": str(folder / "packed")}
        return Contest(path.stat().st_size, ("ours_pack", ours), ("read_floor", {"path": str(path)}))

    return set_up


def batches_case(memory: bool) -> Any:
    """Shuffled batches of 64 samples of 256 indices of 18 bits, against an int32 memmap with lists of numbers."""

    def set_up(folder: Path, nbytes: int) -> Contest:
        samples = max(256, nbytes // 1024)
        tokens, count = image_tokens(folder, samples=samples), max(4, samples // 640)
        ours: Call = ("ours_batches", {"folder": str(tokens), "count": count, "memory": memory})
        return Contest(
            count * 64 * 1024, ours, None, ("memmap_batches", {"folder": str(tokens), "count": count}), items=count * 64
        )

    return set_up


def export_case(name: str, dtype: str | None = None) -> Any:
    """Samples of 256 indices of 18 bits as the files of a trainer, against writing as many bytes of int32."""

    def set_up(folder: Path, nbytes: int) -> Contest:
        samples = max(256, nbytes // 4096) // 4 * 4
        ours = {"folder": str(image_tokens(folder, samples=samples)), "name": name, "output": str(folder / "exported")}
        floor: Call = ("write_floor", {"nbytes": samples * 1024, "path": str(folder / "written")})
        return Contest(samples * 1024, ("ours_export", {**ours, "dtype": dtype}), floor, items=samples)

    return set_up


def slices_case(folder: Path, nbytes: int) -> Contest:
    """Ten thousand slices of 256 indices, against plain int32 indices through safetensors."""
    tensor = _tensor("F32", 18, (), nbytes)
    source, checkpoint = tensor_file(folder, tensor), checkpoint_file(folder, dim=18, bits=18)
    calls = {"count": 10_000, "length": 256}
    return Contest(
        calls["count"] * calls["length"] * 4,
        ("ours_slices", {"path": str(_codes(source, checkpoint, "bits")), **calls}),
        None,
        ("int32_slices", {"path": str(_codes(source, checkpoint, "ints")), **calls}),
    )


def faiss_case(peer: str) -> Any:
    """Signs of [n, 64] to bits, against one of faiss' ways."""

    def set_up(folder: Path, nbytes: int) -> Contest:
        tensor = _tensor("F32", 64, (), nbytes)
        path, checkpoint = tensor_file(folder, tensor), checkpoint_file(folder, dim=64, bits=64)
        ours = {"path": str(path), "checkpoint": str(checkpoint), "output": str(folder / "ours.safetensors")}
        return Contest(
            tensor.nbytes,
            ("ours_encode", ours),
            ("read_floor", {"path": str(path)}),
            (peer, {"path": str(path), "bits": 64, "output": str(folder / "peer.safetensors")}),
        )

    return set_up


def loss_case(bits: int, vectors: int, peer: bool) -> Any:
    """Forward and backward of the module that trains, in one thread, against its bare products and the reference."""

    def set_up(folder: Path, nbytes: int) -> Contest:
        size = {"bits": bits, "vectors": vectors}
        reference: Call | None = ("reference_loss", size) if peer else None
        return Contest(vectors * bits * 4, ("ours_loss", size), ("products_floor", size), reference)

    return set_up


def files_case(fsync: bool) -> Any:
    """Small files of 64 KiB in a folder (10,000 at full size), as a whole process, against cp -r of the same tree."""

    def set_up(folder: Path, nbytes: int) -> Contest:
        count = max(20, nbytes * 10_000 // FULL_BYTES)
        tree = small_files(folder, count=count, nbytes=64 << 10, dim=64)
        checkpoint = checkpoint_file(folder, dim=64, bits=64)
        out = folder / "tree_out"
        options = ["-q", "--fsync" if fsync else "--no-fsync"]
        return Contest(
            count * (64 << 10),
            (
                "command",
                {"argv": [*LFQ, "encode", str(checkpoint), str(tree), "-o", str(out), *options], "clear": str(out)},
            ),
            ("command", {"argv": ["cp", "-r", str(tree), str(out)], "clear": str(out)}),
        )

    return set_up


def process_case(nbytes: int | None) -> Any:
    """A whole `lfq encode` process on a file of `nbytes` (None: full size), against importing what it needs."""

    def set_up(folder: Path, full: int) -> Contest:
        tensor = _tensor("F32", 18, (), nbytes or full)
        path, checkpoint = tensor_file(folder, tensor), checkpoint_file(folder, dim=18, bits=18)
        out = folder / "process_out"
        argv = [*LFQ, "encode", str(checkpoint), str(path), "-o", str(out), "-q", "--no-fsync"]
        imports = ["{python}", "-c", "import numpy, safetensors, typer, rich"]
        return Contest(tensor.nbytes, ("command", {"argv": argv, "clear": str(out)}), ("command", {"argv": imports}))

    return set_up


def help_case(folder: Path, nbytes: int) -> Contest:
    """`lfq --help` against importing typer and rich."""
    imports = ["{python}", "-c", "import typer, rich"]
    return Contest(0, ("command", {"argv": [*LFQ, "--help"]}), ("command", {"argv": imports}))


LFQ = ["{python}", "-m", "lfq_cli"]
FULL_BYTES = 1 << 30

CASES = (
    *(
        Case(f"encode {dtype} [n, 4×16]", encode_case(dtype, 64, 16, 4), target=0.5, peer_target=20)
        for dtype in ("F32", "F16", "BF16")
    ),
    *(
        Case(f"encode {dtype} [n, 18]", encode_case(dtype, 18, 18), target=0.5, peer_target=20)
        for dtype in ("F32", "F16", "BF16")
    ),
    *(
        Case(f"encode {dtype} [b, 18, 16, 16]", encode_case(dtype, 18, 18, 1, (16, 16)), target=0.3, peer_target=20)
        for dtype in ("F32", "F16", "BF16")
    ),
    *(
        Case(f"encode {dtype} 512 -> 18", encode_case(dtype, 512, 18), target=target, peer_target=3)
        for dtype, target in (("F32", 0.9), ("F16", 0.6), ("BF16", 0.6))
    ),
    Case("encode F32 64 -> 10", encode_case("F32", 64, 10), target=0.9, peer_target=3, smoke=True),
    Case("encode F32 [n, 18], 8 levels", encode_case("F32", 18, 18, levels=8), peer_target=20),
    Case("encode F32 512 -> 18, 8 levels", encode_case("F32", 512, 18, levels=8), peer_target=3),
    Case("decode [n, 18]", decode_case(18, 18), target=0.8),
    Case("decode [n, 4×16]", decode_case(64, 16, 4), target=0.8),
    Case("decode [b, 18, 16, 16]", decode_case(18, 18, 1, (16, 16)), target=0.8, smoke=True),
    Case("decode 18 -> 512", decode_case(512, 18), target=0.7),
    Case("decode 10 -> 64", decode_case(64, 10), target=0.7),
    Case("decode [n, 18], 8 levels", decode_case(18, 18, levels=8), smoke=True),
    *(
        Case(f"stats D = {bits}", stats_case(bits), smoke=bits == 10, items_target=250e6 if bits == 18 else None)
        for bits in (10, 18, 24)
    ),
    Case("pack files of 9 KiB", pack_case(16), target=2, at_most=True, smoke=True),
    Case("pack files of 64 KiB", pack_case(43), target=2, at_most=True),
    Case("tar shard, members of 9 KiB", shard_case(16), target=0.7),
    Case("tar shard, members of 64 KiB", shard_case(43), target=0.7),
    Case("tar shard, members of 2 MiB", shard_case(244), target=0.7, smoke=True),
    Case("merge", merge_case, target=0.3, smoke=True),
    Case("batches of 64, in memory", batches_case(True), peer_target=0.4, smoke=True),
    Case("batches of 64, by position", batches_case(False), peer_target=0.15),
    Case("export bin", export_case("bin", "uint32"), target=0.5, smoke=True),
    Case("export parquet", export_case("parquet"), items_target=50e3),
    Case("export webdataset", export_case("webdataset"), items_target=20e3),
    Case("10,000 random slices", slices_case, smoke=True),
    Case("loss D = 10, 16,384 vectors", loss_case(10, 16384, True), peer_target=30, smoke=True),
    Case("loss D = 14, 2,048 vectors", loss_case(14, 2048, True), peer_target=150),
    Case("loss D = 18, 16,384 vectors", loss_case(18, 16384, False), target=0.33),
    Case("encode F32 [n, 64], faiss pack_bitstrings", faiss_case("faiss_pack"), target=0.5, smoke=True),
    Case("encode F32 [n, 64], faiss IndexLSH", faiss_case("faiss_lsh"), target=0.5),
    Case("small files, fsync", files_case(True), target=3, at_most=True, smoke=True),
    Case("small files, no fsync", files_case(False), target=3, at_most=True),
    Case("process, 1 MiB", process_case(1 << 20), target=1.5, at_most=True, smoke=True),
    Case("process, full size", process_case(None)),
    Case("lfq --help", help_case, target=1.4, at_most=True, smoke=True),
)


def _tensor(dtype: str, dim: int, positions: tuple[int, ...], nbytes: int) -> Tensor:
    row = Tensor(dtype, (1, dim, *positions)).nbytes
    return Tensor(dtype, (max(1, nbytes // row // 8 * 8), dim, *positions))


def _codes(source: Path, checkpoint: Path, packing: str) -> Path:
    """The codes of a tensor file, made if they are not there."""
    path = source.with_name(f"{source.stem}.{checkpoint.stem}.{packing}.codes.safetensors")
    if not path.exists():
        from lfq_cli import checkpoints
        from lfq_cli.jobs.encode import EncodeOptions, encode
        from lfq_cli.jobs.plan import Job

        options = EncodeOptions(packing=packing, index_dtype="I32" if packing == "ints" else None)
        (outcome,) = encode(checkpoints.load(checkpoint), [Job(source, path)], options)
        if outcome.error is not None:
            raise outcome.error
    return path
