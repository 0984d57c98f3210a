"""Whitening: embeddings with equal variance in all directions, so that distances between them are informative."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..embedding.features import embed_features
from ..embedding.kinds import adapter_class, make_adapter, settings_of
from ..models.audio_mae.modeling_audio_mae import AudioMAEModel
from ..models.audio_mae.pooling_audio_mae import AudioMAEWhitening
from ..models.front_ends import FrontEnd

# Both chosen in docs/experiments.md. Dimensions that are kept:
SIZE = 128
# Fraction of their mean variance that is added to each, so that directions of little variance are not amplified to
# noise. Less of it helps spoken words and harms urban sounds, and one-shot accuracy.
SHRINKAGE = 0.3


def whitening_of(vectors: np.ndarray, size: int, shrinkage: float = SHRINKAGE) -> tuple[np.ndarray, np.ndarray]:
    """Mean (width,) and matrix (width, size): `(vectors - mean) @ matrix` has unit covariance but for shrinkage.

    The matrix's columns are the `size` principal components, those of most variance first.

    Args:
        vectors: Embeddings (clips, width).
        size: Dimensions to keep, at most the width.
        shrinkage: Fraction of the mean variance of these directions that is added to the variance of each.

    Raises:
        ValueError: fewer than two vectors, all of them equal, values that are not finite, or an impossible size.
    """
    vectors = np.asarray(vectors, np.float64)
    if len(vectors) < 2 or not np.isfinite(vectors).all():
        raise ValueError(f"{len(vectors)} embeddings: whitening needs at least two, all of them finite.")
    if not 1 <= size <= vectors.shape[1]:
        raise ValueError(f"size={size}: embeddings of width {vectors.shape[1]} have 1 to as many directions.")
    variances, directions = np.linalg.eigh(np.cov(vectors, rowvar=False))
    if not variances.mean() > 0:
        raise ValueError(f"The {len(vectors)} embeddings are all equal: they have no variance to whiten.")
    variances, directions = variances[::-1][:size].clip(0), directions[:, ::-1][:, :size]
    return vectors.mean(axis=0), directions / np.sqrt(variances + shrinkage * variances.mean())


def check_whitening(encoder: Any) -> None:
    """Checks that an encoder can hold a whitening and save it.

    Raises:
        TypeError: it has adapters, which are saved without it, or its class has no place for it.
    """
    problem = ""
    if hasattr(encoder, "get_base_model") or getattr(encoder, "_hf_peft_config_loaded", False):
        problem = "has adapters, which are saved without a whitening"
    elif adapter_class(getattr(encoder, "config", None)).own_whitening and not isinstance(encoder, AudioMAEModel):
        problem = "has no place for a whitening; AudioMAEModel has"
    if problem:
        raise TypeError(f"{type(encoder).__name__} {problem}: leave it out (whiten=False, --whiten false).")


def fit_whitening(
    encoder: Any,
    feature_extractor: FrontEnd,
    dataset: Dataset,
    size: int | None = None,
    batch_size: int = 32,
) -> None:
    """Adds a whitening of the embedding to the encoder, in place; `save_encoder` saves it.

    That of an [`AudioMAEModel`] is a layer, which is saved with the weights. That of other encoders is in their
    `embedding_settings`.

    The whitening is computed over unlabelled clips. An earlier one is replaced; after an error the encoder is as it
    was. Pooled outputs of a masked autoencoder lie in a narrow cone, whose axis is nearly the same for all clips: what
    tells clips apart is in directions of little variance (docs/concepts/method.md, Whitening).

    Args:
        encoder: Encoder to change.
        feature_extractor: Its feature extractor.
        dataset: Log-mels from [`prepare`]; about as many clips as `size`, or more.
        size: Dimensions of the new pooled output; by default 128, or as many as it has where that is less.
        batch_size: Windows in a batch.

    Raises:
        ValueError: too few clips, or all embeddings are equal.
        TypeError: an encoder that cannot be whitened.
    """
    check_whitening(encoder)
    if not isinstance(encoder, AudioMAEModel):
        add_whitening(encoder, feature_extractor, dataset, size, batch_size)
        return
    config = encoder.config
    before, width, training = encoder.whitening, config.whitening_size, encoder.training
    encoder.whitening, config.whitening_size = torch.nn.Identity(), 0
    try:
        vectors = embed_features(encoder, feature_extractor, dataset, batch_size=batch_size)
        mean, matrix = whitening_of(vectors, min(SIZE, config.pooled_size) if size is None else size)
        layer = AudioMAEWhitening(*matrix.shape).to(encoder.device)
        layer.mean.copy_(torch.from_numpy(mean))
        layer.matrix.copy_(torch.from_numpy(matrix.copy()))
    except BaseException:  # an interrupt, too
        encoder.whitening, config.whitening_size = before, width
        encoder.train(training)
        raise
    encoder.whitening, config.whitening_size = layer, matrix.shape[1]


def add_whitening(
    encoder: Any, feature_extractor: FrontEnd, dataset: Dataset, size: int | None, batch_size: int
) -> None:
    """As [`fit_whitening`], for an encoder with `embedding_settings`."""
    before, training = settings_of(encoder), encoder.training
    encoder.embedding_settings = replace(before, whitening=None)
    try:
        vectors = embed_features(encoder, feature_extractor, dataset, batch_size=batch_size)
        width = make_adapter(encoder).embedding_size
        mean, matrix = whitening_of(vectors, min(SIZE, width) if size is None else size)
    except BaseException:  # an interrupt, too
        encoder.embedding_settings = before
        encoder.train(training)
        raise
    tensors = torch.from_numpy(mean).float(), torch.from_numpy(matrix.copy()).float()
    encoder.embedding_settings = replace(before, whitening=tensors)


__all__ = ["check_whitening", "fit_whitening", "whitening_of"]
