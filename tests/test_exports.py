"""`lfq export`: every format read by its own library, token for token; vocabularies against a plain twin."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import sample_files
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sample_files import Sample, Schema

from lfq_cli.codesfile import SUFFIX
from lfq_cli.errors import ExistsError, LfqError, OptionError
from lfq_cli.exports import FORMATS
from lfq_cli.exports.run import ExportOptions, export
from lfq_cli.exports.splits import parse_splits, split
from lfq_cli.exports.vocabulary import Vocabulary
from lfq_cli.exports.webdataset import member_name
from lfq_cli.jobs.outcome import Outcome

Array = NDArray[Any]
LABEL = "label"
SPLITS = {"train": 0.7, "val": 0.3}
COUNT = 60


def samples_of(positions: tuple[int | None, ...], width: int, count: int = COUNT) -> list[Sample]:
    rng = np.random.default_rng(0)
    found = []
    for k in range(count):
        vectors = int(rng.integers(0, 7)) if None in positions else int(np.prod([size or 0 for size in positions]))
        bits = rng.integers(0, 2, (vectors, width)).astype(bool)
        found.append(Sample(f"n{k % 3}/im.{k}", {"x": bits}, {LABEL: np.int64(k % 10).tobytes()}))
    return found


def schema_of(positions: tuple[int | None, ...], dims: tuple[int, ...]) -> Schema:
    return Schema({"x": positions}, dims, carried={LABEL: ("I64", ())})


def write(folder: Path, samples: list[Sample], schema: Schema) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (first, last) in enumerate(pairwise([0, 17, 18, len(samples)])):
        sample_files.write(folder / f"{number}{SUFFIX}", samples[first:last], schema)
    return [str(folder)]


def run(name: str, paths: list[str], out: Path, **options: Any) -> list[Outcome]:
    return list(export(name, paths, out, ExportOptions(durable=False, **options)))


def codes_of(sample: Sample, dims: tuple[int, ...]) -> Array:
    """[vectors, codebooks], msb first."""
    fields = np.split(sample.bits["x"], np.cumsum(dims)[:-1], axis=1)
    return np.stack([field @ (1 << np.arange(field.shape[1] - 1, -1, -1)) for field in fields], axis=1)


def described(folder: Path) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((folder / "lfq.json").read_text())
    return description


@pytest.fixture
def tokens(tmp_path: Path) -> tuple[list[str], dict[str, list[Sample]]]:
    """A folder of codes of 12 bits [3, 4], and its samples by split."""
    samples = samples_of((3, 4), 12)
    paths = write(tmp_path / "tokens", samples, schema_of((3, 4), (12,)))
    numbers = split([each.key for each in samples], SPLITS)
    return paths, {name: [s for s, n in zip(samples, numbers, strict=True) if n == k] for k, name in enumerate(SPLITS)}


Tokens = tuple[list[str], dict[str, list[Sample]]]


# vocabularies


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_sequences_are_those_of_a_plain_loop(data: st.DataObject) -> None:
    dims = data.draw(st.sampled_from([(3,), (2, 3), (1, 1, 2)]))
    rows, row = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    flatten = data.draw(st.sampled_from(["position", "codebook"]))
    step = data.draw(st.sampled_from([None, 0, 8]))
    offset = data.draw(st.integers(0, 5))
    bos, eos, end = (data.draw(st.sampled_from([None, 100 + k])) for k in range(3))
    label_offset = data.draw(st.sampled_from([None, 200]))
    labels = np.arange(2) if label_offset is not None else None
    rng = np.random.default_rng(0)
    indices = np.stack([rng.integers(0, 2**bits, (2, rows * row)) for bits in dims], axis=-1)
    vocabulary = Vocabulary(
        dims, flatten, step, offset, bos, eos, end, label_offset, None if labels is None else (0, 1)
    )
    expected = []
    for n in range(2):
        ids: list[int | None] = [bos, None if labels is None else int(labels[n]) + 200]
        starts = [offset + (sum(2**b for b in dims[:k]) if step is None else k * step) for k in range(len(dims))]
        passes = [range(len(dims))] if flatten == "position" else [[k] for k in range(len(dims))]
        for codebooks in passes:
            for r in range(rows):
                for v in range(row):
                    ids += [starts[k] + int(indices[n, r * row + v, k]) for k in codebooks]
                ids.append(end)
        expected.append([each for each in [*ids, eos] if each is not None])
    assert vocabulary.sequences(indices, row, labels).tolist() == expected
    assert vocabulary.length(rows * row, row) == len(expected[0])
    assert vocabulary.size > max(max(ids) for ids in expected)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 4), max_size=5),
    flatten=st.sampled_from(["position", "codebook"]),
    offset=st.integers(0, 5),
    bos=st.sampled_from([None, 100]),
    eos=st.sampled_from([None, 101]),
    label_offset=st.sampled_from([None, 200]),
)
def test_samples_of_different_lengths_get_what_each_gets_alone(
    lengths: list[int], flatten: Any, offset: int, bos: int | None, eos: int | None, label_offset: int | None
) -> None:
    labels = None if label_offset is None else np.arange(len(lengths))
    vocabulary = Vocabulary((2, 3), flatten, None, offset, bos, eos, None, label_offset, (0, 9))
    indices = np.random.default_rng(0).integers(0, 4, (sum(lengths), 2))
    found = vocabulary.ragged(indices, np.array(lengths, np.int64), labels)
    ends = np.cumsum([0, *lengths]).tolist()
    alone = [
        vocabulary.sequences(indices[None, a:b], None, None if labels is None else labels[k : k + 1])[0]
        for k, (a, b) in enumerate(pairwise(ends))
    ]
    assert [each.tolist() for each in found] == [each.tolist() for each in alone]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bos": 7}, "--bos has id 7, which codebook 0 has too"),
        ({"bos": 8, "eos": 8}, "has id 8, which --"),
        ({"label_offset": 3, "labels": (0, 9)}, "a label has id 3, which codebook 0 has too"),
        ({"label_offset": 8, "labels": (-2, 3)}, "a label has id 6, which codebook 0 has too"),
    ],
)
def test_ids_that_stand_for_two_things_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Vocabulary((3,), **options)


def test_splits_are_shares_and_stay() -> None:
    keys = [f"key {k}" for k in range(20_000)]
    numbers = split(keys, parse_splits("train=0.9,val=0.09,test=0.01"))
    counts = np.bincount(numbers) / len(keys)
    assert np.allclose(counts, [0.9, 0.09, 0.01], atol=0.01)
    assert np.array_equal(split(keys[:50], parse_splits("train=0.9,val=0.09,test=0.01")), numbers[:50])
    assert split(["a", "b", "c"], {"x": 0.5, "y": 0.5}).tolist() == [1, 0, 0]  # for ever
    for wrong in ("train=1.5", "train=0.5", "a=0.5,a=0.5", "../x=1", "train", "a=nan"):
        with pytest.raises(OptionError, match="--split"):
            parse_splits(wrong)


# each format by its own reader


def test_bin_as_nanogpt_reads_it(tokens: Tokens, tmp_path: Path) -> None:
    paths, splits = tokens
    run("bin", paths, tmp_path / "out", splits=SPLITS, eos=4096)
    for name, samples in splits.items():
        found = np.memmap(tmp_path / "out" / f"{name}.bin", dtype=np.uint16, mode="r")
        expected = np.concatenate([np.append(codes_of(each, (12,))[:, 0], 4096) for each in samples])
        assert np.array_equal(found, expected)
    description = described(tmp_path / "out")
    assert description["vocabulary"]["size"] == 4097
    assert description["sample_length"] == 13


def test_bin_of_1xgpt(tmp_path: Path) -> None:
    """Read as its data.py does: shape (num_images, s, s), segments in int32."""
    samples = samples_of((2, 3, 3), 18)
    paths = write(tmp_path / "tokens", samples, schema_of((2, 3, 3), (18,)))
    run("bin", paths, tmp_path / "out", style="1x")
    folder = tmp_path / "out" / "train"
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata == {"num_images": 2 * COUNT, "s": 3, "vocab_size": 2**18, "token_dtype": "uint32"}
    shape = (metadata["num_images"], metadata["s"], metadata["s"])
    video = np.memmap(folder / "video.bin", dtype=np.dtype(metadata["token_dtype"]), mode="r", shape=shape)
    segments = np.memmap(folder / "segment_ids.bin", dtype=np.int32, mode="r", shape=(metadata["num_images"],))
    assert np.array_equal(video.reshape(COUNT, -1), np.stack([codes_of(each, (18,))[:, 0] for each in samples]))
    assert segments.tolist() == np.repeat(np.arange(COUNT), 2).tolist()
    with pytest.raises(OptionError, match="without special ids"):
        run("bin", paths, tmp_path / "other", style="1x", bos=2**18)
    with pytest.raises(OptionError, match="one code a position, the samples have 2") as refused:
        run("bin", paths, tmp_path / "other", style="1x", dims=(9, 9))
    assert refused.value.hint == "--codebook-dims 18 makes one of them"


def test_megatron(tokens: Tokens, tmp_path: Path) -> None:
    paths, splits = tokens
    run("megatron", paths, tmp_path / "out", splits=SPLITS, labels=LABEL, label_offset=4096)
    for name, samples in splits.items():
        stem = tmp_path / "out" / name
        expected = [[4096 + int.from_bytes(s.carried[LABEL], "little"), *codes_of(s, (12,))[:, 0]] for s in samples]
        index = (stem.with_suffix(".idx")).read_bytes()
        assert index[:9] == b"MMIDIDX\x00\x00"
        version, code, sequences, documents = struct.unpack_from("<QBQQ", index, 9)
        assert (version, code, sequences, documents) == (1, 4, len(samples), len(samples) + 1)
        lengths = np.frombuffer(index, "<i4", sequences, 34)
        pointers = np.frombuffer(index, "<i8", sequences, 34 + 4 * sequences)
        data = stem.with_suffix(".bin").read_bytes()
        found = [np.frombuffer(data, "<i4", n, at).tolist() for n, at in zip(lengths, pointers, strict=True)]
        assert found == expected
        assert np.frombuffer(index, "<i8", documents, 34 + 12 * sequences).tolist() == list(range(documents))
        assert len(index) == 34 + 12 * sequences + 8 * documents


@pytest.mark.filterwarnings("ignore")
def test_megatron_core_reads_it(tokens: Tokens, tmp_path: Path) -> None:
    indexed = pytest.importorskip(
        "megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed", exc_type=ImportError
    )
    paths, splits = tokens
    run("megatron", paths, tmp_path / "out", splits=SPLITS)
    found = indexed.IndexedDataset(str(tmp_path / "out" / "val"))
    assert len(found) == len(splits["val"])
    for ids, sample in zip(found, splits["val"], strict=True):
        assert ids.dtype == np.int32
        assert np.array_equal(ids, codes_of(sample, (12,))[:, 0])
    assert found.document_indices.tolist() == list(range(len(splits["val"]) + 1))


@pytest.mark.filterwarnings("ignore")  # its files are closed by the collector
def test_webdataset_reads_its_shards(tokens: Tokens, tmp_path: Path) -> None:
    paths, splits = tokens
    run("webdataset", paths, tmp_path / "out", splits=SPLITS, labels=LABEL, samples_per_file=10, dims=(6, 6))
    for name, samples in splits.items():
        shards = sorted(str(path) for path in (tmp_path / "out").glob(f"{name}-*.tar"))
        assert len(shards) == -(-len(samples) // 10)
        found = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode())
        assert [each["__key__"] for each in found] == [each.key.replace(".", "%2E") for each in samples]
        for each, sample in zip(found, samples, strict=True):
            ids = codes_of(sample, (6, 6)) + np.array([0, 64])
            assert np.array_equal(each["npy"], ids.reshape(-1))
            assert each["cls"] == int.from_bytes(sample.carried[LABEL], "little")


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "a//b", "a\x00b", "..", "é.x", "C:\\x", "a\nb"])
def test_keys_are_names_inside_the_archive(key: str) -> None:
    name = member_name(key)
    assert not name.startswith("/")
    assert "." not in name
    assert "//" not in name
    assert name.isascii()
    assert name.isprintable()


def test_pyarrow_reads_parquet(tokens: Tokens, tmp_path: Path) -> None:
    paths, splits = tokens
    run("parquet", paths, tmp_path / "out", splits=SPLITS, labels=LABEL, samples_per_file=25)
    for name, samples in splits.items():
        files = sorted((tmp_path / "out").glob(f"{name}-*.parquet"))
        table = pq.read_table(files)
        assert table["key"].to_pylist() == [each.key for each in samples]
        assert table["tokens"].to_pylist() == [codes_of(each, (12,))[:, 0].tolist() for each in samples]
        assert table[LABEL].to_pylist() == [int.from_bytes(each.carried[LABEL], "little") for each in samples]


def test_parquet_is_near_the_size_of_the_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [Sample(f"{k}", {"x": rng.integers(0, 2, (256, 18)).astype(bool)}) for k in range(2000)]
    sample_files.write(tmp_path / f"a{SUFFIX}", samples, Schema({"x": (256,)}, (18,)))
    run("parquet", [str(tmp_path / f"a{SUFFIX}")], tmp_path / "out")
    size = (tmp_path / "out" / "train-00000.parquet").stat().st_size
    assert size < 1.2 * 2000 * 576


@pytest.mark.filterwarnings("ignore")
def test_datasets_reads_parquet(tokens: Tokens, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed", exc_type=ImportError)
    paths, splits = tokens
    run("parquet", paths, tmp_path / "out", splits=SPLITS)
    files = {name: [str(tmp_path / "out" / f"{name}-00000.parquet")] for name in SPLITS}
    found = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    for name, samples in splits.items():
        assert [row["tokens"] for row in found[name]] == [codes_of(each, (12,))[:, 0].tolist() for each in samples]


@pytest.mark.filterwarnings("ignore")
def test_streaming_reads_mds(tokens: Tokens, tmp_path: Path) -> None:
    streaming = pytest.importorskip("streaming", reason="mosaicml-streaming is not installed", exc_type=ImportError)
    paths, splits = tokens
    run("mds", paths, tmp_path / "out", splits=SPLITS, labels=LABEL)
    for name, samples in splits.items():
        found = streaming.LocalDataset(str(tmp_path / "out" / name))
        assert [each["key"] for each in found] == [each.key for each in samples]
        for each, sample in zip(found, samples, strict=True):
            assert np.array_equal(each["tokens"], codes_of(sample, (12,))[:, 0])
            assert each[LABEL] == int.from_bytes(sample.carried[LABEL], "little")


def test_npy_as_llamagen_reads_it(tokens: Tokens, tmp_path: Path) -> None:
    paths, splits = tokens
    run("npy", paths, tmp_path / "out", splits=SPLITS, labels=LABEL)
    for name, samples in splits.items():
        folder = tmp_path / "out" / name
        assert (folder / "keys.txt").read_text(encoding="utf-8").splitlines() == [each.key for each in samples]
        for k, sample in enumerate(samples):
            features, label = np.load(folder / "codes" / f"{k}.npy"), np.load(folder / "labels" / f"{k}.npy")
            assert features.dtype == label.dtype == np.int64
            assert np.array_equal(features, codes_of(sample, (12,))[None, :, 0])
            assert label.tolist() == [int.from_bytes(sample.carried[LABEL], "little")]


@pytest.mark.parametrize("name", ["bin", "megatron", "webdataset", "parquet", "npy"])
def test_samples_of_several_lengths(name: str, tmp_path: Path) -> None:
    samples = samples_of((None,), 8)
    paths = write(tmp_path / "tokens", samples, schema_of((None,), (8,)))
    run(name, paths, tmp_path / "out", eos=256)
    expected = [[*codes_of(each, (8,))[:, 0].tolist(), 256] for each in samples]
    if name == "bin":
        assert np.fromfile(tmp_path / "out" / "train.bin", np.uint16).tolist() == [i for ids in expected for i in ids]
    elif name == "parquet":
        assert pq.read_table(tmp_path / "out" / "train-00000.parquet")["tokens"].to_pylist() == expected
    assert described(tmp_path / "out")["sample_length"] is None
    with pytest.raises(OptionError, match="--row-end: samples have no rows"):
        run(name, paths, tmp_path / "other", row_end=256)


# what does not go


def test_ids_that_do_not_fit_say_which_cut_does(tmp_path: Path) -> None:
    paths = write(tmp_path / "tokens", samples_of((4,), 18), schema_of((4,), (18,)))
    with pytest.raises(OptionError, match="ids up to 262143 do not fit uint16") as raised:
        run("bin", paths, tmp_path / "out")
    assert "--codebook-dims 9,9" in str(raised.value.hint)
    assert "--dtype uint32" in str(raised.value.hint)
    assert not (tmp_path / "out").exists()
    run("bin", paths, tmp_path / "out", dims=(9, 9), codebook_offset=0)
    assert described(tmp_path / "out")["vocabulary"]["size"] == 512
    run("bin", paths, tmp_path / "wide", dtype="uint32")
    assert np.fromfile(tmp_path / "wide" / "train.bin", np.uint32).size == COUNT * 4


def test_wrong_options_and_inputs(tokens: Tokens, tmp_path: Path) -> None:
    paths, _ = tokens
    for name, options, message in (
        ("bin", {"labels": LABEL}, "no place for labels"),
        ("bin", {"label_offset": 9}, "--label-offset belongs to --labels"),
        ("parquet", {"labels": "nope"}, "carry no such column"),
        ("bin", {"samples_per_file": 3}, "all samples of a split together"),
        ("parquet", {"dtype": "uint16"}, "parquet holds int32, int64"),
        ("megatron", {"style": "1x"}, "not a style of megatron"),
        ("bin", {"tensor": "y"}, "has no tensor of 'y'"),
    ):
        with pytest.raises(LfqError, match=message):
            run(name, paths, tmp_path / "out", **options)
    again = tmp_path / "again"
    again.mkdir()
    (again / f"x{SUFFIX}").write_bytes(Path(paths[0], f"1{SUFFIX}").read_bytes())
    with pytest.raises(OptionError, match="both have a sample"):
        run("bin", [*paths, str(again)], tmp_path / "out")


# whole or not there


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", [each for each in FORMATS if each != "mds"])
def test_a_run_that_broke_off_goes_on_to_the_same_bytes(name: str, tokens: Tokens, tmp_path: Path) -> None:
    paths, _ = tokens
    more: dict[str, Any] = {"samples_per_file": 7} if name in ("webdataset", "parquet") else {}
    whole = run(name, paths, tmp_path / "whole", splits=SPLITS, **more)
    from lfq_cli.exports.place import LocalPlace

    for stop in range(len(whole)):
        out = tmp_path / f"broken {stop}"
        rename, made = LocalPlace._give_name, [0]

        def give_name(*args: Any) -> None:
            made[0] += 1  # noqa: B023
            if made[0] > stop:  # noqa: B023
                raise KeyboardInterrupt
            rename(*args)  # noqa: B023

        with patch.object(LocalPlace, "_give_name", give_name), pytest.raises(KeyboardInterrupt):
            run(name, paths, out, splits=SPLITS, **more)
        assert not (out / "lfq.json").exists()
        again = run(name, paths, out, splits=SPLITS, **more)
        assert {outcome.status for outcome in again} <= {"written", "up to date"}
        assert contents(out) == contents(tmp_path / "whole")
    again = run(name, paths, tmp_path / "whole", splits=SPLITS, **more)
    assert {outcome.status for outcome in again} == {"up to date"}


def test_damage_is_seen_and_mended_and_another_export_refused(tokens: Tokens, tmp_path: Path) -> None:
    paths, _ = tokens
    run("bin", paths, tmp_path / "out", splits=SPLITS)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "val.bin").write_bytes(before["val.bin"][:-2])
    outcomes = run("bin", paths, tmp_path / "out", splits=SPLITS)
    assert [outcome.status for outcome in outcomes] == ["up to date", "written"]
    assert contents(tmp_path / "out") == before
    with pytest.raises(ExistsError, match="belongs to another export"):
        run("bin", paths, tmp_path / "out", splits=SPLITS, eos=4096)
    run("bin", paths, tmp_path / "out", splits=SPLITS, eos=4096, overwrite=True)
    assert described(tmp_path / "out")["vocabulary"]["eos"] == 4096
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.bin").write_text("mine")
    (outcome,) = run("bin", paths, tmp_path / "mine")
    assert outcome.status == "refused"
    assert contents(tmp_path / "mine") == {"train.bin": b"mine"}
    assert run("bin", paths, tmp_path / "mine")[0].status == "refused"


@pytest.mark.slow
def test_killed_at_any_moment_nothing_half_is_left(tmp_path: Path) -> None:
    samples = samples_of((16, 16), 12, 400)
    paths = write(tmp_path / "tokens", samples, schema_of((16, 16), (12,)))
    command = [sys.executable, "-m", "lfq_cli", "export", "webdataset", *paths, "--samples-per-file", "20", "-q"]
    subprocess.run([*command, "-o", str(tmp_path / "whole")], check=True)
    out = tmp_path / "out"
    for wait in (0.25, 0.35, 0.45):
        process = subprocess.Popen([*command, "-o", str(out)])
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        whole = contents(tmp_path / "whole")
        for name, data in contents(out).items() if out.exists() else ():
            assert name.startswith(".lfq") or whole[name] == data
    subprocess.run([*command, "-o", str(out)], check=True)
    assert contents(out) == whole


def test_a_dry_run_writes_nothing(tokens: Tokens, tmp_path: Path) -> None:
    paths, splits = tokens
    outcomes = run("bin", paths, tmp_path / "out", splits=SPLITS, dry_run=True)
    assert [(outcome.status, outcome.samples) for outcome in outcomes] == [
        ("planned", len(samples)) for samples in splits.values()
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "given"), [("bin", "train.bin"), ("parquet", "table.parquet")])
def test_the_name_of_a_file_does_not_become_a_folder(tokens: Tokens, tmp_path: Path, name: str, given: str) -> None:
    with pytest.raises(OptionError, match="is the name of a file, expected a folder"):
        run(name, tokens[0], tmp_path / given)
    assert not (tmp_path / given).exists()
    (tmp_path / given).mkdir()  # intended
    assert [outcome.status for outcome in run(name, tokens[0], tmp_path / given)] == ["written"]


def test_an_outcome_counts_vectors_not_ids(tokens: Tokens, tmp_path: Path) -> None:
    (outcome,) = run("bin", tokens[0], tmp_path / "out", dims=(6, 6), bos=200)
    assert (outcome.vectors, outcome.bytes_out) == (COUNT * 12, COUNT * (1 + 12 * 2) * 2)
