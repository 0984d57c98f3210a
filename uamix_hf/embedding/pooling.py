"""How the tokens of an encoder become one embedding: its own pooled output, or statistics of the tokens of audio."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from ..models.audio_mae.pooling_audio_mae import root
from .layers import EncoderError
from .settings import EmbeddingConfigError, EmbeddingSettings


class TokenPooling:
    """The part of an adapter that pools tokens.

    `base` is the encoder, `settings` are those of its embedding, `patch_shape` and `strides` the (frames, mel bins) of
    a token, and from token to token.
    """

    # Ways of pooling; by default the first one that the encoder has.
    poolings: ClassVar[tuple[str, ...]] = ("pooler", "mean", "mean_std")
    # Order of the tokens: all frequencies of one time after the other, or all times of one frequency after the other.
    time_first: ClassVar[bool] = True

    base: PreTrainedModel
    settings: EmbeddingSettings
    patch_shape: tuple[int, int]
    strides: tuple[int, int]

    def valid_tokens(self, lengths: torch.Tensor, frames: int, mel_bins: int) -> torch.Tensor:
        """Which tokens have audio: 1, or 0 for those of padding (batch, time, mel) float32.

        Args:
            lengths: Frames of audio (batch,).
            frames: Frames of the input, with padding.
            mel_bins: Its mel bins.
        """
        (size, mel_size), (stride, mel_stride) = self.patch_shape, self.strides
        start = torch.arange(0, frames - size + 1, stride, device=lengths.device)
        # A token is valid if a frame is that no earlier token covers.
        valid = lengths[:, None] > start + (start > 0) * (size - stride)
        return valid[..., None].expand(-1, -1, max(0, (mel_bins - mel_size) // mel_stride + 1)).float()

    def pool(self, output: Any, lengths: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Pooled output (batch, pooled_size) float32: the encoder's own, or else mean, or mean and standard deviation.

        Args:
            output: The encoder's output.
            lengths: Frames of audio (batch,).
            valid: Tokens of audio that were not dropped, 1 or 0 (batch, time, mel).

        Raises:
            EmbeddingConfigError: The encoder has no pooled output, and the settings name it.
            EncoderError: See [`mean_over_tokens`].
        """
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None and self.settings.pooling in (None, "pooler"):
            return pooled.float()
        if self.settings.pooling == "pooler":
            raise EmbeddingConfigError(f"pooling='pooler': {type(self.base).__name__} has no pooled output.")
        return self.statistics(output.last_hidden_state.float(), lambda tokens: self.mean_over_tokens(tokens, valid))

    def statistics(self, tokens: torch.Tensor, mean: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Mean of the tokens (batch, hidden), followed by their standard deviation with `pooling="mean_std"`.

        Args:
            tokens: (batch, tokens, hidden) float32.
            mean: Computes means (batch, hidden) of the tokens of audio.
        """
        means = mean(tokens)
        if self.settings.pooling != "mean_std":
            return means
        return torch.cat([means, root(mean((tokens - means[:, None]).square()))], dim=1)

    def mean_over_tokens(self, hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Mean over the tokens of audio, without prefix tokens, which come first.

        Args:
            hidden: Output of the embedding's layer (batch, tokens, hidden).
            valid: Tokens of audio, 1 or 0 (batch, time, mel).

        Raises:
            EncoderError: Other tokens than the patches of the input, after at most two prefix tokens or
                `config.num_prefix_tokens`.
        """
        weights = (valid if self.time_first else valid.mT).flatten(1)[..., None]
        prefix = hidden.shape[1] - weights.shape[1]
        declared = getattr(self.base.config, "num_prefix_tokens", None)
        if not (0 <= prefix <= 2 if declared is None else prefix == declared):
            raise EncoderError(
                f"{type(self.base).__name__} returns {hidden.shape[1]} tokens, and its input has {valid.shape[1]} x "
                f"{valid.shape[2]} patches (time x mel), so that the tokens of padding are unknown: let it return a "
                "pooler_output, or register an adapter with its own mean_over_tokens."
            )
        return (hidden[:, prefix:] * weights).sum(dim=1) / weights.sum(dim=1)


def whiten(vectors: torch.Tensor, whitening: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Whitens vectors (..., width) by a mean (width,) and a matrix (width, size), on their device, in float32."""
    mean, matrix = (tensor.to(vectors.device, torch.float32) for tensor in whitening)
    with torch.autocast(vectors.device.type, enabled=False):
        return (vectors.float() - mean) @ matrix


__all__ = ["TokenPooling", "whiten"]
