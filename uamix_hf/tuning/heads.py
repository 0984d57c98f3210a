"""Projector, predictor, and the projector's slow copy that makes the keys (method.md 2.2 and 2.5)."""

import copy
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from ..training.distributed import SyncBatchNorm
from .configuration_uamix import UaMixConfig
from .float32 import Float32Module

Linear = partial(nn.Linear, bias=False, dtype=torch.float32)
BatchNorm = partial(SyncBatchNorm, dtype=torch.float32)


def make_projector(width: int, config: UaMixConfig) -> nn.Sequential:
    """(batch, width) to (batch, projection_size)."""
    inner, out = config.projector_hidden_size, config.projection_size
    return nn.Sequential(
        Linear(width, inner), BatchNorm(inner), nn.ReLU(),
        Linear(inner, inner), BatchNorm(inner), nn.ReLU(),
        Linear(inner, out), BatchNorm(out),
    )  # fmt: skip


def make_predictor(config: UaMixConfig) -> nn.Sequential:
    """(batch, projection_size) to the same; no normalisation at its end."""
    inner, out = config.predictor_hidden_size, config.projection_size
    return nn.Sequential(Linear(out, inner), BatchNorm(inner), nn.ReLU(), Linear(inner, out))


class ContrastiveHeads(Float32Module):
    """Pooled embeddings (batch, width) float32 to unit vectors (batch, projection_size), always in float32.

    Several views go through at once as (views, batch, width): one product for all of them, statistics of each alone.
    """

    def __init__(self, width: int, config: UaMixConfig):
        super().__init__()
        self.projector = make_projector(width, config)
        self.predictor = make_predictor(config)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def predict(self, pooled: torch.Tensor) -> torch.Tensor:
        """Queries, with gradient."""
        return F.normalize(self.predictor(self.projector(pooled)), dim=-1)

    @torch.no_grad()
    def target(self, pooled: torch.Tensor) -> torch.Tensor:
        """What neighbours are looked up with and what the support set stores; no gradient."""
        return F.normalize(self.target_projector(pooled), dim=-1)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target = momentum * target + (1 - momentum) * projector; buffers of batch statistics are copied."""
        for average, online in zip(self.target_projector.parameters(), self.projector.parameters(), strict=True):
            average.lerp_(online, 1 - momentum)
        for copied, current in zip(self.target_projector.buffers(), self.projector.buffers(), strict=True):
            copied.copy_(current)


__all__ = ["ContrastiveHeads"]
