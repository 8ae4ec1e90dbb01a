"""jobs/inputs.py: every file that arguments name, each once, and nothing missed without a word."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfq_cli.errors import OptionError, TensorError
from lfq_cli.jobs import inputs
from lfq_cli.jobs.inputs import find_inputs, sorted_out


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """tree("a/b", "c", ...) makes these files in the working folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(name)

    return make


def found(*arguments):
    paths, missed = sorted_out(find_inputs(arguments, lambda path: path.endswith(".x"), TensorError))
    assert missed == {}
    return [str(path) for path in paths]


def test_a_folder_is_all_that_lies_below_in_order(tree):
    tree("in/b.x", "in/a.x", "in/c/2.x", "in/c/1.x", "in/b/z.x", "in/other.y")
    assert found("in") == ["in/a.x", "in/b.x", "in/b/z.x", "in/c/1.x", "in/c/2.x"]


def test_names_that_begin_with_a_dot_are_passed_over(tree):
    tree("in/a.x", "in/.hidden.x", "in/.ipynb_checkpoints/a-checkpoint.x", "in/b/.git/c.x")
    Path("in/.link").symlink_to("b")
    assert found("in") == ["in/a.x"]
    assert found("in/.hidden.x") == ["in/.hidden.x"]
    assert found("in/.ipynb_checkpoints") == ["in/.ipynb_checkpoints/a-checkpoint.x"]
    assert found("in/**/*.x") == ["in/a.x"]


def test_links_to_folders_are_followed(tree):
    tree("in/a.x", "elsewhere/b.x", "elsewhere/deep/c.x")
    Path("in/link").symlink_to(Path("elsewhere").absolute())
    assert found("in") == ["in/a.x", "in/link/b.x", "in/link/deep/c.x"]
    assert found("in/**/*.x") == ["in/a.x", "in/link/b.x", "in/link/deep/c.x"]


def test_no_folder_is_read_twice_and_links_come_last(tree):
    tree("in/z/a.x", "elsewhere/b.x")
    Path("in/a_link").symlink_to("z")
    Path("in/z/up").symlink_to("..")
    Path("in/z/self").symlink_to(".")
    Path("in/first").symlink_to("../elsewhere")
    Path("in/second").symlink_to("../elsewhere")
    assert found("in") == ["in/z/a.x", "in/first/b.x"]


def test_a_link_above_ends(tree):
    tree("top/in/a.x", "top/b.x")
    Path("top/in/up").symlink_to("../../top")
    assert found("top/in") == ["top/in/a.x", "top/in/up/b.x"]


def test_a_link_to_nowhere_is_an_input_that_fails_later(tree):
    tree("in/a.x")
    Path("in/b.x").symlink_to("nowhere")
    assert found("in") == ["in/a.x", "in/b.x"]


@pytest.mark.parametrize("argument", ["in", "in/**/*.x", "in/*/*.x"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_folder_that_cannot_be_read_is_reported(tree, monkeypatch, argument, number):
    tree("in/a/1.x", "in/locked/2.x", "in/z/3.x")
    scandir = os.scandir

    def refusing(folder):
        if Path(folder).name == "locked":
            raise OSError(number, os.strerror(number), str(folder))
        return scandir(folder)

    monkeypatch.setattr(inputs.os, "scandir", refusing)
    paths, missed = sorted_out(find_inputs([argument], lambda path: path.endswith(".x"), TensorError))
    assert [str(path) for path in paths] == ["in/a/1.x", "in/z/3.x"]
    assert list(missed) == [Path("in/locked")]
    assert f"in/locked: cannot be read: {os.strerror(number)}" in missed[Path("in/locked")].message


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every folder")
def test_a_folder_without_permission(tree):
    tree("in/a.x", "in/locked/2.x")
    Path("in/locked").chmod(0)
    try:
        _, missed = sorted_out(find_inputs(["in"], lambda path: path.endswith(".x"), TensorError))
    finally:
        Path("in/locked").chmod(0o700)
    assert "Permission denied" in missed[Path("in/locked")].message


def test_globs(tree):
    tree("in/a/1.x", "in/b/2.x", "in/b/c/3.x", "in/4.x", "in/b/5.y")
    assert found("in/*.x") == ["in/4.x"]
    assert found("in/*/*.x") == ["in/a/1.x", "in/b/2.x"]
    assert found("in/**/*.x") == ["in/4.x", "in/a/1.x", "in/b/2.x", "in/b/c/3.x"]
    assert found("in/**") == ["in/4.x", "in/a/1.x", "in/b/2.x", "in/b/c/3.x"]
    assert found("in/[ab]/?.x") == ["in/a/1.x", "in/b/2.x"]
    assert found("in/b/**/3.x", "in/b/*") == ["in/b/c/3.x", "in/b/2.x"]
    assert found(str(Path("in/*/1.x").absolute())) == [str(Path("in/a/1.x").absolute())]
    assert found("*/4.x") == ["in/4.x"]


@given(names=st.lists(st.text("ab[]*?", min_size=1, max_size=3), min_size=1, max_size=3, unique=True))
def test_a_file_that_is_there_is_no_glob(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        (folder / f"{name}.x").touch()
    for name in names:
        assert found(str(folder / f"{name}.x")) == [str(folder / f"{name}.x")]


def test_a_file_that_is_named_twice_is_one(tree):
    tree("in/a.x", "in/b.x")
    Path("link").symlink_to("in")
    assert found("in/b.x", "in", "link", str(Path("in").absolute())) == ["in/b.x", "in/a.x"]


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ("", OptionError, "not a path"),
        ("empty", TensorError, "no file in this folder"),
        ("*.z", TensorError, "no file matches"),
        ("no/*/folder", TensorError, "no file matches"),
    ],
)
def test_nothing_there(tree, argument, error, message):
    tree("empty/a.y")
    with pytest.raises(error, match=message):
        found(argument)
