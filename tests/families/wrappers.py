"""What stands around a state dict in the files that people have.

Every wrapper gives an object for `torch.save` and holds what the trainers save beside the weights.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from families.arithmetic import State


class Config(dict[str, Any]):
    """Stands for a mapping of a class of its own."""


def prefixed(state: State, prefix: str) -> State:
    """Every name under a prefix: `module.`, `module.module.`, `_orig_mod.`, `vae.`, …"""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def lightning(state: State) -> dict[str, Any]:
    """Lightning's `trainer.save_checkpoint`: Open-MAGVIT2, WeTok, open-genie."""
    return {
        "epoch": 270,
        "global_step": 1351350,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": dict(state),
        "loops": {},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-4, "params": [0, 1]}]}],
        "lr_schedulers": [],
    }


def ema_pytorch(state: State, *, online: State | None = None) -> State:
    """ema_pytorch's `EMA.state_dict()`; `online_model.` stands in it unless include_online_model is false."""
    extra = {"initted": torch.tensor(True), "step": torch.tensor(1000)}
    return {**extra, **prefixed(online or {}, "online_model."), **prefixed(state, "ema_model.")}


def lucidrains_trainer(state: State, *, ema: State | None) -> dict[str, Any]:
    """The trainers of magvit2-pytorch, meshgpt-pytorch and audiolm-pytorch: `model`, mostly with `ema_model`."""
    file: dict[str, Any] = {
        "model": dict(state),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5, "params": [0]}]},
        "warmup": {"last_step": 3},
        "version": "0.5.1",
    }
    return file if ema is None else {**file, "ema_model": ema_pytorch(ema)}


def lucidrains_save(state: State, *, key: str = "model_state_dict") -> dict[str, Any]:
    """`save()` of magvit2-pytorch (`model_state_dict`) and of audiolm-pytorch's SoundStream (`model`).

    `config` is pickled keyword arguments. These bytes would end the process that unpickles them: `os._exit(97)`.
    """
    return {key: dict(state), "version": "0.5.1", "config": b"cos\n_exit\n(I97\ntR."}


def flowmo(state: State, *, ema: State | None = None) -> dict[str, Any]:
    """FlowMo's train.py."""
    return {"total_steps": 1000, "model_ema_state_dict": dict(ema or state), "model_state_dict": dict(state)}


def bsq_vit(state: State, *, ema: State | None = None) -> dict[str, Any]:
    """BSQ-ViT's main_image_tokenizer.py: DistributedDataParallel (`module.`), its ModelEmaV2 copy `module.module.`.

    `config` is OmegaConf's there, an object of a class that this process may not have.
    """
    return {
        "iter": 100,
        "args": argparse.Namespace(lr=1e-4, output_dir="out"),
        "config": Config(model={"target": "bsqvit"}),
        "best_fid": np.float64(3.5),
        "state_dict": prefixed(state, "module."),
        "ema_state_dict": None if ema is None else prefixed(ema, "module.module."),
        "optimizer_generator": None,
        "state_dict_discriminator": {"module.main.0.weight": torch.zeros(1, 3, 4, 4)},
    }
