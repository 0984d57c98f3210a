"""Projector, predictor, and the target projector, which makes the keys (docs/concepts/method.md, Heads)."""

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
    """Projector: (batch, width) to (batch, projection_size)."""
    inner, out = config.projector_hidden_size, config.projection_size
    return nn.Sequential(
        Linear(width, inner), BatchNorm(inner), nn.ReLU(),
        Linear(inner, inner), BatchNorm(inner), nn.ReLU(),
        Linear(inner, out), BatchNorm(out),
    )  # fmt: skip


def make_predictor(config: UaMixConfig) -> nn.Sequential:
    """Predictor: (batch, projection_size) to the same; its last layer has no normalisation."""
    inner, out = config.predictor_hidden_size, config.projection_size
    return nn.Sequential(Linear(out, inner), BatchNorm(inner), nn.ReLU(), Linear(inner, out))


class ContrastiveHeads(Float32Module):
    """Pooled embeddings (batch, width) float32 to unit vectors (batch, projection_size), always in float32.

    Several views pass at once as (views, batch, width): one matrix product for all, batch statistics for each.

    Args:
        width: Dimensions of the pooled embeddings.
        config: Sizes of the heads.
    """

    def __init__(self, width: int, config: UaMixConfig):
        super().__init__()
        self.projector = make_projector(width, config)
        self.predictor = make_predictor(config)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def predict(self, pooled: torch.Tensor) -> torch.Tensor:
        """Queries (..., batch, projection_size): predictions of the projections, with gradient."""
        return F.normalize(self.predictor(self.projector(pooled)), dim=-1)

    @torch.no_grad()
    def target(self, pooled: torch.Tensor) -> torch.Tensor:
        """Keys (..., batch, projection_size) by the target projector, without gradient.

        Neighbours are looked up with them, and the neighbour queue stores them.
        """
        return F.normalize(self.target_projector(pooled), dim=-1)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Moves the target projector towards the projector, as an exponential moving average.

        Batch statistics are copied.

        Args:
            momentum: Weight of the target projector's own parameters; 0 copies the projector.
        """
        for average, online in zip(self.target_projector.parameters(), self.projector.parameters(), strict=True):
            average.lerp_(online, 1 - momentum)
        for copied, current in zip(self.target_projector.buffers(), self.projector.buffers(), strict=True):
            copied.copy_(current)


__all__ = ["ContrastiveHeads"]
