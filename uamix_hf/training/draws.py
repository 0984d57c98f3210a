"""Random draws that the augmentations of log-mels and of waveforms share."""

import torch

# Corners of a random spectrum: enough to colour it, few enough to preserve the spectral shape of a clip.
SPECTRUM_CORNERS = 6
NOISE_SNR_RANGE = 30.0  # dB
NOISE_SPECTRUM_DB = 10.0


def random_zoom(batch: int, factor: float, device: torch.device) -> torch.Tensor:
    """Factors (batch,), log-uniform between `1 / factor` and `factor`."""
    return factor ** (2 * torch.rand(batch, device=device) - 1)


def random_window(
    width: torch.Tensor, extent: torch.Tensor, count: torch.Tensor, place: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places windows at random on an axis, each sampled at points from its first to its last value.

    Args:
        width: Widths of the windows (batch,), up to `extent`.
        extent: Values of the axis (batch,).
        count: Points across a window (batch,).
        place: Numbers of the points that are wanted (points,).

    Returns:
        Coordinates of the points (batch, points), at most `extent - 1`, and the step from point to point (batch,); of
        the type of `place` if that is floating point.
    """
    start = torch.rand(len(width), device=width.device) * (extent - width)
    step = (width - 1) / (count - 1).clamp_min(1)
    points = start[:, None] + step[:, None] * place
    return torch.minimum(points.clamp_min(0), (extent - 1)[:, None]), step


def random_levels(batch: int, lowest_snr: float, device: torch.device) -> torch.Tensor:
    """Signal-to-noise ratios (batch,) in dB, uniform in `lowest_snr` to `lowest_snr + 30`."""
    return lowest_snr + NOISE_SNR_RANGE * torch.rand(batch, device=device)


def random_others(batch: int, device: torch.device) -> torch.Tensor:
    """Index of another clip of the batch for each (batch,): the one that is a random number of places further."""
    return (torch.arange(batch, device=device) + torch.randint(batch, ())) % batch


__all__ = [
    "NOISE_SPECTRUM_DB",
    "SPECTRUM_CORNERS",
    "random_levels",
    "random_others",
    "random_window",
    "random_zoom",
]
