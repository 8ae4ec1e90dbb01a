"""The README says what is true: its commands run, its output is the output, its reader reads."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lfq_cli import open_codes
from lfq_cli.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSOLE = re.search(r"```console\n(\$ lfq encode.*?)```", README, re.DOTALL).group(1)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder in which the console example ran, and what each of its commands printed on either stream."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "sample_data", folder / "sample_data")
    told = {}
    for line in CONSOLE.splitlines():
        if line.startswith("$ lfq "):
            command = [sys.executable, "-m", "lfq_cli", *line.removeprefix("$ lfq ").split()]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            told[line] = [line.rstrip() for line in (done.stdout + done.stderr).splitlines()]
    return folder, told


def test_the_console_example_shows_what_is_printed(ran):
    _, told = ran
    shown = re.split(r"^(\$ .*)$", CONSOLE, flags=re.MULTILINE)[1:]
    examples = dict(zip(shown[::2], shown[1::2], strict=True))
    assert set(examples) == set(told)
    for command, output in examples.items():
        missing = [line for line in output.splitlines() if line and line not in told[command]]
        assert missing == [], command


def test_the_claim_under_the_example(ran):
    folder, _ = ran
    from safetensors.numpy import load_file

    images = load_file(folder / "sample_data/digits.safetensors")["images"]
    decoded = load_file(folder / "decoded/digits.safetensors")["images"]
    kept = 1 - np.square(images - decoded).sum() / np.square(images - images.mean(0)).sum()
    codes = load_file(folder / "codes/digits.codes.safetensors")["images"]
    assert f"keep {kept:.0%}".replace("%", " %") in README
    assert f"1/{images.nbytes / codes.nbytes:.0f} of the bytes" in README


def test_the_reader_in_the_readme_reads(tmp_path):
    lfq = [sys.executable, "-m", "lfq_cli"]
    data = ROOT / "sample_data"
    command = [*lfq, "encode", str(data / "latents_lfq.safetensors"), str(data / "latents.safetensors"), "-o", "codes"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    (reader,) = [text for text in PYTHON if "unpackbits" in text]
    read = {}
    exec(reader.replace("codes/latents", str(tmp_path / "codes/latents")), read)
    with open_codes(tmp_path / "codes/latents.codes.safetensors") as codes:
        assert np.array_equal(read["indices"], codes["latents"][...].reshape(-1))
        assert list(codes["latents"].shape) == read["info"]["shape"]


def test_every_command_is_there():
    for name in COMMANDS:
        assert f"`lfq {name} " in README


def test_every_module_is_in_the_house():
    house = re.search(r"```\nlfq_cli/\n(.*?)```", README, re.DOTALL).group(1)
    named = set(re.findall(r"(\w+)(?:/|\.py)", house))
    package = ROOT / "lfq_cli"
    there = {path.stem if path.is_file() else path.name for path in package.iterdir() if path.name[0] not in "_."}
    assert there - {"py", "version"} - named == set()


def test_the_metadata_table_names_every_key(ran):
    folder, _ = ran
    with open_codes(folder / "codes/digits.codes.safetensors") as codes:
        header = json.loads(json.dumps(codes.header.as_json()))
    for key in [*header, *header["tensors"]["images"]]:
        assert f"`{key}`" in README, key
