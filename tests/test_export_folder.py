"""The folder of an export: nothing of damaged codes, of an earlier export or of another run gets into it unseen."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sample_files
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_files import Sample, Schema

from lfq_cli import codesfile
from lfq_cli.codesfile import SUFFIX
from lfq_cli.errors import CodesFileError, ExistsError, OptionError, OutputError
from lfq_cli.exports import FORMATS
from lfq_cli.exports import webdataset as webdataset_format
from lfq_cli.exports.format import Part, Rows
from lfq_cli.exports.run import ExportOptions, export
from lfq_cli.exports.webdataset import member_name
from lfq_cli.jobs.outcome import Outcome

Command = Callable[..., tuple[int, str, str]]
LABEL = "label"
WRITTEN = [name for name in FORMATS if name != "mds"]  # mosaicml-streaming is not a test dependency
SHARDED = ["webdataset", "parquet"]
KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]) | st.sampled_from("./%"), min_size=1)


def write(path: Path, count: int = 30, *, positions: tuple[int | None, ...] = (4,), first: int = 0) -> Path:
    """Samples "k0", "k1", ... of 12 bits and a label."""
    rng = np.random.default_rng(first)
    length = (lambda: int(rng.integers(0, 5))) if None in positions else (lambda: 4)
    samples = [
        Sample(f"k{k}", {"x": rng.integers(0, 2, (length(), 12)).astype(bool)}, {LABEL: np.int64(k).tobytes()})
        for k in range(first, first + count)
    ]
    path.parent.mkdir(exist_ok=True, parents=True)
    return sample_files.write(path, samples, Schema({"x": positions}, (12,), carried={LABEL: ("I64", ())}))


def run(name: str, source: Path, out: Path, **options: Any) -> list[Outcome]:
    return list(export(name, [str(source)], out, ExportOptions(durable=False, **options)))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lfq_process(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lfq_cli", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, **more)


# codes that are damaged


def flip_a_byte_of(path: Path, name: str) -> None:
    with codesfile.open_codes(path) as codes:
        stored = codes.stored[name]
    data = bytearray(path.read_bytes())
    data[stored.start + stored.nbytes // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_is_made_of_damaged_codes(name: str, tmp_path: Path) -> None:
    write(tmp_path / "in" / f"a{SUFFIX}")
    flip_a_byte_of(write(tmp_path / "in" / f"b{SUFFIX}", first=50), "x")
    (outcome,) = run(name, tmp_path / "in", tmp_path / "out")
    assert isinstance(outcome.error, CodesFileError)
    assert f"b{SUFFIX}: 'x' is damaged" in outcome.error.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("column", [LABEL, "keys", "x.offsets"])
def test_nor_of_damaged_labels_keys_and_offsets(column: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX}", positions=(None,))
    flip_a_byte_of(path, column)
    with pytest.raises(CodesFileError, match=column):
        raise_errors(run("webdataset", path, tmp_path / "out", labels=LABEL))
    assert not (tmp_path / "out").exists()


def raise_errors(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error


def test_parts_before_the_damage_are_kept_and_the_rest_is_made_once_it_is_mended(tmp_path: Path) -> None:
    write(tmp_path / "in" / f"a{SUFFIX}")
    bad = write(tmp_path / "in" / f"b{SUFFIX}", first=50)
    good = bad.read_bytes()
    whole = run("webdataset", tmp_path / "in", tmp_path / "whole", samples_per_file=10)
    flip_a_byte_of(bad, "x")
    outcomes = run("webdataset", tmp_path / "in", tmp_path / "out", samples_per_file=10)
    assert [outcome.status for outcome in outcomes] == ["written"] * 3 + ["failed"]
    assert not (tmp_path / "out" / "lfq.json").exists()
    bad.write_bytes(good)
    outcomes = run("webdataset", tmp_path / "in", tmp_path / "out", samples_per_file=10)
    assert [outcome.status for outcome in outcomes] == ["up to date"] * 3 + ["written"] * (len(whole) - 3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_codes_that_change_while_they_are_exported_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX}")
    outcomes = export("webdataset", [str(path)], tmp_path / "out", ExportOptions(durable=False, samples_per_file=10))
    assert next(outcomes).status == "written"
    write(path, first=7)
    (outcome,) = outcomes
    assert outcome.error is not None
    assert "changed since it was opened" in outcome.error.message


# what an earlier export left


@pytest.mark.parametrize("name", SHARDED)
def test_an_export_leaves_no_shards_of_the_one_that_it_replaces(name: str, tmp_path: Path) -> None:
    path, fewer = write(tmp_path / f"a{SUFFIX}"), write(tmp_path / f"b{SUFFIX}", 12)
    splits = {"train": 0.5, "val": 0.5}
    run(name, path, tmp_path / "out", samples_per_file=5, splits=splits)
    with pytest.raises(ExistsError, match="another export"):
        run(name, fewer, tmp_path / "out", samples_per_file=5)
    run(name, fewer, tmp_path / "out", samples_per_file=5, overwrite=True)
    run(name, fewer, tmp_path / "fresh", samples_per_file=5)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_nor_does_one_that_went_on_after_it_was_stopped(tmp_path: Path) -> None:
    path, fewer = write(tmp_path / f"a{SUFFIX}"), write(tmp_path / f"b{SUFFIX}", 12)
    run("webdataset", path, tmp_path / "out", samples_per_file=5)
    options = ExportOptions(durable=False, samples_per_file=5, overwrite=True)
    stopped = export("webdataset", [str(fewer)], tmp_path / "out", options)
    next(stopped)
    stopped.close()
    assert not (tmp_path / "out" / "lfq.json").exists(), "it describes what is no longer there"
    run("webdataset", fewer, tmp_path / "out", samples_per_file=5)
    run("webdataset", fewer, tmp_path / "fresh", samples_per_file=5)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_shards_of_unknown_origin_are_refused_as_a_reader_would_take_them(tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX}")
    (tmp_path / "out").mkdir()
    for name in ("train-00007.tar", "notes.txt", "test-00001.tar", "train-00007.tar.bak"):
        (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(ExistsError, match=r"train-00007\.tar: exists, and would be read as a part"):
        run("webdataset", path, tmp_path / "out")
    assert len(contents(tmp_path / "out")) == 4
    run("webdataset", path, tmp_path / "out", overwrite=True)
    names = {"train-00000.tar", "lfq.json", "notes.txt", "test-00001.tar", "train-00007.tar.bak"}
    assert set(contents(tmp_path / "out")) == names


def test_notes_that_name_something_outside_remove_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX}")
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("mine")
    parts = {"train": {"../precious": {"bytes": 4, "sha256": "00"}}}
    (tmp_path / "out" / "lfq.json").write_text(json.dumps({"fingerprint": "f", "parts": parts}))
    run("bin", path, tmp_path / "out", overwrite=True)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_folder_of_ones_own_is_not_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX}")
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "mine").write_text("mine")
    for overwrite in (False, True):
        (outcome,) = run("npy", path, tmp_path / "out", overwrite=overwrite)
        assert isinstance(outcome.error, ExistsError)
        assert "train: was not made by an export" in outcome.error.message
    assert contents(tmp_path / "out") == {"train/mine": b"mine"}


def test_an_export_beside_its_input_leaves_it_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "train.bin")
    before = path.read_bytes()
    (outcome,) = run("bin", path, tmp_path, overwrite=True)
    assert isinstance(outcome.error, OptionError)
    assert "which is one of its inputs" in outcome.error.message
    assert contents(tmp_path) == {"train.bin": before}
    renamed = path.rename(tmp_path / f"a{SUFFIX}")
    for _ in range(2):
        (outcome,) = run("bin", tmp_path, tmp_path)
        assert outcome.error is None
    assert set(contents(tmp_path)) == {renamed.name, "train.bin", "lfq.json"}


# runs that are stopped, and runs side by side


def test_two_exports_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX}")
    first = export("webdataset", [str(path)], tmp_path / "out", ExportOptions(durable=False, samples_per_file=10))
    next(first)
    with pytest.raises(OutputError, match="another export is writing into it"):
        run("webdataset", path, tmp_path / "out", samples_per_file=10)
    assert [outcome.status for outcome in first] == ["written"] * 2
    again = run("webdataset", path, tmp_path / "out", samples_per_file=10)
    assert {outcome.status for outcome in again} == {"up to date"}


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(fcntl, "flock", refused)
    (outcome,) = run("bin", write(tmp_path / f"a{SUFFIX}"), tmp_path / "out")
    assert outcome.status == "written"


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(name: str, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for a disk that fills up: the write that crosses it is refused."""
    count, limit = (400, 1000) if name == "npy" else (4000, 20_000)  # of npy's only keys.txt is large
    path = write(tmp_path / f"a{SUFFIX}", count)

    def bound() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    out = tmp_path / "out"
    done = lfq_process("export", name, str(path), "-o", str(out), "-q", preexec_fn=bound)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"lfq: error: {out}/train")
    assert "cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()
    assert lfq_process("export", name, str(path), "-o", str(out), "-q").returncode == 0
    run(name, path, tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_after_some_parts(small_disk: Path, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX}", 60)
    done = lfq_process(
        "export", "webdataset", str(path), "-o", str(small_disk / "out"), "--samples-per-file", "10", "-q"
    )
    assert done.returncode == 3
    assert "No space left on device" in done.stderr
    left = contents(small_disk / "out")
    run("webdataset", path, tmp_path / "whole", samples_per_file=10)
    whole = contents(tmp_path / "whole")
    assert left.keys() - {".lfq-export.json"} <= whole.keys() - {"lfq.json"}
    assert all(whole[name] == data for name, data in left.items() if not name.startswith("."))
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    done = lfq_process(
        "export", "webdataset", str(path), "-o", str(small_disk / "out"), "--samples-per-file", "10", "-q"
    )
    assert done.returncode == 0, done.stderr
    assert contents(small_disk / "out") == whole


# keys


@settings(max_examples=300, deadline=None)
@given(KEYS)
def test_the_name_of_a_member_is_the_key_for_webdataset_and_gives_it_back(key: str) -> None:
    from urllib.parse import unquote

    name = member_name(key)
    assert unquote(name) == key
    assert webdataset.tariterators.base_plus_ext(f"{name}.npy") == (name, "npy")
    assert name.isascii()
    assert name.isprintable()
    assert not name.startswith("/")
    assert all(step not in ("", ".", "..") for step in name.split("/"))


@pytest.mark.filterwarnings("ignore")  # its files are closed by the collector
def test_keys_that_differ_only_in_slashes_and_dots_stay_apart(tmp_path: Path) -> None:
    keys = ["a/b", "a//b", "/a/b", "a/b/", "a/./b", "a/../b", "a/%2F/b", "a.b", "a%2Eb", "..", "/", "é/ü", "a b"]
    samples = [Sample(key, {"x": np.full((2, 12), k % 2, bool)}) for k, key in enumerate(keys)]
    path = sample_files.write(tmp_path / f"a{SUFFIX}", samples, Schema({"x": (2,)}, (12,)))
    run("webdataset", path, tmp_path / "out")
    found = list(webdataset.WebDataset(str(tmp_path / "out" / "train-00000.tar"), shardshuffle=False).decode())
    assert [each["__key__"] for each in found] == [member_name(key) for key in keys]
    assert len({each["__key__"] for each in found}) == len(keys)


def test_samples_without_keys_are_called_by_file_and_row_unless_two_files_have_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        golden = next(iter(sorted((Path(__file__).parent / "golden" / "0.1").rglob(f"*{SUFFIX}"))))
        (tmp_path / "in" / folder).mkdir(parents=True)
        shutil.copy(golden, tmp_path / "in" / folder)
    with codesfile.open_codes(golden) as codes:
        name = next(iter(codes))
    with pytest.raises(OptionError, match="both have a sample"):
        run("webdataset", tmp_path / "in", tmp_path / "out", tensor=name)
    raise_errors(run("bin", tmp_path / "in", tmp_path / "out", tensor=name, dtype="uint32"))


@settings(max_examples=60, deadline=None)
@given(st.lists(KEYS | KEYS.map(lambda key: key * 40), max_size=5, unique=True), st.integers(0, 3), st.booleans())
def test_a_shard_is_what_tarfile_and_numpy_write(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], length: int, labelled: bool
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    ids = np.arange(len(keys) * length, dtype=np.int32).reshape(len(keys), length)
    labels = np.arange(len(keys)) - 1 if labelled else None
    rows = Rows(keys, ids, labels)
    part = Part(lambda: iter([rows]), len(keys), ids.size, ids.dtype, (length,), 100, LABEL if labelled else None)
    webdataset_format.write(part, folder, "shard")
    with tarfile.open(folder / "expected.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for k, key in enumerate(keys):
            data = io.BytesIO()
            np.save(data, ids[k])
            members = [(f"{member_name(key)}.npy", data.getvalue())]
            if labels is not None:
                members.append((f"{member_name(key)}.cls", str(labels[k]).encode()))
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    assert (folder / "shard.tar").read_bytes() == (folder / "expected.tar").read_bytes()


# labels


@pytest.mark.parametrize(
    ("name", "dtype", "label", "options"),
    [
        ("bin", "I64", 2**31, {"style": "1x"}),
        ("bin", "I64", -(2**31) - 1, {"style": "1x"}),
        ("parquet", "U64", 2**63, {}),
        ("webdataset", "U64", 2**64 - 1, {}),
        ("npy", "U64", 2**63, {}),
        ("megatron", "U64", 2**63, {"label_offset": 4096}),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    name: str, dtype: str, label: int, options: dict[str, Any], tmp_path: Path
) -> None:
    data = label.to_bytes(8, "little", signed=label < 0)
    samples = [Sample("a", {"x": np.ones((1, 12), bool)}, {LABEL: data})]
    path = sample_files.write(
        tmp_path / f"a{SUFFIX}", samples, Schema({"x": (1, 1)}, (12,), carried={LABEL: (dtype, ())})
    )
    with pytest.raises(OptionError, match=f"--labels {LABEL}: {label} does not fit int"):
        run(name, path, tmp_path / "out", labels=LABEL, **options)
    assert not (tmp_path / "out").exists()


def test_labels_that_are_called_like_a_column_are_refused(tmp_path: Path) -> None:
    samples = [Sample("a", {"x": np.ones((1, 12), bool)}, {"tokens": np.int64(3).tobytes()})]
    schema = Schema({"x": (1,)}, (12,), carried={"tokens": ("I64", ())})
    path = sample_files.write(tmp_path / f"a{SUFFIX}", samples, schema)
    with pytest.raises(OptionError, match="has a column 'tokens' of its own"):
        run("parquet", path, tmp_path / "out", labels="tokens")
    raise_errors(run("parquet", path, tmp_path / "out", labels="tokens", label_offset=4096))
    raise_errors(run("webdataset", path, tmp_path / "shards", labels="tokens"))


@pytest.mark.parametrize("bits", [18, 40, 64])
@pytest.mark.parametrize("offset", [0, 60_000])
def test_the_cut_that_a_message_names_fits(bits: int, offset: int, tmp_path: Path) -> None:
    samples = [Sample("a", {"x": np.ones((2, bits), bool)})]
    path = sample_files.write(tmp_path / f"a{SUFFIX}", samples, Schema({"x": (2,)}, (bits,)))
    with pytest.raises(OptionError, match="do not fit uint16") as raised:
        run("bin", path, tmp_path / "out", offset=offset)
    found = re.search(r"--codebook-dims ([\d,]+) makes", str(raised.value.hint))
    assert found is not None
    dims = tuple(map(int, found[1].split(",")))
    assert sum(dims) == bits
    raise_errors(run("bin", path, tmp_path / "out", dims=dims, offset=offset))
    with pytest.raises(OptionError, match="do not fit uint16") as raised:
        run("bin", path, tmp_path / "out", eos=2**bits)
    assert "--codebook-dims" not in str(raised.value.hint), "no cut makes room for that id"


@pytest.mark.parametrize("positions", [(2,), (None,)])
def test_ids_near_the_end_of_int64_are_exact(positions: tuple[int | None, ...], tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (2, 62)).astype(bool)
    path = sample_files.write(tmp_path / f"a{SUFFIX}", [Sample("a", {"x": bits})], Schema({"x": positions}, (62,)))
    raise_errors(run("parquet", path, tmp_path / "out", dtype="int64", offset=2**62))
    (ids,) = pq.read_table(tmp_path / "out" / "train-00000.parquet")["tokens"].to_pylist()
    assert ids == [2**62 + int("".join(map(str, row.astype(int))), 2) for row in bits]


# libraries that are not there


def test_a_library_that_is_missing_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / f"a{SUFFIX}")
    for name, module in (("mds", "streaming"), ("parquet", "pyarrow.parquet")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(OutputError, match=f"out: needs {module.partition('.')[0]}") as raised:
            run(name, path, tmp_path / "out")
        assert raised.value.hint == f"pip install 'lfq-cli[{name}]'"
        assert not (tmp_path / "out").exists()


# sizes


def test_nothing_to_export_makes_files_that_readers_take(tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX}", 0)
    for name in WRITTEN:
        for outcome in run(name, path, tmp_path / name):
            assert outcome.error is None
    assert (tmp_path / "bin" / "train.bin").read_bytes() == b""
    assert json.loads((tmp_path / "parquet" / "lfq.json").read_text())["samples"] == 0


def test_row_groups_hold_many_samples_but_not_all(tmp_path: Path) -> None:
    samples = [Sample(f"k{k}", {"x": np.zeros((1, 12), bool)}) for k in range(3000)]
    path = sample_files.write(tmp_path / f"a{SUFFIX}", samples, Schema({"x": (1,)}, (12,)))
    run("parquet", path, tmp_path / "out")
    assert pq.ParquetFile(tmp_path / "out" / "train-00000.parquet").num_row_groups == 1


def test_errors_of_options_are_errors_of_usage(lfq: Command, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX}")
    for options, message in (
        (["--codebook-dims", "5,5"], "not a cut of the 12 bits"),
        (["--codebook-offset", "-1"], "expected auto or a number"),
        (["--row-end", "4096"], "samples have no rows"),
        (["--style", "1x"], "--style 1x: samples are [4]"),
    ):
        code, out, err = lfq("export", "bin", path, "-o", tmp_path / "out", *options)
        assert (code, out) == (2, ""), err
        assert message in err
        assert not (tmp_path / "out").exists()


# lfq verify


def verdicts(lfq: Command, *arguments: Path) -> tuple[int, dict[str, str], dict[str, str]]:
    """(exit code, name -> status, name -> error) of `lfq verify --json`."""
    code, out, _ = lfq("verify", *arguments, "--json")
    files = json.loads(out)["files"]
    names = [Path(each["path"]).name for each in files]
    statuses = dict(zip(names, (each["status"] for each in files), strict=True))
    return code, statuses, {name: each.get("error", "") for name, each in zip(names, files, strict=True)}


@pytest.mark.parametrize("name", WRITTEN)
def test_verify_tells_damage_of_any_part(lfq: Command, name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(name, write(tmp_path / f"a{SUFFIX}"), out, **({"samples_per_file": 10} if name in SHARDED else {}))
    names = {each for files in json.loads((out / "lfq.json").read_text())["parts"].values() for each in files}
    code, statuses, _ = verdicts(lfq, out)
    assert (code, statuses) == (0, dict.fromkeys(names, "whole"))
    some = sorted(names)[0]
    path = next(each for each in sorted((out / some).rglob("*")) if each.is_file()) if name == "npy" else out / some
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, statuses, errors = verdicts(lfq, out)
    assert (code, statuses) == (4, dict.fromkeys(names, "whole") | {some: "damaged"})
    assert "another sha256" in errors[some]
    path.write_bytes(data[:-1])
    assert f"expected {len(data)}" in verdicts(lfq, out)[2][some] or name == "npy"
    path.unlink()
    assert verdicts(lfq, out)[0] == 4


def test_verify_tells_shards_that_are_no_part_and_exports_that_are_not_finished(lfq: Command, tmp_path: Path) -> None:
    out, path = tmp_path / "out", write(tmp_path / f"a{SUFFIX}")
    running = export("webdataset", [str(path)], out, ExportOptions(durable=False, samples_per_file=10))
    next(running)
    code, statuses, errors = verdicts(lfq, out)
    assert (code, statuses) == (1, {"out": "failed"})
    assert "is not finished" in errors["out"]
    list(running)
    shutil.copy(out / "train-00000.tar", out / "train-00003.tar")
    shutil.copy(out / "train-00000.tar", out / "mine.tar")
    code, statuses, _ = verdicts(lfq, out)
    whole = dict.fromkeys([f"train-0000{k}.tar" for k in range(3)], "whole")
    assert (code, statuses) == (4, whole | {"train-00003.tar": "different"})


def test_verify_takes_codes_and_an_export_among_them(lfq: Command, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX}")
    run("bin", path, tmp_path)
    code, statuses, _ = verdicts(lfq, tmp_path)
    assert (code, statuses) == (0, {path.name: "whole", "train.bin": "whole"})
    run("bin", path, tmp_path / "apart")
    code, _, err = lfq("verify", tmp_path / "apart", "--checkpoint", "none")
    assert code == 2
    assert "an export has none" in err
