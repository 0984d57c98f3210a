"""The uaMix step in its plainest form (docs/concepts/method.md), as a baseline of speed for the package's.

Three passes of the encoder, for the two views and the mixtures, over inputs padded to the encoder's full length; the
padding is attended to, as Audio-MAE does. No token is dropped. Of `uamix_hf.tuning` it uses the configuration alone.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from uamix_hf import AudioMAEModel, UaMixConfig


class PlainStep(nn.Module):
    """
    Args:
        encoder: Every layer of it is trained. config: Widths of the heads, neighbour queue, temperature and momentum.
    """

    queue: torch.Tensor
    queue_ids: torch.Tensor

    def __init__(self, encoder: AudioMAEModel, config: UaMixConfig):
        super().__init__()
        self.config = config
        self.encoder = encoder
        inner, out, wide = config.projector_hidden_size, config.projection_size, config.predictor_hidden_size
        self.projector = nn.Sequential(
            nn.Linear(encoder.config.embedding_size, inner, bias=False), nn.BatchNorm1d(inner), nn.ReLU(),
            nn.Linear(inner, inner, bias=False), nn.BatchNorm1d(inner), nn.ReLU(),
            nn.Linear(inner, out, bias=False), nn.BatchNorm1d(out),
        )  # fmt: skip
        self.predictor = nn.Sequential(
            nn.Linear(out, wide, bias=False), nn.BatchNorm1d(wide), nn.ReLU(), nn.Linear(wide, out, bias=False)
        )
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        # Of random unit vectors at first, as in MAE-CT, so that every place can be a neighbour.
        self.register_buffer("queue", F.normalize(torch.randn(config.queue_size, out), dim=-1))
        self.register_buffer("queue_ids", torch.full((config.queue_size,), -1))
        self.pointer = 0

    def forward(
        self,
        view_a: torch.Tensor,
        view_b: torch.Tensor,
        partner: torch.Tensor,
        kept: torch.Tensor,
        sample_id: torch.Tensor,
    ) -> torch.Tensor:
        """The loss, a scalar; the neighbour queue takes in view a.

        Args:
            view_a, view_b: Normalised (batch, frames, mel bins) float32, padded. partner, sample_id: (batch,) int64.
            kept: (batch, frames) bool, which frames of a mixture are the clip's own.
        """
        mixture = torch.where(kept[..., None], view_a, view_a[partner])
        lam = kept.float().mean(dim=1)
        pooled_a = self.encoder(input_values=view_a).pooler_output
        pooled_b = self.encoder(input_values=view_b).pooler_output
        pooled_mixture = self.encoder(input_values=mixture).pooler_output
        query_a, query_b, query_mixture = map(self.query, (pooled_a, pooled_b, pooled_mixture))
        with torch.no_grad():
            target_a = F.normalize(self.target_projector(pooled_a), dim=-1)
            target_b = F.normalize(self.target_projector(pooled_b), dim=-1)
            keys_a, keys_b = self.neighbours(target_a, sample_id), self.neighbours(target_b, sample_id)
            self.enqueue(target_a, sample_id)
        own, temperature = torch.arange(len(sample_id)), self.config.temperature
        loss_ab = F.cross_entropy(query_a @ keys_b.T / temperature, own)
        loss_ba = F.cross_entropy(query_b @ keys_a.T / temperature, own)
        logits = query_mixture @ keys_b.T / temperature
        of_own = F.cross_entropy(logits, own, reduction="none")
        of_partner = F.cross_entropy(logits, partner, reduction="none")
        loss_mixed = (lam * of_own + (1 - lam) * of_partner).mean()
        return (loss_ab + loss_ba) / 2 + self.config.mix_weight * loss_mixed

    def query(self, pooled: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.predictor(self.projector(pooled)), dim=-1)

    def neighbours(self, targets: torch.Tensor, sample_id: torch.Tensor) -> torch.Tensor:
        """One of the nearest keys of each target, never one of its own clip, (batch, projection_size)."""
        similarity = targets @ self.queue.T
        similarity[self.queue_ids == sample_id[:, None]] = -torch.inf
        nearest = similarity.topk(self.config.topk, dim=1).indices
        choice = (torch.rand(len(targets)) * self.config.topk).long()
        return self.queue[nearest[torch.arange(len(targets)), choice]]

    def enqueue(self, targets: torch.Tensor, sample_id: torch.Tensor) -> None:
        place = (self.pointer + torch.arange(len(targets))) % len(self.queue)
        self.queue[place], self.queue_ids[place] = targets, sample_id
        self.pointer = (self.pointer + len(targets)) % len(self.queue)

    @torch.no_grad()
    def update_target(self) -> None:
        """To be called after the optimiser's step."""
        momentum = self.config.ema_momentum
        for slow, fast in zip(self.target_projector.parameters(), self.projector.parameters(), strict=True):
            slow.mul_(momentum).add_(fast, alpha=1 - momentum)
        for slow, fast in zip(self.target_projector.buffers(), self.projector.buffers(), strict=True):
            slow.copy_(fast)
