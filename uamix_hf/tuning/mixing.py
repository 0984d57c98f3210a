"""Mixtures of clips: T-CutMix, CutMix and mixup (docs/concepts/method.md, Unsupervised mixtures).

A mixture is described by `mix_mask` (batch, frames, mel bins or 1), the weight of the clip itself in each value: 0 or 1
for CutMix, in between for mixup. `mixture = mix_mask * clip + (1 - mix_mask) * partner`, of normalised log-mels or of
waveforms (batch, frames, samples of a frame).
"""

import torch
from torch.nn import functional as F

from .configuration_uamix import UaMixConfig


def draw_partners(batch: int, pairing: str, device: torch.device | None = None) -> torch.Tensor:
    """Index of each clip's partner (batch,) int64.

    Args:
        batch: Number of clips.
        pairing: `"random"`, never the clip itself in a batch of two or more, or `"reverse"` order of the batch.
        device: Where the result is.
    """
    if pairing == "reverse":
        return torch.arange(batch - 1, -1, -1, device=device)
    order = torch.randperm(batch, device=device)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)  # the cycle through a random order has no fixed point
    return partner


def draw_lambda(config: UaMixConfig, batch: int, device: torch.device | None = None) -> torch.Tensor:
    """Drawn fraction lambda of the clip itself (batch,) float32; 1 for clips that are not mixed."""
    alpha = torch.full((batch if config.mix_per_sample else 1,), float(config.mix_alpha), device=device)
    wanted = torch.distributions.Beta(alpha, alpha).sample()
    if config.mix_dominant:
        wanted = torch.maximum(wanted, 1 - wanted)
    wanted = wanted.expand(batch)
    mixed = torch.rand(batch, device=device) < config.mix_probability
    return torch.where(mixed, wanted, torch.ones_like(wanted))


def cut_interval(
    width: torch.Tensor, length: torch.Tensor, align: int, position: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and end (batch,) of a segment on multiples of `align`.

    Args:
        width: Frames or bins of the segment (batch,).
        length: Frames or bins that it lies in (batch,).
        align: Divides start and end.
        position: As `mix_position` of [`UaMixConfig`].
    """
    if position == "prefix":
        return length - width, length
    uniform = torch.rand(len(width), device=width.device)
    if position == "center_clip":
        start = (uniform * (length // align + 1)).long() * align - width // (2 * align) * align
        return start.clamp_min(0), torch.minimum(start + width, length)
    start = (uniform * ((length - width) // align + 1)).long() * align
    return start, start + width


def inside(interval: tuple[torch.Tensor, torch.Tensor], size: int) -> torch.Tensor:
    """Whether each of `size` positions lies in the interval, (batch, size) bool."""
    place = torch.arange(size, device=interval[0].device)
    return (place >= interval[0][:, None]) & (place < interval[1][:, None])


def draw_mix_mask(
    config: UaMixConfig, lengths: torch.Tensor, partner: torch.Tensor, frames: int, mel_bins: int
) -> torch.Tensor:
    """Fraction of each value of a mixture that is of the clip itself, (batch, frames, mel_bins or 1) float32.

    Only frames that both clips have are taken from the partner; with fewer than `2 * mix_align` of them, the clip stays
    as it is.

    Args:
        config: Settings of the mixtures.
        lengths: Frames of each clip without padding (batch,).
        partner: Index of each clip's partner, from [`draw_partners`].
        frames: Frames of the batch, padding included.
        mel_bins: Frequency bands.
    """
    device = lengths.device
    wanted = draw_lambda(config, len(lengths), device)
    wanted = torch.where(partner == torch.arange(len(partner), device=device), 1.0, wanted)
    align = config.mix_align
    common = torch.minimum(lengths, lengths[partner]) // align * align
    wanted = torch.where(common < 2 * align, 1.0, wanted)
    if config.mix == "mixup":
        both = torch.arange(frames, device=device) < common[:, None]
        return torch.where(both, wanted[:, None], 1.0)[..., None]

    def cut(side: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """An interval of the fraction `side` of `length`, which always leaves a part of the clip."""
        width = ((side * length / align).round().long() * align).clamp_min(0)
        return cut_interval(torch.minimum(width, (length - align).clamp_min(0)), length, align, config.mix_position)

    if config.mix == "t-cutmix":
        pasted = inside(cut(1 - wanted, common), frames)[..., None]
    else:  # cutmix: a box whose area is the fraction of the partner
        side = (1 - wanted).sqrt()
        bins = torch.full_like(common, mel_bins)
        pasted = inside(cut(side, common), frames)[..., None] & inside(cut(side, bins), mel_bins)[:, None]
    return (~pasted).float()


def mix(clips: torch.Tensor, partner: torch.Tensor, mix_mask: torch.Tensor) -> torch.Tensor:
    """Mixtures (batch, frames, values) of clips with their partners; exact copies where `mix_mask` is 0 or 1."""
    mix_mask = mix_mask.to(clips.dtype)
    return mix_mask * clips + (1 - mix_mask) * clips[partner]


def frame_lambda(mix_mask: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Lambda (batch,) float32: mean of `mix_mask` over the frames without padding, for encoders without token masks."""
    valid = torch.arange(mix_mask.shape[1], device=mix_mask.device) < lengths[:, None]
    return (mix_mask.mean(dim=2) * valid).sum(dim=1) / valid.sum(dim=1)


def token_lambda(
    mix_mask: torch.Tensor, visible: torch.Tensor, patch: tuple[int, int], strides: tuple[int, int] | None = None
) -> torch.Tensor:
    """Lambda (batch,) float32: mean of `mix_mask` over the tokens that the encoder saw.

    Args:
        mix_mask: From [`draw_mix_mask`].
        visible: (batch, time tokens, frequency tokens), 1 = neither padding nor dropped.
        patch: Frames and frequency bands of a patch.
        strides: Frames and frequency bands from patch to patch; those of a patch if None.
    """
    strides = strides or patch
    if mix_mask.shape[2] == 1:  # equal in all frequency bands
        patch, strides = (patch[0], 1), (strides[0], 1)
    tokens = F.avg_pool2d(mix_mask[:, None], patch, strides)[:, 0]
    weight = visible.to(tokens.dtype)
    return (tokens * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))


__all__ = ["draw_lambda", "draw_partners", "draw_mix_mask", "frame_lambda", "mix", "token_lambda"]
