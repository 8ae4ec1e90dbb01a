"""What paths the commands take: no URL is taken for a folder, and no folder is missed without a word."""

import errno
import inspect
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lfq_cli.cli import COMMANDS, command_named
from lfq_cli.jobs import inputs

UNKNOWN = ("ftp://bucket/x.npy", "file:///x", "S3A+x://y")
WITHOUT_A_NAME = ("s3://", "s3:///x", "https:///x.npy", "s3://b//x", "gs://b/./x", "az://b/../x")
PLACES = {"OUT", "INPUT", "CODES", "CHECKPOINT", "PATH", "NATIVE", "FOREIGN"}


@pytest.fixture
def here(lfq):
    description = {"format": "lfq-checkpoint", "version": 1, "config": {"type": "lfq", "dim": 8, "codebook_size": 256}}
    save_file({}, "c.safetensors", metadata={"lfq": json.dumps(description)})
    for name in ("in/a.npy", "in/locked/b.npy"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        np.save(name, np.ones((5, 8), np.float32))
    lfq("encode", "c.safetensors", "in", "-o", "out")
    return lfq


def parameters(command):
    """(name, its typer description) of every parameter of a command that takes a path."""
    for name, parameter in inspect.signature(command).parameters.items():
        option = parameter.annotation.__metadata__[0]
        if option.metavar in PLACES and name != "module":
            yield name, option


def arguments(command, name, url):
    """A whole command line with `url` as the parameter `name`, and sound files elsewhere."""
    sound = {
        "CHECKPOINT": "c.safetensors",
        "INPUT": "in/a.npy",
        "CODES": "out/a.codes.safetensors",
        "OUT": "o.safetensors",
    }
    sound |= {"PATH": "c.safetensors", "FOREIGN": "c.safetensors", "NATIVE": "n.safetensors"}
    if command == "export":
        yield "bin"
    for other, option in parameters(command_named(command)):
        value = url if other == name else sound[option.metavar]
        flags = getattr(option, "param_decls", None)
        if not flags:
            yield value
        elif other == name or (option.metavar in ("OUT", "NATIVE") and "--output" in flags):
            yield from (flags[0], value)


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in COMMANDS for name, _ in parameters(command_named(command))]
)
def test_urls_that_lead_nowhere_are_refused_wherever_a_path_is_taken(here, command, name):
    before = sorted(Path().rglob("*"))
    for url in UNKNOWN + WITHOUT_A_NAME:
        code, out, err = here(command, *arguments(command, name, url))
        assert (code, out) == (2, ""), err
        said = " ".join(err.replace("│", " ").split())
        if url in UNKNOWN:
            assert "lfq does not support" in said
        else:
            assert "names no " in said or "no path can have" in said
    assert sorted(Path().rglob("*")) == before


def test_a_path_with_a_colon_is_a_path(here):
    Path("s3:").mkdir()
    np.save("s3:/x.npy", np.ones((5, 8), np.float32))
    assert here("encode", "c.safetensors", "s3:/x.npy", "-o", "./s3:")[0] == 0
    assert Path("s3:/x.codes.safetensors").exists()


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("encode", "c.safetensors", "in", "-o", "new"), "outputs"),
        (("decode", "c.safetensors", "out", "-o", "new"), "outputs"),
        (("verify", "out"), "files"),
        (("stats", "out"), "failed"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_folder_that_cannot_be_read_is_a_failure(here, monkeypatch, command, option):
    scandir = os.scandir

    def refusing(folder):
        if Path(folder).name == "locked":
            raise OSError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(inputs.os, "scandir", refusing)
    code, out, err = here(*command)
    assert code == 3
    assert "locked: cannot be read: Permission denied" in err
    code, out, err = here(*command, "--json")
    assert code == 3
    assert "locked" in str(json.loads(out)[option])
    if command[0] in ("encode", "decode"):
        assert [path.name.split(".")[0] for path in Path("new").rglob("*")] == ["a"]
