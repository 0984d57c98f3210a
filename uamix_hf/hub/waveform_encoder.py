"""An encoder with its front end as one torch module, waveforms in and embeddings out, that can be exported."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..embedding.audio_mae import AudioMAEAdapter, SiblingAdapter
from ..embedding.embedder import AudioEmbedder
from ..embedding.pooling import whiten
from ..embedding.spectrogram_transformer import ASTAdapter
from ..embedding.waveform import WaveformAdapter
from ..embedding.whisper import WhisperAdapter
from .log_mel_graph import LogMelGraph, NotExportableError

# Adapters of log-mels whose computation has no branches on values and no loops over tokens.
EXPORTABLE = (AudioMAEAdapter, SiblingAdapter, ASTAdapter, WhisperAdapter)


class WaveformEncoder(nn.Module):
    """The embeddings of [`AudioEmbedder`] as one module of tensors: front end, encoder, pooling and whitening.

    Clips have at most `window_samples` samples. Longer recordings are the caller's to cut into windows and to average,
    as [`AudioEmbedder`] does.

    Args:
        embedder: The encoder and its front end.

    Raises:
        NotExportableError: An encoder or a front end that cannot be a graph.
    """

    def __init__(self, embedder: AudioEmbedder):
        super().__init__()
        adapter, self.extractor = embedder.adapter, embedder.feature_extractor
        if type(adapter) not in EXPORTABLE and not isinstance(adapter, WaveformAdapter):
            raise NotExportableError(
                f"Encoders of model_type {adapter.base.config.model_type!r} are not exported with their front end "
                f"{type(self.extractor).__name__}: those of Audio-MAE, MAE-AST, AST, Whisper and of waveforms are."
            )
        self.adapter, self.encoder = adapter, adapter.base.eval()
        self.window_samples = embedder.window_samples
        self.front_end = None if self.equal_lengths else LogMelGraph(self.extractor)

    @property
    def equal_lengths(self) -> bool:
        """Whether all clips of a batch must have the same length, as those of encoders of waveforms."""
        return isinstance(self.adapter, WaveformAdapter)

    @property
    def min_samples(self) -> int:
        """Fewest samples of the axis of `waveforms`, to which shorter clips are padded."""
        return self.adapter.patch_shape[0] * self.extractor.frame_shift if self.equal_lengths else 1

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Computes embeddings.

        Args:
            waveforms: Clips at the front end's sampling rate (batch, samples) float32 in [-1, 1].
            lengths: Samples of each clip (batch,) int64; what comes after is padding. Only with log-mels, where it is
                needed.

        Returns:
            (batch, embedding_size) float32.
        """
        if self.front_end is None:
            return self.encode_waveforms(waveforms)
        values, frames = self.front_end(waveforms, lengths)
        return self.adapter.encode(values, frames, 0.0, self.extractor.padding_value)[0]

    def encode_waveforms(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Embeddings of clips of the same length, as `WaveformAdapter.encode` of clips without padding."""
        adapter: Any = self.adapter
        shift = self.extractor.frame_shift
        frames = (waveforms.shape[1] + shift - 1) // shift
        values = F.pad(waveforms, (0, shift))[:, : frames * shift].unflatten(1, (frames, shift))
        lengths = torch.full((waveforms.shape[0],), 1, device=waveforms.device) * frames
        with adapter.unmasked():
            output = adapter.layer_output(input_values=adapter.waveforms(values, lengths).to(adapter.base.dtype))
        pooled = adapter.pool(output, lengths, adapter.valid_tokens(lengths, frames, 1))
        return pooled if adapter.settings.whitening is None else whiten(pooled, adapter.settings.whitening)


__all__ = ["WaveformEncoder"]
