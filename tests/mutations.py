"""Broken files of every kind that lfq reads, made from whole ones: test_fuzz.py runs some, `make fuzz` as many as one
likes.
"""

from __future__ import annotations

import argparse
import io
import json
import pickletools
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from families import kronos, lucidrains, maskbit, residual
from safetensors.numpy import save as save_safetensors
from safetensors.torch import save as save_torch_safetensors

from lfq_cli import checkpoints, native, open_codes
from lfq_cli.errors import LfqError
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.file_types import described_format
from lfq_cli.jobs.inspect import as_json, inspect
from lfq_cli.jobs.pack import PackOptions, pack
from lfq_cli.jobs.plan import Job, name_samples
from lfq_cli.jobs.stats import save_counts, stats
from lfq_cli.jobs.verify import VerifyOptions, verify
from lfq_cli.pipeline.samples import SampleOptions
from lfq_cli.quantizer import Quantizer
from lfq_cli.statistics import CountOptions

DIM = 4
PLAIN = Quantizer(dim=DIM, codebook_dim=DIM)
NUMBERS = [b"0", b"-1", b"1", b"99", b"4294967296", b"18446744073709551616", b"1e400", b"NaN", b"null", b'"x"', b"[]"]
BYTES = [0x00, 0xFF, 0x7F, 0x80, ord("{"), ord('"'), ord("0"), ord("9"), ord("-"), ord("\n"), 0x1B]


@dataclass(frozen=True)
class Target:
    """One kind of file: whole examples, and what is done with a broken one. `read` raises LfqError or nothing."""

    suffix: str
    seeds: list[bytes]
    read: Callable[[Path], None]


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def saved(value: object, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def torch_seeds() -> list[bytes]:
    """One tensor; several with what else trainers save; views and dtypes; the format before torch 1.6."""
    x = torch.arange(24.0).reshape(6, DIM)
    run = {"a": x, "n": 3, "args": argparse.Namespace(lr=1.5), "best": np.float64(2), "list": [x[1:], x.T[:, :DIM].T]}
    tensors = {"half": x.half(), "eight": x.to(torch.float8_e4m3fn), "own": torch.nn.Parameter(x)}
    tensors["sparse"] = x.to_sparse()
    return [saved(x), saved(run), saved(tensors), saved(run, zipped=False)]


def numpy_file(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def numpy_archive(compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, a=floats(9, DIM), b=np.arange(3))
    return file.getvalue()


def native_file(folder: Path, quantizer: Quantizer) -> bytes:
    path = folder / "native.safetensors"
    native.write(quantizer, path, overwrite=True)
    return path.read_bytes()


def codes_files(folder: Path) -> list[bytes]:
    (folder / "x.safetensors").write_bytes(save_safetensors({"a": floats(5, 9, DIM), "b": floats(3, DIM)}))
    found = []
    for packing in ("bits", "rows", "ints"):
        out = folder / f"{packing}.codes.safetensors"
        (outcome,) = encode(PLAIN, [Job(folder / "x.safetensors", out)], EncodeOptions(packing=packing, overwrite=True))
        assert outcome.error is None
        found.append(out.read_bytes())
    return found


def tar_file(count: int) -> bytes:
    """A shard with latents, labels and captions."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for k in range(count):
            members = {"npy": numpy_file(floats(3 + k, DIM)), "cls": b"%d" % k, "json": b'{"w": 1.5}', "txt": b"a"}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"k{k}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def packed(path: Path, out: Path) -> Path:
    """The samples of a shard in one codes file. Raises LfqError for what is wrong with it."""
    samples = SampleOptions(carry=("cls", "json.w"), carry_text=("txt",), ragged=True)
    inputs, missed = name_samples([str(path)], out, stacked=False, inputs_kept=[])
    for outcome in pack(PLAIN, inputs, out, PackOptions(samples, 99, durable=False, overwrite=True), missed=missed):
        if outcome.error is not None:
            raise outcome.error
        return outcome.output
    raise LfqError("no sample")


def samples_files(folder: Path) -> list[bytes]:
    found = []
    for count in (1, 3):
        (folder / "seed.tar").write_bytes(tar_file(count))
        found.append(packed(folder / "seed.tar", folder / f"packed-{count}").read_bytes())
    return found


def read_tar(path: Path) -> None:
    """Packs; what comes out is whole."""
    (verdict,) = verify([packed(path, path.with_suffix(".packed"))], VerifyOptions())
    if verdict.error is not None:
        raise AssertionError(verdict.error)


def read_tensors(path: Path) -> None:
    """Encodes; what comes out is whole."""
    out = path.with_suffix(".codes.safetensors")
    out.unlink(missing_ok=True)
    (outcome,) = encode(PLAIN, [Job(path, out)], EncodeOptions(durable=False))
    if outcome.error is not None:
        assert not out.exists()
        raise outcome.error
    with open_codes(out) as codes:
        for name in codes.header.tensors:
            codes[name].check_digest()
    as_json(inspect(path, checkpoints.Facts(), PLAIN))


def read_checkpoint(path: Path) -> None:
    for found in checkpoints.survey(path):
        checkpoints.load_found(path, found, checkpoints.Facts())
    checkpoints.load(path)


def codes_reader(wholes: list[bytes], folder: Path) -> Callable[[Path], None]:
    """Verifies, counts and decodes. What passes verify decodes to the floats of a whole file."""
    expected = set()
    for whole in wholes:
        path = folder / "whole.codes.safetensors"
        path.write_bytes(whole)
        expected.add(decoded(path))

    def read(path: Path) -> None:
        (verdict,) = verify([path], VerifyOptions())
        for error in stats([path]).failed.values():
            assert isinstance(error, LfqError)
        if verdict.error is not None:
            raise verdict.error
        assert decoded(path) in expected, "a damaged file passed as whole"

    return read


def counts_file(folder: Path, whole: bytes) -> bytes:
    """What `lfq stats --save` makes of a codes file."""
    codes, out = folder / "counted.codes.safetensors", folder / "counts.safetensors"
    codes.write_bytes(whole)
    save_counts(stats([codes], options=CountOptions(by_position=True)), out, overwrite=True)
    return out.read_bytes()


def counts_reader(wholes: list[bytes], folder: Path) -> Callable[[Path], None]:
    """Reads saved counts; what is accepted has the statistics of a whole file."""

    def statistics(path: Path) -> str:
        report = stats([path], options=CountOptions(by_position=True))
        for error in report.failed.values():
            raise error
        assert report.overall is not None
        return json.dumps(report.overall.as_json(), allow_nan=False)

    expected = set()
    for whole in wholes:
        path = folder / "whole.safetensors"
        path.write_bytes(whole)
        expected.add(statistics(path))

    def read(path: Path) -> None:
        if described_format(path) not in (None, "lfq-counts"):
            raise LfqError("something else")
        assert statistics(path) in expected, "a damaged file passed as whole"

    return read


def decoded(path: Path) -> bytes:
    out = path.with_suffix(".decoded.safetensors")
    (outcome,) = decode(PLAIN, [Job(path, out)], DecodeOptions(durable=False, overwrite=True))
    if outcome.error is not None:
        raise outcome.error
    data = out.read_bytes()
    length = int.from_bytes(data[:8], "little")
    shapes = {key: value for key, value in json.loads(data[8 : 8 + length]).items() if key != "__metadata__"}
    return json.dumps(shapes).encode() + data[8 + length :]


def targets(folder: Path) -> dict[str, Target]:
    """Every reader of lfq by name."""
    projected = Quantizer(
        dim=6,
        codebook_dim=DIM,
        weights={"project_in.weight": floats(DIM, 6), "project_out.weight": floats(6, DIM)},
    )
    wholes = codes_files(folder)
    samples = samples_files(folder)
    counts = [counts_file(folder, wholes[0])]
    states = [lucidrains.state_dict(1, dim=6), residual.state_dict(1), maskbit.state_dict(1, bits=4)]
    return {
        "safetensors": Target(
            ".safetensors",
            [save_safetensors({"a": floats(3, DIM), "b": np.arange(5)}), save_safetensors({"x": floats(2, DIM, 3, 3)})],
            read_tensors,
        ),
        "npy": Target(
            ".npy", [numpy_file(floats(5, DIM)), numpy_file(floats(5, DIM).astype(np.float16))], read_tensors
        ),
        "npz": Target(".npz", [numpy_archive(False), numpy_archive(True)], read_tensors),
        "pt": Target(".pt", torch_seeds(), read_tensors),
        "native": Target(".safetensors", [native_file(folder, PLAIN), native_file(folder, projected)], read_checkpoint),
        "foreign safetensors": Target(
            ".safetensors",
            [save_torch_safetensors(kronos.state_dict(1)), *map(save_torch_safetensors, states)],
            read_checkpoint,
        ),
        "foreign pt": Target(
            ".pt",
            [saved({"state_dict": state, "args": argparse.Namespace(lr=1)}) for state in states]
            + [saved({"state_dict": states[0], "epoch": 1}, zipped=False)],
            read_checkpoint,
        ),
        "tar": Target(".tar", [tar_file(2), tar_file(4)], read_tar),
        "samples": Target(".codes.safetensors", samples, codes_reader(samples, folder)),
        "codes": Target(".codes.safetensors", wholes, codes_reader(wholes, folder)),
        "counts": Target(".safetensors", counts, counts_reader(counts, folder)),
    }


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bytes, bits, cuts, repeats, numbers in headers, lengths, order."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        data = rng.choice(CHANGES)(data, rng)
    return data


def _spot(data: bytes, rng: random.Random) -> int:
    """A position; headers, where the decisions are, more often."""
    return rng.randrange(max(1, min(len(data), rng.choice([16, 200, 1000, len(data)]))))


def _byte(data: bytes, rng: random.Random) -> bytes:
    at = _spot(data, rng)
    return data[:at] + bytes([rng.choice(BYTES)]) + data[at + 1 :]


def _bit(data: bytes, rng: random.Random) -> bytes:
    at = _spot(data, rng)
    return data[:at] + bytes([(data[at] if data else 0) ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _spot(data, rng)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    at = _spot(data, rng)
    return data[:at] + data[at + rng.choice([1, 2, 8, 100]) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    at, length = _spot(data, rng), rng.choice([1, 8, 64, 1000])
    return data[:at] + data[at : at + length] + data[at:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b, length = _spot(data, rng), _spot(data, rng), rng.choice([1, 4, 8, 40])
    a, b = min(a, b), max(a, b)
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


def _number(data: bytes, rng: random.Random) -> bytes:
    """Another number where the text has one."""
    digits = [k for k in range(min(len(data), 4000)) if chr(data[k]).isdigit()]
    if not digits:
        return data
    at = rng.choice(digits)
    end = at
    while end < len(data) and chr(data[end]).isdigit():
        end += 1
    return data[:at] + rng.choice(NUMBERS) + data[end:]


def _length(data: bytes, rng: random.Random) -> bytes:
    """Another header length in the first eight bytes."""
    value = rng.choice([0, 1, 2**16, 2**31, 2**63, 2**64 - 1, len(data), len(data) - 8, len(data) - 9])
    return (value % 2**64).to_bytes(8, "little") + data[8:]


def _word(data: bytes, rng: random.Random) -> bytes:
    old, new = rng.choice(
        [
            (b"F32", b"F64"), (b"F32", b"BF16"), (b"F32", b"F8_E4M3"), (b"U8", b"I8"), (b"I64", b"U64"),
            (b"msb", b"lsb"), (b"bits", b"rows"), (b"rows", b"ints"), (b"channel-last", b"channel-first"),
            (b"shape", b"shapes"), (b'"a"', b'"b"'), (b'"a"', b'"../a"'), (b'"a"', b'"\\n\\u001b[31m"'),
            (b"false", b"true"), (b"<f4", b"|O"), (b"<f4", b">f4"), (b"False", b"True"), (b"mask", b"Mask"),
        ]
    )  # fmt: skip
    return data.replace(old, new, rng.choice([1, -1]))


def _opcode(data: bytes, rng: random.Random) -> bytes:
    """An opcode of a pickle put in or in another's place, with zeros or what follows as its argument."""
    at = _spot(data, rng)
    argument = rng.choice([b"", b"\0", bytes(4), b"\xff" * 4, b"\n"])
    code = rng.choice(pickletools.opcodes).code.encode("latin-1") + argument
    return data[:at] + code + data[at + rng.choice([0, 1, len(code)]) :]


CHANGES = (_byte, _bit, _cut, _remove, _repeat, _swap, _number, _length, _word)


def broken(target: Target, seed: int) -> Iterator[bytes]:
    """Broken files of a kind, without end; the same for the same seed."""
    rng = random.Random(seed)
    while True:
        data = mutated(rng.choice(target.seeds), rng)
        if target.suffix in (".npz", ".pt") and rng.random() < 0.5:
            data = _rezipped(rng.choice(target.seeds), rng) or data
        yield data


def _rezipped(data: bytes, rng: random.Random) -> bytes | None:
    """An archive that is whole, with one member's content broken: what a checksum would otherwise catch."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
            names = source.namelist()
            pickles = [name for name in names if name.endswith(".pkl")]
            chosen = rng.choice(pickles * len(names) + names)
            for name in names:
                content = source.read(name)
                if name == chosen:
                    content = (_opcode if chosen in pickles and rng.random() < 0.5 else mutated)(content, rng)
                target.writestr(name, content)
    except zipfile.BadZipFile:
        return None
    return out.getvalue()
