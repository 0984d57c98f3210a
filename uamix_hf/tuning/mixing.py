"""Mixtures of clips (method.md 3.1 and 3.2).

A mixture is described by the share (batch, frames, mel bins or 1) that each of its values takes from the clip itself: 0
or 1 for a cut, in between for a blend. `mixture = share * clip + (1 - share) * partner`.
"""

import torch
from torch.nn import functional as F

from .configuration_uamix import UaMixConfig


def draw_partners(batch: int, pairing: str, device: torch.device | None = None) -> torch.Tensor:
    """Number of each clip's partner (batch,). Random partners never are the clip itself where there is a choice."""
    if pairing == "reverse":
        return torch.arange(batch - 1, -1, -1, device=device)
    order = torch.randperm(batch, device=device)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)  # the cycle through a random order has no fixed point
    return partner


def draw_lambda(config: UaMixConfig, batch: int, device: torch.device | None = None) -> torch.Tensor:
    """Wanted share of the clip itself (batch,), float32."""
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
    """Start and end (batch,) of a stretch of `width` frames or bins inside `length`, on multiples of `align`."""
    if position == "prefix":
        return length - width, length
    uniform = torch.rand(len(width), device=width.device)
    if position == "center_clip":
        start = (uniform * (length // align + 1)).long() * align - width // (2 * align) * align
        return start.clamp_min(0), torch.minimum(start + width, length)
    start = (uniform * ((length - width) // align + 1)).long() * align
    return start, start + width


def inside(interval: tuple[torch.Tensor, torch.Tensor], size: int) -> torch.Tensor:
    """Whether each of `size` places lies in the interval, (batch, size) bool."""
    place = torch.arange(size, device=interval[0].device)
    return (place >= interval[0][:, None]) & (place < interval[1][:, None])


def draw_share(
    config: UaMixConfig, lengths: torch.Tensor, partner: torch.Tensor, frames: int, mel_bins: int
) -> torch.Tensor:
    """Share of the clip itself in each value of its mixture, (batch, frames, mel_bins or 1) float32.

    Only frames that are sound in both clips are ever taken from the partner; where these are fewer than two aligned
    stretches, the clip stays as it is.

    Args:
        lengths: Frames of sound of each clip (batch,). partner: From [`draw_partners`].
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
        """An interval of the share `side` of `length`, which always leaves something of the clip."""
        width = ((side * length / align).round().long() * align).clamp_min(0)
        return cut_interval(torch.minimum(width, (length - align).clamp_min(0)), length, align, config.mix_position)

    if config.mix == "t-cutmix":
        pasted = inside(cut(1 - wanted, common), frames)[..., None]
    else:  # cutmix: a box whose area is the share of the partner
        side = (1 - wanted).sqrt()
        bins = torch.full_like(common, mel_bins)
        pasted = inside(cut(side, common), frames)[..., None] & inside(cut(side, bins), mel_bins)[:, None]
    return (~pasted).float()


def mix(clips: torch.Tensor, partner: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Mixtures (batch, frames, mel bins) of clips with their partners; exact copies where the share is 0 or 1."""
    share = share.to(clips.dtype)
    return share * clips + (1 - share) * clips[partner]


def frame_lambda(share: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """lambda (batch,) float32 as the share of the clip itself in the frames of sound: for encoders without tokens."""
    valid = torch.arange(share.shape[1], device=share.device) < lengths[:, None]
    return (share.mean(dim=2) * valid).sum(dim=1) / valid.sum(dim=1)


def token_lambda(
    share: torch.Tensor, visible: torch.Tensor, patch: tuple[int, int], strides: tuple[int, int] | None = None
) -> torch.Tensor:
    """lambda (batch,) float32 as the share of the clip itself in the tokens that the encoder really saw.

    Args:
        share: From [`draw_share`]. visible: (batch, time tokens, mel tokens), 1 = valid and not dropped.
        patch: Frames and mel bins of a patch.
        strides: Frames and mel bins from patch to patch; those of a patch if None.
    """
    strides = strides or patch
    if share.shape[2] == 1:  # alike in all mel bins
        patch, strides = (patch[0], 1), (strides[0], 1)
    tokens = F.avg_pool2d(share[:, None], patch, strides)[:, 0]
    weight = visible.to(tokens.dtype)
    return (tokens * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))


__all__ = ["draw_lambda", "draw_partners", "draw_share", "frame_lambda", "mix", "token_lambda"]
