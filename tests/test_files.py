"""files.py: an output is whole under its final name, or nothing of it is left."""

import ctypes
import errno
import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfq_cli import files
from lfq_cli.errors import OutputError
from lfq_cli.files import atomic_output, refuse_existing, write_all


def held(folder):
    """Everything in the folder and below: {relative name: content, None for a folder}."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def write(path, content, then=lambda: None, **options):
    """Writes the content, and does `then` before the block ends."""
    with atomic_output(path, **options) as file:
        write_all(file, content)
        then()


def fail_with(error):
    def fail(*_):
        raise error

    return fail


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize("durable", [False, True])
@given(chunks=st.lists(st.binary(max_size=50), max_size=5))
def test_what_is_written_appears(shared, durable, chunks):
    with atomic_output(shared / "out", overwrite=True, durable=durable) as file:
        for chunk in chunks:
            write_all(file, chunk)
    assert held(shared) == {"out": b"".join(chunks)}


def test_nothing_under_the_final_name_before_the_end(tmp_path):
    path = tmp_path / "out"
    with atomic_output(path) as file:
        write_all(file, b"abc")
        (partial,) = held(tmp_path)
        assert partial.startswith(files.PARTIAL_PREFIX)
        assert partial.endswith(files.PARTIAL_SUFFIX)
    assert held(tmp_path) == {"out": b"abc"}


def test_what_is_replaced_stays_until_the_end(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"before")
    with atomic_output(path, overwrite=True) as file:
        write_all(file, b"after")
        assert path.read_bytes() == b"before"
    assert held(tmp_path) == {"out": b"after"}


def test_the_file_can_be_written_from_the_start_again(tmp_path):
    with atomic_output(tmp_path / "out") as file:
        write_all(file, b"0123456789")
        file.seek(2)
        write_all(file, b"ab")
    assert held(tmp_path) == {"out": b"01ab456789"}


def test_two_writers_do_not_share_a_partial(tmp_path):
    path = tmp_path / "out"

    def write_second():
        write(path, b"second", lambda: seen.extend(held(tmp_path).values()))

    seen = []
    with pytest.raises(OutputError, match="exists"):
        write(path, b"first", write_second)
    assert sorted(seen) == [b"first", b"second"]
    assert held(tmp_path) == {"out": b"second"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, OutputError])
@pytest.mark.parametrize("existing", [None, b"before"])
def test_an_exception_leaves_everything_as_it_was(tmp_path, error, existing):
    path = tmp_path / "out"
    if existing is not None:
        path.write_bytes(existing)
    before = held(tmp_path)
    with pytest.raises(error, match="stop"):
        write(path, b"half of it", fail_with(error("stop")), overwrite=True)
    assert held(tmp_path) == before


def test_what_the_system_refuses_while_writing_is_reported_with_the_path(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="No space left on device") as caught:
        write(path, b"half of it", fail_with(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert caught.value.message.startswith(f"{path}: ")
    assert held(tmp_path) == {}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_last_step_leaves_nothing(tmp_path, monkeypatch, step):
    owner = os if step == "fsync" else Path
    monkeypatch.setattr(owner, step, fail_with(OSError(errno.EIO, os.strerror(errno.EIO))))
    with (
        pytest.raises(OutputError, match="Input/output error"),
        atomic_output(tmp_path / "out", overwrite=step == "replace") as file,
    ):
        file.write(b"all of it")
    monkeypatch.undo()
    assert held(tmp_path) == {}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
@pytest.mark.parametrize("existing", [False, True])
def test_the_mode_is_that_of_any_new_file(tmp_path, umask, existing):
    path = tmp_path / "out"
    if existing:
        path.touch(0o600)
    before = os.umask(umask)
    try:
        with atomic_output(path, overwrite=existing):
            pass
        plain = tmp_path / "plain"
        plain.touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask == stat.S_IMODE(plain.stat().st_mode)


def test_durable_waits_for_the_file_and_its_name(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def recording(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    with atomic_output(tmp_path / "a", durable=False):
        pass
    assert synced == []
    with atomic_output(tmp_path / "b"):
        pass
    assert synced == [False, True]


# What is in the way


def test_an_existing_file_is_refused_before_any_work(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"before")
    with pytest.raises(OutputError, match="exists") as caught, atomic_output(path):
        pytest.fail("the block ran")
    assert "--overwrite" in caught.value.hint
    assert held(tmp_path) == {"out": b"before"}


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="exists"):
        write(path, b"mine", lambda: path.write_bytes(b"theirs"))
    assert held(tmp_path) == {"out": b"theirs"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="is a folder"), atomic_output(tmp_path / "out", overwrite=overwrite):
        pytest.fail("the block ran")
    assert held(tmp_path) == {"out": None}


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="is a folder"):
        write(path, b"mine", path.mkdir, overwrite=True)
    assert held(tmp_path) == {"out": None}


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_link_exists_wherever_it_leads_and_is_replaced_itself(tmp_path, target):
    (tmp_path / "there").write_bytes(b"kept")
    path = tmp_path / "out"
    path.symlink_to(tmp_path / target)
    with pytest.raises(OutputError, match="exists"), atomic_output(path):
        pytest.fail("the block ran")
    with atomic_output(path, overwrite=True) as file:
        write_all(file, b"new")
    assert not path.is_symlink()
    assert held(tmp_path) == {"there": b"kept", "out": b"new"}


def test_missing_folders_are_made(tmp_path):
    with atomic_output(tmp_path / "a" / "b" / "out") as file:
        write_all(file, b"x")
    assert held(tmp_path) == {"a": None, "a/b": None, "a/b/out": b"x"}


@pytest.mark.parametrize("below", ["out", "folder/out"])
def test_a_file_where_a_folder_has_to_be(tmp_path, below):
    (tmp_path / "file").write_bytes(b"kept")
    path = tmp_path / "file" / below
    with pytest.raises(OutputError, match="cannot be written") as caught, atomic_output(path):
        pytest.fail("the block ran")
    assert str(path) in caught.value.message
    assert held(tmp_path) == {"file": b"kept"}


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "/out", "loop/out"])
def test_a_name_that_the_system_refuses(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError), atomic_output(tmp_path / name):
        pytest.fail("the block ran")


def test_refuse_existing_says_nothing_of_a_free_name(tmp_path):
    refuse_existing(tmp_path / "out", overwrite=False)
    (tmp_path / "out").touch()
    refuse_existing(tmp_path / "out", overwrite=True)
    with pytest.raises(OutputError, match="exists"):
        refuse_existing(tmp_path / "out", overwrite=False)


# Writing all


class Trickle:
    """A raw file of which the system takes at most a few bytes at a time."""

    def __init__(self, most):
        self.most = most
        self.content = b""

    def write(self, data):
        taken = bytes(data[: self.most])
        self.content += taken
        return len(taken)


@given(st.binary(max_size=100), st.integers(1, 7), st.sampled_from([bytes, bytearray, memoryview]))
def test_write_all_writes_all(data, most, kind):
    file = Trickle(most)
    write_all(file, kind(data))
    assert file.content == data


LARGE = 8 << 20


@pytest.fixture
def no_fallocate(monkeypatch):
    """no_fallocate(errno): the system answers so when room is asked for."""

    def answer(number):
        def refuse(*_):
            ctypes.set_errno(number)
            return -1

        monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(fallocate=refuse))

    return answer


@pytest.mark.skipif(sys.platform != "linux", reason="room is set aside on Linux only")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_without_room_is_reported_before_the_work(number, tmp_path, no_fallocate):
    no_fallocate(number)
    with pytest.raises(OutputError, match="cannot be written"), atomic_output(tmp_path / "out", nbytes=LARGE):
        pytest.fail("the work began")
    assert list(tmp_path.iterdir()) == []
    with atomic_output(tmp_path / "small", nbytes=1) as file:  # does not ask
        file.write(b"x")
    assert (tmp_path / "small").read_bytes() == b"x"


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_file_systems_that_set_nothing_aside(number, tmp_path, no_fallocate):
    no_fallocate(number)
    with atomic_output(tmp_path / "out", nbytes=LARGE) as file:
        file.write(b"x" * LARGE)
    assert (tmp_path / "out").stat().st_size == LARGE


def test_what_was_announced_and_not_written_is_an_error(tmp_path):
    with (
        pytest.raises(ValueError, match="1000 of 8388608 bytes"),
        atomic_output(tmp_path / "out", nbytes=LARGE) as file,
    ):
        file.write(b"x" * 1000)
    assert list(tmp_path.iterdir()) == []
