"""Tokens to one embedding per clip: the pooling of `AudioMAEConfig.pooling`, and whitening."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_audio_mae import AudioMAEConfig
from .layers_audio_mae import AudioMAEFixedBuffers
from .masking_audio_mae import column_frames


class AudioMAEAttentionPooling(nn.Linear):
    """Learnt logits (batch, tokens, heads), float32, of the weights that tokens have in `"attention"` pooling.

    Each head weights its own share of the channels. Logits are 0 before training: all tokens weigh the same.
    """

    def __init__(self, config: AudioMAEConfig):
        super().__init__(config.hidden_size, config.num_attention_heads, bias=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return F.linear(patches, self.weight.to(patches.dtype))


def pool_tokens(
    hidden_states: torch.Tensor,
    visible: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    ids_restore: torch.Tensor | None,
    config: AudioMAEConfig,
    attention: nn.Module | None = None,
) -> torch.Tensor:
    """Pools the tokens as `config.pooling` says, before any `fc_norm`.

    Sums are at least float32, also under autocast, because float16 ends at 65504.

    Args:
        hidden_states: Prefix and patch tokens (batch, prefix + tokens, hidden_size), shuffled if some were dropped.
        visible: Which patch tokens count (batch, tokens) bool, None for all.
        attention_mask: Frame mask (batch, frames), 1 = audio, or None.
        ids_restore: As in [`AudioMAEModelOutput`], None if no tokens were dropped.
        config: Configuration of the model.
        attention: Computes the logits of attention pooling.

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
        weight = token_weights(patches, visible, attention_mask, ids_restore, config)
        if config.pooling in ("attention", "attention_time"):
            pooled = attended_means(patches, weight, attention(patches))  # type: ignore[misc]
        else:
            deviations = config.pooling in ("mean_std", "mean_std_time", "std_time")
            pooled = group_statistics(patches, weight, deviations)
            if config.pooling == "std_time":
                pooled = pooled.chunk(2, dim=1)[1]
    return pooled.flatten(1).to(hidden_states.dtype)


def token_weights(
    patches: torch.Tensor,
    visible: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    ids_restore: torch.Tensor | None,
    config: AudioMAEConfig,
) -> torch.Tensor | None:
    """Weight of each token in each group of tokens that are pooled together (batch, tokens, groups), not normalised.

    It is None where all tokens are one group and weigh the same. The tokens of a clip are one group or, with
    `"mean_time"` and others of that name, those of each frequency band, lowest first. There, a token is weighted by its
    frames of audio, because the last one of a short clip may be mostly padding; not with `"mean_time_tokens"`.
    """
    if not config.pools_bands:
        return None if visible is None else visible.to(patches.dtype)[..., None]
    (batch, tokens, _), bands = patches.shape, config.grid_size[1]
    position = torch.arange(tokens, device=patches.device).expand(batch, -1)
    if ids_restore is not None:  # tokens are shuffled
        position = ids_restore.argsort(dim=1)[:, :tokens]
    weight = F.one_hot(position % bands, bands).to(patches.dtype)
    if attention_mask is not None and config.pooling != "mean_time_tokens":
        audio = column_frames(attention_mask.to(patches.dtype), config).mean(dim=2)
        weight = weight * audio.gather(1, position // bands)[..., None]
    return weight if visible is None else weight * visible[..., None]


def group_means(values: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Weighted mean (batch, groups, size) of the values (batch, tokens, size) of each group.

    A frequency band whose tokens were all dropped gets the mean over all bands.
    """
    if weight is None:
        return values.mean(dim=1, keepdim=True)
    counts = weight.sum(dim=1)[..., None]
    if weight.shape[2] == 1:
        return (values * weight).sum(dim=1, keepdim=True) / counts
    sums = weight.transpose(1, 2) @ values
    overall = sums.sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True)
    return torch.where(counts > 0, sums / torch.where(counts > 0, counts, 1), overall)


def group_statistics(values: torch.Tensor, weight: torch.Tensor | None, deviations: bool) -> torch.Tensor:
    """Means of [`group_means`], followed by the standard deviations if wanted: (batch, groups or twice as many, size).

    A frequency band whose tokens were all dropped gets the deviation of all tokens from the means of their bands.
    """
    means = group_means(values, weight)
    if not deviations:
        return means
    own = means if weight is None or weight.shape[2] == 1 else (weight > 0).to(means.dtype) @ means
    return torch.cat([means, root(group_means((values - own).square(), weight))], dim=1)


def attended_means(patches: torch.Tensor, weight: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor:
    """Means as of [`group_means`], for which each head multiplies the weights by `exp(logits)`.

    Args:
        patches: (batch, tokens, hidden_size).
        weight: (batch, tokens, groups), of [`token_weights`]; a band without tokens has those of all bands.
        logits: (batch, tokens, heads).
    """
    logits = logits.mT[:, :, None]  # (batch, heads, groups, tokens)
    if weight is not None:
        weight = torch.where(weight.sum(dim=1, keepdim=True) > 0, weight, weight.sum(dim=2, keepdim=True))
        logits = logits + weight.mT[:, None].log()
    heads = patches.unflatten(2, (logits.shape[1], -1)).transpose(1, 2)  # (batch, heads, tokens, size)
    return (logits.softmax(dim=3) @ heads).transpose(1, 2).flatten(2)


def root(variance: torch.Tensor) -> torch.Tensor:
    """Standard deviation of a variance >= 0; where that is 0, as with one token, the gradient is 0, not infinite."""
    varies = variance > 0
    return torch.where(varies, torch.where(varies, variance, 1).sqrt(), 0)


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
