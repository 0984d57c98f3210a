"""The contrastive loss with virtual labels (docs/concepts/method.md, Virtual labels)."""

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
    """Mean cross-entropy of predictions against keys, with virtual labels.

    The label of a prediction has weight lambda on the clip's own key and 1 - lambda on its partner's. The softmax is
    over keys: over predictions, the labels of mixtures would not sum to 1.

    Args:
        predictions: Unit vectors (batch, width), with gradient.
        keys: Unit vectors (clips of all processes, width), without gradient.
        temperature: Divides the similarities.
        own: Index of each clip's own key (batch,) int64.
        partner: Index of the partner's key (batch,) int64, which may be the own one; None without mixtures.
        lam: Fraction lambda of the clip itself (batch,) in [0, 1]; None without mixtures.

    Returns:
        Scalar float32, also under autocast: in half precision the similarities would be off by several per cent.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        log_probabilities = F.log_softmax(predictions.float() @ keys.float().T / temperature, dim=1)
        loss = -log_probabilities.gather(1, own[:, None])[:, 0]
        if lam is not None and partner is not None:
            other = -log_probabilities.gather(1, partner[:, None])[:, 0]
            loss = lam.float() * loss + (1 - lam.float()) * other
        return loss.mean()


__all__ = ["virtual_label_loss"]
