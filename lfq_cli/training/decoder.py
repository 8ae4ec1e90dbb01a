"""The best decoder for given codes, by least squares."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lfq_cli.training.levels import Levels, codes_of

_RIDGE = 1e-4  # times the number of vectors: two equal bits then share what either explains


def with_best_decoder(levels: Levels, x: Tensor) -> Levels:
    """The levels with the project_out that fits x [n, r] best; unchanged if that leaves a larger error.

    With several levels it can: later levels then get other residuals, so their bits change. Hence the error is
    measured.
    """
    codes, rest = codes_of(levels, x)
    ones = codes.double()
    gram = ones.T @ ones
    gram += torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * (_RIDGE * len(x))
    solved = torch.linalg.solve(gram, ones.T @ x.double())  # [Q * D, r]
    shape = levels.shape
    project_out = solved.reshape(shape.levels, shape.bits, -1).transpose(1, 2).contiguous().float()
    fitted = replace(levels, project_out=project_out)
    _, fitted_rest = codes_of(fitted, x)
    return fitted if fitted_rest.square().sum() < rest.square().sum() else levels
