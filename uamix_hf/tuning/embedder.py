"""Embeddings by any encoder that can be tuned."""

from typing import Any

import numpy as np
import torch

from ..embedding.embedder import SIZES, AudioEmbedder, check_fit
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..training.encoders import EncoderAdapter


class AdaptedEmbedder(AudioEmbedder):
    """An [`AudioEmbedder`] for an encoder that meets the contract of [`EncoderAdapter`], such as transformers' AST.

    Args:
        encoder: The encoder, perhaps with adapters; its pooled output, or else the mean of its tokens, is the
            embedding.
        feature_extractor: Makes its log-mels.
        layers_path: As in [`EncoderAdapter`].

    Raises:
        EncoderError: an encoder that does not meet the contract.
        ValueError: a feature extractor that does not fit the encoder.
    """

    def __init__(self, encoder: Any, feature_extractor: AudioMAEFeatureExtractor, layers_path: str | None = None):
        self.adapter = EncoderAdapter(encoder, layers_path)
        # Encoders of fixed length get their patches from whatever is padded to it.
        sizes = SIZES if self.adapter.variable_length else ("num_mel_bins",)
        check_fit(self.adapter.base.config, feature_extractor, sizes)
        self.model = self.adapter.base.eval()
        self.feature_extractor = feature_extractor

    @property
    def embedding_size(self) -> int:
        """Dimensions of an embedding."""
        return self.adapter.embedding_size

    @torch.inference_mode()
    def embed(self, waves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Computes the embeddings (clips, embedding_size) float64 and numbers of frames (clips,) of one batch."""
        extractor = self.feature_extractor
        inputs = extractor(
            waves,
            sampling_rate=extractor.sampling_rate,
            return_attention_mask=True,
            return_tensors="pt",
            device=self.device,
        )
        lengths = inputs["attention_mask"].sum(1)
        pooled, _ = self.adapter.encode(inputs["input_values"], lengths, 0.0, extractor.padding_value)
        return pooled.double().cpu().numpy(), lengths.cpu().numpy()


__all__ = ["AdaptedEmbedder"]
