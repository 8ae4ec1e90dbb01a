"""samples/tar.py: shards as the webdataset library and tar programs write them; the damaged are refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray

from lfq_cli.errors import LfqError, TensorError
from lfq_cli.samples import BadSample, Sample, samples_in
from lfq_cli.samples.selection import EVERYTHING, Selection

ALL = Selection(carry=("cls", "json.*"), carry_text=("txt", "json"))


def latents(count: int, *shape: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(count)
    return {f"{k:04}": rng.standard_normal(shape or (5, 3)).astype(np.float16) for k in range(count)}


def npy(x: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def values(sample: Sample | BadSample, name: str = "data") -> NDArray[Any]:
    assert isinstance(sample, Sample), sample
    tensor = sample.tensors[name]
    data = bytearray(np.dtype("<f2").itemsize * int(np.prod(tensor.shape)))
    tensor.region.read_into(0, memoryview(data))
    return np.frombuffer(data, "<f2").reshape(tensor.shape)


def plain_tar(path: Path, members: dict[str, bytes], kind: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_shards_of_the_webdataset_library(tmp_path: Path, suffix: str) -> None:
    path, samples = tmp_path / f"shard-000000{suffix}", latents(40)
    with webdataset.TarWriter(str(path)) as writer:
        for key, x in samples.items():
            writer.write({"__key__": key, "npy": x, "cls": int(key) % 7, "txt": f"caption of {key}", "json": {"w": 3}})
    found = list(samples_in(path, "shard", ALL))
    assert [sample.key for sample in found] == list(samples)
    for sample, x in zip(found, samples.values(), strict=True):
        np.testing.assert_array_equal(values(sample), x)
        assert isinstance(sample, Sample)
        assert bytes(sample.tensors["cls"].region.data) == (int(sample.key) % 7).to_bytes(8, "little")  # type: ignore[attr-defined]
        assert sample.texts == {"txt": f"caption of {sample.key}", "json": json.dumps({"w": 3})}
        assert sample.tensors["json.w"].dtype == "I64"


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_format(tmp_path: Path, kind: int) -> None:
    names = ["a.npy", "deep/" * 9 + "b.latent.npy"]
    if kind != tarfile.USTAR_FORMAT:
        names += ["x" * 180 + ".npy", "f/" * 120 + "ü.npy"]
    x = np.arange(6, dtype=np.float16).reshape(2, 3)
    path = plain_tar(tmp_path / "t.tar", {name: npy(x) for name in names}, kind)
    found = list(samples_in(path, "t", Selection()))
    assert [sample.key for sample in found] == [name.split(".")[0] for name in names]
    np.testing.assert_array_equal(values(found[1], "latent"), x)


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix"], ["--format=v7"]])
def test_archives_of_the_tar_program(tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    x = latents(1)["0000"]
    np.save(folder / "sub" / "a.npy", x)
    np.save(folder / "b.npy", x)
    path = tmp_path / "t.tar"
    subprocess.run(["tar", *options, "-C", str(folder), "-cf", str(path), "."], check=True)
    assert sorted(sample.key for sample in samples_in(path, "t", Selection())) == ["b", "sub/a"]


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_that_ends_early_is_an_error_wherever_it_ends(tmp_path: Path, compressed: bool) -> None:
    whole = plain_tar(tmp_path / "whole.tar", {f"{key}.npy": npy(x) for key, x in latents(4).items()}).read_bytes()
    end = whole.rstrip(b"\0")
    if compressed:
        data = gzip.compress(whole)
        cuts = range(0, len(data), 7)
    else:
        data = whole
        cuts = range(0, len(end) + 511, 128)  # every boundary of a block, and between them
    path = tmp_path / ("cut.tar.gz" if compressed else "cut.tar")
    for cut in cuts:
        path.write_bytes(data[:cut])
        with pytest.raises(TensorError, match="not a whole tar archive"):
            list(samples_in(path, "cut", Selection()))
    path.write_bytes(data)
    assert len(list(samples_in(path, "cut", Selection()))) == 4


def special(kind: bytes, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo("b.npy")
    info.type = kind
    for name, value in more.items():
        setattr(info, name, value)
    return info


@pytest.mark.parametrize(
    ("member", "what"),
    [
        (special(tarfile.SYMTYPE, linkname="/etc/passwd"), "a link"),
        (special(tarfile.LNKTYPE, linkname="a.npy"), "a link"),
        (special(tarfile.CHRTYPE), "a device or pipe"),
        (special(tarfile.BLKTYPE), "a device or pipe"),
        (special(tarfile.FIFOTYPE), "a device or pipe"),
    ],
)
def test_a_member_that_is_no_file_is_named_and_the_rest_read(
    tmp_path: Path, member: tarfile.TarInfo, what: str
) -> None:
    path = tmp_path / "t.tar"
    x = npy(latents(1)["0000"])
    with tarfile.open(path, "w") as archive:
        for name in ("a.npy", None, "c.npy"):
            info = member if name is None else tarfile.TarInfo(name)
            info.size = 0 if name is None else len(x)
            archive.addfile(info, io.BytesIO(x))
    found = list(samples_in(path, "t", Selection()))
    assert [sample.key for sample in found] == ["a", "b", "c"]
    assert isinstance(found[1], BadSample)
    assert what in found[1].error.message
    assert "'b'" in found[1].error.message
    assert isinstance(found[2], Sample)


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with (folder / "a.npy").open("wb") as file:
        file.write(npy(np.zeros(4, np.float16)))
        file.truncate(1 << 20)
    subprocess.run(["tar", "-S", "-C", str(folder), "-cf", str(tmp_path / "t.tar"), "a.npy"], check=True)
    (found,) = samples_in(tmp_path / "t.tar", "t", Selection())
    assert isinstance(found, BadSample)
    assert "a sparse file" in found.error.message


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("b.cls", b"three", "expected an integer"),
        ("b.cls", b"9" * 30, "expected an integer"),
        ("b.txt", b"\xff\xfe", "not UTF-8"),
        ("b.json", b"{", "not JSON"),
        ("b.json", b"[" * 100_000, "not JSON"),
        ("b.npy", b"x", "not a whole npy array"),
        ("b.npz", b"PK", "not a whole npz file"),
        ("b.pt", b"\x80", "'b.pt"),
    ],
)
def test_a_bad_member_is_named_by_its_key(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    x = npy(latents(1)["0000"])
    path = plain_tar(tmp_path / "t.tar", {"a.npy": x, name: data, "c.npy": x})
    first, bad, last = samples_in(path, "t", EVERYTHING)
    assert isinstance(bad, BadSample)
    assert bad.key == "b"
    assert str(path) in bad.error.message
    assert "b" in bad.error.message.removeprefix(str(path))
    assert message.strip("'") in bad.error.message
    assert isinstance(first, Sample)
    assert isinstance(last, Sample)


def test_labels_that_nobody_asked_for_do_not_stop_a_sample(tmp_path: Path) -> None:
    path = plain_tar(tmp_path / "t.tar", {"a.npy": npy(latents(1)["0000"]), "a.cls": b"dog", "a.json": b"{"})
    (found,) = samples_in(path, "t", Selection())
    assert isinstance(found, Sample)
    assert not found.texts


def test_an_npz_and_pictures_beside_it(tmp_path: Path) -> None:
    file = io.BytesIO()
    x = latents(2)
    np.savez_compressed(file, mean=x["0000"], std=x["0001"])
    path = plain_tar(tmp_path / "t.tar", {"a.jpg": b"...", "a.latent.npz": file.getvalue(), "b.jpg": b"..."})
    found = list(samples_in(path, "t", Selection()))
    assert isinstance(found[0], Sample)
    assert list(found[0].tensors) == ["latent.mean", "latent.std"]
    np.testing.assert_array_equal(values(found[0], "latent.std"), x["0001"])


def test_random_damage_is_an_error_or_harmless(tmp_path: Path) -> None:
    """Whatever bytes change, nothing but an LfqError comes out of the reader."""
    members = {
        f"{key}.{name}": data for key, x in latents(3).items() for name, data in (("npy", npy(x)), ("cls", b"3"))
    }
    plain = plain_tar(tmp_path / "whole.tar", members).read_bytes()
    rng, path, failed = random.Random(0), tmp_path / "t.tar", 0
    for _ in range(300):
        data = bytearray(plain)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            failed += any(isinstance(sample, BadSample) for sample in samples_in(path, "t", ALL))
        except LfqError:
            failed += 1
    assert failed > 100


def test_a_shard_is_read_in_constant_memory(tmp_path: Path) -> None:
    """A stream: no member is held once its sample was taken."""
    count, x = 64, np.zeros((1 << 18,), np.float32)
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as archive:
        for k in range(count):
            info = tarfile.TarInfo(f"{k}.npy")
            info.size = len(npy(x))
            archive.addfile(info, io.BytesIO(npy(x)))
    import tracemalloc

    tracemalloc.start()
    assert sum(1 for _ in samples_in(path, "t", Selection())) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20 < os.path.getsize(path)  # noqa: PTH202
