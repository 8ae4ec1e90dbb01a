"""The README says what is true: its commands run, its output is the output, its reader reads."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from lfq_cli import native, open_codes
from lfq_cli.cli import COMMANDS, app_for
from lfq_cli.cli.exits import ExitCode
from lfq_cli.quantizer import Quantizer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSOLE = re.search(r"```console\n(\$ lfq encode.*?)```", README, re.DOTALL).group(1)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
CODES_FILE = (ROOT / "docs" / "codes-file.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder in which the console example ran, and what each of its commands printed on either stream."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "sample_data", folder / "sample_data")
    printed = {}
    for line in CONSOLE.splitlines():
        if line.startswith("$ lfq "):
            command = [sys.executable, "-m", "lfq_cli", *line.removeprefix("$ lfq ").split()]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            printed[line] = [line.rstrip() for line in (done.stdout + done.stderr).splitlines()]
    return folder, printed


@pytest.mark.slow
def test_the_console_example_shows_what_is_printed(ran):
    _, printed = ran
    shown = re.split(r"^(\$ .*)$", CONSOLE, flags=re.MULTILINE)[1:]
    examples = dict(zip(shown[::2], shown[1::2], strict=True))
    assert set(examples) == set(printed)
    for command, output in examples.items():
        missing = [line for line in output.splitlines() if line not in ("", "[...]", *printed[command])]
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


def test_the_reader_of_the_format_reads(tmp_path):
    lfq = [sys.executable, "-m", "lfq_cli"]
    data = ROOT / "sample_data"
    command = [*lfq, "encode", str(data / "latents_lfq.safetensors"), str(data / "latents.safetensors"), "-o", "codes"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    (reader,) = re.findall(r"```python\n(.*?)```", CODES_FILE, re.DOTALL)
    read = {}
    exec(reader.replace("codes/latents", str(tmp_path / "codes/latents")), read)
    with open_codes(tmp_path / "codes/latents.codes.safetensors") as codes:
        assert np.array_equal(read["indices"], codes["latents"][...].reshape(-1))
        assert list(codes["latents"].shape) == read["info"]["shape"]


@pytest.mark.filterwarnings("ignore")
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    native.write(Quantizer(dim=18, codebook_dim=18), Path("lfq.safetensors"))
    latents = np.random.default_rng(0).standard_normal((64, 18, 4, 4)).astype(np.float32)
    names = {"loader": [(latents, np.arange(64), [f"{k}" for k in range(64)])], "encoder": lambda images: images}
    first, second = PYTHON
    Path("codes").mkdir()
    exec(first.replace("model.ckpt", "lfq.safetensors").replace("out.codes", "codes/out.codes"), names)
    exec(second, names)
    batch = next(iter(names["batches"]))
    assert batch["latents"].shape == (64, 4, 4, 2)
    assert sorted(batch["labels"].tolist()) == list(range(64))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_are_commands(page):
    """Every `$ lfq` line in a console block has options and values that the command knows."""
    root = typer.main.get_command(app_for([]))
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        words = shlex.split(line.split("#")[0])
        if words[:2] == ["$", "lfq"] and words[2] in COMMANDS:
            root.commands[words[2]].make_context(words[2], words[3:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]*(?:#[^)]*)?)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200


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
        assert f"`{key}`" in CODES_FILE, key


def test_every_exit_code_is_documented():
    table = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").split("## Exit codes")[1]
    for code in ExitCode:
        assert f"\n| {code:d} |" in table, code
