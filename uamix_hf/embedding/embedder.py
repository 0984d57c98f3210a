"""Any audio to vectors: windows for long recordings, batches by length, a progress bar."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from numbers import Number
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig, PreTrainedModel

from ..audio.loading import stream_audio
from ..data.checks import checked_batch_size
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor, split_clips

# Batches of short clips gathered before they are sorted by length: bounds memory, leaves little padding.
BATCHES_SORTED_TOGETHER = 16
# What from_pretrained takes for a model and its feature extractor alike.
HUB_OPTIONS = (
    "revision", "code_revision", "subfolder", "token", "cache_dir", "force_download", "local_files_only", "proxies",
    "trust_remote_code",
)  # fmt: skip


class AudioEmbedder:
    """
    A frozen encoder that turns sound into vectors, the pooled output of its model.

    Recordings longer than the model's `max_length` are cut into windows of that length; their vectors are averaged,
    each weighted by its frames. A clip's vector depends neither on its batch nor on the order.

    ```python
    embedder = AudioEmbedder.from_pretrained("path/or/repo")
    vectors = embedder.encode(["dog.wav", "an-hour.flac"])  # (2, embedding_size)
    ```
    """

    def __init__(self, model: PreTrainedModel, feature_extractor: AudioMAEFeatureExtractor):
        """
        Raises:
            TypeError: a model that is no encoder. ValueError: the feature extractor makes what the model does not take.
        """
        check_encoder(model)
        check_fit(model.config, feature_extractor)
        self.model = model.eval()
        self.feature_extractor = feature_extractor

    @classmethod
    def from_pretrained(cls, name_or_path: str, device: torch.device | str | None = None, **kwargs) -> "AudioEmbedder":
        """
        Args:
            name_or_path: Folder or Hub repository of an encoder. device: A GPU if there is one by default.
            kwargs: For `AutoModel.from_pretrained`, such as `dtype`; those on where and how to find the folder, such as
                `revision` or `token`, serve the feature extractor too. `device_map` instead of `device` spreads the
                model over devices, memory and disk.

        Raises:
            OSError: no such folder or repository. TypeError: it holds no encoder. ValueError: `device` and
                `device_map`, or a feature extractor that does not fit the model.
        """
        shared = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        check_config(AutoConfig.from_pretrained(name_or_path, **shared), name_or_path)
        extractor = AutoFeatureExtractor.from_pretrained(name_or_path, **shared)
        if kwargs.get("device_map") is None:
            model = AutoModel.from_pretrained(name_or_path, **kwargs)
            return cls(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), extractor)
        if device is not None:
            raise ValueError(f"device={device!r} and device_map={kwargs['device_map']!r}: give one of them.")
        return cls(AutoModel.from_pretrained(name_or_path, **kwargs), extractor)

    @property
    def device(self) -> torch.device:
        """Where the model computes, which is not where its weights are if they wait in memory or on disk."""
        if self.model.device.type != "meta":
            return self.model.device
        return torch.device(self.model._hf_hook.execution_device)

    @property
    def window_samples(self) -> int:
        """Samples of `max_length` whole frames."""
        return self.feature_extractor.filter_bank.samples(self.feature_extractor.max_length)

    def windows(self, inputs: Iterable[Any]) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the input and samples of each window, at most `max_length` frames long."""
        extractor = self.feature_extractor
        seconds = self.window_samples / extractor.sampling_rate
        for index, source in enumerate(inputs):
            for number, block in enumerate(stream_audio(source, extractor.sampling_rate, seconds)):
                # A tail shorter than one frame says nothing; a whole recording that short is padded to one.
                if number == 0 or len(block) >= extractor.frame_length:
                    yield index, block

    def batches(self, inputs: Iterable[Any], batch_size: int) -> Iterator[list[tuple[int, np.ndarray]]]:
        """Windows in batches of similar length. Whole windows, of which long recordings consist, are alike and go at
        once: no more than a batch of them is ever held."""
        whole: list[tuple[int, np.ndarray]] = []
        shorter: list[tuple[int, np.ndarray]] = []
        for item in self.windows(inputs):
            if len(item[1]) == self.window_samples:
                whole.append(item)
            else:
                shorter.append(item)
            if len(whole) == batch_size:
                yield whole
                whole = []
            if len(shorter) == BATCHES_SORTED_TOGETHER * batch_size:
                yield from by_length(shorter, batch_size)
                shorter = []
        yield from by_length(shorter + whole, batch_size)

    def encode(self, inputs: Any, batch_size: int = 16, progress_bar: bool = True) -> np.ndarray:
        """
        Args:
            inputs: What [`load_audio`] takes, or several of such: a list, a column of a data set or of pandas, an array
                (clips, samples) or of paths, a generator, which is read as it goes. Arrays are taken to have the
                model's rate.
            batch_size: Windows in a batch. progress_bar: Whether to show one, in recordings.

        Returns:
            float32 array (inputs, embedding_size); (embedding_size,) for a single path, array or value.

        Raises:
            AudioInputError: a recording that cannot be embedded, with its name. TypeError: what is no recording, or
                a set, which has no order. ValueError: an impossible batch size.
        """
        batch_size = checked_batch_size(batch_size)
        several = as_recordings(inputs)
        recordings = [inputs] if several is None else several
        count = len(recordings) if isinstance(recordings, Sized) else None
        total: dict[int, np.ndarray] = {}
        frames: dict[int, np.ndarray] = {}
        with tqdm(total=count, desc="Embedding", unit="clip", disable=not progress_bar or several is None) as bar:
            for batch in self.batches(recordings, batch_size):
                vectors, lengths = self.embed([wave for _, wave in batch])
                for (index, _), vector, length in zip(batch, vectors, lengths, strict=True):
                    total[index] = total.get(index, 0.0) + vector * length
                    frames[index] = frames.get(index, 0) + length
                bar.update(len(total) - bar.n)
        means = np.array([total[index] / frames[index] for index in range(len(total))], np.float32)
        return means.reshape(-1, self.model.config.embedding_size) if several is not None else means[0]

    @torch.inference_mode()
    def embed(self, waves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Pooled vectors (clips, embedding_size) and numbers of frames (clips, 1) of one batch."""
        extractor = self.feature_extractor
        inputs = extractor(
            waves,
            sampling_rate=extractor.sampling_rate,
            return_attention_mask=True,
            return_tensors="pt",
            device=self.device,
        )
        pooled = self.model(**inputs).pooler_output
        return pooled.double().cpu().numpy(), inputs["attention_mask"].sum(1, keepdim=True).cpu().numpy()


def as_recordings(inputs: Any) -> Iterable[Any] | None:
    """The recordings where there are several, in order; None where the input is a recording itself.

    Raises:
        AudioInputError: an array whose second axis can only be channels. TypeError: a set, or an array of bytes.
    """
    if isinstance(inputs, (str, bytes, os.PathLike, Mapping)) or hasattr(inputs, "read"):
        return None
    if hasattr(inputs, "get_all_samples"):  # a decoder of `datasets`
        return None
    if isinstance(inputs, (set, frozenset)):
        raise TypeError("A set has no order, so that nothing says whose vector is whose: give a list.")
    if isinstance(inputs, (list, tuple)):  # of numbers: the samples of one clip
        return None if any(isinstance(value, Number) for value in inputs) else inputs
    if hasattr(inputs, "__array__"):  # columns of pandas and Arrow, too
        array = inputs if isinstance(inputs, torch.Tensor) else np.asarray(inputs)
        if isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "OSTU":
            if array.dtype.kind == "S":
                raise TypeError("NumPy drops the zeros that bytes end with: give the files' contents as a list.")
            return array.tolist()
        if array.ndim < 2:
            return None
        return split_clips(array) if len(array) else []
    return inputs if isinstance(inputs, Iterable) else None


def check_config(config: PreTrainedConfig | None, name: str) -> None:
    """
    Raises:
        TypeError: of a uaMix model, which holds an encoder and what tunes it.
    """
    if getattr(config, "model_type", None) == "uamix":
        raise TypeError(
            f"{name} is a uaMix model, whose .encoder embeds: AudioEmbedder(model.encoder, feature_extractor), or the "
            "folder that the tuned encoder was saved to."
        )


def check_encoder(model: Any) -> None:
    """
    Raises:
        TypeError: a model that is no encoder; the message says where its encoder is.
    """
    config = getattr(model, "config", None)
    check_config(config, type(model).__name__)
    if isinstance(model, PreTrainedModel) and model.base_model is not model:
        raise TypeError(
            f"{type(model).__name__} has an encoder beneath its head: give AudioEmbedder its model.base_model."
        )
    if not hasattr(config, "embedding_size"):
        raise TypeError(
            f"{type(model).__name__} does not say its embedding_size: AudioEmbedder takes an AudioMAEModel."
        )


def check_fit(config: PreTrainedConfig, extractor: Any) -> None:
    """
    Raises:
        ValueError: the feature extractor makes spectrograms that the model does not take.
    """
    name = type(extractor).__name__
    for size in ("num_mel_bins", "patch_size"):
        if getattr(extractor, size, None) != getattr(config, size):
            raise ValueError(
                f"{name} has {size}={getattr(extractor, size, None)} and the model {getattr(config, size)}: give the "
                "feature extractor that was saved with the model."
            )
    if extractor.max_length > config.max_length:
        raise ValueError(
            f"{name} has max_length={extractor.max_length}, which windows are as long as, and the model takes "
            f"{config.max_length} frames: set feature_extractor.max_length to that or less."
        )


def by_length(items: list[tuple[int, np.ndarray]], batch_size: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Batches of items, the shortest waves first."""
    items = sorted(items, key=lambda item: len(item[1]))
    for start in range(0, len(items), batch_size):
        yield items[start : start + batch_size]


__all__ = ["AudioEmbedder"]
