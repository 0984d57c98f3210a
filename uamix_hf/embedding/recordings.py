"""What counts as one recording, and what as several."""

import os
from collections.abc import Iterable, Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch

from ..models.audio_mae.waveforms_audio_mae import split_clips


def as_recordings(inputs: Any) -> Iterable[Any] | None:
    """Returns the recordings of an input in order, or None if the input is a single recording.

    Raises:
        AudioInputError: An array whose second axis can only be channels.
        TypeError: A set, or an array of bytes.
    """
    if isinstance(inputs, (str, bytes, os.PathLike, Mapping)) or hasattr(inputs, "read"):
        return None
    if hasattr(inputs, "get_all_samples"):  # a decoder of `datasets`
        return None
    if isinstance(inputs, (set, frozenset)):
        raise TypeError("A set has no order, so that embeddings cannot be assigned to its recordings: give a list.")
    if isinstance(inputs, (list, tuple)):  # of numbers: the samples of one clip
        return None if any(isinstance(value, Number) for value in inputs) else inputs
    if hasattr(inputs, "__array__"):  # also columns of pandas and Arrow
        array = inputs if isinstance(inputs, torch.Tensor) else np.asarray(inputs)
        if isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "OSTU":
            if array.dtype.kind == "S":
                raise TypeError("NumPy drops zeros at the end of bytes: give the files' contents as a list.")
            return array.tolist()
        if array.ndim < 2:
            return None
        return split_clips(array) if len(array) else []
    return inputs if isinstance(inputs, Iterable) else None


def in_memory(recordings: Iterable[Any]) -> bool:
    """Whether all recordings are arrays of samples, so that nothing is decoded. An iterator is not looked into."""
    return isinstance(recordings, (list, tuple)) and all(
        isinstance(one, (np.ndarray, torch.Tensor)) for one in recordings
    )


__all__ = ["as_recordings", "in_memory"]
