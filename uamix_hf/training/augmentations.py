"""Augmentations of raw features, and the two views of each clip (docs/concepts/method.md, Views).

Those that differ between log-mels and waveforms are in a module of each domain. All
are computed on the features' device: crops, background, gain, equaliser, noise, mixup, SpecAugment.
"""

from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset

from ..data.domains import LOG_MEL, WAVEFORM, amplify
from ..embedding.encoders import EncoderAdapter
from ..models.front_ends import FrontEnd
from . import log_mel_augmentations, waveform_augmentations
from .distributed import broadcast_from_first

SMALL_CORPUS_SECONDS = 3600  # with less audio, dropping tokens harms the embedding (docs/experiments.md)


class Augmentations(Protocol):
    """What the modules `log_mel_augmentations` and `waveform_augmentations` have; features are (frames, values)."""

    RESIZE_MEL: float

    def random_resized_crop(
        self, features: torch.Tensor, lengths: torch.Tensor, sizes: torch.Tensor, time: float, mel: float
    ) -> torch.Tensor:
        """Crops resampled to the views' sizes."""

    def random_background(self, features: torch.Tensor, lengths: torch.Tensor, max_fraction: float) -> torch.Tensor:
        """Mixtures with another clip of the batch."""

    def random_equalizer(self, features: torch.Tensor, lengths: torch.Tensor, decibels: float) -> torch.Tensor:
        """Clips filtered by a random response."""

    def random_noise(self, features: torch.Tensor, lengths: torch.Tensor, lowest_snr: float) -> torch.Tensor:
        """Clips with noise."""

    def mix_clips(self, one: torch.Tensor, other: torch.Tensor, weight: float) -> torch.Tensor:
        """The mixture of two clips."""

    def mask_clip(
        self, features: torch.Tensor, time_fraction: float, mel_fraction: float, rng: np.random.Generator
    ) -> torch.Tensor:
        """A clip with SpecAugment's masks."""


def augmentations_of(domain: str) -> Augmentations:
    """The augmentations of a domain, which adapters and front ends have as an attribute.

    Args:
        domain: `"log-mel"` or `"waveform"`.
    """
    modules: dict[str, Any] = {LOG_MEL: log_mel_augmentations, WAVEFORM: waveform_augmentations}
    return modules[domain]


def resolve_resize_mel(value: float | None, domain: str, name: str = "resize_mel") -> float:
    """Returns the largest factor by which views are stretched in frequency: the given one, or the domain's default.

    Args:
        value: The given one, or None.
        domain: `"log-mel"` or `"waveform"`.
        name: Name of the setting, for the message.

    Raises:
        ValueError: A factor for waveforms, which have no mel bins.
    """
    if value is None:
        return augmentations_of(domain).RESIZE_MEL
    if domain == WAVEFORM and value != 1:
        raise ValueError(
            f"{name}={value}: a waveform has no mel bins to stretch. Leave it out; resampling changes the pitch."
        )
    return value


class ViewSettings(Protocol):
    """Settings of views; [`UaMixConfig`] has and documents them."""

    min_crop: float
    min_view_frames: int
    resize_time: float
    resize_mel: float | None
    background: float
    gain_alpha: float
    equalizer_db: float
    noise_snr: float | None
    token_drop: float | None


def checked_token_drop(value: float | None, adapter: EncoderAdapter) -> float | None:
    """Returns the fraction of tokens to drop: 0 where the encoder cannot, and None if [`resolve_token_drop`] chooses.

    Args:
        value: The given one, or None.
        adapter: Adapter of the encoder.

    Raises:
        ValueError: A fraction for an encoder that cannot drop tokens.
    """
    if adapter.drops_tokens:
        return value
    if value:
        name = type(adapter.base).__name__
        raise ValueError(f"token_drop={value}: {name} cannot drop tokens. Leave it out, or set it to 0.")
    return 0.0


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


def random_crop(features: torch.Tensor, lengths: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Crops each clip to a segment whose start is uniformly distributed.

    Args:
        features: Raw (batch, frames, values).
        lengths: Frames of audio (batch,).
        sizes: Frames of the segments (batch,).

    Returns:
        (batch, largest size, values), 0 after the end of a segment.
    """
    spare = (lengths - sizes).clamp_min(0)
    start = (torch.rand(len(lengths), device=features.device) * (spare + 1)).long()
    place = torch.arange(int(sizes.max()), device=features.device)
    index = (start[:, None] + place).clamp_max(features.shape[1] - 1)
    view = features.gather(1, index[..., None].expand(-1, -1, features.shape[2]))
    valid = place < torch.minimum(sizes, lengths)[:, None]
    return view.masked_fill(~valid[..., None], 0.0)


def random_gain(features: torch.Tensor, alpha: float, domain: str) -> torch.Tensor:
    """Amplifies each clip by a gain g ~ Beta(alpha, alpha) + 0.5: see [`amplify`]."""
    concentration = torch.full((len(features),), float(alpha), device=features.device)
    gain = torch.distributions.Beta(concentration, concentration).sample() + 0.5
    return amplify(features, gain[:, None, None], domain)


def draw_crop(config: ViewSettings) -> float:
    """Draws the fraction of each clip that the views of a step cover."""
    return config.min_crop + (1 - config.min_crop) * torch.rand(()).item()


def two_views(
    features: torch.Tensor, lengths: torch.Tensor, config: ViewSettings, patch: int, max_frames: int, domain: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Makes two independent views of each clip, of equal length.

    Args:
        features: Raw (batch, frames, values) float32.
        lengths: Frames of audio (batch,).
        config: Settings of views.
        patch: Frames of a patch.
        max_frames: Longest view.
        domain: `"log-mel"` or `"waveform"`.

    Returns:
        Two tensors (batch, view frames, values), whose frames are a multiple of `patch`, and their frames of audio
        (batch,).

    Raises:
        ValueError: A `resize_mel` for waveforms.
    """
    augment, resize_mel = augmentations_of(domain), resolve_resize_mel(config.resize_mel, domain)
    # One fraction per step for both views, so that they are encoded together and clips of equal length need no padding;
    # and for all processes, which would wait for the one with the longest views.
    fraction = broadcast_from_first(draw_crop(config), lengths.device)
    sizes = crop_lengths(lengths, fraction, config.min_view_frames, patch, max_frames)
    if config.resize_time > 1 or resize_mel > 1:
        views = [
            augment.random_resized_crop(features, lengths, sizes, config.resize_time, resize_mel) for _ in range(2)
        ]
        frames = sizes
    else:
        views = [random_crop(features, lengths, sizes) for _ in range(2)]
        frames = torch.minimum(sizes, lengths)
    if config.background > 0:
        views = [augment.random_background(view, frames, config.background) for view in views]
    if config.gain_alpha > 0:
        views = [random_gain(view, config.gain_alpha, domain) for view in views]
    if config.equalizer_db > 0:
        views = [augment.random_equalizer(view, frames, config.equalizer_db) for view in views]
    if config.noise_snr is not None:
        views = [augment.random_noise(view, frames, config.noise_snr) for view in views]
    return views[0], views[1], frames


__all__ = [
    "augmentations_of",
    "checked_token_drop",
    "crop_lengths",
    "draw_crop",
    "random_crop",
    "random_gain",
    "resolve_resize_mel",
    "resolve_token_drop",
    "two_views",
]
