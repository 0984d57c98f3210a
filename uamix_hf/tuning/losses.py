"""The contrastive loss with virtual labels (method.md 3.3)."""

import torch
from torch.nn import functional as F


def virtual_label_loss(
    predictions: torch.Tensor,
    keys: torch.Tensor,
    temperature: float,
    own: torch.Tensor,
    partner: torch.Tensor | None = None,
    lam: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of each prediction row against the keys, with the label mass lambda on the row's own key and
    1 - lambda on its partner's. Rows are predictions: with keys as rows, labels of mixtures would not sum to 1.

    Args:
        predictions: Unit vectors (batch, width), with gradient.
        keys: Unit vectors (all clips of all processes, width), without gradient.
        own, partner: Columns of the row's own key and its partner's, (batch,) int64; partner may equal own.
        lam: Share of the clip itself (batch,) in [0, 1]; without it, all mass lies on the own key.

    Returns:
        Scalar float32, whatever autocast says: in half precision the similarities would err by several per cent.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        log_probabilities = F.log_softmax(predictions.float() @ keys.float().T / temperature, dim=1)
        loss = -log_probabilities.gather(1, own[:, None])[:, 0]
        if lam is not None and partner is not None:
            other = -log_probabilities.gather(1, partner[:, None])[:, 0]
            loss = lam.float() * loss + (1 - lam.float()) * other
        return loss.mean()


__all__ = ["virtual_label_loss"]
