"""Augmentations of raw log-mels, and the two views of each clip (docs/concepts/method.md, Views).

All are computed on the log-mels' device: crops, background, gain, equaliser, noise, mixup, SpecAugment.
"""

import math
from typing import Protocol

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F

from ..models.front_ends import FrontEnd
from .distributed import broadcast_from_first

# Corners of a random spectrum: enough to colour it, few enough to preserve the spectral shape of a clip.
SPECTRUM_CORNERS = 6
NOISE_SNR_RANGE = 30.0  # dB
NOISE_SPECTRUM_DB = 10.0
SMALL_CORPUS_SECONDS = 3600  # with less audio, dropping tokens harms the embedding (docs/experiments.md)


class ViewSettings(Protocol):
    """Settings of views; [`UaMixConfig`] has and documents them."""

    min_crop: float
    min_view_frames: int
    resize_time: float
    resize_mel: float
    background: float
    gain_alpha: float
    equalizer_db: float
    noise_snr: float | None
    token_drop: float | None


def resolve_token_drop(config: ViewSettings, dataset: Dataset, feature_extractor: FrontEnd) -> float:
    """Returns `config.token_drop`, or if that is None a value for the amount of audio.

    Args:
        config: Settings of views.
        dataset: Clips with a column `length` (frames).
        feature_extractor: Its frame rate converts frames to seconds.
    """
    if config.token_drop is not None:
        return config.token_drop
    frames_per_second = feature_extractor.sampling_rate / feature_extractor.frame_shift
    seconds = torch.as_tensor(dataset["length"][:]).sum().item() / frames_per_second
    return 0.0 if seconds < SMALL_CORPUS_SECONDS else 0.5


def crop_lengths(lengths: torch.Tensor, fraction: float, min_frames: int, patch: int, max_frames: int) -> torch.Tensor:
    """Computes the lengths of views.

    Args:
        lengths: Frames of each clip (batch,).
        fraction: Fraction of a clip that a view covers.
        min_frames: Views are at least this long; shorter clips are used whole, with the last patch padded.
        patch: Frames of a patch.
        max_frames: Longest view.

    Returns:
        Frames (batch,), a positive multiple of `patch`, at most `max_frames`.
    """
    frames = (lengths * fraction).long().clamp_min(min_frames) // patch * patch
    return torch.where(lengths <= min_frames, -(-lengths // patch) * patch, frames).clamp(patch, max_frames)


def random_crop(log_mels: torch.Tensor, lengths: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Crops each clip to a segment whose start is uniformly distributed.

    Args:
        log_mels: Raw (batch, frames, mel bins).
        lengths: Frames of audio (batch,).
        sizes: Frames of the segments (batch,).

    Returns:
        (batch, largest size, mel bins), 0 after the end of a segment.
    """
    spare = (lengths - sizes).clamp_min(0)
    start = (torch.rand(len(lengths), device=log_mels.device) * (spare + 1)).long()
    place = torch.arange(int(sizes.max()), device=log_mels.device)
    index = (start[:, None] + place).clamp_max(log_mels.shape[1] - 1)
    view = log_mels.gather(1, index[..., None].expand(-1, -1, log_mels.shape[2]))
    valid = place < torch.minimum(sizes, lengths)[:, None]
    return view.masked_fill(~valid[..., None], 0.0)


def random_resized_crop(
    log_mels: torch.Tensor, lengths: torch.Tensor, sizes: torch.Tensor, time: float, mel: float
) -> torch.Tensor:
    """Crops each clip in time and frequency and resamples the crop to the view's size (random resize crop, BYOL-A).

    A crop's duration and bandwidth are those of the view times a log-uniform factor, and its position is uniformly
    distributed. This varies tempo, pitch and vocal tract length. Beyond the clip, its edge is repeated.

    Args:
        log_mels: Raw (batch, frames, mel bins).
        lengths: Frames of audio (batch,).
        sizes: Frames of the views (batch,).
        time: Largest factor of the duration; the smallest is its inverse.
        mel: Largest factor of the bandwidth; the smallest is its inverse.

    Returns:
        (batch, largest size, mel bins), 0 after the end of a view.
    """
    batch, length, bins = log_mels.shape
    device = log_mels.device
    place = torch.arange(int(sizes.max()), device=device)
    # The clip's last frame is repeated to the end of the batch, so that rounding never reads padding.
    inside = torch.minimum(torch.arange(length, device=device), (lengths - 1)[:, None])
    log_mels = log_mels.gather(1, inside[..., None].expand(-1, -1, bins))

    def zoom(factor: float) -> torch.Tensor:
        return factor ** (2 * torch.rand(batch, device=device) - 1)

    def sampled(width: torch.Tensor, extent: torch.Tensor, count: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Coordinates (batch, points) of `count` points across a window of `width` on an axis of `extent`."""
        start = torch.rand(batch, device=device) * (extent - width)
        step = (width - 1) / (count - 1).clamp_min(1)
        return torch.minimum((start[:, None] + step[:, None] * place).clamp_min(0), (extent - 1)[:, None])

    frames = sampled(torch.minimum(sizes * zoom(time), lengths), lengths, sizes, place)
    all_bins = torch.full_like(sizes, bins)
    bands = sampled(all_bins * zoom(mel), all_bins, all_bins, torch.arange(bins, device=device))
    # Coordinates of grid_sample are from -1 to 1, and the last axis, here mel, comes first.
    across = 2 * bands[:, None, :] / max(bins - 1, 1) - 1
    along = 2 * frames[:, :, None] / max(length - 1, 1) - 1
    grid = torch.stack(torch.broadcast_tensors(across, along), dim=-1)
    view = F.grid_sample(log_mels[:, None], grid, align_corners=True, padding_mode="border")[:, 0]
    return view.masked_fill((place >= sizes[:, None])[..., None], 0.0)


def random_background(log_mels: torch.Tensor, max_fraction: float) -> torch.Tensor:
    """Mixes each raw log-mel (batch, frames, mel bins) with another of the batch, in power.

    The other clip's fraction of the mixture is uniform up to `max_fraction`.
    """
    batch = len(log_mels)
    fraction = max_fraction * torch.rand(batch, 1, 1, device=log_mels.device)
    other = log_mels[(torch.arange(batch, device=log_mels.device) + torch.randint(batch, ())) % batch]
    return torch.logaddexp(log_mels + torch.log1p(-fraction), other + fraction.clamp_min(1e-6).log())


def random_gain(log_mels: torch.Tensor, alpha: float) -> torch.Tensor:
    """Amplifies each clip by a gain g ~ Beta(alpha, alpha) + 0.5, which adds 2 ln g to raw log-mels."""
    concentration = torch.full((len(log_mels),), float(alpha), device=log_mels.device)
    gain = torch.distributions.Beta(concentration, concentration).sample() + 0.5
    return log_mels + 2 * gain.log()[:, None, None]


def random_spectrum(batch: int, mel_bins: int, decibels: float, device: torch.device) -> torch.Tensor:
    """Draws smooth curves over the mel bins within +-decibels: (batch, 1, mel_bins), natural logarithm of power."""
    corners = (2 * torch.rand(batch, 1, SPECTRUM_CORNERS, device=device) - 1) * decibels
    curve = F.interpolate(corners, mel_bins, mode="linear", align_corners=True)
    return curve * (math.log(10) / 10)


def random_equalizer(log_mels: torch.Tensor, decibels: float) -> torch.Tensor:
    """Filters each clip by a random smooth frequency response within +-decibels, as of a microphone or room."""
    return log_mels + random_spectrum(len(log_mels), log_mels.shape[2], decibels, log_mels.device)


def random_noise(log_mels: torch.Tensor, lengths: torch.Tensor, lowest_snr: float) -> torch.Tensor:
    """Adds stationary noise of a random spectrum to each clip.

    Powers are added bin by bin; the noise's power in a bin varies from frame to frame as that of Gaussian noise.

    Args:
        log_mels: Raw (batch, frames, mel bins).
        lengths: Frames of audio (batch,).
        lowest_snr: The signal-to-noise ratio is uniform in `lowest_snr` to `lowest_snr + 30` dB.
    """
    batch, frames, mel_bins = log_mels.shape
    device = log_mels.device
    valid = torch.arange(frames, device=device) < lengths[:, None]
    power = (log_mels.exp() * valid[..., None]).sum(dim=(1, 2)) / (lengths * mel_bins)
    snr = lowest_snr + NOISE_SNR_RANGE * torch.rand(batch, device=device)
    level = power.log() - snr * (math.log(10) / 10)
    spectrum = random_spectrum(batch, mel_bins, NOISE_SPECTRUM_DB, device)
    spectrum = spectrum - spectrum.logsumexp(dim=2, keepdim=True) + math.log(mel_bins)  # of mean power 1
    jitter = torch.empty(batch, frames, mel_bins, device=device).exponential_().clamp_min(1e-6).log()
    return torch.logaddexp(log_mels, level[:, None, None] + spectrum + jitter)


def draw_crop(config: ViewSettings) -> float:
    """Draws the fraction of each clip that the views of a step cover."""
    return config.min_crop + (1 - config.min_crop) * torch.rand(()).item()


def two_views(
    log_mels: torch.Tensor, lengths: torch.Tensor, config: ViewSettings, patch: int, max_frames: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Makes two independent views of each clip, of equal length.

    Args:
        log_mels: Raw (batch, frames, mel bins) float32.
        lengths: Frames of audio (batch,).
        config: Settings of views.
        patch: Frames of a patch.
        max_frames: Longest view.

    Returns:
        Two tensors (batch, view frames, mel bins), whose frames are a multiple of `patch`, and their frames of audio
        (batch,).
    """
    # One fraction per step for both views, so that they are encoded together and clips of equal length need no padding;
    # and for all processes, which would wait for the one with the longest views.
    fraction = broadcast_from_first(draw_crop(config), lengths.device)
    sizes = crop_lengths(lengths, fraction, config.min_view_frames, patch, max_frames)
    if config.resize_time > 1 or config.resize_mel > 1:
        views = [random_resized_crop(log_mels, lengths, sizes, config.resize_time, config.resize_mel) for _ in range(2)]
        frames = sizes
    else:
        views = [random_crop(log_mels, lengths, sizes) for _ in range(2)]
        frames = torch.minimum(sizes, lengths)
    if config.background > 0:
        views = [random_background(view, config.background) for view in views]
    if config.gain_alpha > 0:
        views = [random_gain(view, config.gain_alpha) for view in views]
    if config.equalizer_db > 0:
        views = [random_equalizer(view, config.equalizer_db) for view in views]
    if config.noise_snr is not None:
        views = [random_noise(view, frames, config.noise_snr) for view in views]
    return views[0], views[1], frames


def mix_log_mels(one: torch.Tensor, other: torch.Tensor, weight: float) -> torch.Tensor:
    """Approximates the raw log-mel of the mixture `weight` * one waveform + (1 - `weight`) * the other.

    Powers are added; the cross term, which is zero on average for independent clips, is left out.

    Args:
        one: Raw (frames, mel bins).
        other: Raw (frames, mel bins); the shorter one is silent after its end.
        weight: Weight of the first waveform, in (0, 1).

    Returns:
        (frames of the longer one, mel bins).
    """
    frames = max(len(one), len(other))
    one, other = (F.pad(mel, (0, 0, 0, frames - len(mel)), value=-torch.inf) for mel in (one, other))
    return torch.logaddexp(one + 2 * np.log(weight), other + 2 * np.log(1 - weight))


def mask_log_mel(
    mel: torch.Tensor, time_fraction: float, mel_fraction: float, rng: np.random.Generator, value: float = 0.0
) -> torch.Tensor:
    """Applies SpecAugment's masks: a random segment of time and a random band of mel bins are set to `value`.

    Args:
        mel: Raw (frames, mel bins).
        time_fraction: The segment's length is uniform up to this fraction of the clip.
        mel_fraction: The band's width is uniform up to this fraction of the mel bins.
        rng: Draws length, width and positions.
        value: Value of masked frames and bins.
    """
    mel = mel.clone()
    for axis, fraction in enumerate((time_fraction, mel_fraction)):
        size = mel.shape[axis]
        width = int(rng.integers(int(fraction * size) + 1))
        mel.narrow(axis, int(rng.integers(size - width + 1)), width).fill_(value)
    return mel


__all__ = [
    "crop_lengths",
    "random_crop",
    "random_gain",
    "resolve_token_drop",
    "two_views",
    "mix_log_mels",
    "mask_log_mel",
]
