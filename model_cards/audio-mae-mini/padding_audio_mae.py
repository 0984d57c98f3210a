"""Padding of log-mels to whole patches."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import BatchFeature

from .filter_banks_audio_mae import FrontEndError
from .loading_audio_mae import SavedFeatureExtractor


class PatchFeatureExtractor(SavedFeatureExtractor):
    """Feature extractor for models of patches: `patch_size` frames each, `time_stride` from one to the next.

    `incomplete_patches` and `resample_below` say how a clip ends, see [`AudioMAEFeatureExtractor`].
    """

    patch_size: int
    time_stride: int | None
    padding_value: float
    incomplete_patches: str = "pad"
    resample_below: int = 0

    def check_patches(self) -> None:
        """Raises [`FrontEndError`] if settings of patches are out of range."""
        if self.incomplete_patches not in ("pad", "drop"):
            raise FrontEndError(f"incomplete_patches={self.incomplete_patches!r}: expected one of 'pad', 'drop'.")
        if self.resample_below < 0:
            raise FrontEndError(f"resample_below={self.resample_below}: expected a number of frames, 0 for none.")
        if self.time_stride is not None and not 1 <= self.time_stride <= self.patch_size:
            raise FrontEndError(
                f"time_stride={self.time_stride}: expected 1 to patch_size={self.patch_size}, or frames are skipped."
            )

    def whole_patches(self, frames: int, up: bool = True) -> int:
        """Nearest number of frames that whole patches cover, at least one patch.

        Args:
            frames: Number of frames.
            up: Whether to round up.
        """
        stride = self.time_stride or self.patch_size
        beyond = max(0, frames - self.patch_size)
        return self.patch_size + stride * (-(-beyond // stride) if up else beyond // stride)

    def fit_to_patches(self, mel: torch.Tensor) -> torch.Tensor:
        """Resamples or shortens a clip as `resample_below` and `incomplete_patches` say.

        Args:
            mel: Features (frames, values), raw or normalised.

        Returns:
            Features (frames, values).
        """
        frames = len(mel)
        fewer, more = self.whole_patches(frames, up=False), self.whole_patches(frames)
        if frames >= self.resample_below:
            return mel[:fewer] if self.incomplete_patches == "drop" else mel
        nearest = more if more - frames <= frames - fewer else fewer
        return F.interpolate(mel.T[None], nearest, mode="linear", align_corners=True)[0].T

    @property
    def min_frames(self) -> int:
        """Frames below which nothing is left of the last window of a long recording."""
        if self.resample_below:
            return -(-self.patch_size // 2)
        return self.patch_size if self.incomplete_patches == "drop" else 1

    def pad_log_mels(self, mels: Sequence[torch.Tensor], frames: int, with_minimum: bool) -> list[torch.Tensor]:
        """Pads spectrograms (frames, mel bins).

        Args:
            mels: The spectrograms.
            frames: Number of frames to pad to.
            with_minimum: Whether to pad with the smallest value of each, not with `padding_value`.
        """
        return [
            F.pad(mel, (0, 0, 0, frames - len(mel)), value=mel.min().item() if with_minimum else self.padding_value)
            for mel in mels
        ]

    def pad(
        self,
        processed_features: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Pads spectrograms of unequal length, as transformers' data collators request, to whole patches.

        Arguments as in [`~SequenceFeatureExtractor.pad`].
        """
        stride = self.time_stride or self.patch_size
        if stride != self.patch_size and padding in (True, "longest"):  # whole patches are no multiple of anything
            columns = isinstance(processed_features, Mapping)
            rows = (
                processed_features["input_values"] if columns else [row["input_values"] for row in processed_features]
            )
            padding, max_length = "max_length", self.whole_patches(max(map(len, rows)))
        elif pad_to_multiple_of is None and stride == self.patch_size:
            pad_to_multiple_of = self.patch_size
        return super().pad(
            processed_features, padding, max_length, truncation, pad_to_multiple_of, return_attention_mask,
            return_tensors,
        )  # fmt: skip


__all__ = ["PatchFeatureExtractor"]
