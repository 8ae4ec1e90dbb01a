"""State dicts of the reference, however they are wrapped: found, completed by facts, refused where they contradict."""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vector_quantize_pytorch
from safetensors.torch import save_file
from torch import Tensor

import lfq_cli
from lfq_cli import checkpoints
from lfq_cli.checkpoints import Facts
from lfq_cli.container import header_bytes
from lfq_cli.errors import CheckpointError, LfqError, LfqNote, OptionError
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.inspect import CheckpointView, inspect
from lfq_cli.jobs.pack import PackOptions, pack
from lfq_cli.nn import LFQ
from lfq_cli.quantizer import Quantizer
from lfq_cli.regions import InputFile

pytestmark = pytest.mark.slow

State = dict[str, Tensor]
DEFAULTS: dict[str, Any] = {"codebook_scale": 1.0, "spherical": False, "soft_clamp": "none"}


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def reference(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return vector_quantize_pytorch.LFQ(**({"codebook_size": 2**6} | options)).eval()


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def save(held: Any, path: Path) -> Path:
    save_file(
        {name: x.contiguous() for name, x in held.items()}, path
    ) if path.suffix == ".safetensors" else torch.save(held, path)
    return path


def same(quantizer: Quantizer, ref: Any) -> bool:
    """Whether the record holds the module's weights."""
    state = {name: value for name, value in ref.state_dict().items() if name != "mask"}
    return set(state) == set(quantizer.weights) and all(
        np.array_equal(quantizer.weights[name], value.numpy()) for name, value in state.items()
    )


# Where quantizers are

PREFIXES = [
    "",
    "quantizer.",
    "quantizers.",
    "model.quantizer.",
    "module.quantizer.",
    "module.module.quantizer.",
    "_orig_mod.module.quantizer.",
    "ema_model.quantizer.",
    "vae.first_stage.quantize.lfq.",
    "blocks.3.quantizer.",
]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_quantizer_is_found_under_any_prefix(prefix: str, suffix: str, tmp_path: Path) -> None:
    ref = reference(dim=16)
    others = {"encoder.conv.weight": torch.ones(4, 3, 3, 3), "attention.mask": torch.ones(4, 4, dtype=torch.bool)}
    path = save(prefixed(ref.state_dict(), prefix) | others, tmp_path / f"model{suffix}")
    quantizer = checkpoints.load(path)
    assert same(quantizer, ref)
    assert (quantizer.dim, quantizer.codebook_dim, quantizer.num_codebooks) == (16, 6, 1)
    assert quantizer.assumptions() == {"codebook_scale": 1.0, "spherical": False, "soft_clamp_input_value": None}
    assert quantizer.open == quantizer.assumed
    assert same(checkpoints.load(path, Facts(module=prefix.removesuffix("."))), ref)


@pytest.mark.parametrize(
    "wrappers",
    [("state_dict",), ("model_state_dict",), ("ema_state_dict",), ("model",), ("ema",), ("vae",), ("epoch_3", "ema")],
)
@pytest.mark.parametrize("prefix", ["", "quantizer.", "module.quantizer."])
def test_a_quantizer_is_found_in_any_wrapper(wrappers: tuple[str, ...], prefix: str, tmp_path: Path) -> None:
    ref = reference(dim=16)
    held: Any = prefixed(ref.state_dict(), prefix)
    for wrapper in reversed(wrappers):
        held = {wrapper: held, "epoch": 7, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "name": "run"}
    path = save(held, tmp_path / "model.pt")
    assert same(checkpoints.load(path, Facts(**DEFAULTS)), ref)
    view = inspect(path, Facts(**DEFAULTS))
    assert isinstance(view, CheckpointView)
    assert [item.found.module for item in view.quantizers] == [".".join((*wrappers, prefix)).rstrip(".")]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_of_two_quantizers_module_chooses(suffix: str, tmp_path: Path) -> None:
    one, two = reference(1, dim=16), reference(2, dim=16, num_codebooks=2)
    state = prefixed(one.state_dict(), "tokenizer.quantizer.") | prefixed(two.state_dict(), "audio.quantizer.")
    path = save(state, tmp_path / f"model{suffix}")
    with pytest.raises(CheckpointError, match="2 different quantizers in it") as raised:
        checkpoints.load(path)
    assert "'tokenizer.quantizer'" in raised.value.message
    assert "'audio.quantizer'" in raised.value.message
    assert raised.value.hint is not None
    assert "--module" in raised.value.hint
    assert same(checkpoints.load(path, Facts(module="tokenizer.quantizer")), one)
    assert same(checkpoints.load(path, Facts(module="audio.quantizer")), two)
    assert checkpoints.load(path, Facts(module="audio.quantizer")).num_codebooks == 2
    with pytest.raises(CheckpointError, match="2 different quantizers in it"):
        checkpoints.load(path, Facts(module="quantizer"))  # the end of both names
    for wrong in ("tokenizer", "tokenizer.quantizer.", ""):
        with pytest.raises(CheckpointError, match="no lookup-free quantizer at") as raised:
            checkpoints.load(path, Facts(module=wrong))
        assert "'audio.quantizer'" in str(raised.value.hint)


def test_inspect_lists_every_quantizer_and_why_one_cannot_be_used(tmp_path: Path) -> None:
    state = prefixed(reference(dim=16).state_dict(), "a.") | prefixed(reference(dim=16).state_dict(), "b.")
    del state["b.project_in.weight"]
    view = inspect(save(state, tmp_path / "model.pt"), Facts())
    assert isinstance(view, CheckpointView)
    assert {item.found.module: item.error is None for item in view.quantizers} == {"a": True, "b": False}


NO_MASKS = {
    "not powers of two": torch.tensor([5, 3, 1]),
    "shuffled": torch.tensor([2, 4, 1]),
    "without the last bit": torch.tensor([8, 4, 2]),
    "a gap": torch.tensor([8, 2, 1]),
    "floats": torch.tensor([4.0, 2.0, 1.0]),
    "bools": torch.tensor([True, False, True]),
    "two axes": torch.tensor([[4, 2, 1]]),
    "no axis": torch.tensor(1),
    "empty": torch.zeros(0, dtype=torch.int64),
    "65 bits": torch.cat([torch.zeros(1, dtype=torch.int64), 2 ** torch.arange(63, -1, -1)]),
    "attention": torch.ones(512, dtype=torch.int64),
    "negative": torch.tensor([-4, -2, -1]),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("mask", NO_MASKS)
def test_masks_that_are_no_masks(mask: str, suffix: str, tmp_path: Path) -> None:
    others = {"encoder.mask": NO_MASKS[mask], "encoder.weight": torch.ones(3, 3)}
    alone = save(others, tmp_path / f"alone{suffix}")
    with pytest.raises(CheckpointError, match="no lookup-free quantizer in it"):
        checkpoints.load(alone)
    beside = save(others | prefixed(reference().state_dict(), "quantizer."), tmp_path / f"beside{suffix}")
    assert checkpoints.load(beside).codebook_dim == 6


@pytest.mark.parametrize("bits", [1, 2, 31, 32, 63, 64])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_masks_of_every_width(bits: int, dtype: torch.dtype, tmp_path: Path) -> None:
    if dtype == torch.int32 and bits > 31:
        pytest.skip("int32 has no such power")
    mask = (2 ** torch.arange(bits - 1, -1, -1)).to(dtype)
    for suffix in (".safetensors", ".pt"):
        assert checkpoints.load(save({"mask": mask}, tmp_path / f"m{suffix}")).codebook_dim == bits


# What the tensors say


@pytest.mark.parametrize("codebooks", [1, 2, 5])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_dim_and_codebooks_come_from_the_projections(codebooks: int, cosine: bool, bias: bool, tmp_path: Path) -> None:
    ref = reference(dim=16, num_codebooks=codebooks, cosine_sim_project_in=cosine, projection_has_bias=bias)
    quantizer = checkpoints.load(save(ref.state_dict(), tmp_path / "model.pt"))
    assert (quantizer.dim, quantizer.codebook_dim, quantizer.num_codebooks) == (16, 6, codebooks)
    assert quantizer.cosine_sim_project_in is cosine
    assert ("cosine_sim_project_in_scale" in quantizer.assumed) is cosine
    assert same(quantizer, ref)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_other_dtypes_become_float32(suffix: str, dtype: torch.dtype, tmp_path: Path) -> None:
    ref = reference(dim=16).to(dtype)
    quantizer = checkpoints.load(save(ref.state_dict(), tmp_path / f"model{suffix}"))
    assert same(quantizer, ref.float())
    assert {weight.dtype for weight in quantizer.weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_parameters_and_views_are_weights_too(suffix: str, tmp_path: Path) -> None:
    ref = reference(dim=16)
    state = {name: value.T.contiguous().T if value.ndim == 2 else value for name, value in ref.state_dict().items()}
    state = {name: torch.nn.Parameter(value) if value.is_floating_point() else value for name, value in state.items()}
    assert same(checkpoints.load(save(state, tmp_path / f"model{suffix}")), ref)


def test_a_square_projection_without_bias_is_ambiguous(tmp_path: Path) -> None:
    options = {"has_projections": True, "projection_has_bias": False}
    for cosine in (False, True):
        ref = reference(cosine_sim_project_in=cosine, **options)
        path = save(ref.state_dict(), tmp_path / f"{cosine}.pt")
        with pytest.raises(CheckpointError, match="look the same") as raised:
            checkpoints.load(path)
        assert "--cosine or --no-cosine" in str(raised.value.hint)
        module = lfq_cli.load(path, **DEFAULTS, cosine=cosine, cosine_scale=1.0 if cosine else None)
        x = torch.randn(2, 50, 6)
        with torch.no_grad():
            assert torch.equal(module(x)[1], ref(x)[1].long())
            assert torch.equal(module(x)[0], ref(x)[0])


@pytest.mark.parametrize("cosine", [False, True])
def test_a_square_projection_with_a_bias_tells(cosine: bool, tmp_path: Path) -> None:
    """The cosine projection has no bias, project_out has: the linear one would have both."""
    ref = reference(has_projections=True, cosine_sim_project_in=cosine)
    quantizer = checkpoints.load(save(ref.state_dict(), tmp_path / "model.pt"))
    assert quantizer.cosine_sim_project_in is cosine
    assert same(quantizer, ref)


CONTRADICTIONS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"dim": 16, "num_codebooks": 2}, {"num_codebooks": 3}, "num_codebooks"),
    ({"dim": 16}, {"cosine": True}, "cosine_sim_project_in"),
    ({"dim": 16, "cosine_sim_project_in": True}, {"cosine": False}, "cosine_sim_project_in"),
    ({}, {"num_codebooks": 2, "keep_num_codebooks_dim": False}, "keep_num_codebooks_dim"),
    ({"dim": 16, "num_codebooks": 2}, {"keep_num_codebooks_dim": False}, "keep_num_codebooks_dim"),
    ({}, {"soft_clamp": 1.0, "codebook_scale": 2.0}, "soft_clamp_input_value"),
    ({}, {"codebook_scale": -1.0}, "codebook_scale"),
    ({}, {"codebook_scale": float("nan")}, "codebook_scale"),
    ({}, {"soft_clamp": 0.0}, "soft_clamp_input_value"),
]


@pytest.mark.parametrize(("options", "facts", "named"), CONTRADICTIONS)
def test_facts_that_contradict_the_tensors_or_each_other(
    options: dict[str, Any], facts: dict[str, Any], named: str, tmp_path: Path
) -> None:
    path = save(reference(**options).state_dict(), tmp_path / "model.pt")
    with pytest.raises((CheckpointError, OptionError), match=named) as raised:
        checkpoints.load(path, Facts(**facts))
    assert str(path) in raised.value.message


NATIVE_FACTS: list[tuple[str, Any, Any]] = [
    ("codebook_scale", 0.5, 1.0),
    ("spherical", True, False),
    ("soft_clamp", 2.0, "none"),
    ("num_codebooks", 2, 1),
    ("bit_order", "msb", "lsb"),
]


@pytest.mark.parametrize(("fact", "right", "wrong"), NATIVE_FACTS)
def test_facts_that_contradict_a_native_checkpoint(fact: str, right: Any, wrong: Any, tmp_path: Path) -> None:
    options = {"codebook_scale": 0.5, "spherical": True, "soft_clamp_input_value": 2.0, "num_codebooks": 2}
    LFQ(codebook_size=2**6, **options).save_pretrained(tmp_path / "native.safetensors")
    assert checkpoints.load(tmp_path / "native.safetensors", Facts(**{fact: right})).codebook_scale == 0.5
    with pytest.raises(OptionError, match="the options say"):
        checkpoints.load(tmp_path / "native.safetensors", Facts(**{fact: wrong}))


def without(name: str) -> Any:
    return lambda state: {key: value for key, value in state.items() if key != name}


def replaced(name: str, value: Tensor) -> Any:
    return lambda state: state | {name: value}


DAMAGED: dict[str, tuple[Any, str]] = {
    "no project_in": (without("project_in.weight"), "only one of project_in and project_out"),
    "no project_out": (without("project_out.weight"), "project"),
    "bits that are not a multiple": (replaced("project_out.weight", torch.ones(16, 9)), "multiple of 6"),
    "another project_in": (replaced("project_in.weight", torch.ones(12, 15)), "project_in.weight has shape"),
    "another bias": (replaced("project_in.bias", torch.ones(5)), "project_in.bias has shape"),
    "one axis": (replaced("project_out.weight", torch.ones(16)), "expected two axes"),
    "a rotation of another size": (replaced("orthogonal_rot", torch.eye(5)), "orthogonal_rot has shape"),
    "NaN": (replaced("project_in.bias", torch.full((12,), torch.nan)), "NaN or infinity"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_tensors_that_contradict_each_other(damage: str, suffix: str, tmp_path: Path) -> None:
    change, message = DAMAGED[damage]
    path = save(change(reference(dim=16, num_codebooks=2).state_dict()), tmp_path / f"model{suffix}")
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoints.load(path)
    assert str(path) in error.value.message


# What nobody says is asked for


def test_load_says_what_it_assumes(tmp_path: Path) -> None:
    path = save(reference(dim=16, cosine_sim_project_in=True).state_dict(), tmp_path / "model.pt")
    with pytest.warns(LfqNote, match=r"assumed.*codebook_scale 1.0.*spherical false") as caught:
        lfq_cli.load(path)
    for option in ("--codebook-scale", "--spherical", "--soft-clamp", "--cosine-scale"):
        assert option in str(caught[0].message)
    with pytest.warns(LfqNote, match="cosine_sim_project_in_scale"):
        lfq_cli.load(path, **DEFAULTS)
    lfq_cli.load(path, **DEFAULTS, cosine_scale=1.0)


def test_encode_asks_for_the_soft_clamp_where_a_rotation_makes_it_decide_bits(tmp_path: Path) -> None:
    path = save(reference(orthogonal_rotation=True).state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="does not say soft_clamp_input_value"):
        list(encode(checkpoints.load(path), [], EncodeOptions()))
    with pytest.raises(CheckpointError, match="does not say soft_clamp_input_value"):
        list(pack(checkpoints.load(path), [], tmp_path, PackOptions(samples_per_file=1)))
    with pytest.raises(CheckpointError, match="does not say soft_clamp_input_value"):
        lfq_cli.Codec(checkpoints.load(path)).encode(np.ones((2, 6)))
    assert list(encode(checkpoints.load(path, Facts(soft_clamp="none")), [], EncodeOptions())) == []


def test_encode_asks_for_the_cosine_scale_where_a_clamp_and_a_rotation_make_it_decide_bits(tmp_path: Path) -> None:
    """tanh(3 * cosine / v) * v @ rotation has other signs than tanh(cosine / v) * v @ rotation."""
    ref = reference(dim=16, cosine_sim_project_in=True, orthogonal_rotation=True)
    path = save(ref.state_dict(), tmp_path / "model.pt")
    x = torch.randn(1000, 16)
    tokens = [lfq_cli.load(path, **DEFAULTS | {"soft_clamp": 1.0}, cosine_scale=scale)(x)[1] for scale in (1.0, 3.0)]
    assert not torch.equal(*tokens)
    with pytest.raises(CheckpointError, match="does not say cosine_sim_project_in_scale"):
        list(encode(checkpoints.load(path, Facts(soft_clamp=1.0)), [], EncodeOptions()))


# What is read


def big_safetensors(path: Path, state: State) -> None:
    """A model of 1 TiB with a quantizer in it; sparse, nothing of it can be read in a test's time."""
    arrays = {name: value.numpy() for name, value in state.items()}
    names = {"F": "F32", "i": "I64"}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {"decoder.weight": ("F32", (1 << 19, 1 << 19))}
    shapes |= {name: (names[value.dtype.kind.replace("f", "F")], value.shape) for name, value in arrays.items()}
    shapes["encoder.mask"] = ("I64", (1 << 20,))
    head = header_bytes({}, shapes)
    with path.open("wb") as file:
        file.write(head)
        file.seek(len(head) + (1 << 40))
        for value in arrays.values():
            file.write(value.tobytes())
        file.truncate(file.tell() + (8 << 20))


def test_only_the_quantizer_s_tensors_are_read_from_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, read_bytes = reference(dim=16), []
    read_into = InputFile.read_into

    def watched(self: InputFile, position: int, view: memoryview) -> None:
        read_bytes.append(len(view))
        read_into(self, position, view)

    big_safetensors(tmp_path / "model.safetensors", prefixed(ref.state_dict(), "quantizer."))
    monkeypatch.setattr(InputFile, "read_into", watched)
    assert same(checkpoints.load(tmp_path / "model.safetensors"), ref)
    assert sum(read_bytes) < 10_000


def test_only_the_quantizer_s_tensors_are_read_from_torch_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, read_bytes = reference(dim=16), []
    read_into = InputFile.read_into

    def watched(self: InputFile, position: int, view: memoryview) -> None:
        read_bytes.append(len(view))
        read_into(self, position, view)

    others = {"encoder.weight": torch.zeros(1000, 1000), "encoder.mask": torch.zeros(10_000, dtype=torch.int64)}
    path = save(prefixed(ref.state_dict(), "quantizer.") | others, tmp_path / "model.pt")
    monkeypatch.setattr(InputFile, "read_into", watched)
    assert same(checkpoints.load(path), ref)
    assert sum(read_bytes) < 10_000


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", "", "damaged"])
def test_files_are_closed(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix or '.folder'}"
    if suffix:
        path = path.with_suffix(".safetensors") if suffix == "damaged" else path
        save(reference(dim=16).state_dict() | {"a": torch.ones(5)}, path)
    else:
        LFQ(codebook_size=2**6).save_pretrained(path)
    if suffix == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for read in (checkpoints.load, partial(lfq_cli.load, **DEFAULTS), partial(inspect, facts=Facts())):
            try:
                read(path)
            except LfqError:
                assert suffix == "damaged"
    assert [str(warning.message) for warning in caught] == []


# Folders, and what is not a checkpoint


@pytest.mark.parametrize("config", [None, {"_class_name": "MagvitV2", "_diffusers_version": "0.30", "latent": 18}, []])
def test_a_folder_as_the_hub_has_them(config: Any, tmp_path: Path) -> None:
    ref = reference(dim=16)
    save(prefixed(ref.state_dict(), "quantize."), tmp_path / "model.safetensors")
    (tmp_path / "README.md").write_text("a model")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(checkpoints.load(tmp_path), ref)
    assert same(checkpoints.load(tmp_path / "model.safetensors"), ref)
    module = lfq_cli.load(str(tmp_path), **DEFAULTS)
    x = torch.randn(2, 20, 16)
    with torch.no_grad():
        assert torch.equal(module(x)[1], ref(x)[1].long())


def test_a_native_folder_is_the_native_file(tmp_path: Path) -> None:
    module = LFQ(codebook_size=2**6, dim=16, spherical=True)
    module.save_pretrained(tmp_path / "folder")
    module.save_pretrained(tmp_path / "file.safetensors")
    loaded = [checkpoints.load(tmp_path / name) for name in ("folder", "file.safetensors")]
    assert len({quantizer.digest for quantizer in loaded}) == 1
    assert loaded[0].spherical


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "nothing.pt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    torch.save(reference(), tmp_path / "module.pt")
    os.mkfifo(tmp_path / "fifo.pt")
    for name in [*sorted(path.name for path in tmp_path.iterdir()), "missing.pt"]:
        with pytest.raises(CheckpointError, match=name):
            checkpoints.load(tmp_path / name)


# As a module

MODULES: list[dict[str, Any]] = [
    {},
    {"num_codebooks": 3},
    {"keep_num_codebooks_dim": True},
    {"codebook_scale": 0.3},
    {"spherical": True, "codebook_scale": 0.3},
    {"soft_clamp_input_value": 2.0, "orthogonal_rotation": True},
    {"dim": 16},
    {"dim": 16, "num_codebooks": 3, "projection_has_bias": False},
    {"dim": 16, "cosine_sim_project_in": True, "cosine_sim_project_in_scale": 3.0},
    {"dim": 16, "spherical": True, "orthogonal_rotation": True, "codebook_scale": 0.5, "soft_clamp_input_value": 1.0},
]


@pytest.mark.parametrize("options", MODULES)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_load_gives_the_reference_s_module(suffix: str, options: dict[str, Any], tmp_path: Path) -> None:
    ref = reference(**options)
    module = lfq_cli.load(
        str(save(ref.state_dict(), tmp_path / f"model{suffix}")),
        codebook_scale=ref.codebook_scale,
        spherical=ref.spherical,
        soft_clamp=ref.soft_clamp_input_value or "none",
        num_codebooks=ref.num_codebooks,
        keep_num_codebooks_dim=ref.keep_num_codebooks_dim,
        cosine_scale=getattr(ref.project_in, "scale", None),
    ).module
    assert isinstance(module, LFQ)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert {name: value.shape for name, value in module.state_dict().items()} == {
        name: value.shape for name, value in ref.state_dict().items()
    }
    for shape in [(2, 30, ref.dim), (2, ref.dim, 5, 6), (2, ref.dim, 2, 3, 5)]:
        x = torch.randn(shape)
        with torch.no_grad():
            quantized, indices, loss = module(x)
            expected, expected_indices, expected_loss = ref(x)
        assert torch.equal(indices, expected_indices.long())
        assert torch.equal(quantized, expected)
        assert torch.equal(module.indices_to_codes(indices), ref.indices_to_codes(expected_indices))
        assert loss == expected_loss


# What would be read wrong


def rezipped(path: Path, compression: int) -> Path:
    out = path.with_name(f"rezipped{path.suffix}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return out


def test_an_archive_that_was_compressed_again_is_refused(tmp_path: Path) -> None:
    path = save(reference(dim=16).state_dict(), tmp_path / "model.pt")
    whole = checkpoints.load(path)
    assert checkpoints.load(rezipped(path, zipfile.ZIP_STORED)).digest == whole.digest
    with pytest.raises(CheckpointError, match="compressed"):
        checkpoints.load(rezipped(path, zipfile.ZIP_DEFLATED))


def test_a_list_of_quantizers_with_projections_of_their_own_is_no_residual_one(tmp_path: Path) -> None:
    layers = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([reference(dim=16), reference(dim=16)])})
    with pytest.raises(CheckpointError, match="not a projection of this kind of quantizer"):
        checkpoints.load(save(layers.state_dict(), tmp_path / "model.pt"))


@pytest.mark.parametrize("name", ["project_in.0.weight", "project_in.net.2.bias", "project_out.1.weight"])
def test_a_projection_that_is_more_than_one_layer_is_refused(name: str, tmp_path: Path) -> None:
    state = reference().state_dict() | {name: torch.ones(3, 3)}
    with pytest.raises(CheckpointError, match="not a projection of this kind of quantizer"):
        checkpoints.load(save(prefixed(state, "quantizer."), tmp_path / "model.pt"))


def test_of_an_ascending_and_a_descending_mask_module_chooses(tmp_path: Path) -> None:
    state = {"a.mask": 2 ** torch.arange(4), "b.mask": 2 ** torch.arange(3, -1, -1)}
    path = save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="2 different quantizers"):
        checkpoints.load(path)
    assert checkpoints.load(path, Facts(module="b")).bit_order == "msb"


def shared(depth: int) -> dict[str, Any]:
    held: dict[str, Any] = {"mask": torch.tensor([2, 1])}
    for _ in range(depth):
        held = {"a": held, "b": held}
    return held


def endless() -> dict[str, Any]:
    held: dict[str, Any] = {"mask": torch.tensor([2, 1])}
    held["self"] = held
    return held


HOSTILE: dict[str, Any] = {
    "shared": lambda: shared(26),
    "endless": endless,
    "no text": lambda: {"\ud800": torch.ones(2), "mask": torch.tensor([2, 1])},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_mappings_that_hold_each_other(case: str, tmp_path: Path) -> None:
    path = save(HOSTILE[case](), tmp_path / "model.pt")
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"without end|not text|not a whole torch file"):
        checkpoints.load(path)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("prefix", ["", "quantizer."])
def test_a_projection_that_is_no_plain_tensor_is_not_passed_over(prefix: str, tmp_path: Path) -> None:
    """Without its projections the quantizer would be another one."""
    state: dict[str, Any] = dict(reference(dim=16).state_dict())
    sparse = {"project_in.weight": state["project_in.weight"].to_sparse()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its quantized tensors deprecated
        quantized = {
            name: torch._empty_affine_quantized(state[name].shape, scale=1.0, zero_point=0, dtype=torch.qint8)
            for name in ("project_in.weight", "project_out.weight")
        }
    for changed, kind, remedy in ((sparse, "sparse", ".to_dense()"), (quantized, "quantized", ".dequantize()")):
        path = save({f"{prefix}{name}": value for name, value in (state | changed).items()}, tmp_path / "model.pt")
        with pytest.raises(
            CheckpointError, match=f"project_in.weight is {kind} tensor, expected plain floats"
        ) as raised:
            checkpoints.load(path)
        assert remedy in str(raised.value.hint)


def test_whatever_else_lies_beside_the_state_dict_is_passed_over(tmp_path: Path) -> None:
    ref = reference(dim=16)
    held = {"state_dict": ref.state_dict(), "args": argparse.Namespace(lr=1), "best": np.float64(1), "model": ref}
    for zipped in (True, False):
        torch.save(held, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        assert same(checkpoints.load(tmp_path / "a.pt"), ref)
