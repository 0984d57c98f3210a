"""Augmentations of raw log-mels (docs/concepts/method.md, Views); those of waveforms have the same names.

Natural logarithms of power: sounds are mixed by adding powers, and filtered by adding a curve over the mel bins.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from .draws import NOISE_SPECTRUM_DB, SPECTRUM_CORNERS, random_levels, random_others, random_window, random_zoom

RESIZE_MEL = 1.15  # unless one is chosen


def random_resized_crop(
    features: torch.Tensor, lengths: torch.Tensor, sizes: torch.Tensor, time: float, mel: float
) -> torch.Tensor:
    """Crops each clip in time and frequency and resamples the crop to the view's size (random resize crop, BYOL-A).

    A crop's duration and bandwidth are those of the view times a log-uniform factor, and its position is uniformly
    distributed. This varies tempo, pitch and vocal tract length. Beyond the clip, its edge is repeated.

    Args:
        features: Raw log-mels (batch, frames, mel bins).
        lengths: Frames of audio (batch,).
        sizes: Frames of the views (batch,).
        time: Largest factor of the duration; the smallest is its inverse.
        mel: Largest factor of the bandwidth; the smallest is its inverse.

    Returns:
        (batch, largest size, mel bins), 0 after the end of a view.
    """
    batch, length, bins = features.shape
    device = features.device
    place = torch.arange(int(sizes.max()), device=device)
    # The clip's last frame is repeated to the end of the batch, so that rounding never reads padding.
    inside = torch.minimum(torch.arange(length, device=device), (lengths - 1)[:, None])
    features = features.gather(1, inside[..., None].expand(-1, -1, bins))
    widths = torch.minimum(sizes * random_zoom(batch, time, device), lengths)
    frames, _ = random_window(widths, lengths, sizes, place)
    all_bins = torch.full_like(sizes, bins)
    widths = all_bins * random_zoom(batch, mel, device)
    bands, _ = random_window(widths, all_bins, all_bins, torch.arange(bins, device=device))
    # Coordinates of grid_sample are from -1 to 1, and the last axis, here mel, comes first.
    across = 2 * bands[:, None, :] / max(bins - 1, 1) - 1
    along = 2 * frames[:, :, None] / max(length - 1, 1) - 1
    grid = torch.stack(torch.broadcast_tensors(across, along), dim=-1)
    view = F.grid_sample(features[:, None], grid, align_corners=True, padding_mode="border")[:, 0]
    return view.masked_fill((place >= sizes[:, None])[..., None], 0.0)


def random_background(features: torch.Tensor, lengths: torch.Tensor, max_fraction: float) -> torch.Tensor:
    """Mixes each clip with another of the batch, in power; the other is silent after its end.

    Args:
        features: Raw log-mels (batch, frames, mel bins).
        lengths: Frames of audio (batch,).
        max_fraction: The other clip's fraction of the mixture is uniform up to this.
    """
    batch, frames, _ = features.shape
    fraction = max_fraction * torch.rand(batch, 1, 1, device=features.device)
    other = random_others(batch, features.device)
    ended = torch.arange(frames, device=features.device) >= lengths[other][:, None]
    background = features[other].masked_fill(ended[..., None], -torch.inf)
    return torch.logaddexp(features + torch.log1p(-fraction), background + fraction.clamp_min(1e-6).log())


def random_spectrum(batch: int, mel_bins: int, decibels: float, device: torch.device) -> torch.Tensor:
    """Draws smooth curves over the mel bins within +-decibels: (batch, 1, mel_bins), natural logarithm of power."""
    corners = (2 * torch.rand(batch, 1, SPECTRUM_CORNERS, device=device) - 1) * decibels
    curve = F.interpolate(corners, mel_bins, mode="linear", align_corners=True)
    return curve * (math.log(10) / 10)


def random_equalizer(features: torch.Tensor, lengths: torch.Tensor, decibels: float) -> torch.Tensor:
    """Filters each clip by a random smooth frequency response, as of a microphone or room.

    Args:
        features: Raw log-mels (batch, frames, mel bins).
        lengths: Frames of audio (batch,).
        decibels: The response is within +- this.
    """
    return features + random_spectrum(len(features), features.shape[2], decibels, features.device)


def random_noise(features: torch.Tensor, lengths: torch.Tensor, lowest_snr: float) -> torch.Tensor:
    """Adds stationary noise of a random spectrum to each clip.

    Powers are added bin by bin; the noise's power in a bin varies from frame to frame as that of Gaussian noise.

    Args:
        features: Raw log-mels (batch, frames, mel bins).
        lengths: Frames of audio (batch,).
        lowest_snr: The signal-to-noise ratio is uniform in `lowest_snr` to `lowest_snr + 30` dB.
    """
    batch, frames, mel_bins = features.shape
    device = features.device
    valid = torch.arange(frames, device=device) < lengths[:, None]
    power = (features.exp() * valid[..., None]).sum(dim=(1, 2)) / (lengths * mel_bins)
    level = power.log() - random_levels(batch, lowest_snr, device) * (math.log(10) / 10)
    spectrum = random_spectrum(batch, mel_bins, NOISE_SPECTRUM_DB, device)
    spectrum = spectrum - spectrum.logsumexp(dim=2, keepdim=True) + math.log(mel_bins)  # of mean power 1
    jitter = torch.empty(batch, frames, mel_bins, device=device).exponential_().clamp_min(1e-6).log()
    return torch.logaddexp(features, level[:, None, None] + spectrum + jitter)


def mix_clips(one: torch.Tensor, other: torch.Tensor, weight: float) -> torch.Tensor:
    """Approximates the log-mel of the mixture `weight` * one waveform + (1 - `weight`) * the other.

    Powers are added; the cross term, which is zero on average for independent clips, is left out.

    Args:
        one: Raw log-mel (frames, mel bins).
        other: Raw log-mel (frames, mel bins); the shorter one is silent after its end.
        weight: Weight of the first waveform, in (0, 1).

    Returns:
        (frames of the longer one, mel bins).
    """
    frames = max(len(one), len(other))
    one, other = (F.pad(mel, (0, 0, 0, frames - len(mel)), value=-torch.inf) for mel in (one, other))
    return torch.logaddexp(one + 2 * np.log(weight), other + 2 * np.log(1 - weight))


def mask_clip(
    features: torch.Tensor, time_fraction: float, mel_fraction: float, rng: np.random.Generator
) -> torch.Tensor:
    """Applies SpecAugment's masks: a random segment of time and a random band of mel bins are set to 0.

    Args:
        features: Raw log-mel (frames, mel bins).
        time_fraction: The segment's length is uniform up to this fraction of the clip.
        mel_fraction: The band's width is uniform up to this fraction of the mel bins.
        rng: Draws length, width and positions.
    """
    features = features.clone()
    for axis, fraction in enumerate((time_fraction, mel_fraction)):
        size = features.shape[axis]
        width = int(rng.integers(int(fraction * size) + 1))
        features.narrow(axis, int(rng.integers(size - width + 1)), width).fill_(0.0)
    return features


__all__ = [
    "RESIZE_MEL",
    "mask_clip",
    "mix_clips",
    "random_background",
    "random_equalizer",
    "random_noise",
    "random_resized_crop",
    "random_spectrum",
]
