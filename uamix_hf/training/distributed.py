"""Collective operations of the method; each is the identity in a single process."""

import os

import torch
import torch.distributed as dist
from torch import nn

LAUNCHER = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))  # variables of the environment


def world() -> tuple[int, int]:
    """Rank and number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def launched_process() -> tuple[int, int, str]:
    """Number of this process, number of processes and device of this one, as `accelerate launch` and `torchrun` say.

    For processes that work without a word to each other: unlike [`world`], no group is needed, which would end with
    any of them.
    """
    rank, size, local = (int(os.environ.get(name, default)) for name, default in LAUNCHER)
    return rank, size, f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """Gathers rows of all processes in order of rank, without gradient; all must have the same number of rows."""
    if world()[1] == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world()[1])]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def broadcast_from_first(number: float, device: torch.device) -> float:
    """Broadcasts a number of the first process to all, by a tensor on `device`."""
    if world()[1] == 1:
        return number
    tensor = torch.tensor(number, device=device)
    dist.broadcast(tensor, 0)
    return tensor.item()


class SumOverProcesses(torch.autograd.Function):
    """Sums a tensor over all processes; each process's loss depends on it, so gradients are summed too."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Gathers rows (batch, width) as [`gather`] does; the gradients that all processes have of a row are summed."""
    rank, processes = world()
    if processes == 1:
        return tensor
    rows = [tensor if process == rank else torch.zeros_like(tensor) for process in range(processes)]
    return SumOverProcesses.apply(torch.cat(rows))


class SyncBatchNorm(nn.BatchNorm1d):
    """Batch normalisation with the statistics of all processes' rows.

    torch's own does not support CPU tensors. The gradient flows through the statistics, as in a single process with all
    rows. The input is (batch, width), or several views (views, batch, width), each with its own statistics.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.dim() == 3:
            return torch.stack([self(view) for view in input])
        if not self.training or world()[1] == 1:
            return super().forward(input)
        sums = SumOverProcesses.apply(torch.cat([input.sum(dim=0), input.new_full((1,), float(len(input)))]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        # From centred values: a difference of large squares would be too imprecise for similar embeddings.
        centred = input - mean
        variance = SumOverProcesses.apply(centred.square().sum(dim=0)) / count
        with torch.no_grad():
            momentum = self.momentum if self.momentum is not None else 0.1
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
            self.num_batches_tracked += 1
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


__all__ = [
    "SyncBatchNorm", "broadcast_from_first", "gather", "gather_with_gradient", "launched_process", "world",
]  # fmt: skip
