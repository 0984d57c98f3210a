"""Encoders as a module of sentence-transformers; needs it (`pip install uamix_hf[sentence-transformers]`)."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..embedding.embedder import AudioEmbedder
from ..embedding.saving import save_encoder
from ..models.audio_mae.waveforms_audio_mae import AudioInputError

try:
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise ImportError(
        f"{__name__} needs sentence-transformers 6: pip install 'uamix_hf[sentence-transformers]'."
    ) from error


class AudioEncoder(InputModule):
    """Module of sentence-transformers that computes the embeddings of [`AudioEmbedder`], with gradients for training.

    It is the only module of a model. Recordings longer than the feature extractor's `max_length` are split into
    windows, whose embeddings are averaged, weighted by their frames. Nothing is cut off.

    ```python
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("tuned", trust_remote_code=True)  # finds this class by modules.json
    model = SentenceTransformer(modules=[AudioEncoder.load("tuned")])  # the same
    embeddings = model.encode(["dog.wav", "rain.flac"], normalize_embeddings=True)
    ```

    Args:
        model: The encoder.
        feature_extractor: Its feature extractor.

    Raises:
        TypeError: A model that is not an encoder.
        ValueError: A feature extractor that does not fit the model.
    """

    def __init__(self, model: Any, feature_extractor: Any):
        super().__init__()
        self.embedder = AudioEmbedder(model, feature_extractor)
        self.model = self.embedder.model

    @property
    def modalities(self) -> list[Any]:
        """Kinds of input."""
        return ["audio"]

    @property
    def max_seq_length(self) -> None:
        """None, since recordings may have any length; it cannot be set."""
        return None

    def get_config_dict(self) -> dict[str, Any]:
        """What is printed of the module."""
        return {"model": type(self.model).__name__, "embedding_size": self.get_embedding_dimension()}

    def get_embedding_dimension(self) -> int:
        """Dimensions of an embedding."""
        return self.embedder.embedding_size

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Computes the encoder's input from recordings.

        Args:
            inputs: Sources that [`load_audio`] accepts, or `{"audio": source}`. Arrays must have the encoder's sampling
                rate. One of several channels is given as `{"array": ..., "sampling_rate": ...}`.
            prompt: Audio has none.
            task: `"query"` and `"document"` are embedded alike.
            **kwargs: There are none.

        Returns:
            `input_values` (windows, frames, bins) float32, `lengths` (windows,) in frames, and `windows`
            (recordings,), the number of windows of each recording.

        Raises:
            AudioInputError: A recording that cannot be embedded.
            ValueError: A prompt, or settings of another kind of module.
            TypeError: Not a recording.
        """
        if prompt:
            raise ValueError(f"prompt={prompt!r}: audio has no prompts.")
        if given := sorted(name for name, value in kwargs.items() if value is not None):
            raise ValueError(f"AudioEncoder takes no {', '.join(given)}.")
        windows = list(self.embedder.windows(map(as_source, inputs)))
        values, lengths = self.embedder.features([samples for _, samples in windows], torch.device("cpu"))
        counts = np.bincount([number for number, _ in windows], minlength=len(inputs))
        return {"input_values": values, "lengths": lengths, "windows": torch.from_numpy(counts)}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Computes the embeddings of recordings, as many windows at once as there are recordings.

        Args:
            features: As [`preprocess`] returns them.
            **kwargs: There are none.

        Returns:
            The features with `sentence_embedding` (recordings, embedding_size) float32.

        Raises:
            ValueError: A part of a batch, where recordings have several windows; or, not in training, embeddings that
                are not finite.
        """
        values, lengths, counts = features["input_values"], features["lengths"], features["windows"].tolist()
        if sum(counts) != len(values):
            raise ValueError(
                "A batch of recordings longer than the feature extractor's max_length cannot be split, as by losses "
                "with mini-batches: give clips of at most that length."
            )
        padding = self.embedder.feature_extractor.padding_value
        batches = zip(values.split(len(counts)), lengths.split(len(counts)), strict=True)
        embeddings = torch.cat([self.embedder.adapter.encode(*batch, 0.0, padding)[0] for batch in batches])
        means = [
            (part * frames[:, None]).sum(dim=0) / frames.sum()
            for part, frames in zip(embeddings.split(counts), lengths.split(counts), strict=True)
        ]
        pooled = torch.stack(means)
        if not self.training and not pooled.isfinite().all():
            raise ValueError("Embeddings are not finite: check the encoder's weights, or compute in float32.")
        return {**features, "sentence_embedding": pooled}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Writes encoder, feature extractor and settings of the embedding; what names this module is the model's.

        Args:
            output_path: Folder.
            *args: There are none.
            safe_serialization: Weights are always saved as safetensors.
            **kwargs: There are none.

        Raises:
            ValueError: `safe_serialization=False`.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False: weights are saved as safetensors only.")
        save_encoder(self.embedder.adapter.encoder, output_path, self.embedder.feature_extractor)

    @classmethod
    def load(
        cls,
        model_name_or_path: str | os.PathLike,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        *,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> "AudioEncoder":
        """Loads an encoder of any kind, also from a folder without `modules.json`.

        Args:
            model_name_or_path: Folder or Hub repository.
            subfolder: Folder in it.
            token: Access token.
            cache_folder: Where downloads are kept.
            revision: Version of the repository.
            local_files_only: Whether nothing is downloaded.
            init_defaults: There are none.
            trust_remote_code: Whether code of the repository may run, for encoders that need it.
            model_kwargs: Keywords of `from_pretrained`, such as `dtype` or `device_map`.
            backend: Only `"torch"`.
            **kwargs: Settings of other modules, such as `processor_kwargs`; there are none.

        Raises:
            OSError: No such folder or repository.
            TypeError: The model is not an encoder.
            ValueError: Another backend, or settings of another kind of module.
        """
        refused = {"init_defaults": init_defaults, **kwargs}
        if given := sorted(name for name, value in refused.items() if value):
            raise ValueError(f"AudioEncoder takes no {', '.join(given)}.")
        if backend != "torch":
            raise ValueError(f"backend={backend!r}: AudioEncoder computes with torch.")
        options: dict[str, Any] = {
            "subfolder": subfolder, "token": token, "cache_dir": cache_folder, "revision": revision,
            "local_files_only": local_files_only, "trust_remote_code": trust_remote_code,
        }  # fmt: skip
        options = {name: value for name, value in options.items() if value} | (model_kwargs or {})
        device = None if options.get("device_map") else "cpu"  # sentence-transformers moves it
        embedder = AudioEmbedder.from_pretrained(os.fspath(model_name_or_path), device=device, **options)
        return cls(embedder.adapter.encoder, embedder.feature_extractor)


def as_source(item: Any) -> Any:
    """The recording of an input of sentence-transformers.

    Raises:
        AudioInputError: An array that may be channels or clips.
    """
    if isinstance(item, dict) and item.keys() == {"audio"}:
        item = item["audio"]
    if isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim > 1:
        raise AudioInputError(
            f"An array of shape {tuple(item.shape)} may hold channels or clips: give clips as a list, and a recording "
            'of several channels as {"array": ..., "sampling_rate": ...}.'
        )
    return item


__all__ = ["AudioEncoder"]
