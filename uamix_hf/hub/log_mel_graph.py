"""Log-mels of a batch of clips of several lengths, in operations that every runtime of ONNX has."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor


class NotExportableError(TypeError):
    """An encoder or a front end that cannot be exported as a graph; the message names it."""


class LogMelGraph(nn.Module):
    """Computes what [`AudioMAEFeatureExtractor`] does with `padding=True`, for any number of clips and samples.

    The window and the Fourier transform are one product with a matrix of cosines and sines, whose entries are computed
    in float64: runtimes lack the transform, or have it only for powers of two. Nothing depends on the values of the
    lengths, so that the graph has no branches.

    Args:
        extractor: The feature extractor.

    Raises:
        NotExportableError: A feature extractor of another class, or with settings that the graph does not have.
    """

    basis: torch.Tensor
    filters: torch.Tensor

    def __init__(self, extractor: Any):
        super().__init__()
        if not isinstance(extractor, AudioMAEFeatureExtractor):
            raise NotExportableError(
                f"The front end {type(extractor).__name__} is not in the graph: export encoders of log-mels "
                "(AudioMAEFeatureExtractor, or one that becomes it, such as Whisper's), or of waveforms."
            )
        unsupported = {"repeat_below": 0, "fbank_backend": "torch"}
        if given := [f"{name}={getattr(extractor, name)!r}" for name, own in unsupported.items()
                     if getattr(extractor, name) != own]:  # fmt: skip
            raise NotExportableError(
                f"The front end {type(extractor).__name__} has {', '.join(given)}, which the graph does not have: it "
                f"needs {', '.join(f'{name}={own!r}' for name, own in unsupported.items())}."
            )
        self.extractor, self.bank = extractor, extractor.filter_bank
        bank = self.bank
        window = torch.hann_window(bank.frame_length, bank.periodic_window, dtype=torch.float64)
        if bank.window_type == "povey":
            window = window.pow(0.85)
        left = (bank.span - bank.frame_length) // 2
        window = F.pad(window, (left, bank.span - bank.frame_length - left))
        angles = torch.outer(torch.arange(bank.span), torch.arange(bank.fft_length // 2 + 1)).double()
        angles = angles.remainder(bank.fft_length) * (2 * math.pi / bank.fft_length)
        basis = torch.cat([angles.cos(), angles.sin()], dim=1) * window[:, None]
        self.register_buffer("basis", basis.float(), persistent=False)
        self.register_buffer("filters", bank.filters(torch.device("cpu")).float(), persistent=False)

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes normalised log-mels.

        Args:
            waveforms: (batch, samples) float32 in [-1, 1]; what comes after a clip's end does not matter.
            lengths: Samples of each clip (batch,) int64, from 1 to `samples`.

        Returns:
            Log-mels (batch, frames, num_mel_bins) float32 of whole patches, and the frames of each clip (batch,) int64.
        """
        bank, extractor = self.bank, self.extractor
        frames = self.whole_patches(self.frames(torch.sym_max(waveforms.shape[1], bank.min_samples)))
        blocks = -(-bank.span // bank.frame_shift)
        samples = (frames + blocks - 1) * bank.frame_shift
        # Padding by as many samples as are needed at all, so that its number is never negative.
        waves = F.pad(self.centred(waveforms, lengths), (0, samples + bank.lost_samples))
        lengths = lengths.clamp_min(bank.min_samples)
        counts = self.frames(lengths)
        log_mels = self.log_mels(self.prepared(waves, lengths - bank.lost_samples, samples), frames, blocks)
        return self.fitted(extractor.normalize(log_mels), counts)

    def frames(self, samples: Any) -> Any:
        """Frames of numbers of samples that are at least `min_samples`, an int, a symbol or a tensor."""
        bank = self.bank
        inside = samples - bank.lost_samples + 2 * (bank.span // 2) * bank.center - bank.span
        return 1 + inside // bank.frame_shift

    def whole_patches(self, frames: Any) -> Any:
        """Frames of the patches that cover a number of frames, an int or a symbol, at least two patches.

        A tracer takes an axis that may have the length 1 for one that always has it, so that a clip of one patch gets
        a second one of padding.
        """
        size, stride = self.extractor.patch_size, self.extractor.time_stride or self.extractor.patch_size
        return size + stride * ((torch.sym_max(frames - size, 1) + stride - 1) // stride)

    def centred(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Clips scaled and without their mean, 0 after their end (batch, samples)."""
        valid = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
        waves = torch.where(valid, waveforms, 0.0)
        if self.extractor.waveform_scale != 1:
            waves = waves * self.extractor.waveform_scale
        if self.extractor.remove_waveform_mean:
            waves = torch.where(valid, waves - waves.sum(dim=1, keepdim=True) / lengths[:, None], 0.0)
        return waves

    def prepared(self, waves: torch.Tensor, lengths: torch.Tensor, samples: int) -> torch.Tensor:
        """What `FilterBank.prepare` does: the first `samples` samples, pre-emphasised and reflected at both ends."""
        bank = self.bank
        if bank.preemphasis_scope == "waveform":
            waves = waves[:, 1:] - bank.preemphasis * waves[:, :-1]
        if not bank.center:
            return waves[:, :samples]
        index = (torch.arange(samples, device=waves.device) - bank.span // 2).abs()
        last = lengths[:, None] - 1
        index = torch.where(index > last, 2 * last - index, index).clamp_min(0)
        return waves.gather(1, index)

    def log_mels(self, waves: torch.Tensor, frames: int, blocks: int) -> torch.Tensor:
        """What `FilterBank.log_mels` does.

        Args:
            waves: (batch, (frames + blocks - 1) * frame_shift).
            frames: Number of frames.
            blocks: Hops that a frame covers, the last one perhaps in part.
        """
        bank = self.bank
        hops = waves.unflatten(1, (-1, bank.frame_shift))
        framed = torch.cat([hops[:, block : block + frames] for block in range(blocks)], dim=2)[..., : bank.span]
        if bank.remove_frame_mean:
            framed = framed - framed.mean(dim=-1, keepdim=True)
        if bank.preemphasis and bank.preemphasis_scope == "frame":
            framed = framed - bank.preemphasis * torch.cat([framed[..., :1], framed[..., :-1]], dim=-1)
        real, imaginary = (framed @ self.basis).chunk(2, dim=-1)
        power = real.square() + imaginary.square()
        if bank.power != 2:
            power = power.pow(bank.power / 2)
        mel = (power @ self.filters).clamp_min(bank.mel_floor)
        return (mel + bank.log_offset if bank.log_offset else mel).log()

    def fitted(self, mels: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `fit_to_patches` does with each clip, given its number of frames (batch,)."""
        extractor = self.extractor
        size, stride = extractor.patch_size, extractor.time_stride or extractor.patch_size
        beyond = (counts - size).clamp_min(0)
        fewer, more = size + beyond // stride * stride, size + (beyond + stride - 1) // stride * stride
        kept = torch.minimum(counts, fewer) if extractor.incomplete_patches == "drop" else counts
        if not extractor.resample_below:
            return mels, kept
        nearest = torch.where(more - counts <= counts - fewer, more, fewer)
        step = (counts - 1).float() / (nearest - 1).clamp_min(1).float()
        position = torch.arange(mels.shape[1], device=mels.device) * step[:, None]
        last = (counts - 1)[:, None]
        low = torch.minimum(position.long(), last)
        high = torch.minimum(low + 1, last)
        weight = (position - low)[..., None]
        bins = (-1, -1, mels.shape[2])
        resampled = torch.lerp(
            mels.gather(1, low[..., None].expand(bins)), mels.gather(1, high[..., None].expand(bins)), weight
        )
        short = counts < extractor.resample_below
        return torch.where(short[:, None, None], resampled, mels), torch.where(short, nearest, kept)


__all__ = ["LogMelGraph", "NotExportableError"]
