"""rename.py: a name is taken or kept, never replaced, whichever of its ways a file system knows."""

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from lfq_cli import rename
from lfq_cli.errors import ExistsError
from lfq_cli.files import atomic_output, write_all
from lfq_cli.rename import rename_new

WAYS = ("_rename_without_replacing", "_link", "_claim")


def unable(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Only this way and those after it are there."""
    for name in WAYS[: WAYS.index(request.param)]:
        monkeypatch.setattr(rename, name, unable(errno.EOPNOTSUPP))
    return request.param


@pytest.mark.usefixtures("way")
def test_a_free_name_is_taken(tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    rename_new(tmp_path / "a", tmp_path / "b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b": b"mine"}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["file", "link to nowhere", "folder"])
def test_what_is_there_is_kept(tmp_path, kind):
    (tmp_path / "a").write_bytes(b"mine")
    target = tmp_path / "b"
    if kind == "file":
        target.write_bytes(b"theirs")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "a", target)
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert target.is_symlink() if kind.startswith("link") else target.exists()
    assert kind != "file" or target.read_bytes() == b"theirs"


@pytest.mark.usefixtures("way")
def test_of_many_at_once_one_has_the_name(tmp_path):
    names = [tmp_path / str(k) for k in range(8)]
    for name in names:
        name.write_bytes(name.name.encode())
    start, refused = threading.Barrier(len(names)), []

    def run(name):
        start.wait()
        try:
            rename_new(name, tmp_path / "out")
        except FileExistsError:
            refused.append(name)

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == len(names) - 1
    (winner,) = set(names) - set(refused)
    assert (tmp_path / "out").read_bytes() == winner.name.encode()


@pytest.mark.usefixtures("way")
def test_outputs_of_two_runs(tmp_path):
    """As `lfq` writes them: the second to finish is refused and leaves nothing of its own."""

    def run_second():
        with atomic_output(tmp_path / "out") as second:
            write_all(second, b"second")

    with pytest.raises(ExistsError), atomic_output(tmp_path / "out"):
        run_second()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"out": b"second"}


def test_a_claim_that_fails_is_given_back(tmp_path, monkeypatch):
    for name in WAYS[:2]:
        monkeypatch.setattr(rename, name, unable(errno.EINVAL))
    (tmp_path / "a").write_bytes(b"mine")
    monkeypatch.setattr(Path, "replace", unable(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        rename_new(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_other_errors_are_not_taken_for_inability(tmp_path, monkeypatch):
    monkeypatch.setattr(rename, "_rename_without_replacing", unable(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        rename_new(tmp_path / "a", tmp_path / "b")


@pytest.fixture
def vfat(tmp_path):
    """A folder on a file system without hard links."""
    image, folder = tmp_path / "image", tmp_path / "vfat"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    try:
        for command in (["mkfs.vfat", image], ["mount", "-o", "loop", image, folder]):
            subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as reason:
        pytest.skip(f"no vfat can be mounted here: {reason}")
    yield folder
    subprocess.run(["umount", folder], check=True, timeout=30)


def test_vfat(vfat):
    test_a_free_name_is_taken(vfat)
    (vfat / "b").unlink()
    test_outputs_of_two_runs(vfat)
