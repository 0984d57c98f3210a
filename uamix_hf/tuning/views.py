"""Two views of each clip: random crops in time at a random gain, made of raw log-mels on their own device."""

import torch


def crop_lengths(lengths: torch.Tensor, share: float, patch: int, max_frames: int) -> torch.Tensor:
    """Frames of a view: `share` of the clip (batch,), in whole patches, at least one of them, at most `max_frames`."""
    return ((lengths * share).long() // patch * patch).clamp(patch, max_frames)


def random_crop(log_mels: torch.Tensor, lengths: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """A stretch of `sizes` (batch,) frames of each clip, starting anywhere with equal probability.

    Args:
        log_mels: (batch, frames, mel bins), the first `lengths` (batch,) frames of which are sound.

    Returns:
        (batch, largest size, mel bins), 0 where a view has no frame.
    """
    spare = (lengths - sizes).clamp_min(0)
    start = (torch.rand(len(lengths), device=log_mels.device) * (spare + 1)).long()
    place = torch.arange(int(sizes.max()), device=log_mels.device)
    index = (start[:, None] + place).clamp_max(log_mels.shape[1] - 1)
    view = log_mels.gather(1, index[..., None].expand(-1, -1, log_mels.shape[2]))
    valid = place < torch.minimum(sizes, lengths)[:, None]
    return view.masked_fill(~valid[..., None], 0.0)


def random_gain(log_mels: torch.Tensor, alpha: float) -> torch.Tensor:
    """Each clip amplified by g ~ Beta(alpha, alpha) + 0.5, which adds 2 ln g to raw log-mels (method.md 1.1)."""
    concentration = torch.full((len(log_mels),), float(alpha), device=log_mels.device)
    gain = torch.distributions.Beta(concentration, concentration).sample() + 0.5
    return log_mels + 2 * gain.log()[:, None, None]


def two_views(
    log_mels: torch.Tensor, lengths: torch.Tensor, min_crop: float, gain_alpha: float, patch: int, max_frames: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two independent views of each clip, equally long, and how many frames of them are sound.

    Args:
        log_mels: Raw (batch, frames, mel bins) float32. lengths: Frames of sound (batch,).

    Returns:
        Two tensors (batch, view frames, mel bins), the frames a multiple of `patch`, and lengths (batch,).
    """
    # One share a step for both views: they can be encoded together, and equal clips stay without padding.
    share = min_crop + (1 - min_crop) * torch.rand(()).item()
    sizes = crop_lengths(lengths, share, patch, max_frames)
    views = [random_crop(log_mels, lengths, sizes) for _ in range(2)]
    if gain_alpha > 0:
        views = [random_gain(view, gain_alpha) for view in views]
    return views[0], views[1], torch.minimum(sizes, lengths)


__all__ = ["crop_lengths", "random_crop", "random_gain", "two_views"]
