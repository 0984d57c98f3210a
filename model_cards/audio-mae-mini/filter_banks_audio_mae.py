"""Log-mel filter banks as batched torch code, on any device: Kaldi's, and those of a short-time Fourier transform."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F
from transformers.audio_utils import hertz_to_mel, mel_filter_bank

# Frames computed at once on a CPU. More do not fit its cache, and their memory is allocated anew each time; both are
# slower than the loop.
CPU_BLOCK_FRAMES = 250
FLOAT32_EPS = torch.finfo(torch.float32).eps


class FrontEndError(ValueError):
    """Front-end settings that are out of range or contradict each other; the message names them."""


@lru_cache(maxsize=8)
def kaldi_mel_filters(num_mel_bins: int, n_fft: int, sampling_rate: int, low: float, high: float) -> np.ndarray:
    """Kaldi's triangular filters, (n_fft / 2 + 1, num_mel_bins) float32, from `low` to `high` Hz.

    The triangles are linear on the mel scale 1127 ln(1 + f / 700). The order of the float32 operations is Kaldi's,
    because rounding shows in the logarithm of bins with little energy. The result is an array: a cached tensor would
    keep the mode (inference, meta device) in which it was first made.
    """
    bottom, top = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (low, high))
    step = (top - bottom) / (num_mel_bins + 1)
    index = torch.arange(num_mel_bins, dtype=torch.float32, device="cpu")[:, None]
    left, centre, right = bottom + index * step, bottom + (index + 1) * step, bottom + (index + 2) * step
    hertz = torch.arange(n_fft // 2, dtype=torch.float32, device="cpu") * (sampling_rate / n_fft)
    mels = 1127.0 * (1.0 + hertz / 700.0).log()
    rise, fall = (mels - left) / (centre - left), (right - mels) / (right - centre)
    filters = torch.minimum(rise, fall).clamp_min(0)
    return F.pad(filters, (0, 1)).T.contiguous().numpy()  # Kaldi leaves the Nyquist bin out


@lru_cache(maxsize=8)
def hertz_mel_filters(
    num_mel_bins: int, n_fft: int, sampling_rate: int, low: float, high: float, scale: str, norm: str | None
) -> np.ndarray:
    """Filters that are triangles in Hz, (n_fft / 2 + 1, num_mel_bins) float32, in torchaudio's float32 operations.

    Those of the scale `"librosa"` are computed in float64.
    """
    if scale == "librosa":
        exact = mel_filter_bank(n_fft // 2 + 1, num_mel_bins, low, high, sampling_rate, norm, "slaney")
        return exact.astype(np.float32)
    bottom, top = (float(hertz_to_mel(hertz, scale)) for hertz in (low, high))
    mels = torch.linspace(bottom, top, num_mel_bins + 2, dtype=torch.float32, device="cpu")
    if scale == "htk":
        corners = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    else:  # Slaney's: 200 / 3 Hz a mel up to 1 kHz, which is 15 mel, and logarithmic above
        corners = torch.where(mels < 15.0, 200.0 / 3.0 * mels, 1000.0 * (math.log(6.4) / 27.0 * (mels - 15.0)).exp())
    hertz = torch.linspace(0, sampling_rate / 2, n_fft // 2 + 1, dtype=torch.float32, device="cpu")
    distances, widths = corners - hertz[:, None], corners.diff()
    filters = torch.minimum(-distances[:, :-2] / widths[:-1], distances[:, 2:] / widths[1:]).clamp_min(0)
    if norm == "slaney":
        filters = filters * (2.0 / (corners[2:] - corners[:-2]))
    return filters.numpy()


def product_dtype(device: torch.device) -> torch.dtype:
    """Dtype whose matrix products are exact to float32.

    Autocast, TF32 and similar settings round float32 factors to fewer bits but leave the slower float64 alone. Apple's
    GPUs have no float64.
    """
    if device.type != "cpu":
        return torch.float32 if device.type == "mps" else torch.float64
    # Several settings, old and new, do so on a CPU: a product shows whether any of them is on.
    probe = torch.full((32, 32), 1 + 2.0**-12, dtype=torch.float32, device=device)
    rounded = abs((probe @ probe)[0, 0].item() - 32 * (1 + 2.0**-12) ** 2) > 1e-4
    return torch.float64 if rounded else torch.float32


@dataclass(frozen=True)
class FilterBank:
    """Settings of a log-mel spectrogram, and its computation. The defaults are Kaldi's with a Hann window.

    Args:
        sampling_rate: In Hz.
        num_mel_bins: Mel bins.
        frame_length: Window length in samples.
        frame_shift: Hop in samples.
        n_fft: Length of the Fourier transform in samples; the next power of two of `frame_length` if None.
        window_type: `"hann"`, or `"povey"`, Kaldi's default: the Hann window to the power of 0.85.
        periodic_window: Whether the window is periodic instead of symmetric.
        center: Whether frame t is centred on sample `t * frame_shift`, with the waveform reflected at both ends, or,
            as in Kaldi, only whole frames within the waveform are taken.
        remove_frame_mean: Whether the mean of each frame is subtracted (Kaldi's removal of the DC offset).
        preemphasis: Coefficient of `x[n] - preemphasis * x[n - 1]`; 0 is none.
        preemphasis_scope: `"frame"`: within each frame, whose first sample is its own predecessor, as in Kaldi; or
            `"waveform"`: over the waveform, which loses its first sample.
        power: Exponent of the magnitude: 2.0 is the power spectrum, 1.0 the magnitude spectrum.
        mel_scale: `"kaldi"` (triangles in mel), `"htk"`, `"slaney"` (triangles in Hz) or `"librosa"` (Slaney's in
            librosa's precision).
        mel_norm: `"slaney"` for triangles of unit area, None for those of unit height.
        low_frequency: Lower edge of the filters in Hz.
        high_frequency: Upper edge of the filters in Hz; the Nyquist frequency if None.
        mel_floor: Smaller mel energies are raised to it before the logarithm.
        log_offset: Is added to mel energies before the logarithm.

    Raises:
        FrontEndError: settings that contradict each other.
    """

    sampling_rate: int = 16_000
    num_mel_bins: int = 128
    frame_length: int = 400
    frame_shift: int = 160
    n_fft: int | None = None
    window_type: str = "hann"
    periodic_window: bool = False
    center: bool = False
    remove_frame_mean: bool = True
    preemphasis: float = 0.97
    preemphasis_scope: str = "frame"
    power: float = 2.0
    mel_scale: str = "kaldi"
    mel_norm: str | None = None
    low_frequency: float = 20.0
    high_frequency: float | None = None
    mel_floor: float = FLOAT32_EPS
    log_offset: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (
            ("window_type", ("hann", "povey")),
            ("preemphasis_scope", ("frame", "waveform")),
            ("mel_scale", ("kaldi", "htk", "slaney", "librosa")),
            ("mel_norm", (None, "slaney")),
        ):
            if getattr(self, name) not in known:
                raise FrontEndError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(repr, known))}.")
        for name in ("sampling_rate", "num_mel_bins", "frame_length", "frame_shift", "power"):
            if getattr(self, name) <= 0:
                raise FrontEndError(f"{name}={getattr(self, name)} is not positive.")
        if self.fft_length < self.frame_length or self.fft_length % 2:
            raise FrontEndError(
                f"n_fft={self.n_fft}: expected an even number of at least frame_length={self.frame_length}."
            )
        if not 0 <= self.low_frequency < self.top_frequency <= self.sampling_rate / 2:
            raise FrontEndError(
                f"The filters go from low_frequency={self.low_frequency} to high_frequency={self.top_frequency} Hz: "
                f"expected an ascending range within 0 and the Nyquist frequency, {self.sampling_rate / 2:g} Hz."
            )
        if self.mel_floor < 0 or self.log_offset < 0 or self.mel_floor + self.log_offset == 0:
            raise FrontEndError(
                f"mel_floor={self.mel_floor} and log_offset={self.log_offset}: one of them must be positive and none "
                "negative, since the logarithm of silence is infinite."
            )
        if self.mel_scale == "kaldi" and self.mel_norm is not None:
            raise FrontEndError(f"mel_norm={self.mel_norm!r}: Kaldi's filters are not normalised.")

    @property
    def fft_length(self) -> int:
        """Length of the Fourier transform in samples."""
        return self.n_fft or 1 << (self.frame_length - 1).bit_length()

    @property
    def top_frequency(self) -> float:
        """Upper edge of the filters in Hz."""
        return self.sampling_rate / 2 if self.high_frequency is None else self.high_frequency

    @property
    def is_kaldis(self) -> bool:
        """Whether Kaldi's own filter banks can have these settings."""
        kaldi = FilterBank(self.sampling_rate, frame_length=self.frame_length)
        fixed = ("periodic_window", "center", "preemphasis_scope", "power", "mel_scale", "mel_floor", "log_offset")
        return self.fft_length == kaldi.fft_length and all(getattr(self, n) == getattr(kaldi, n) for n in fixed)

    @property
    def span(self) -> int:
        """Samples that a frame is computed from: with `center`, the window lies in the middle of the transform."""
        return self.fft_length if self.center else self.frame_length

    @property
    def lost_samples(self) -> int:
        """Samples that pre-emphasis takes from a waveform."""
        return int(self.preemphasis_scope == "waveform")

    @property
    def min_samples(self) -> int:
        """Samples of the shortest waveform that has a frame."""
        return self.lost_samples + (self.span // 2 + 1 if self.center else self.frame_length)

    def frames(self, samples: int) -> int:
        """Number of frames of a waveform."""
        samples += 2 * (self.span // 2) * self.center - self.lost_samples
        return max(0, 1 + (samples - self.span) // self.frame_shift)

    def samples(self, frames: int) -> int:
        """Length of the shortest waveform of this many frames, at least one, in samples."""
        inside = (frames - 1) * self.frame_shift
        return max(self.min_samples, self.lost_samples + inside + (0 if self.center else self.frame_length))

    def prepare(self, waveform: torch.Tensor) -> torch.Tensor:
        """Applies the steps that take a whole waveform (samples,): pre-emphasis and reflection at its ends."""
        if self.preemphasis_scope == "waveform":
            waveform = waveform[1:] - self.preemphasis * waveform[:-1]
        if self.center:
            waveform = F.pad(waveform[None], (self.span // 2, self.span // 2), mode="reflect")[0]
        return waveform

    def filters(self, device: torch.device) -> torch.Tensor:
        """Triangular filters (n_fft / 2 + 1, num_mel_bins) in the dtype of [`product_dtype`]."""
        low, high = self.low_frequency, self.top_frequency
        if self.mel_scale == "kaldi":
            array = kaldi_mel_filters(self.num_mel_bins, self.fft_length, self.sampling_rate, low, high)
        else:
            array = hertz_mel_filters(
                self.num_mel_bins, self.fft_length, self.sampling_rate, low, high, self.mel_scale, self.mel_norm
            )
        return torch.from_numpy(array).to(device, product_dtype(device))

    def log_mels(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Computes natural log-mels.

        Args:
            waveforms: (batch, samples) float from [`prepare`], any device.

        Returns:
            (batch, frames, num_mel_bins) float32, without frames where waveforms are shorter than one. They depend on
            the arguments alone: not on PyTorch's default dtype or device, on autocast, or on the precision that is set
            for float32 products.
        """
        batch, samples = waveforms.shape
        if samples < self.span:
            return waveforms.new_zeros(batch, 0, self.num_mel_bins, dtype=torch.float32)
        device = waveforms.device
        window = torch.hann_window(self.frame_length, self.periodic_window, dtype=torch.float32, device=device)
        if self.window_type == "povey":
            window = window.pow(0.85)
        left = (self.span - self.frame_length) // 2
        window = F.pad(window, (left, self.span - self.frame_length - left))
        filters = self.filters(device)

        def log_mel(framed: torch.Tensor) -> torch.Tensor:
            if self.remove_frame_mean:
                framed = framed - framed.mean(dim=-1, keepdim=True)
            if self.preemphasis and self.preemphasis_scope == "frame":
                # The sample before a frame's first is taken to equal the first.
                framed = framed - self.preemphasis * torch.cat([framed[..., :1], framed[..., :-1]], dim=-1)
            spectrum = torch.fft.rfft(framed * window, n=self.fft_length)
            power = spectrum.real.square() + spectrum.imag.square()  # abs() would take a root first
            if self.power != 2:
                power = power.pow(self.power / 2)
            mel = (power.to(filters.dtype) @ filters).float().clamp_min(self.mel_floor)
            return (mel + self.log_offset if self.log_offset else mel).log()

        framed = waveforms.float().unfold(1, self.span, self.frame_shift)
        if device.type != "cpu":
            return log_mel(framed)
        output = waveforms.new_empty(*framed.shape[:2], self.num_mel_bins, dtype=torch.float32)
        for row in range(batch):
            for start in range(0, framed.shape[1], CPU_BLOCK_FRAMES):
                output[row, start : start + CPU_BLOCK_FRAMES] = log_mel(framed[row, start : start + CPU_BLOCK_FRAMES])
        return output

    def torchaudio_log_mels(self, waveform: torch.Tensor) -> torch.Tensor:
        """As [`log_mels`] for one waveform (samples,) by torchaudio's code of Kaldi's filter banks, if installed.

        Raises:
            ImportError: torchaudio is absent or does not import.
        """
        try:
            from torchaudio.compliance import kaldi
        except (ImportError, OSError) as error:  # its published wheel raises OSError with a CPU build of torch
            raise ImportError(
                "fbank_backend='torchaudio' needs a torchaudio that imports; fbank_backend='torch' is equal."
            ) from error
        with torch.autocast(waveform.device.type, enabled=False):
            return kaldi.fbank(
                waveform[None],
                sample_frequency=self.sampling_rate,
                num_mel_bins=self.num_mel_bins,
                frame_length=1000 * self.frame_length / self.sampling_rate,
                frame_shift=1000 * self.frame_shift / self.sampling_rate,
                window_type="hanning" if self.window_type == "hann" else self.window_type,
                remove_dc_offset=self.remove_frame_mean,
                htk_compat=True,
                use_energy=False,
                dither=0.0,
                low_freq=self.low_frequency,
                high_freq=self.top_frequency,
                preemphasis_coefficient=self.preemphasis,
            )


__all__ = ["FilterBank", "FrontEndError"]
