"""checkpoints/files.py: shards, folders of Hugging Face's libraries, and what a whole model costs."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from families import lucidrains
from safetensors.torch import save_file

from lfq_cli import checkpoints
from lfq_cli.checkpoints import Facts
from lfq_cli.container import header_bytes
from lfq_cli.errors import CheckpointError

STATE = lucidrains.state_dict(3, codebook_dim=6, dim=16, attribute="quantize")
NAMES = list(STATE)


def expected() -> str:
    return checkpoints.load(Path(os.environ["STATE"])).digest


@pytest.fixture(autouse=True)
def whole(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path_factory.mktemp("whole") / "model.pt"
    torch.save(STATE, path)
    monkeypatch.setenv("STATE", str(path))


def shards(folder: Path, *, stem: str = "model", suffix: str = "safetensors", count: int = 3) -> Path:
    """The state over `count` files, a tensor in the next file each; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: f"{stem}-{k % count + 1:05}-of-{count:05}.{suffix}" for k, name in enumerate(NAMES)}
    for file in set(files.values()):
        held = {name: STATE[name] for name in NAMES if files[name] == file}
        save_file(held, folder / file) if suffix == "safetensors" else torch.save(held, folder / file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    return index


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("stem", "suffix"),
    [("model", "safetensors"), ("diffusion_pytorch_model", "safetensors"), ("pytorch_model", "bin")],
)
def test_shards_are_one_checkpoint(stem: str, suffix: str, count: int, tmp_path: Path) -> None:
    index = shards(tmp_path / "m", stem=stem, suffix=suffix, count=count)
    assert checkpoints.load(index).digest == expected()
    assert checkpoints.load(index.parent).digest == expected()


@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_hugging_face(name: str, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / name) if name.endswith("safetensors") else torch.save(STATE, tmp_path / name)
    (tmp_path / "config.json").write_text('{"architectures": ["Tokenizer"], "model_type": "x"}')
    assert checkpoints.load(tmp_path).digest == expected()


@pytest.mark.parametrize("name", ["pytorch_model.safetensors", "magvitv2.safetensors", "tokenizer.bin"])
def test_a_folder_with_a_config_and_one_file_of_tensors(name: str, tmp_path: Path) -> None:
    """Show-o's and MMaDA's are called pytorch_model.safetensors."""
    save_file(STATE, tmp_path / name) if name.endswith("safetensors") else torch.save(STATE, tmp_path / name)
    (tmp_path / "README.md").write_text("a model")
    with pytest.raises(CheckpointError, match="not a checkpoint folder"):
        checkpoints.load(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "MAGVITv2"}')
    assert checkpoints.load(tmp_path).digest == expected()
    assert set(checkpoints.read_files(tmp_path)) == {tmp_path, tmp_path / name, tmp_path / "config.json"}


def test_a_folder_with_several_files_of_tensors_lists_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in ("vae.safetensors", "text.safetensors", "training_args.bin"):
        save_file(STATE, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"text\.safetensors, training_args\.bin, vae\.safetensors") as raised:
        checkpoints.load(tmp_path)
    assert raised.value.hint == "name the file itself"
    for k in range(20):
        save_file(STATE, tmp_path / f"{k}.bin")
    with pytest.raises(CheckpointError, match=r"\(23 in all\)"):
        checkpoints.load(tmp_path)


def test_a_name_that_is_known_goes_before_others(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "another.safetensors").write_text("no safetensors file")
    assert checkpoints.load(tmp_path).digest == expected()


BROKEN = {
    "no JSON": ("{", "not JSON"),
    "a list": ("[]", "no weight_map"),
    "no map": ("{}", "no weight_map"),
    "a number for a file": ('{"weight_map": {"a": 1}}', "no weight_map"),
    "a path": ('{"weight_map": {"a": "../model-00001-of-00003.safetensors"}}', "expected a file beside it"),
    "an absolute path": ('{"weight_map": {"a": "/etc/passwd"}}', "expected a file beside it"),
    "the folder": ('{"weight_map": {"a": ".."}}', "expected a file beside it"),
    "a shard that is gone": ('{"weight_map": {"a": "gone.safetensors"}}', "missing"),
    "a name that is too long": (
        json.dumps({"weight_map": {"a": "x" * 300 + ".safetensors"}}),
        "missing|cannot be read",
    ),
    "deep": ("[" * 100_000, "not JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_index_that_is_none(case: str, tmp_path: Path) -> None:
    text, message = BROKEN[case]
    index = shards(tmp_path)
    index.write_text(text)
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoints.load(index)
    assert str(index) in error.value.message


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    index = shards(tmp_path, count=2)
    for file in tmp_path.glob("*.safetensors"):
        save_file(STATE, file)
    with pytest.raises(CheckpointError, match="two shards hold"):
        checkpoints.load(index)


def test_a_shard_that_is_damaged_is_named(tmp_path: Path) -> None:
    index = shards(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").write_bytes(b"\x10")
    with pytest.raises(CheckpointError, match="model-00002-of-00003"):
        checkpoints.load(index)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_only_the_quantizers_tensors_are_read(suffix: str, tmp_path: Path) -> None:
    """A model of 2 GiB in a sparse file: to read it all would take a second, its header takes none."""
    path = tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        arrays = {f"quantize.{name}": tensor.numpy() for name, tensor in lucidrains.state_dict(3).items()}
        shapes = {f"decoder.{k}": ("F32", (1 << 15, 1 << 10)) for k in range(16)}
        shapes |= {name: ("I64" if array.dtype.kind == "i" else "F32", array.shape) for name, array in arrays.items()}
        head = header_bytes({}, shapes)
        with path.open("wb") as file:
            file.write(head)
            file.seek(len(head) + (1 << 31))
            for array in arrays.values():
                file.write(np.ascontiguousarray(array).tobytes())
    else:
        torch.save(STATE | {f"decoder.{k}": torch.zeros(1 << 22) for k in range(16)}, path)
    checkpoints.load(path)  # imports are not what is timed
    before, start = io_bytes(), time.perf_counter()
    assert checkpoints.load(path, Facts()).bits_per_vector in (4, 6)
    assert io_bytes() - before < 4 << 20
    assert time.perf_counter() - start < 2


def io_bytes() -> int:
    """Bytes that this process has read by system calls so far."""
    line = next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))
    return int(line.split()[1])
