"""Embeddings of audio in any form: windows of long recordings, batches by length, a progress bar."""

import os
from collections.abc import Generator, Iterable, Sized
from contextlib import closing
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..audio.loading import stream_audio
from ..data.checks import checked_batch_size
from .checks import check_config, check_encoder
from .encoders import EncoderAdapter
from .frames import FrameEmbeddings, Place, clip_frames, in_order, numbered
from .kinds import front_end_of, load_encoder, load_feature_extractor, make_adapter
from .peft_folders import load_config
from .read_ahead import read_ahead
from .recordings import as_recordings, in_memory
from .saving import save_encoder
from .windows import average_windows, batches_of_windows

# Arguments of from_pretrained that the feature extractor needs as well as the model.
HUB_OPTIONS = (
    "revision", "code_revision", "subfolder", "token", "cache_dir", "force_download", "local_files_only", "proxies",
    "trust_remote_code",
)  # fmt: skip


class AudioEmbedder:
    """Computes embeddings of audio by a frozen encoder, of any kind that has an adapter ([`EncoderAdapter`]).

    Recordings longer than the model's `max_length` are split into windows of that length, whose embeddings are
    averaged, weighted by their frames. The embedding of a clip depends neither on its batch nor on the order.

    ```python
    embedder = AudioEmbedder.from_pretrained("path/or/repo")
    embeddings = embedder.encode(["dog.wav", "an-hour.flac"])  # (2, embedding_size)
    ```

    Args:
        model: The encoder, perhaps with adapters such as LoRA.
        feature_extractor: Its feature extractor.
        layers_path: Path of its list of layers, such as `"encoder.layers"`; searched if None.

    Raises:
        TypeError: A model that is not an encoder, or does not meet the contract of [`EncoderAdapter`].
        ValueError: A feature extractor that does not fit the model.
    """

    def __init__(self, model: Any, feature_extractor: Any, layers_path: str | None = None):
        check_encoder(model)
        self.adapter = make_adapter(model, layers_path)
        self.feature_extractor = front_end_of(model, feature_extractor)
        self.adapter.check_fit(self.feature_extractor)
        self.model = self.adapter.base.eval()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        device: torch.device | str | None = None,
        *,
        embedding_layer: int | None = None,
        pooling: str | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> "AudioEmbedder":
        """Loads an encoder and its feature extractor.

        Args:
            name_or_path: Folder or Hub repository of an encoder.
            device: Device of the encoder; by default a GPU if there is one.
            embedding_layer: Layer whose output is the embedding, from 1 on, instead of the recorded or last one; a
                whitening of another layer is left out.
            pooling: Pooling of its tokens instead of the recorded one, or of the encoder's own; as with the layer.
            max_length: Longest window in frames instead of the recorded one.
            **kwargs: Arguments of `AutoModel.from_pretrained`, such as `dtype`. Those that locate the folder, such as
                `revision` or `token`, are used for the feature extractor too. `device_map` instead of `device`
                distributes the model over devices, memory and disk.

        Raises:
            OSError: No such folder or repository.
            TypeError: The model is not an encoder.
            EmbeddingConfigError: The encoder has no such layer or pooling.
            ValueError: Both `device` and `device_map`, or a feature extractor that does not fit the model, such as
                windows that are longer than it takes.
        """
        shared = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        check_config(load_config(name_or_path, **shared)[0], name_or_path)
        distributed = kwargs.get("device_map")
        if device is not None and distributed is not None:
            raise ValueError(f"device={device!r} and device_map={distributed!r}: give one of them.")
        extractor = load_feature_extractor(name_or_path, max_length, **shared)
        model: Any = load_encoder(name_or_path, embedding_layer, pooling, **kwargs)
        return cls(model if distributed is not None else model.to(device or default_device()), extractor)

    @property
    def device(self) -> torch.device:
        """Device on which the model computes, even if its weights are offloaded to memory or disk."""
        if self.model.device.type != "meta":
            return self.model.device
        return torch.device(self.model._hf_hook.execution_device)

    @property
    def embedding_size(self) -> int:
        """Dimensions of an embedding."""
        return self.adapter.embedding_size

    @property
    def window_samples(self) -> int:
        """Samples of `max_length` whole frames."""
        return self.feature_extractor.samples(self.feature_extractor.max_length)

    @property
    def frame_hop(self) -> float:
        """Time from frame to frame of [`encode_frames`] in a window, in s."""
        first, second = self.adapter.token_positions(2)
        return float(second - first) * self.feature_extractor.frame_shift / self.feature_extractor.sampling_rate

    def windows(self, inputs: Iterable[Any]) -> Generator[tuple[int, np.ndarray]]:
        """Yields the number of the input and the samples of each window of at most `max_length` frames."""
        extractor = self.feature_extractor
        seconds = self.window_samples / extractor.sampling_rate
        for index, source in enumerate(inputs):
            for number, block in enumerate(stream_audio(source, extractor.sampling_rate, seconds)):
                # A last window shorter than one frame is dropped; a whole recording that short is padded to one.
                if number == 0 or len(block) >= extractor.min_samples:
                    yield index, block

    def windows_ahead(self, inputs: Iterable[Any], ahead: int) -> Generator[tuple[int, np.ndarray]]:
        """Yields the same windows, of which the next ones are decoded by a thread meanwhile, see [`read_ahead`]."""
        windows = self.windows(inputs)
        return windows if in_memory(inputs) else read_ahead(windows, ahead)

    def batches(self, inputs: Iterable[Any], batch_size: int) -> Generator[list[tuple[int, np.ndarray]]]:
        """Yields windows in batches of similar length, see [`batches_of_windows`]; reads a batch ahead."""
        return batches_of_windows(self.windows_ahead(inputs, batch_size), batch_size, self.window_samples)

    def encode(self, inputs: Any, batch_size: int = 16, progress_bar: bool = True) -> np.ndarray:
        """Computes embeddings of one recording or several.

        Args:
            inputs: A source that [`load_audio`] accepts, or several: a list, a column of a dataset or of pandas, an
                array (clips, samples) or of paths, or a generator, which is read lazily, by another thread that is at
                most `batch_size` windows ahead. Arrays must have the model's sampling rate.
            batch_size: Windows in a batch.
            progress_bar: Whether to show a progress bar, which counts recordings.

        Returns:
            float32 array (inputs, embedding_size), or (embedding_size,) for a single path, array or value.

        Raises:
            AudioInputError: A recording that cannot be embedded; the message names it.
            TypeError: Not a recording, or a set, which has no order.
            ValueError: A batch size below 1, or embeddings that are not finite.
        """
        batch_size = checked_batch_size(batch_size)
        several = as_recordings(inputs)
        recordings = [inputs] if several is None else several
        count = len(recordings) if isinstance(recordings, Sized) else None
        with tqdm(total=count, desc="Embedding", unit="clip", disable=not progress_bar or several is None) as bar:
            with closing(self.batches(recordings, batch_size)) as batches:
                means = average_windows(batches, self.embed, self.embedding_size, bar)
        if not (finite := np.isfinite(means).all(axis=1)).all():
            raise ValueError(
                f"Embeddings of {(~finite).sum()} of {len(means)} recordings are not finite, the first of number "
                f"{finite.argmin()}: check the encoder's weights, or compute in float32."
            )
        return means if several is not None else means[0]

    def encode_frames(
        self, inputs: Any, batch_size: int = 16, progress_bar: bool = True
    ) -> FrameEmbeddings | list[FrameEmbeddings]:
        """Computes a vector for each time token of one recording or several, with its time.

        A vector is the mean of the tokens of all frequencies, before any pooling over time; with `pooling="mean_time"`
        and its like, they are concatenated. Where the embedding is a mean over time, it is whitened as the embedding
        is, so that the mean of its frames is the embedding of a recording of one window. Where that is something else,
        such as a class token, the frames are the encoder's tokens as they are. Windows of a long recording follow each
        other; those of CLAP are of the clip itself, not of the repetitions that fill 10 s.

        Args:
            inputs: As in [`encode`].
            batch_size: Windows in a batch.
            progress_bar: Whether to show a progress bar, which counts recordings.

        Returns:
            `embeddings` (frames, size) float32 and `times` (frames,) float64, the centre in s of what each is computed
            from without attention, of a single recording; or a list of such, one of each recording.

        Raises:
            AudioInputError: A recording that cannot be embedded; the message names it.
            EncoderError: An encoder whose tokens have no known times.
            TypeError: As in [`encode`].
            ValueError: As in [`encode`].
        """
        batch_size = checked_batch_size(batch_size)
        several = as_recordings(inputs)
        recordings = [inputs] if several is None else several
        count = len(recordings) if isinstance(recordings, Sized) else None
        found: dict[Place, FrameEmbeddings] = {}
        with tqdm(total=count, desc="Embedding", unit="clip", disable=not progress_bar or several is None) as bar:
            windows = numbered(self.windows_ahead(recordings, batch_size))
            with closing(batches_of_windows(windows, batch_size, self.window_samples)) as batches:
                for batch in batches:
                    frames = self.embed_frames([wave for _, wave in batch])
                    found |= {place: one for (place, _), one in zip(batch, frames, strict=True)}
                    bar.update(len({recording for recording, _ in found}) - bar.n)
        frames = in_order(found, self.window_samples / self.feature_extractor.sampling_rate)
        return frames if several is not None else frames[0]

    def features(self, waves: list[np.ndarray], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the encoder's input (clips, frames, bins) and numbers of frames (clips,) of one batch."""
        extractor = self.feature_extractor
        inputs = extractor(
            waves,
            sampling_rate=extractor.sampling_rate,
            return_attention_mask=True,
            return_tensors="pt",
            device=device,
        )
        return inputs["input_values"], inputs["attention_mask"].sum(1)

    def fit_whitening(
        self, inputs: Any, size: int | None = None, batch_size: int = 16, progress_bar: bool = True
    ) -> None:
        """Adds a whitening of the embedding to the encoder, over unlabelled recordings; an earlier one is replaced.

        After an error the encoder is as it was.

        Args:
            inputs: Several recordings as in [`encode`], or a folder of audio; about as many clips as `size`, or more.
            size: Dimensions of the new embedding; by default 128, or as many as it has where that is less.
            batch_size: Windows in a batch.
            progress_bar: Whether to show a progress bar, which counts recordings.

        Raises:
            AudioInputError: A recording that cannot be embedded; the message names it.
            DataError: A folder without audio.
            TypeError: A single recording, or an encoder that cannot be whitened.
            ValueError: Too few recordings, or all embeddings are equal.
        """
        from ..data import load_recordings  # these two import datasets, which takes as long as a first embedding
        from .whitening import refit

        if isinstance(inputs, (str, os.PathLike)) and os.path.isdir(inputs):
            inputs = load_recordings(os.fspath(inputs))["audio"][:]
        if as_recordings(inputs) is None:
            raise TypeError("fit_whitening takes several recordings, or a folder of them.")

        def embed() -> np.ndarray:
            self.adapter = self.new_adapter()
            return self.encode(inputs, batch_size, progress_bar)

        try:
            refit(self.adapter.encoder, embed, size)
        finally:
            self.adapter = self.new_adapter()

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Saves the encoder, the settings of its embedding and its own feature extractor, for [`from_pretrained`].

        Args:
            folder: Folder, created if it does not exist.
        """
        save_encoder(self.adapter.encoder, folder, self.feature_extractor)

    def new_adapter(self) -> EncoderAdapter:
        """The adapter of the encoder as it is now."""
        adapter = make_adapter(self.adapter.encoder, self.adapter.layers_path)
        adapter.check_fit(self.feature_extractor)
        return adapter

    @torch.inference_mode()
    def embed(self, waves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Computes the embeddings (clips, embedding_size) float64 and numbers of frames (clips,) of one batch."""
        values, lengths = self.features(waves, self.device)
        embeddings, _ = self.adapter.encode(values, lengths, 0.0, self.feature_extractor.padding_value)
        return embeddings.double().cpu().numpy(), lengths.cpu().numpy()

    @torch.inference_mode()
    def embed_frames(self, waves: list[np.ndarray]) -> list[FrameEmbeddings]:
        """Computes the frames of each window of one batch, with times from its start."""
        values, lengths = self.features(waves, self.device)
        return clip_frames(self.adapter, self.feature_extractor, values, lengths, [len(wave) for wave in waves])


def default_device() -> str:
    """A GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


__all__ = ["AudioEmbedder", "default_device"]
