"""Whitening: embeddings with equal variance in all directions, so that distances between them are informative."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..models.front_ends import FrontEnd
from .encoders import base_of
from .features import embed_features
from .kinds import adapter_class, make_adapter, settings_of

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
    """Checks that an encoder can hold a whitening.

    Raises:
        TypeError: its class has no place for it.
    """
    base = base_of(encoder)
    if adapter_class(getattr(base, "config", None)).own_whitening and not hasattr(base, "whitening"):
        raise TypeError(
            f"{type(base).__name__} has no place for a whitening: give its encoder alone, or leave the whitening out "
            "(whiten=False, --whiten false)."
        )


def fit_whitening(
    encoder: Any,
    feature_extractor: FrontEnd,
    dataset: Dataset,
    size: int | None = None,
    batch_size: int = 32,
) -> None:
    """Adds a whitening of the embedding to the encoder, in place; `save_encoder` saves it.

    Where the encoder's class has a layer for it ([`AudioMAEModel`]), it is saved with the weights. That of other
    encoders is in their `embedding_settings`.

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
    refit(encoder, lambda: embed_features(encoder, feature_extractor, dataset, batch_size=batch_size), size)


def refit(encoder: Any, embed: Callable[[], np.ndarray], size: int | None) -> None:
    """Replaces the whitening of an encoder; after an error the encoder is as it was.

    Args:
        encoder: Encoder to change.
        embed: Computes embeddings (clips, width) by the encoder as it is then, which is without a whitening.
        size: As in [`fit_whitening`].

    Raises:
        ValueError: As in [`fit_whitening`].
        TypeError: As in [`fit_whitening`].
    """
    check_whitening(encoder)
    base: Any = make_adapter(encoder).base
    kind, training, settings = adapter_class(base.config), base.training, settings_of(base)
    layer, width = getattr(base, "whitening", None), getattr(base.config, "whitening_size", None)
    kind.set_whitening(base, None)
    try:
        vectors = embed()
        mean, matrix = whitening_of(vectors, min(SIZE, vectors.shape[1]) if size is None else size)
        kind.set_whitening(base, (torch.from_numpy(mean).float(), torch.from_numpy(matrix.copy()).float()))
    except BaseException:  # an interrupt, too
        if kind.own_whitening:
            base.whitening, base.config.whitening_size = layer, width
        else:
            base.embedding_settings = settings
        base.train(training)
        raise


__all__ = ["check_whitening", "fit_whitening", "refit", "whitening_of"]
