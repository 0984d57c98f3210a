"""Kaldi's log-mel filter banks of one clip, written out in torch: what features.py compares with.

Settings are Audio-MAE's: 16 kHz, frames of 400 samples every 160, a Fourier transform of 512, 128 mel bins from 20 Hz.
"""

import math

import torch
from torch.nn import functional as F

RATE, FRAME, SHIFT, N_FFT, BINS, LOW, PREEMPHASIS = 16_000, 400, 160, 512, 128, 20.0, 0.97


def mel_banks() -> torch.Tensor:
    """Triangles between neighbouring places of an even mel scale, (N_FFT / 2, BINS) float32.

    The Fourier bin of half the sampling rate has no part in them.
    """
    low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (LOW, RATE / 2))
    places = low + torch.arange(BINS + 2) * ((high - low) / (BINS + 1))
    left, centre, right = places[:-2], places[1:-1], places[2:]
    bins = torch.arange(N_FFT // 2)[:, None] * (RATE / N_FFT)
    mels = 1127.0 * (1.0 + bins / 700.0).log()
    return torch.minimum((mels - left) / (centre - left), (right - mels) / (right - centre)).clamp_min(0)


def fbank(wave: torch.Tensor, banks: torch.Tensor) -> torch.Tensor:
    """Natural logarithms (frames, BINS) of a clip (samples,) float32 in [-1, 1].

    Args:
        banks: Of [`mel_banks`], made once.
    """
    frames = wave.unfold(0, FRAME, SHIFT)
    frames = frames - frames.mean(dim=1, keepdim=True)
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - PREEMPHASIS * previous) * torch.hann_window(FRAME, periodic=False)
    spectrum = torch.fft.rfft(F.pad(frames, (0, N_FFT - FRAME)))
    energies = spectrum.abs().square()[:, : N_FFT // 2] @ banks
    return energies.clamp_min(torch.finfo(torch.float32).eps).log()
