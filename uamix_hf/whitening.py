"""Embeddings whose directions all vary alike, so that distances between them mean something."""

import numpy as np
import torch
from datasets import Dataset

from .feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .modeling_audio_mae import AudioMAEModel, AudioMAEWhitening
from .supervised import embed_log_mels

# Share of the mean variance that is added to each direction's: one that hardly varies is not blown up to noise. Less
# helps where classes are many or hard, and harms with a single labelled clip (docs/experiments.md).
SHRINKAGE = 0.03


def whitening_of(vectors: np.ndarray, shrinkage: float = SHRINKAGE) -> tuple[np.ndarray, np.ndarray]:
    """Mean (width,) and symmetric matrix (width, width): `(vectors - mean) @ matrix` has about unit covariance.

    Args:
        vectors: (clips, width). shrinkage: Share of the mean variance added to the variance of each direction.

    Raises:
        ValueError: fewer than two vectors, all of them alike, or values that are not finite.
    """
    vectors = np.asarray(vectors, np.float64)
    if len(vectors) < 2 or not np.isfinite(vectors).all():
        raise ValueError(f"{len(vectors)} embeddings: whitening needs at least two, all of them finite.")
    variances, directions = np.linalg.eigh(np.cov(vectors, rowvar=False))
    if not variances.mean() > 0:
        raise ValueError(f"The {len(vectors)} embeddings are all alike: nothing tells how they vary.")
    scales = np.sqrt(variances.clip(0) + shrinkage * variances.mean())
    return vectors.mean(axis=0), directions / scales @ directions.T


def fit_whitening(
    encoder: AudioMAEModel, feature_extractor: AudioMAEFeatureExtractor, dataset: Dataset, batch_size: int = 32
) -> None:
    """Gives the encoder, in place, a whitening of its pooled output over unlabelled clips, saved with the weights.

    An earlier whitening is replaced. Pooled outputs of a masked autoencoder lie in a narrow cone whose axis says little
    of what a clip is; the directions of little spread do (method.md 3.6 takes off the mean alone).

    Args:
        dataset: Log-mels as of [`prepare`]; about as many clips as the encoder is wide, or more.

    Raises:
        ValueError: too few clips, or all embeddings are alike. TypeError: an encoder of another kind.
    """
    if not isinstance(encoder, AudioMAEModel):
        raise TypeError(f"{type(encoder).__name__} has no place for a whitening; AudioMAEModel has.")
    layer = AudioMAEWhitening(encoder.config.hidden_size).to(encoder.device)
    encoder.whitening = layer
    encoder.config.whitening = True
    mean, matrix = whitening_of(embed_log_mels(encoder, feature_extractor, dataset, batch_size=batch_size))
    layer.mean.copy_(torch.from_numpy(mean))
    layer.matrix.copy_(torch.from_numpy(matrix))


__all__ = ["fit_whitening", "whitening_of"]
