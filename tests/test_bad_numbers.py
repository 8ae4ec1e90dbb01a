"""NaN and infinity in weights, and scales that are not scales: refused when a checkpoint is loaded, of every family."""

import copy

import numpy as np
import pytest
import torch
from grid import quantizers
from grid.cells import facts_of
from safetensors import safe_open
from safetensors.numpy import save_file

from lfq_cli import checkpoints
from lfq_cli.checkpoints import Facts
from lfq_cli.errors import LfqError

QUANTIZERS = {name: case for name, case in quantizers.QUANTIZERS.items() if "." in case.file}
"""All but those that are folders."""

USED = ("project_in.weight", "project_in.bias", "project_out.weight", "project_out.bias", "orthogonal_rot")


def made_by(case, folder):
    """The case's checkpoint, and its tensors by name."""
    made = case.make()
    path = folder / case.file
    if not isinstance(made, dict):
        made.save_pretrained(path)
        with safe_open(path, "pt") as file:
            return path, {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    return path, made, None


def save(path, tensors, metadata):
    if metadata is None:
        torch.save(tensors, path)
    else:
        save_file({name: tensor.numpy() for name, tensor in tensors.items()}, path, metadata=metadata)


def load(case, path):
    facts = {"soft_clamp": None} | facts_of(case.options)
    return checkpoints.load(path, Facts(**facts))


def used_weights(case, tensors):
    renamed = {name: name for name in tensors}
    for name in tensors:
        for old, new in case.renamed.items():
            renamed[name] = renamed[name].replace(old, new)
    return [
        name
        for name, reference_name in renamed.items()
        if name.startswith(case.prefix) and reference_name.endswith(USED) and tensors[name].is_floating_point()
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_weights(name, value, tmp_path):
    case = QUANTIZERS[name]
    path, tensors, metadata = made_by(case, tmp_path)
    save(path, tensors, metadata)
    load(case, path)
    for weight in used_weights(case, tensors):
        broken = copy.deepcopy(tensors)
        broken[weight].reshape(-1)[-1] = value
        save(path, broken, metadata)
        with pytest.raises(LfqError, match=r"NaN or infinity|sha256"):
            load(case, path)


def test_many_quantizers_have_weights(tmp_path):
    found = []
    for name, case in QUANTIZERS.items():
        folder = tmp_path / str(len(found))
        folder.mkdir(exist_ok=True)
        (folder / case.file).unlink(missing_ok=True)
        if used_weights(case, made_by(case, folder)[1]):
            found.append(name)
    assert len(found) >= 15


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-40, np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_scales(name, scale, tmp_path):
    case = QUANTIZERS[name]
    path, tensors, metadata = made_by(case, tmp_path)
    save(path, tensors, metadata)
    facts = {**facts_of(case.options), "codebook_scale": scale}
    with pytest.raises(LfqError):
        checkpoints.load(path, Facts(**facts))
