"""The contrastive loss with virtual labels (docs/concepts/method.md, Virtual labels)."""

import math

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


def decorrelation_loss(embeddings: torch.Tensor, shrinkage: float, size: int) -> torch.Tensor:
    """One minus the coding rate of a batch of embeddings, as a fraction of that of white ones: 0 if white, towards 1.

    The coding rate, log det(I + C / eps) of their covariance C, weighs directions as whitening does, whose shrinkage is
    eps: `shrinkage` times the mean variance of `size` directions. It does not depend on the embeddings' scale.

    Args:
        embeddings: Pooled outputs (clips, width), with gradient; at least two.
        shrinkage: As in [`whitening_of`].
        size: As in [`whitening_of`].

    Returns:
        Scalar float32, also under autocast. Source: the rate of Yu et al., "Learning diverse and discriminative
        representations via the principle of maximal coding rate reduction", equation 1, with eps relative.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        centred = embeddings.float() - embeddings.float().mean(dim=0)
        gram = centred @ centred.T  # has the covariance's own eigenvalues, in a smaller matrix where clips are few
        gram = gram * (size / (shrinkage * gram.diagonal().sum().clamp_min(1e-12)))
        directions = min(len(centred) - 1, centred.shape[1], size)
        rate = torch.linalg.slogdet(torch.eye(len(gram), device=gram.device) + gram)[1]
        return 1 - rate / (directions * math.log1p(size / (directions * shrinkage)))


__all__ = ["decorrelation_loss", "virtual_label_loss"]
