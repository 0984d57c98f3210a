"""Modules that stay in float32, because half precision would spoil similarities, norms and batch statistics.

See docs/concepts/method.md, Numerical traps.
"""

from collections.abc import Callable

import torch
from torch import nn


class Float32Module(nn.Module):
    """A module whose floating-point tensors stay float32 when the model that it is part of is cast."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Float32Module":
        def keep(tensor: torch.Tensor) -> torch.Tensor:
            applied = fn(tensor)
            # From the tensor itself: the output of fn is rounded already.
            return tensor.to(applied.device) if applied.dtype != tensor.dtype else applied

        return super()._apply(keep, recurse)


__all__ = ["Float32Module"]
