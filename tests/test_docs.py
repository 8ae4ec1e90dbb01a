"""The Python of the documentation runs as it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lfq_cli import native
from lfq_cli.jobs.pack import PackOptions, pack
from lfq_cli.jobs.plan import name_samples
from lfq_cli.pipeline.samples import SampleOptions
from lfq_cli.quantizer import Quantizer

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lfq.safetensors, and tokens/ with 20 samples called "latents" with their labels."""
    monkeypatch.chdir(tmp_path)
    quantizer = Quantizer(dim=18, codebook_dim=18)
    native.write(quantizer, Path("lfq.safetensors"))
    x = np.random.default_rng(0).standard_normal((20, 18, 16, 16)).astype(np.float16)
    np.savez("in.npz", latents=x, label=np.arange(20))
    inputs, _ = name_samples(["in.npz"], Path("tokens"), stacked=True, inputs_kept=[])
    samples = SampleOptions(tensors=("latents",), carry=("label",), layout=0)
    options = PackOptions(samples, samples_per_file=8, stacked=True, durable=False)
    assert [outcome.error for outcome in pack(quantizer, inputs, Path("tokens"), options)] == [None] * 3


@pytest.mark.usefixtures("tokens")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_examples_of_data_run() -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "data.md").read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, "docs/data.md", "exec"), names)
    assert names["item"]["latents"].shape == (16, 16)
    assert names["item"]["label"] == 0
    assert names["batch"]["latents"].shape == (2, 16, 16)
    assert names["number"] == 0
    assert names["state"].keys() == {"seed", "epoch", "step", "fingerprint"}
    assert names["codes"].shape == (2, 256, 18)


NEEDED = {"from megatron": "megatron", "from streaming": "streaming"}


@pytest.mark.usefixtures("tokens")
@pytest.mark.filterwarnings("ignore")  # of the readers
def test_the_examples_of_export_run(lfq: Callable[..., tuple[int, str, str]]) -> None:
    """What needs a library that is not installed is passed over: megatron-core and mosaicml-streaming."""
    names: dict[str, Any] = {}
    text = (DOCS / "export.md").read_text(encoding="utf-8")
    examples = re.findall(r"```console\n\$ lfq (.*?)\n```\n\n```python\n(.*?)```", text, re.DOTALL)
    assert [command.split()[1] for command, _ in examples] == [
        "bin", "bin", "megatron", "webdataset", "parquet", "mds", "npy",
    ]  # fmt: skip
    ran = set()
    for command, block in examples:
        needed = next((module for start, module in NEEDED.items() if block.startswith(start)), None)
        if needed is not None and find_spec(needed) is None:
            continue
        code, _, err = lfq(*shlex.split(command), "--no-fsync")
        assert code == 0, err
        exec(compile(block, "docs/export.md", "exec"), names)
        ran.add(command.split()[1])
    assert ran >= {"bin", "webdataset", "parquet", "npy"}
    assert names["vocab_size"] == 1024
    assert names["data"].max() < 1024
    assert names["video"].shape == (20, 16, 16)
    assert len(names["ids"]) == 256
    assert names["table"].column_names == ["key", "tokens", "label"]
    assert names["features"].shape == (1, 256)
    assert names["labels"].tolist() == [0]


SAMPLE_DATA = DOCS.parent / "sample_data"


@pytest.mark.filterwarnings("ignore")
def test_the_examples_of_search_run_and_find_what_they_say(lfq: Callable[..., tuple[int, str, str]]) -> None:
    Path("sample_data").symlink_to(SAMPLE_DATA)
    text = (DOCS / "search.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```console\n\$ lfq (.*?)\n```", text)
    assert lfq(*shlex.split(command), "--tensor", "images", "--no-fsync")[0] == 0
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/search.md", "exec"), names)
    rows = names["rows"]
    bits = np.unpackbits(rows, axis=1)
    distances = (bits[:100, None] != bits[None]).sum(-1)
    assert np.array_equal(names["distances"], np.sort(distances, axis=1)[:, :10])
    assert names["text"][0] == "".join(map(str, bits[0]))
    best = np.take_along_axis(distances, names["neighbours"].astype(int), axis=1)
    assert (best == names["distances"]).mean() > 0.9  # a graph finds nearly all
    images = load_file(SAMPLE_DATA / "digits.safetensors")["images"]
    apart = ((images[:, None] - images[None]) ** 2).sum(-1)
    np.fill_diagonal(apart, np.inf)
    truth = np.argsort(apart, axis=1, kind="stable")[:, :10]
    found = names["index"].search(rows, 101)[1]
    first = [[other for other in near if other != k] for k, near in enumerate(found.tolist())]
    for count, share in ((10, 0.52), (50, 0.914), (100, 0.974)):
        hits = sum(len(set(near[:count]) & set(right)) for near, right in zip(first, truth.tolist(), strict=True))
        assert hits / truth.size == pytest.approx(share, abs=0.01)


@pytest.mark.usefixtures("tokens")
def test_the_examples_of_python_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sample_data").symlink_to(SAMPLE_DATA)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["y"].shape == names["x"].shape
    assert np.array_equal(np.sign(names["y"]), np.where(names["x"] > 0, 1, -1))
    assert 0 < names["share"] < 1
    assert [outcome.status for outcome in names["outcomes"]] == ["written"]
    assert "utilisation" in capsys.readouterr().out or names["usage"] is not None
    assert names["again"].shape == (1797, 1, 8, 8)
    assert names["error"] < 0.6
