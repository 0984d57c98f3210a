"""Augmentations of raw log-mels on their own device: crops, equaliser, gain, noise, SpecAugment, mixup; and the two
views of each clip that are made with them."""

import math
from typing import Protocol

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F

from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .distributed import of_first

# Corners of a random spectrum: enough to tilt and dent it, few enough to keep the shape of a sound's own.
SPECTRUM_CORNERS = 6
NOISE_SNR_RANGE = 30.0  # dB
NOISE_SPECTRUM_DB = 10.0
SMALL_CORPUS_SECONDS = 3600  # seconds; with less, dropping tokens costs more than it teaches (docs/experiments.md)


class ViewSettings(Protocol):
    """Fields that views are made by; [`UaMixConfig`] has them and says what each is."""

    min_crop: float
    min_view_frames: int
    resize_time: float
    resize_mel: float
    background: float
    gain_alpha: float
    equalizer_db: float
    noise_snr: float | None
    token_drop: float | None


def resolve_token_drop(config: ViewSettings, dataset: Dataset, feature_extractor: AudioMAEFeatureExtractor) -> float:
    """`config.token_drop`, or where that is None what suits the audio that a dataset with a column `length` (frames)
    holds."""
    if config.token_drop is not None:
        return config.token_drop
    frames_per_second = feature_extractor.sampling_rate / feature_extractor.frame_shift
    seconds = torch.as_tensor(dataset["length"][:]).sum().item() / frames_per_second
    return 0.0 if seconds < SMALL_CORPUS_SECONDS else 0.5


def crop_lengths(lengths: torch.Tensor, share: float, least: int, patch: int, max_frames: int) -> torch.Tensor:
    """Frames of a view (batch,) in whole patches, at least one of them, at most `max_frames`: `share` of the clip, but
    not below `least`; shorter clips whole, the last patch padded."""
    frames = (lengths * share).long().clamp_min(least) // patch * patch
    return torch.where(lengths <= least, -(-lengths // patch) * patch, frames).clamp(patch, max_frames)


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


def random_resized_crop(
    log_mels: torch.Tensor, lengths: torch.Tensor, sizes: torch.Tensor, time: float, mel: float
) -> torch.Tensor:
    """A stretch of each clip, and of its mel bins, resampled to `sizes` (batch,) frames and all bins (BYOL-A's view).

    It is up to `time` times longer or shorter than the view and up to `mel` times wider or narrower than the mel axis,
    log-uniformly, anywhere with equal probability: another pace, another pitch, another length of the vocal tract.
    What lies beyond the clip repeats its edge.

    Returns:
        (batch, largest size, mel bins), 0 where a view has no frame.
    """
    batch, length, bins = log_mels.shape
    device = log_mels.device
    place = torch.arange(int(sizes.max()), device=device)
    # The clip's last frame goes on to the end of the batch, so that rounding cannot let padding in.
    inside = torch.minimum(torch.arange(length, device=device), (lengths - 1)[:, None])
    log_mels = log_mels.gather(1, inside[..., None].expand(-1, -1, bins))

    def zoom(factor: float) -> torch.Tensor:
        return factor ** (2 * torch.rand(batch, device=device) - 1)

    def sampled(width: torch.Tensor, extent: torch.Tensor, count: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Where on an axis of `extent` the `count` places of a window of `width` lie, (batch, places)."""
        start = torch.rand(batch, device=device) * (extent - width)
        step = (width - 1) / (count - 1).clamp_min(1)
        return torch.minimum((start[:, None] + step[:, None] * place).clamp_min(0), (extent - 1)[:, None])

    frames = sampled(torch.minimum(sizes * zoom(time), lengths), lengths, sizes, place)
    all_bins = torch.full_like(sizes, bins)
    rows = sampled(all_bins * zoom(mel), all_bins, all_bins, torch.arange(bins, device=device))
    # grid_sample counts places from -1 to 1, and the last axis, here mel, comes first.
    across = 2 * rows[:, None, :] / max(bins - 1, 1) - 1
    along = 2 * frames[:, :, None] / max(length - 1, 1) - 1
    grid = torch.stack(torch.broadcast_tensors(across, along), dim=-1)
    view = F.grid_sample(log_mels[:, None], grid, align_corners=True, padding_mode="border")[:, 0]
    return view.masked_fill((place >= sizes[:, None])[..., None], 0.0)


def random_background(log_mels: torch.Tensor, most: float) -> torch.Tensor:
    """Each clip with another of the batch behind it, power for power, with a share of up to `most` of the sum."""
    batch = len(log_mels)
    share = most * torch.rand(batch, 1, 1, device=log_mels.device)
    other = log_mels[(torch.arange(batch, device=log_mels.device) + torch.randint(batch, ())) % batch]
    return torch.logaddexp(log_mels + torch.log1p(-share), other + share.clamp_min(1e-6).log())


def random_gain(log_mels: torch.Tensor, alpha: float) -> torch.Tensor:
    """Each clip amplified by g ~ Beta(alpha, alpha) + 0.5, which adds 2 ln g to raw log-mels (method.md 1.1)."""
    concentration = torch.full((len(log_mels),), float(alpha), device=log_mels.device)
    gain = torch.distributions.Beta(concentration, concentration).sample() + 0.5
    return log_mels + 2 * gain.log()[:, None, None]


def random_spectrum(batch: int, mel_bins: int, decibels: float, device: torch.device) -> torch.Tensor:
    """Smooth random curves over the mel bins within +-decibels, (batch, 1, mel_bins), in natural-log power."""
    corners = (2 * torch.rand(batch, 1, SPECTRUM_CORNERS, device=device) - 1) * decibels
    curve = F.interpolate(corners, mel_bins, mode="linear", align_corners=True)
    return curve * (math.log(10) / 10)


def random_equalizer(log_mels: torch.Tensor, decibels: float) -> torch.Tensor:
    """Each clip through a random smooth filter within +-decibels, as another microphone or room would."""
    return log_mels + random_spectrum(len(log_mels), log_mels.shape[2], decibels, log_mels.device)


def random_noise(log_mels: torch.Tensor, lengths: torch.Tensor, lowest_snr: float) -> torch.Tensor:
    """Each clip with stationary noise of a random spectrum, `lowest_snr` to `lowest_snr + 30` dB below its mean power.

    Added as power, bin by bin; the noise's power in a bin varies from frame to frame as that of Gaussian noise does.
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
    """The share of each clip that the views of a step are long."""
    return config.min_crop + (1 - config.min_crop) * torch.rand(()).item()


def two_views(
    log_mels: torch.Tensor, lengths: torch.Tensor, config: ViewSettings, patch: int, max_frames: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two independent views of each clip, equally long, and how many frames of them are sound.

    Args:
        log_mels: Raw (batch, frames, mel bins) float32. lengths: Frames of sound (batch,).

    Returns:
        Two tensors (batch, view frames, mel bins), the frames a multiple of `patch`, and lengths (batch,).
    """
    # One share a step for both views: they can be encoded together, and equal clips stay without padding.
    # And one for all processes, which would wait for the one with the longest views.
    share = of_first(draw_crop(config), lengths.device)
    sizes = crop_lengths(lengths, share, config.min_view_frames, patch, max_frames)
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


def mix_log_mels(one: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """Raw log-mel of `share` * one waveform + (1 - `share`) * another, from theirs: powers add up, their product is
    left out, which is zero in the mean for sounds that have nothing to do with each other.

    Args:
        one, other: (frames, mel bins); the shorter one is silent after its end.
    """
    frames = max(len(one), len(other))
    one, other = (F.pad(mel, (0, 0, 0, frames - len(mel)), value=-torch.inf) for mel in (one, other))
    return torch.logaddexp(one + 2 * np.log(share), other + 2 * np.log(1 - share))


def mask_log_mel(
    mel: torch.Tensor, time_share: float, mel_share: float, rng: np.random.Generator, value: float = 0.0
) -> torch.Tensor:
    """SpecAugment's masks (method.md 1.1): a stretch of time and a band of mel bins are set to `value`, anywhere.

    Args:
        mel: Raw (frames, mel bins). time_share, mel_share: Their widths are uniform up to these shares of the clip.
    """
    mel = mel.clone()
    for axis, share in enumerate((time_share, mel_share)):
        size = mel.shape[axis]
        width = int(rng.integers(int(share * size) + 1))
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
