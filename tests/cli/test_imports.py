"""What a command costs before it does anything: the libraries it imports, by sys.modules at the end of a process."""

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import lfq_cli

pytestmark = pytest.mark.slow

PACKAGE = Path(lfq_cli.__file__).parent

RUN_AND_REPORT = """
import json, sys
report = sys.argv.pop(1)
code = 0
class Depth:
    calls = None
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            frame, self.calls = sys._getframe(), 0
            while frame := frame.f_back:
                self.calls += 1
depth = Depth()
sys.meta_path.insert(0, depth)
try:
    from lfq_cli.cli import main
    main()
except SystemExit as exit:
    code = exit.code or 0
with open(report, "w") as file:
    json.dump({"code": code, "modules": sorted(sys.modules), "calls_around_numpy": depth.calls}, file)
"""


def write_checkpoint(path, weights=None, **config):
    description = {"format": "lfq-checkpoint", "version": 1, "config": {"type": "lfq", **config}}
    save_file(weights or {}, path, metadata={"lfq": json.dumps(description)})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with checkpoints (plain, spherical, projected), inputs and codes."""
    folder = tmp_path_factory.mktemp("files")
    write_checkpoint(folder / "plain.safetensors", dim=8, codebook_size=256)
    write_checkpoint(folder / "spherical.safetensors", dim=8, codebook_size=256, spherical=True)
    weights = {"project_in.weight": np.ones((4, 8), np.float32), "project_out.weight": np.ones((8, 4), np.float32)}
    write_checkpoint(folder / "projected.safetensors", weights, dim=8, codebook_size=16)
    x = np.random.default_rng(0).standard_normal((3, 8), np.float32)
    np.save(folder / "x.npy", x)
    save_file({"x": x}, folder / "x.safetensors")
    np.savez(folder / "x.npz", x=x)
    torch.save({"x": torch.from_numpy(x), "run": {"latents": torch.from_numpy(x)}}, folder / "x.pt")
    torch.save({"quantizer.mask": 2 ** torch.arange(7, -1, -1), "args": argparse.Namespace(lr=1)}, folder / "state.pt")
    for name in ("plain", "spherical"):
        modules_after("encode", f"{name}.safetensors", "x.npy", "-o", f"{name}.codes.safetensors", folder=folder)
    return folder


def report_of(*arguments, folder):
    """What `lfq ARGUMENTS` has imported when it ends well."""
    report = folder / "report.json"
    command = [sys.executable, "-c", RUN_AND_REPORT, str(report), *arguments]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    parsed = json.loads(report.read_text())
    report.unlink()
    assert parsed["code"] == 0, ran.stderr
    return parsed


def modules_after(*arguments, folder):
    """The top-level modules that `lfq ARGUMENTS` has imported when it ends well."""
    return {name.partition(".")[0] for name in report_of(*arguments, folder=folder)["modules"]}


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_neither_numpy_nor_torch(arguments, tmp_path):
    assert not {"numpy", "torch", "safetensors", "einops"} & modules_after(*arguments, folder=tmp_path)


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors", "x.npz", "x.pt"])
@pytest.mark.parametrize("checkpoint", ["plain.safetensors", "spherical.safetensors", "state.pt"])
def test_encode_without_projection_never_imports_torch(checkpoint, name, files, tmp_path):
    arguments = ("encode", checkpoint, name, "-o", str(tmp_path / "out"))
    assert "torch" not in modules_after(*arguments, folder=files)


NOT_FOR_ONE_FILE = {
    "asyncio",
    "fsspec",
    "lfq_cli.checkpoints.families",
    "lfq_cli.checkpoints.refused",
    "lfq_cli.codesfile.builder",
    "lfq_cli.jobs.pack",
    "lfq_cli.pipeline.compare",
    "lfq_cli.pipeline.decode",
    "lfq_cli.pipeline.merge",
    "lfq_cli.pipeline.samples",
    "lfq_cli.pipeline.survey",
    "lfq_cli.statistics",
    "lfq_cli.torchfile",
    "lfq_cli.training",
    "rich.console",
    "rich.progress",
    "rich.table",
    "torch",
}
"""What `lfq encode -q` of one file with a native checkpoint can do without: 39 of the 85 ms that its imports took."""


def test_encode_of_one_file_imports_no_more_than_it_needs(files, tmp_path):
    arguments = ("encode", "plain.safetensors", "x.safetensors", "-o", str(tmp_path / "out"), "-q")
    found = set(report_of(*arguments, folder=files)["modules"])
    assert {"numpy", "lfq_cli.jobs.encode", "lfq_cli.pipeline.encode"} <= found  # the report sees what is imported
    assert found & NOT_FOR_ONE_FILE == set()


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["encode", "plain.safetensors", "x.safetensors"], "rich.table"),
        (["encode", "state.pt", "x.safetensors", "-q"], "lfq_cli.checkpoints.families"),
        (["encode", "plain.safetensors", "x.safetensors", "-q", "--stacked"], "lfq_cli.jobs.pack"),
    ],
    ids=["a table", "a foreign checkpoint", "samples"],
)
def test_what_an_encode_needs_is_imported(arguments, module, files, tmp_path):
    assert module in report_of(*arguments, "-o", str(tmp_path / "out"), folder=files)["modules"]


def test_numpy_is_imported_before_a_command_is_called(files):
    """Its imports, the deepest of all, then fit into the first chunk of CPython's stack."""
    assert report_of("stats", "plain.codes.safetensors", folder=files)["calls_around_numpy"] < 12


def test_exit_searches_no_modules_for_garbage(files):
    code = (
        "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() > 10_000))\n"
        "from lfq_cli.__main__ import main; sys.argv = ['lfq', 'stats', 'plain.codes.safetensors', '-q']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=files, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith("True\n")


@pytest.mark.parametrize("output", ["back.npy", "back.safetensors"])
@pytest.mark.parametrize("checkpoint", ["plain", "spherical"])
def test_decode_without_projection_never_imports_torch(checkpoint, output, files, tmp_path):
    codes = f"{checkpoint}.codes.safetensors"
    arguments = ("decode", f"{checkpoint}.safetensors", codes, "-o", str(tmp_path / output))
    assert "torch" not in modules_after(*arguments, folder=files)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_stats_never_imports_torch(more, files):
    assert "torch" not in modules_after("stats", "plain.codes.safetensors", *more, folder=files)


@pytest.mark.parametrize(
    "name", ["plain.safetensors", "projected.safetensors", "plain.codes.safetensors", "x.npy", "x.pt", "state.pt"]
)
def test_inspect_never_imports_torch(name, files):
    assert "torch" not in modules_after("inspect", name, folder=files)


@pytest.mark.parametrize(("checkpoint", "expected"), [("plain", False), ("spherical", False), ("projected", True)])
def test_export_codebook_imports_torch_only_with_a_projection(checkpoint, expected, files, tmp_path):
    arguments = ("export-codebook", f"{checkpoint}.safetensors", "-o", str(tmp_path / "codebook.safetensors"))
    assert ("torch" in modules_after(*arguments, folder=files)) == expected  # True: the report can see torch


def test_merge_never_imports_torch(files, tmp_path):
    pack = (
        "encode",
        "plain.safetensors",
        "x.npy",
        "-o",
        str(tmp_path / "tokens"),
        "--stacked",
        "--samples-per-file",
        "2",
    )
    modules_after(*pack, folder=files)
    assert "torch" not in modules_after("merge", str(tmp_path / "tokens"), "-o", str(tmp_path / "one"), folder=files)


def test_import_lfq_cli_imports_neither_numpy_nor_torch():
    code = "import sys, lfq_cli; print([name for name in ('numpy', 'torch', 'typer', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_open_codes_imports_no_torch(files):
    code = (
        "import sys, lfq_cli; lfq_cli.open_codes('plain.codes.safetensors')['data'][:]; print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=files, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def files_that_import(library):
    """The modules of lfq_cli that import `library`, anywhere in their source."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if library in [name.partition(".")[0] for name in named]:
                found.add(path.relative_to(PACKAGE).as_posix())
    return found


def test_only_render_imports_rich():
    found = files_that_import("rich")
    assert found
    assert all(name.startswith("cli/render/") for name in found)


def test_click_is_never_imported():
    assert files_that_import("click") == set()  # typer >= 0.26 has its own copy; click may not be there


def test_only_cli_imports_typer():
    found = files_that_import("typer")
    assert found
    assert all(name.startswith("cli/") for name in found)
