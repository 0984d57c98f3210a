"""Encoder flags of the scripts, and the encoder and feature extractor that they load."""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from ..embedding.embedder import AudioEmbedder, default_device
from ..embedding.kinds import load_encoder, load_feature_extractor, settings_of
from ..embedding.settings import EmbeddingSettings


@dataclass
class EncoderArguments:
    """Which encoder to start from.

    Args:
        model_name_or_path: Folder or Hub repository of an encoder, a pretrained model or a classifier.
        model_revision: Branch, tag or commit of that repository.
        trust_remote_code: Whether to run code that comes with the model.
        attn_implementation: `"sdpa"` or `"eager"` attention; if None, SDPA where the encoder has it.
        random_weights: Whether to start from random weights in an encoder of the same configuration instead.
        embedding_layer: Layer whose output is the embedding, from 1 on; the recorded one, or else the last, if None.
        pooling: How its tokens are pooled, such as `"mean"`; the recorded way, or else the encoder's own, if None.
        max_length: Longest window in frames, of embeddings and of views; the recorded one, or else what the encoder's
            feature extractor says, if None.
    """

    model_name_or_path: str = field(metadata={"help": "Encoder to start from: folder or Hub repository."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of that repository."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Whether to run code that comes with the model."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa or eager attention; if unset, sdpa where the encoder has it."}
    )
    random_weights: bool = field(
        default=False, metadata={"help": "Whether to start from random weights in an encoder of that configuration."}
    )

    embedding_layer: int | None = field(
        default=None,
        metadata={"help": "Layer whose output is the embedding, from 1 on; the recorded one, or the last, if unset."},
    )
    pooling: str | None = field(
        default=None,
        metadata={"help": "Pooling of its tokens, such as mean; the recorded one, or the encoder's own, if unset."},
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Longest window in frames (10 ms); the recorded one, or the feature extractor's, if unset."},
    )

    @property
    def source(self) -> dict[str, Any]:
        """Keywords of `load_encoder` that a model and its feature extractor have in common."""
        return {
            "name_or_path": self.model_name_or_path,
            "revision": self.model_revision,
            "trust_remote_code": self.trust_remote_code,
        }

    def load_encoder(self, **changes: Any) -> PreTrainedModel:
        """Loads the encoder, with its weights or random ones, which are drawn from torch's global random state.

        Args:
            **changes: Fields of its configuration to change, such as `pooling`.

        Raises:
            OSError: No such folder or repository.
            EmbeddingConfigError: The encoder has no such layer or pooling.
        """
        chosen = {"layer": self.embedding_layer, "pooling": self.pooling}
        encoder = load_encoder(**self.source, attn_implementation=self.attn_implementation, **{**chosen, **changes})
        return with_random_weights(encoder) if self.random_weights else encoder

    def load_feature_extractor(self) -> Any:
        """Loads the feature extractor that was saved with the encoder.

        Raises:
            OSError: No such folder or repository, or no feature extractor in it.
        """
        return load_feature_extractor(**self.source, max_length=self.max_length)

    def load_embedder(self, device: torch.device | str | None = None) -> AudioEmbedder:
        """Loads the encoder and its feature extractor for embeddings.

        Args:
            device: Device of the encoder; by default a GPU if there is one.

        Raises:
            OSError: No such folder or repository, or no feature extractor in it.
            EmbeddingConfigError: The encoder has no such layer or pooling.
            ValueError: Longer windows than the encoder takes.
        """
        encoder: Any = self.load_encoder()
        return AudioEmbedder(encoder.to(device or default_device()), self.load_feature_extractor())

    @property
    def choices(self) -> dict[str, Any]:
        """What is chosen of the embedding, instead of what is recorded."""
        names = ("embedding_layer", "pooling", "max_length", "random_weights")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def with_random_weights(encoder: PreTrainedModel) -> PreTrainedModel:
    """Makes an encoder of the same configuration with random weights."""
    config = copy.deepcopy(encoder.config)
    config.name_or_path = ""
    fresh = type(encoder)(config)
    settings = replace(settings_of(encoder), whitening=None)  # which is of the old weights
    if settings != EmbeddingSettings():
        fresh.embedding_settings = settings  # type: ignore[assignment]
    return fresh


__all__ = ["EncoderArguments", "with_random_weights"]
