"""Any audio to vectors: windows for long recordings, batches by length, a progress bar."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoFeatureExtractor, AutoModel, PreTrainedModel

from .audio import stream_audio
from .feature_extraction_audio_mae import AudioMAEFeatureExtractor, split_clips

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
        self.model = model.eval()
        self.feature_extractor = feature_extractor

    @classmethod
    def from_pretrained(cls, name_or_path: str, device: torch.device | str | None = None, **kwargs) -> "AudioEmbedder":
        """
        Args:
            name_or_path: Folder or Hub repository of an encoder. device: A GPU if there is one by default.
            kwargs: For `AutoModel.from_pretrained`, such as `dtype`; those on where and how to find the folder, such as
                `revision` or `token`, serve the feature extractor too.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        shared = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        extractor = AutoFeatureExtractor.from_pretrained(name_or_path, **shared)
        return cls(AutoModel.from_pretrained(name_or_path, **kwargs).to(device), extractor)

    @property
    def window_samples(self) -> int:
        """Samples of `max_length` whole frames."""
        extractor = self.feature_extractor
        return (extractor.max_length - 1) * extractor.frame_shift + extractor.frame_length

    def windows(self, inputs: Sequence[Any]) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the input and samples of each window, at most `max_length` frames long."""
        extractor = self.feature_extractor
        seconds = self.window_samples / extractor.sampling_rate
        for index, source in enumerate(inputs):
            for number, block in enumerate(stream_audio(source, extractor.sampling_rate, seconds)):
                # A tail shorter than one frame says nothing; a whole recording that short is padded to one.
                if number == 0 or len(block) >= extractor.frame_length:
                    yield index, block

    def batches(self, inputs: Sequence[Any], batch_size: int) -> Iterator[list[tuple[int, np.ndarray]]]:
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

    @torch.inference_mode()
    def encode(self, inputs: Any, batch_size: int = 16, progress_bar: bool = True) -> np.ndarray:
        """
        Args:
            inputs: What [`load_audio`] takes, or a sequence of such; arrays are taken to have the model's rate.
            batch_size: Windows in a batch. progress_bar: Whether to show one, in recordings.

        Returns:
            float32 array (inputs, embedding_size); (embedding_size,) for a single path, array or value.

        Raises:
            AudioInputError: a recording that cannot be embedded, with its name.
        """
        single = isinstance(inputs, (str, os.PathLike, bytes, Mapping)) or hasattr(inputs, "read")
        if single or getattr(inputs, "ndim", None) == 1:
            return self.encode([inputs], batch_size, progress_bar=False)[0]
        if hasattr(inputs, "ndim"):
            inputs = split_clips(inputs)  # refuses (samples, channels)
        total = np.zeros((len(inputs), self.model.config.embedding_size), np.float64)
        frames = np.zeros((len(inputs), 1))
        with tqdm(total=len(inputs), desc="Embedding", unit="clip", disable=not progress_bar) as bar:
            for batch in self.batches(inputs, batch_size):
                vectors, lengths = self.embed([wave for _, wave in batch])
                indices = [index for index, _ in batch]
                np.add.at(total, indices, vectors * lengths)
                np.add.at(frames, indices, lengths)
                bar.update(np.count_nonzero(frames) - bar.n)
        return (total / frames).astype(np.float32)

    def embed(self, waves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Pooled vectors (clips, embedding_size) and numbers of frames (clips, 1) of one batch."""
        extractor = self.feature_extractor
        inputs = extractor(
            waves,
            sampling_rate=extractor.sampling_rate,
            return_attention_mask=True,
            return_tensors="pt",
            device=self.model.device,
        )
        pooled = self.model(**inputs).pooler_output
        return pooled.double().cpu().numpy(), inputs["attention_mask"].sum(1, keepdim=True).cpu().numpy()


def by_length(items: list[tuple[int, np.ndarray]], batch_size: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Batches of items, the shortest waves first."""
    items = sorted(items, key=lambda item: len(item[1]))
    for start in range(0, len(items), batch_size):
        yield items[start : start + batch_size]


__all__ = ["AudioEmbedder"]
