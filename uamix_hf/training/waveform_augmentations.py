"""Augmentations of waveforms (docs/concepts/method.md, Views); those of log-mels have the same names.

A waveform is (frames, samples of a frame), and frames of padding are 0 before and after. Filters are of finite impulse
response and zero phase, applied by FFT without wrapping around; their curves are smooth on the mel scale of 16 kHz.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from .draws import NOISE_SPECTRUM_DB, SPECTRUM_CORNERS, random_levels, random_others, random_window, random_zoom

RESIZE_MEL = 1.0  # there are no mel bins
TAPS = 1024  # of a filter: 64 ms at 16 kHz, a value of its response each 16 Hz
SINC_ZEROS = 8  # of the interpolation's kernel, on each side


def valid_samples(features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """1 for samples of frames of audio, 0 for padding: (batch, frames, 1)."""
    place = torch.arange(features.shape[1], device=features.device)
    return (place < lengths[:, None])[..., None].to(features.dtype)


def mel_axis(device: torch.device | None = None) -> torch.Tensor:
    """Places of the frequencies 0 to Nyquist of a filter on the mel scale (TAPS / 2 + 1,), from 0 to 1."""
    hertz = torch.linspace(0, 8000, TAPS // 2 + 1, device=device)
    return torch.log1p(hertz / 700) / math.log1p(8000 / 700)


def random_spectrum(batch: int, decibels: float, device: torch.device) -> torch.Tensor:
    """Draws smooth curves over the frequencies of a filter within +-decibels: (batch, TAPS / 2 + 1), in dB."""
    corners = (2 * torch.rand(batch, SPECTRUM_CORNERS, device=device) - 1) * decibels
    place = mel_axis(device) * (SPECTRUM_CORNERS - 1)
    left = place.long().clamp_max(SPECTRUM_CORNERS - 2)
    return torch.lerp(corners[:, left], corners[:, left + 1], place - left)


def apply_filter(features: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """Filters each waveform.

    Args:
        features: Waveforms (batch, frames, samples of a frame).
        response: Amplification of the frequencies 0 to Nyquist (batch, TAPS / 2 + 1).
    """
    waves = features.flatten(1)
    samples = waves.shape[1]
    impulse = torch.fft.irfft(response, TAPS).roll(TAPS // 2, dims=1)
    size = 1 << (samples + TAPS - 1).bit_length()
    filtered = torch.fft.irfft(torch.fft.rfft(waves, size) * torch.fft.rfft(impulse, size), size)
    return filtered[:, TAPS // 2 : TAPS // 2 + samples].unflatten(1, features.shape[1:])


def random_resized_crop(
    features: torch.Tensor, lengths: torch.Tensor, sizes: torch.Tensor, time: float, mel: float
) -> torch.Tensor:
    """Crops each clip in time and resamples the crop to the view's size, which changes tempo and pitch together.

    A crop's duration is that of the view times a log-uniform factor, and its position is uniformly distributed. The
    interpolation is by windowed sinc functions; what would exceed the Nyquist frequency is filtered out.

    Args:
        features: Waveforms (batch, frames, samples of a frame).
        lengths: Frames of audio (batch,).
        sizes: Frames of the views (batch,).
        time: Largest factor of the duration; the smallest is its inverse.
        mel: 1: a waveform has no mel bins.

    Returns:
        (batch, largest size, samples of a frame), 0 after the end of a view.

    Raises:
        ValueError: Another `mel` than 1.
    """
    if mel != 1:
        raise ValueError(f"mel={mel}: a waveform has no mel bins to resize.")
    width = features.shape[2]
    waves, lengths, counts = features.flatten(1), lengths * width, sizes * width
    place = torch.arange(int(counts.max()), device=waves.device)
    widths = torch.minimum(counts * random_zoom(len(waves), time, waves.device), lengths).double()
    points, step = random_window(widths, lengths, counts, place)  # in float64: there are a million samples in a minute
    nearest = points.floor().long()
    fraction = (points - nearest).to(waves.dtype)
    cutoff = (1 / step).clamp_max(1).to(waves.dtype)[:, None]
    reach = math.ceil(SINC_ZEROS * time)
    view = torch.zeros_like(fraction)
    for offset in range(1 - reach, reach + 1):
        sample = nearest + offset
        inside = (sample >= 0) & (sample < lengths[:, None])
        away = offset - fraction
        weight = cutoff * torch.sinc(cutoff * away) * torch.cos(away * (math.pi / 2 / reach)).square()
        view += waves.gather(1, sample.clamp(0, waves.shape[1] - 1)) * weight * inside
    return view.masked_fill(place >= counts[:, None], 0.0).unflatten(1, (-1, width))


def random_background(features: torch.Tensor, lengths: torch.Tensor, max_fraction: float) -> torch.Tensor:
    """Mixes each clip with another of the batch, which is silent after its end.

    Args:
        features: Waveforms (batch, frames, samples of a frame).
        lengths: Frames of audio (batch,).
        max_fraction: The other clip's fraction of the mixture is uniform up to this. Powers have these weights:
            amplitudes have their square roots.
    """
    fraction = max_fraction * torch.rand(len(features), 1, 1, device=features.device)
    other = features[random_others(len(features), features.device)]
    mixed = (1 - fraction).sqrt() * features + fraction.sqrt() * other
    return mixed * valid_samples(features, lengths)


def random_equalizer(features: torch.Tensor, lengths: torch.Tensor, decibels: float) -> torch.Tensor:
    """Filters each clip by a random smooth frequency response, as of a microphone or room.

    Args:
        features: Waveforms (batch, frames, samples of a frame).
        lengths: Frames of audio (batch,).
        decibels: The response is within +- this.
    """
    curve = random_spectrum(len(features), decibels, features.device)
    return apply_filter(features, 10 ** (curve / 20)) * valid_samples(features, lengths)


def random_noise(features: torch.Tensor, lengths: torch.Tensor, lowest_snr: float) -> torch.Tensor:
    """Adds stationary Gaussian noise to each clip; its power per mel varies smoothly at random.

    Args:
        features: Waveforms (batch, frames, samples of a frame).
        lengths: Frames of audio (batch,).
        lowest_snr: The signal-to-noise ratio is uniform in `lowest_snr` to `lowest_snr + 30` dB.
    """
    batch, device = len(features), features.device
    valid = valid_samples(features, lengths)
    snr = random_levels(batch, lowest_snr, device)
    curve = random_spectrum(batch, NOISE_SPECTRUM_DB, device)
    hertz = torch.linspace(0, 8000, TAPS // 2 + 1, device=device)
    response = 10 ** (curve / 20) / (1 + hertz / 700).sqrt()  # a mel is wider at higher frequencies
    noise = apply_filter(torch.randn_like(features), response) * valid
    powers = [(part * valid).square().sum(dim=(1, 2), keepdim=True) for part in (features, noise)]
    return features + noise * (powers[0] / powers[1] * 10 ** (-snr / 10)[:, None, None]).sqrt()


def mix_clips(one: torch.Tensor, other: torch.Tensor, weight: float) -> torch.Tensor:
    """The mixture `weight` * one waveform + (1 - `weight`) * the other.

    Args:
        one: Waveform (frames, samples of a frame).
        other: Waveform (frames, samples of a frame); the shorter one is silent after its end.
        weight: Weight of the first waveform, in (0, 1).

    Returns:
        (frames of the longer one, samples of a frame).
    """
    frames = max(len(one), len(other))
    one, other = (F.pad(wave, (0, 0, 0, frames - len(wave))) for wave in (one, other))
    return weight * one + (1 - weight) * other


def mask_clip(
    features: torch.Tensor, time_fraction: float, mel_fraction: float, rng: np.random.Generator
) -> torch.Tensor:
    """Applies SpecAugment's masks: a random segment is silenced, and a random band of frequencies filtered out.

    Args:
        features: Waveform (frames, samples of a frame).
        time_fraction: The segment's length is uniform up to this fraction of the clip.
        mel_fraction: The band's width is uniform up to this fraction of the mel scale.
        rng: Draws length, width and positions.
    """
    width = int(rng.integers(int(time_fraction * len(features)) + 1))
    start = int(rng.integers(len(features) - width + 1))
    band = mel_fraction * rng.random()
    low = rng.random() * (1 - band)
    if band > 0:
        place = mel_axis()
        kept = ((place < low) | (place > low + band)).to(features.dtype)
        features = apply_filter(features[None], kept[None])[0]
    features = features.clone()
    features[start : start + width] = 0.0
    return features


__all__ = [
    "RESIZE_MEL",
    "TAPS",
    "apply_filter",
    "mask_clip",
    "mix_clips",
    "random_background",
    "random_equalizer",
    "random_noise",
    "random_resized_crop",
    "random_spectrum",
]
