"""Values that the processes of distributed training share: a mean, a seed. No communication in a single process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether several processes train together now. Checked in every call, since a process group may start late."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _SumOverProcesses(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of the processes' gradients.

    torch.distributed.nn.functional.all_reduce does the same, but warns that it is deprecated (torch 2.13) in favour of
    a private function.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        total = t.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _sum_over_processes(grad)


def _sum_over_processes(t: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(t)  # type: ignore[no-untyped-call]
    return total


def shared_seed(device: torch.device) -> int:
    """A natural number from the device's generator, the same in all processes of distributed training.

    It is below 10,000, the reference's limit; with several processes it is the sum of their draws.
    """
    seed = torch.randint(0, 10_000, (), device=device)
    if is_distributed():
        dist.all_reduce(seed)
    return int(seed.item())


def mean_over_processes(t: Tensor, *, counts: bool) -> Tensor:
    """t [...] -> its mean over the processes with `counts`, the same in all of them; t itself in a single process.

    A process without vectors does not count and passes zeros. It must call this too, or the others would wait for it.
    """
    if not is_distributed():
        return t
    contributing = torch.tensor(float(counts), device=t.device)
    dist.all_reduce(contributing)
    return _sum_over_processes(t) / contributing.clamp(min=1)
