"""Neighbour queue: past projections, among which each clip has its nearest neighbours.

It is the support set of NNCLR (docs/concepts/method.md, Neighbour queue).
"""

import torch

from .float32 import Float32Module


class NeighbourQueue(Float32Module):
    """A first-in-first-out queue of keys, saved with the model, so that a resumed run has the same neighbours.

    Buffers: `keys` (size, width) float32 unit vectors; `ids` and `labels` (size,) int64 of the clips they came from,
    -1 = empty and unknown; `pointer` (1,), the next index to write.

    Args:
        size: Number of keys; 0 for no queue.
        width: Dimensions of a key.
    """

    keys: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    pointer: torch.Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        self.allocate(size, width)

    def allocate(self, size: int, width: int, device: torch.device | None = None) -> None:
        """Makes the queue empty and of this size.

        Args:
            size: Number of keys.
            width: Dimensions of a key.
            device: Where the buffers are.
        """
        self.register_buffer("keys", torch.zeros(size, width, device=device, dtype=torch.float32))
        self.register_buffer("ids", torch.full((size,), -1, device=device))
        self.register_buffer("labels", torch.full((size,), -1, device=device))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long, device=device))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def valid(self) -> torch.Tensor:
        """Whether each entry holds a key, (size,) bool."""
        return self.ids >= 0

    @torch.no_grad()
    def lookup(self, queries: torch.Tensor, ids: torch.Tensor, topk: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws one of the `topk` nearest keys of each query uniformly, never one of the query's own clip.

        Args:
            queries: Unit vectors (batch, width).
            ids: `sample_id` of each query's clip (batch,) int64, >= 0.
            topk: How many nearest keys to draw from.

        Returns:
            Keys (batch, width) float32, and their indices (batch,), -1 where the queue had no usable key: there the key
            is the query itself, as in plain contrastive learning.
        """
        if len(self) == 0:
            return queries.float().clone(), torch.full_like(ids, -1)
        similarity = queries.float() @ self.keys.T
        usable = self.valid & (self.ids != ids[:, None])
        similarity = similarity.masked_fill(~usable, -torch.inf)
        places = similarity.topk(min(topk, len(self)), dim=1).indices
        count = usable.sum(dim=1).clamp_max(topk)
        chosen = (torch.rand(len(ids), device=ids.device) * count).long().clamp_max(places.shape[1] - 1)
        place = places.gather(1, chosen[:, None])[:, 0]
        found = count > 0
        keys = torch.where(found[:, None], self.keys[place], queries.float())
        return keys, torch.where(found, place, -1)

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        """Overwrites the oldest keys with those of a batch; of a batch larger than the queue, its last keys stay.

        Args:
            keys: Unit vectors (batch, width).
            ids: `sample_id` of each clip (batch,) int64.
            labels: Class numbers (batch,), if known.
        """
        size = len(self)
        if size == 0:
            return
        kept = slice(max(0, len(ids) - size), None)
        place = (self.pointer + torch.arange(len(ids), device=ids.device))[kept] % size
        self.keys[place] = keys[kept].to(self.keys.dtype)
        self.ids[place] = ids[kept]
        self.labels[place] = -1 if labels is None else labels[kept]
        self.pointer += len(ids)
        self.pointer %= size


__all__ = ["NeighbourQueue"]
