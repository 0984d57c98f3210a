"""Tokens to one embedding per clip: the pooling of `AudioMAEConfig.pooling`, and whitening."""

import torch
from torch.nn import functional as F

from .configuration_audio_mae import AudioMAEConfig
from .layers_audio_mae import AudioMAEFixedBuffers
from .masking_audio_mae import column_frames


def pool_tokens(
    hidden_states: torch.Tensor,
    visible: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    ids_restore: torch.Tensor | None,
    config: AudioMAEConfig,
) -> torch.Tensor:
    """Pools the tokens as `config.pooling` says, before any `fc_norm`.

    Sums are at least float32, also under autocast, because float16 ends at 65504.

    Args:
        hidden_states: Prefix and patch tokens (batch, prefix + tokens, hidden_size), shuffled if some were dropped.
        visible: Which patch tokens count (batch, tokens) bool, None for all.
        attention_mask: Frame mask (batch, frames), 1 = audio, or None.
        ids_restore: As in [`AudioMAEModelOutput`], None if no tokens were dropped.
        config: Configuration of the model.

    Returns:
        (batch, pooled_size), in the dtype of `hidden_states`.
    """
    if config.pooling == "cls":
        return hidden_states[:, 0]
    prefix = config.num_prefix_tokens
    if config.pooling == "mean_prefix":
        return hidden_states[:, :prefix].mean(dim=1)
    patches = hidden_states[:, prefix:].to(torch.promote_types(hidden_states.dtype, torch.float32))
    with torch.autocast(patches.device.type, enabled=False):
        if config.pooling in ("mean_time", "mean_time_tokens"):
            pooled = pool_time(patches, visible, attention_mask, ids_restore, config)
        elif visible is None:
            pooled = patches.mean(dim=1)
        else:
            weight = visible.float()[..., None]
            pooled = (patches * weight).sum(dim=1) / weight.sum(dim=1)
    return pooled.to(hidden_states.dtype)


def pool_time(
    patches: torch.Tensor,
    visible: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    ids_restore: torch.Tensor | None,
    config: AudioMAEConfig,
) -> torch.Tensor:
    """Averages each frequency band over time, lowest band first: (batch, bands * hidden_size).

    With `"mean_time"`, a token is weighted by its frames of audio, because the last one of a short clip may be
    mostly padding. A band whose tokens were all dropped gets the mean of all bands. `patches` are at least float32.
    """
    batch, tokens, _ = patches.shape
    bands = config.grid_size[1]
    position = torch.arange(tokens, device=patches.device).expand(batch, -1)
    if ids_restore is not None:  # tokens are shuffled
        position = ids_restore.argsort(dim=1)[:, :tokens]
    weight = F.one_hot(position % bands, bands).to(patches.dtype)
    if attention_mask is not None and config.pooling == "mean_time":
        audio = column_frames(attention_mask.to(patches.dtype), config).mean(dim=2)
        weight = weight * audio.gather(1, position // bands)[..., None]
    if visible is not None:
        weight = weight * visible[..., None]
    sums, counts = weight.transpose(1, 2) @ patches, weight.sum(dim=1)[..., None]
    overall = sums.sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True)
    return torch.where(counts > 0, sums / torch.where(counts > 0, counts, 1), overall).flatten(1)


class AudioMAEWhitening(AudioMAEFixedBuffers):
    """Fixed affine map (batch, width) to (batch, size), which `uamix_hf.fit_whitening` fits.

    Until then it keeps the first `size` dimensions.
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, width: int, size: int):
        super().__init__()
        self.width, self.size = width, size
        self.register_fixed_buffers()

    def fixed_buffers(self) -> dict[str, torch.Tensor]:
        return {
            "mean": torch.zeros(self.width, device="cpu"),
            "matrix": torch.eye(self.width, self.size, device="cpu"),
        }

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        # Directions of little variance are scaled up; in half precision, rounding of the others would exceed them.
        with torch.autocast(pooled.device.type, enabled=False):
            whitened = (pooled.float() - self.mean.float()) @ self.matrix.float()
        return whitened.to(self.matrix.dtype)
