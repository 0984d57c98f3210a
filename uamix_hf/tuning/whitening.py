"""Embeddings whose directions all vary alike, so that distances between them mean something."""

import numpy as np
import torch
from datasets import Dataset

from ..embedding.log_mels import embed_log_mels
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.audio_mae.modeling_audio_mae import AudioMAEModel, AudioMAEWhitening

# Both chosen in docs/experiments.md. Directions that are kept:
SIZE = 128
# Share of their mean variance that is added to each one's: what hardly varies is not blown up to noise. Less of it
# helps spoken words and harms sounds of the street, and a single labelled clip.
SHRINKAGE = 0.3


def whitening_of(vectors: np.ndarray, size: int, shrinkage: float = SHRINKAGE) -> tuple[np.ndarray, np.ndarray]:
    """Mean (width,) and matrix (width, size): `(vectors - mean) @ matrix` has unit covariance but for shrinkage.

    Its columns are the `size` directions of most spread (principal components), most spread first.

    Args:
        vectors: (clips, width). size: At most the width.
        shrinkage: Share of the mean variance of these directions that is added to the variance of each.

    Raises:
        ValueError: fewer than two vectors, all of them alike, values that are not finite, or an impossible size.
    """
    vectors = np.asarray(vectors, np.float64)
    if len(vectors) < 2 or not np.isfinite(vectors).all():
        raise ValueError(f"{len(vectors)} embeddings: whitening needs at least two, all of them finite.")
    if not 1 <= size <= vectors.shape[1]:
        raise ValueError(f"size={size}: embeddings of width {vectors.shape[1]} have 1 to as many directions.")
    variances, directions = np.linalg.eigh(np.cov(vectors, rowvar=False))
    if not variances.mean() > 0:
        raise ValueError(f"The {len(vectors)} embeddings are all alike: nothing tells how they vary.")
    variances, directions = variances[::-1][:size].clip(0), directions[:, ::-1][:, :size]
    return vectors.mean(axis=0), directions / np.sqrt(variances + shrinkage * variances.mean())


def fit_whitening(
    encoder: AudioMAEModel,
    feature_extractor: AudioMAEFeatureExtractor,
    dataset: Dataset,
    size: int | None = None,
    batch_size: int = 32,
) -> None:
    """Gives the encoder, in place, a whitening of its pooled output over unlabelled clips, saved with the weights.

    An earlier whitening is replaced; after an error the encoder is as it was. Pooled outputs of a masked autoencoder
    lie in a narrow cone whose axis says little of what a clip is; the directions of little spread do (method.md 3.6
    takes off the mean alone).

    Args:
        dataset: Log-mels as of [`prepare`]; about as many clips as `size`, or more.
        size: Width of the new pooled output, by default 128, or the old one's where that is less.

    Raises:
        ValueError: too few clips, or all embeddings are alike. TypeError: an encoder of another kind.
    """
    if not isinstance(encoder, AudioMAEModel):
        raise TypeError(f"{type(encoder).__name__} has no place for a whitening; AudioMAEModel has.")
    config = encoder.config
    before, width, training = encoder.whitening, config.whitening_size, encoder.training
    encoder.whitening, config.whitening_size = torch.nn.Identity(), 0
    try:
        vectors = embed_log_mels(encoder, feature_extractor, dataset, batch_size=batch_size)
        mean, matrix = whitening_of(vectors, min(SIZE, config.pooled_size) if size is None else size)
        layer = AudioMAEWhitening(*matrix.shape).to(encoder.device)
        layer.mean.copy_(torch.from_numpy(mean))
        layer.matrix.copy_(torch.from_numpy(matrix.copy()))
    except BaseException:  # also of whoever stops it
        encoder.whitening, config.whitening_size = before, width
        encoder.train(training)
        raise
    encoder.whitening, config.whitening_size = layer, matrix.shape[1]


__all__ = ["fit_whitening", "whitening_of"]
