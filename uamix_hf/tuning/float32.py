"""What half precision would spoil: similarities, norms and statistics (method.md 4, traps 1 and 12)."""

from collections.abc import Callable

import torch
from torch import nn


class Float32Module(nn.Module):
    """A module whose floating point numbers stay float32 when the model that it is a part of gets another dtype."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Float32Module":
        def keep(tensor: torch.Tensor) -> torch.Tensor:
            applied = fn(tensor)
            # From the tensor itself: what fn gives is rounded already.
            return tensor.to(applied.device) if applied.dtype != tensor.dtype else applied

        return super()._apply(keep, recurse)


__all__ = ["Float32Module"]
